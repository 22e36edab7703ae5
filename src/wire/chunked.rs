//! The chunked transfer coding: a strict incremental decoder and a canonical encoder (RFC 9112
//! section 7.1). Pure.

use super::fields::Name;
use super::head_end::HeadEnd;
use crate::config;
use crate::error::Cause;
use std::io::Write;

/// The body is not well-formed chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadChunk;

impl From<BadChunk> for Cause {
    /// The cause if the body is a request's.
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

/// An incremental decoder. It keeps no bytes: unconsumed input must be passed in again.
#[derive(Clone, Copy, Debug, Default)]
pub struct Decoder {
    state: State,
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    /// Before the line with a chunk's size.
    #[default]
    Size,
    /// Inside a chunk, with this many bytes to come.
    Data(u64),
    /// Before the CR LF after a chunk.
    DataEnd,
    /// After the last chunk, before the end of the trailers.
    Trailers(HeadEnd),
}

impl Decoder {
    /// The number of bytes to come of the current chunk.
    pub fn announced(&self) -> u64 {
        match self.state {
            State::Data(remaining) => remaining,
            _ => 0,
        }
    }

    /// Parses the input and returns its first item and the number of consumed bytes.
    pub fn next<'b>(&mut self, input: &'b [u8]) -> Result<(usize, Piece<'b>), BadChunk> {
        self.next_up_to(usize::MAX, input)
    }

    /// As [`Decoder::next`], with at most `limit` bytes of body.
    pub fn next_up_to<'b>(
        &mut self,
        limit: usize,
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
                State::Data(_) if rest.is_empty() || limit == 0 => {
                    return Ok((done, Piece::NeedMore));
                }
                State::Data(remaining) => {
                    let count = usize::try_from(*remaining)
                        .unwrap_or(usize::MAX)
                        .min(rest.len())
                        .min(limit);
                    *remaining -= count as u64;
                    if *remaining == 0 {
                        self.state = State::DataEnd;
                    }
                    return Ok((done + count, Piece::Data(&rest[..count])));
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

/// Parses `size [;extensions] CR LF` and returns the length of the line and the size; none if the
/// line is incomplete.
fn size_line(input: &[u8]) -> Result<Option<(usize, u64)>, BadChunk> {
    let Some(line_feed) = memchr::memchr(b'\n', input) else {
        // The received part is validated at once, so that a client that sends garbage and waits for
        // a response gets one.
        let line = input.strip_suffix(b"\r").unwrap_or(input);
        // An extension may still follow the space at its end.
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

/// Whether this is empty, or a semicolon and printable characters after optional space. Extensions
/// are dropped, so their grammar is not checked further; control characters are rejected because
/// some recipients read them as a line end.
fn is_extension(extension: &[u8]) -> bool {
    let is_printable = |byte: &u8| *byte == b'\t' || !byte.is_ascii_control();
    extension.is_empty()
        || extension.trim_ascii_start().starts_with(b";") && extension.iter().all(is_printable)
}

/// The part of `bytes` that belongs to the chunked body at their start.
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

/// Appends one chunk, or nothing for no data: an empty chunk would end the body.
pub fn encode(out: &mut Vec<u8>, data: &[u8]) {
    if !data.is_empty() {
        write!(out, "{:x}\r\n", data.len()).expect("a write to a vector succeeds");
        out.extend_from_slice(data);
        out.extend_from_slice(b"\r\n");
    }
}

/// Appends the last chunk and the trailers that may be forwarded. Appends nothing if the trailers
/// are not valid fields: a last chunk would look like a clean end.
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
    let mut storage = [httparse::EMPTY_HEADER; config::MAX_HEAD_FIELDS];
    let Ok(httparse::Status::Complete((_, fields))) =
        httparse::parse_headers(&section, &mut storage)
    else {
        return Err(BadChunk);
    };
    for field in fields.iter().filter(|field| may_be_trailer(field.name)) {
        super::rewrite::field(out, field.name, field.value);
    }
    Ok(())
}

/// Whether a field may be a trailer. Fields that frame, route, authenticate, set conditions,
/// control the response or belong to one connection may not (RFC 9110 section 6.5.1).
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

    /// The body, the trailers if the body is complete, and the bytes after it.
    type Decoded = (Vec<u8>, Option<Vec<u8>>, Vec<u8>);

    /// Passes the pieces one after the other, as a session does: unconsumed input comes again.
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
    fn the_longest_size_line_is_accepted_however_it_is_split() {
        let body =
            format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(config::MAX_CHUNK_LINE_BYTES - 2));
        for split in 0..body.len() {
            let pieces = [&body.as_bytes()[..split], &body.as_bytes()[split..]];
            assert_eq!(decode(&pieces).unwrap().0, b"hello", "split at {split}");
        }
    }

    #[test]
    fn no_more_data_is_returned_than_the_limit() {
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
        assert_eq!(trailers.unwrap(), b"X-Sum: 1\r\n", "framing and routing fields are removed");
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
