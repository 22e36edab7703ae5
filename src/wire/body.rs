//! Conversion of a body from one framing to another (RFC 9112 section 6).
//!
//! The only codec, for uploads, buffered requests and downloads. Pure: bytes in, bytes out.
//! Trailers must be well-formed even where they are dropped.

use super::Body;
use super::chunked::{self, BadChunk, Decoder, Piece};

/// The rest of a body, and the rule for its end.
#[derive(Clone, Copy, Debug, Default)]
pub enum BodyReader {
    /// Nothing: the body is complete.
    #[default]
    Done,
    /// This many bytes, at least one.
    Length(u64),
    /// Chunks, up to the last one and its trailers.
    Chunked(Decoder),
    /// Everything up to the end of the connection: responses only.
    UntilClose,
}

/// How the bytes of a body are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyWriter {
    /// Unframed: a length or the end of the connection delimits them.
    Raw,
    /// In chunks, followed by the trailers that may be forwarded.
    Chunked,
}

/// The result of one call of [`BodyReader::transfer`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transferred {
    /// Consumed bytes of the input. Zero: more input or more room is needed.
    pub consumed: usize,
    /// Bytes of the body in the output, without the framing of chunks.
    pub body: usize,
}

impl From<Body> for BodyReader {
    fn from(body: Body) -> Self {
        match body {
            Body::None => Self::Done,
            Body::Length(length) => Self::Length(length),
            Body::Chunked => Self::Chunked(Decoder::default()),
            Body::UntilClose => Self::UntilClose,
        }
    }
}

impl BodyReader {
    /// Whether the body is complete.
    pub fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }

    /// The number of bytes to come, if the framing is a length.
    pub fn remaining(&self) -> Option<u64> {
        match self {
            Self::Length(remaining) => Some(*remaining),
            _ => None,
        }
    }

    /// The number of bytes to come of the current chunk.
    pub fn announced(&self) -> u64 {
        match self {
            Self::Chunked(decoder) => decoder.announced(),
            _ => 0,
        }
    }

    /// Counts bytes of a body of known length that were moved elsewhere, through a pipe for
    /// example.
    pub fn skip(&mut self, count: u64) {
        if let Self::Length(remaining) = self {
            *remaining = remaining.saturating_sub(count);
            if *remaining == 0 {
                *self = Self::Done;
            }
        }
    }

    /// Moves one piece from the start of `input` to the end of `out`, at most `room` bytes of body.
    pub fn transfer(
        &mut self,
        writer: BodyWriter,
        input: &[u8],
        room: usize,
        out: &mut Vec<u8>,
    ) -> Result<Transferred, BadChunk> {
        let (consumed, data) = match self {
            Self::Done => return Ok(Transferred::default()),
            Self::Length(remaining) => {
                let count =
                    input.len().min(room).min(usize::try_from(*remaining).unwrap_or(usize::MAX));
                self.skip(count as u64);
                (count, &input[..count])
            }
            Self::UntilClose => {
                let count = input.len().min(room);
                (count, &input[..count])
            }
            Self::Chunked(decoder) => match decoder.next_up_to(room, input)? {
                (consumed, Piece::NeedMore) => (consumed, &input[..0]),
                (consumed, Piece::Data(data)) => (consumed, data),
                (consumed, Piece::End(trailers)) => {
                    writer.end(trailers, out)?;
                    *self = Self::Done;
                    (consumed, &input[..0])
                }
            },
        };
        match writer {
            BodyWriter::Raw => out.extend_from_slice(data),
            BodyWriter::Chunked => chunked::encode(out, data),
        }
        Ok(Transferred { consumed, body: data.len() })
    }

    /// The end of the connection; whether the body is complete by it.
    pub fn end_by_close(&mut self, writer: BodyWriter, out: &mut Vec<u8>) -> bool {
        let is_end = matches!(self, Self::UntilClose);
        if is_end {
            writer.end(b"", out).expect("an empty trailer section is valid");
            *self = Self::Done;
        }
        is_end
    }
}

impl BodyWriter {
    /// Writes the end of a body.
    fn end(self, trailers: &[u8], out: &mut Vec<u8>) -> Result<(), BadChunk> {
        match self {
            Self::Chunked => chunked::encode_end(out, trailers),
            // Trailers cannot be sent.
            Self::Raw => chunked::encode_end(&mut Vec::new(), trailers),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNKED: &[u8] = b"3\r\nabc\r\n0a;x=y\r\ndefghijklm\r\n0\r\nX-Sum: 1\r\n\r\n";
    const REWRITTEN: &[u8] = b"3\r\nabc\r\na\r\ndefghijklm\r\n0\r\nX-Sum: 1\r\n\r\n";
    const BODY: &[u8] = b"abcdefghijklm";

    /// Passes the pieces one after the other, as a session does, and returns the output, the number
    /// of unconsumed bytes, and whether the body is complete.
    fn transfer(
        body: Body,
        writer: BodyWriter,
        pieces: &[&[u8]],
        room: usize,
    ) -> Result<(Vec<u8>, usize, bool), BadChunk> {
        let (mut reader, mut out, mut pending, mut moved) =
            (BodyReader::from(body), Vec::new(), Vec::new(), 0);
        for piece in pieces {
            pending.extend_from_slice(piece);
            loop {
                let transferred = reader.transfer(writer, &pending, room, &mut out)?;
                assert!(transferred.body <= room);
                moved += transferred.body;
                pending.drain(..transferred.consumed);
                if transferred.consumed == 0 {
                    break;
                }
            }
        }
        assert_eq!(moved, if reader.is_done() { BODY.len() } else { moved });
        Ok((out, pending.len(), reader.is_done()))
    }

    #[test]
    fn each_framing_is_read_and_written_however_its_bytes_are_split() {
        let raw = [BODY, b"GET"].concat();
        let chunks = [CHUNKED, b"GET"].concat();
        let length = Body::Length(BODY.len() as u64);
        let chunked_length = b"d\r\nabcdefghijklm\r\n";
        for (body, writer, input, whole) in [
            (length, BodyWriter::Raw, &raw, BODY),
            (length, BodyWriter::Chunked, &raw, chunked_length),
            (Body::Chunked, BodyWriter::Raw, &chunks, BODY),
            (Body::Chunked, BodyWriter::Chunked, &chunks, REWRITTEN),
        ] {
            assert_eq!(
                transfer(body, writer, &[input], usize::MAX),
                Ok((whole.to_vec(), 3, true)),
                "{body:?} {writer:?}"
            );
            for first in 0..input.len() {
                let pieces = [&input[..first], &input[first..]];
                let (out, rest, is_done) = transfer(body, writer, &pieces, usize::MAX).unwrap();
                assert_eq!((rest, is_done), (3, true), "split at {first}");
                assert!(writer == BodyWriter::Chunked || out == whole, "split at {first}");
            }
        }
    }

    #[test]
    fn no_more_is_transferred_than_the_output_has_room_for() {
        for (body, input) in
            [(Body::Length(13), BODY), (Body::Chunked, CHUNKED), (Body::UntilClose, BODY)]
        {
            let (out, _, _) = transfer(body, BodyWriter::Raw, &[input], 4).unwrap();
            assert_eq!(out, BODY, "{body:?}");
            let mut reader = BodyReader::from(body);
            let first = reader.transfer(BodyWriter::Raw, input, 2, &mut Vec::new()).unwrap();
            assert_eq!(first.body, 2, "{body:?}");
            assert_eq!(
                reader.transfer(BodyWriter::Raw, &input[first.consumed..], 0, &mut Vec::new()),
                Ok(Transferred::default())
            );
        }
    }

    #[test]
    fn a_body_that_ends_with_the_connection_gets_an_end_in_chunks() {
        let (mut reader, mut out) = (BodyReader::UntilClose, Vec::new());
        reader.transfer(BodyWriter::Chunked, b"abc", usize::MAX, &mut out).unwrap();
        assert!(reader.end_by_close(BodyWriter::Chunked, &mut out) && reader.is_done());
        assert_eq!(out, b"3\r\nabc\r\n0\r\n\r\n");
        for mut reader in [BodyReader::Length(1), BodyReader::from(Body::Chunked), BodyReader::Done]
        {
            assert!(!reader.end_by_close(BodyWriter::Raw, &mut out), "{reader:?}: it is truncated");
        }
    }

    #[test]
    fn bad_trailers_are_an_error_even_where_they_are_dropped() {
        for writer in [BodyWriter::Raw, BodyWriter::Chunked] {
            let (mut reader, mut out) = (BodyReader::from(Body::Chunked), Vec::new());
            assert_eq!(
                reader.transfer(writer, b"0\r\nbad field: x\r\n\r\n", usize::MAX, &mut out),
                Err(BadChunk)
            );
            assert_eq!(out, b"", "nothing that looks like an end");
        }
    }

    #[test]
    fn bytes_that_were_moved_elsewhere_count() {
        let mut reader = BodyReader::Length(5);
        reader.skip(3);
        assert_eq!(reader.remaining(), Some(2));
        reader.skip(2);
        assert!(reader.is_done());
    }
}
