//! The chunked coding: a strict incremental decoder and a canonical encoder (RFC 9112 section 7.1).

use super::fields::Name;
use super::head_end::HeadEnd;
use crate::config;
use crate::error::Cause;
use std::io::Write;

/// The body is not well-formed chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadChunk;

impl From<BadChunk> for Cause {
    /// Its cause in a request.
    fn from(_: BadChunk) -> Self {
        Self::BadChunk
    }
}

/// The item at the start of the decoder's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'b> {
    /// Not enough input.
    NeedMore,
    /// A part of the body.
    Data(&'b [u8]),
    /// The end, with the trailer lines as received, without the empty line after them.
    End(&'b [u8]),
}

/// Decodes a chunked body piece by piece. It keeps no bytes: unconsumed input must be passed in
/// again.
#[derive(Clone, Copy, Debug, Default)]
pub struct Decoder {
    state: State,
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    /// Before a line with a chunk's size.
    #[default]
    Size,
    /// Inside a chunk, with this much left.
    Data(u64),
    /// Before the CR LF after a chunk.
    DataEnd,
    /// After the last chunk.
    Trailers(HeadEnd),
}

impl Decoder {
    /// How much of the chunk that has begun is still to come.
    pub fn announced(&self) -> u64 {
        match self.state {
            State::Data(left) => left,
            _ => 0,
        }
    }

    /// Parses the input and returns its first item and the number of consumed bytes.
    pub fn next<'b>(&mut self, input: &'b [u8]) -> Result<(usize, Piece<'b>), BadChunk> {
        self.next_up_to(usize::MAX, input)
    }

    /// As [`Decoder::next`], with at most so many bytes of body at once.
    pub fn next_up_to<'b>(
        &mut self,
        most: usize,
        input: &'b [u8],
    ) -> Result<(usize, Piece<'b>), BadChunk> {
        let mut done = 0;
        loop {
            let rest = &input[done..];
            match &mut self.state {
                State::Size => match size_line(rest)? {
                    None => return Ok((done, Piece::NeedMore)),
                    Some((line, 0)) => {
                        done += line;
                        self.state = State::Trailers(HeadEnd::default());
                    }
                    Some((line, size)) => {
                        done += line;
                        self.state = State::Data(size);
                    }
                },
                State::Data(_) if rest.is_empty() || most == 0 => {
                    return Ok((done, Piece::NeedMore));
                }
                State::Data(left) => {
                    let take =
                        usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len()).min(most);
                    *left -= take as u64;
                    if *left == 0 {
                        self.state = State::DataEnd;
                    }
                    return Ok((done + take, Piece::Data(&rest[..take])));
                }
                State::DataEnd => match rest {
                    [b'\r', b'\n', ..] => {
                        done += 2;
                        self.state = State::Size;
                    }
                    [] | [b'\r'] => return Ok((done, Piece::NeedMore)),
                    _ => return Err(BadChunk),
                },
                State::Trailers(end) => {
                    return match end.find(rest).map_err(|_| BadChunk)? {
                        Some(length) if length <= config::MAX_TRAILER_BYTES => {
                            Ok((done + length, Piece::End(&rest[..length - 2])))
                        }
                        None if rest.len() < config::MAX_TRAILER_BYTES => {
                            Ok((done, Piece::NeedMore))
                        }
                        _ => Err(BadChunk),
                    };
                }
            }
        }
    }
}

/// Reads `size [;extensions] CR LF`: the length of the line and the size, or none if the line is
/// not whole.
fn size_line(input: &[u8]) -> Result<Option<(usize, u64)>, BadChunk> {
    let Some(line_feed) = memchr::memchr(b'\n', input) else {
        // Its received part must already look like one, so that garbage is rejected without
        // waiting.
        let line = input.strip_suffix(b"\r").unwrap_or(input);
        // Space at its end may still be followed by an extension.
        let is_bad = if line.is_empty() {
            !input.is_empty()
        } else {
            parse_size(line.trim_ascii_end()).is_none()
        };
        if is_bad || line.len() > config::MAX_CHUNK_LINE_BYTES {
            return Err(BadChunk);
        }
        return Ok(None);
    };
    let line = input[..line_feed].strip_suffix(b"\r").ok_or(BadChunk)?;
    if line.len() > config::MAX_CHUNK_LINE_BYTES {
        return Err(BadChunk);
    }
    let size = parse_size(line).ok_or(BadChunk)?;
    Ok(Some((line_feed + 1, size)))
}

/// Hexadecimal digits without overflow, then nothing or an extension of printable characters.
fn parse_size(line: &[u8]) -> Option<u64> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (digits, extension) = line.split_at(digits);
    if digits.is_empty() || digits.len() > 16 || !is_extension(extension) {
        return None;
    }
    let size = digits.iter().fold(0_u64, |size, digit| {
        (size << 4) | u64::from((*digit as char).to_digit(16).unwrap_or_default())
    });
    i64::try_from(size).is_ok().then_some(size)
}

/// Empty, or a semicolon followed by anything printable, maybe with space before it. Extensions are
/// dropped, so their grammar is not checked further; a recipient could read a control character as
/// a line end.
fn is_extension(extension: &[u8]) -> bool {
    let is_printable = |byte: &u8| *byte == b'\t' || !byte.is_ascii_control();
    extension.is_empty()
        || extension.trim_ascii_start().starts_with(b";") && extension.iter().all(is_printable)
}

/// The part of these bytes that belongs to a chunked body at their start.
pub fn part_of(bytes: &[u8]) -> &[u8] {
    let (mut decoder, mut end) = (Decoder::default(), 0);
    while let Ok((consumed @ 1.., piece)) = decoder.next(&bytes[end..]) {
        end += consumed;
        if matches!(piece, Piece::End(_)) {
            break;
        }
    }
    &bytes[..end]
}

/// Appends one chunk; nothing for no data, because an empty chunk is the end.
pub fn encode(out: &mut Vec<u8>, data: &[u8]) {
    if !data.is_empty() {
        write!(out, "{:x}\r\n", data.len()).expect("a vector takes every write");
        out.extend_from_slice(data);
        out.extend_from_slice(b"\r\n");
    }
}

/// Appends the last chunk and the trailers that may be forwarded. Rejects trailers that are not
/// valid fields, and appends nothing then: a last chunk would look like a clean end.
pub fn encode_end(out: &mut Vec<u8>, trailers: &[u8]) -> Result<(), BadChunk> {
    let start = out.len();
    out.extend_from_slice(b"0\r\n");
    if !trailers.is_empty() && encode_trailers(out, trailers).is_err() {
        out.truncate(start);
        return Err(BadChunk);
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}

fn encode_trailers(out: &mut Vec<u8>, trailers: &[u8]) -> Result<(), BadChunk> {
    let mut section = trailers.to_vec();
    section.extend_from_slice(b"\r\n");
    let mut room = [httparse::EMPTY_HEADER; config::MAX_HEAD_FIELDS];
    let Ok(httparse::Status::Complete((_, fields))) = httparse::parse_headers(&section, &mut room)
    else {
        return Err(BadChunk);
    };
    for field in fields.iter().filter(|field| may_be_trailer(field.name)) {
        super::rewrite::field(out, field.name, field.value);
    }
    Ok(())
}

/// Fields that frame, route, authenticate, set conditions, control the response or belong to one
/// connection are not allowed in a trailer (RFC 9110 section 6.5.1).
fn may_be_trailer(name: &str) -> bool {
    const FORBIDDEN: [&str; 24] = [
        "age",
        "authorization",
        "cache-control",
        "content-encoding",
        "content-range",
        "content-type",
        "cookie",
        "expires",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "if-unmodified-since",
        "location",
        "pragma",
        "range",
        "retry-after",
        "set-cookie",
        "trailer",
        "vary",
        "via",
        "warning",
        "www-authenticate",
        "x-real-ip",
    ];
    Name::of(name) == Name::Other
        && !FORBIDDEN.iter().any(|forbidden| name.eq_ignore_ascii_case(forbidden))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The body, the trailers if the end was seen, and the bytes after it.
    type Decoded = (Vec<u8>, Option<Vec<u8>>, Vec<u8>);

    /// Feeds the pieces one after the other, as a session does: unconsumed input comes again.
    fn decode(pieces: &[&[u8]]) -> Result<Decoded, BadChunk> {
        let (mut decoder, mut pending, mut body) = (Decoder::default(), Vec::new(), Vec::new());
        let mut end = None;
        for piece in pieces {
            pending.extend_from_slice(piece);
            while end.is_none() {
                let (consumed, piece) = decoder.next(&pending)?;
                let more = match piece {
                    Piece::NeedMore => false,
                    Piece::Data(data) => {
                        body.extend_from_slice(data);
                        true
                    }
                    Piece::End(trailers) => {
                        end = Some(trailers.to_vec());
                        false
                    }
                };
                pending.drain(..consumed);
                if !more {
                    break;
                }
            }
        }
        Ok((body, end, pending))
    }

    const WHOLE: &[u8] =
        b"5;ext=\"a;b\"\r\nhello\r\n00A ;x\r\n, world...\r\n0\r\nX-Sum: 1\r\nA: b\r\n\r\nGET";

    #[test]
    fn every_split_gives_the_same_body() {
        let whole = decode(&[WHOLE]).unwrap();
        assert_eq!(whole.0, b"hello, world...");
        assert_eq!(whole.1.as_deref(), Some(&b"X-Sum: 1\r\nA: b\r\n"[..]));
        assert_eq!(whole.2, b"GET");
        for first in 0..=WHOLE.len() {
            for second in first..=WHOLE.len() {
                let pieces = [&WHOLE[..first], &WHOLE[first..second], &WHOLE[second..]];
                assert_eq!(decode(&pieces).unwrap(), whole, "split at {first} and {second}");
            }
        }
    }

    #[test]
    fn bytes_after_a_body_are_not_part_of_it() {
        assert_eq!(part_of(WHOLE), &WHOLE[..WHOLE.len() - 3]);
        assert_eq!(part_of(b"5\r\nhel"), b"5\r\nhel");
        assert_eq!(part_of(b"x"), b"");
    }

    #[test]
    fn malformed_chunks_are_rejected() {
        for bad in [
            "\r\n",
            "+5\r\nhello\r\n",
            "-5\r\n",
            "0x5\r\nhello\r\n",
            "5_0\r\n",
            " 5\r\n",
            "5\nhello\r\n",
            "5\rhello",
            "g\r\n",
            "5\r\nhelloX\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "5\r\nhello\r0\r\n",
            "10000000000000000\r\n",
            "8000000000000000\r\n",
            "ffffffffffffffff0\r\n",
            "5 x\r\nhello\r\n",
            "5 \r\nhello\r\n",
            "5;a\x01b\r\nhello\r\n",
            "5;a\nb\r\nhello\r\n",
            "0\r\nA: b\n\r\n",
            "5\r\r\n",
            ";\r\n",
            "5;\0\r\n",
        ] {
            assert_eq!(decode(&[bad.as_bytes()]), Err(BadChunk), "{bad:?}");
        }
    }

    #[test]
    fn the_longest_size_line_is_taken_however_it_is_split() {
        let body =
            format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(config::MAX_CHUNK_LINE_BYTES - 2));
        for split in 0..body.len() {
            let pieces = [&body.as_bytes()[..split], &body.as_bytes()[split..]];
            assert_eq!(decode(&pieces).unwrap().0, b"hello", "split at {split}");
        }
    }

    #[test]
    fn no_more_data_is_handed_out_than_is_wanted() {
        let mut decoder = Decoder::default();
        assert_eq!(decoder.next_up_to(2, b"5\r\nhello\r\n"), Ok((5, Piece::Data(b"he"))));
        assert_eq!(decoder.next_up_to(0, b"llo\r\n"), Ok((0, Piece::NeedMore)));
        assert_eq!(decoder.next_up_to(9, b"llo\r\n"), Ok((3, Piece::Data(b"llo"))));
    }

    #[test]
    fn an_endless_size_line_or_trailer_is_rejected() {
        let line = format!("5;{}", "x".repeat(config::MAX_CHUNK_LINE_BYTES));
        assert_eq!(decode(&[line.as_bytes()]), Err(BadChunk));
        let trailers = format!("0\r\n{}", "a: b\r\n".repeat(config::MAX_TRAILER_BYTES / 6 + 1));
        assert_eq!(decode(&[trailers.as_bytes()]), Err(BadChunk));
    }

    #[test]
    fn garbage_is_rejected_before_its_line_ends() {
        assert_eq!(decode(&[b"hello"]), Err(BadChunk));
        assert_eq!(decode(&[b"\r"]), Err(BadChunk));
    }

    #[test]
    fn an_encoded_body_decodes_to_the_same_bytes() {
        let mut out = Vec::new();
        encode(&mut out, b"hello");
        encode(&mut out, b"");
        encode(&mut out, &[7; 300]);
        encode_end(&mut out, b"X-Sum: 1\r\nContent-Length: 9\r\nHost: evil\r\n").unwrap();
        let (body, trailers, rest) = decode(&[&out]).unwrap();
        assert_eq!(body, [&b"hello"[..], &[7; 300]].concat());
        assert_eq!(trailers.unwrap(), b"X-Sum: 1\r\n", "framing and routing do not pass");
        assert!(rest.is_empty());
    }

    #[test]
    fn trailers_that_are_not_fields_are_rejected() {
        for bad in [&b"no colon\r\n"[..], b"a : b\r\n"] {
            let mut out = Vec::new();
            assert_eq!(encode_end(&mut out, bad), Err(BadChunk));
            assert!(out.is_empty(), "nothing that looks like an end");
        }
    }
}
