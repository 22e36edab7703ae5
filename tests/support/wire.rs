//! The few lines of HTTP/1.1 that the origin and the client need: heads, body framing, and bytes to
//! send.
//!
//! Pure and incremental: each `take` consumes the front of a buffer and leaves incomplete input.
//! Strict without exception, because its input comes from the product under test, and a repair here
//! would hide a bug there.

use std::mem;

/// A header or trailer field: name as received, value without the white space around it.
pub type Field = (String, String);

/// A head or a chunk line longer than this is a mistake, not a message.
const MAX_HEAD: usize = 1024 * 1024;
const MAX_LINE: usize = 64 * 1024;

/// The value of the first field of this name, in any case.
pub(super) fn first_named<'a>(fields: &'a [Field], name: &str) -> Option<&'a str> {
    all_named(fields, name).into_iter().next()
}

/// The values of all fields of this name, in any case, in order.
pub(super) fn all_named<'a>(fields: &'a [Field], name: &str) -> Vec<&'a str> {
    fields
        .iter()
        .filter(|(candidate, _)| candidate.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.as_str())
        .collect()
}

/// Whether any field of this name lists `token`, both in any case: `Connection: keep-alive, close`.
pub(super) fn lists_token(fields: &[Field], name: &str, token: &str) -> bool {
    all_named(fields, name)
        .iter()
        .flat_map(|value| value.split(','))
        .any(|listed| listed.trim().eq_ignore_ascii_case(token))
}

/// A request's or a response's head, split but not understood.
pub(super) struct Head {
    pub(super) start_line: String,
    pub(super) fields: Vec<Field>,
    pub(super) raw: Vec<u8>,
}

impl Head {
    /// Takes a whole head off the front of `inbox`, or nothing if its end has not come yet.
    pub(super) fn take(inbox: &mut Vec<u8>) -> Result<Option<Self>, String> {
        let Some(end) = inbox.windows(4).position(|window| window == b"\r\n\r\n") else {
            if inbox.len() > MAX_HEAD {
                return Err(format!("no end of the head in {} bytes", inbox.len()));
            }
            return Ok(None);
        };
        let raw: Vec<u8> = inbox.drain(..end + 4).collect();

        let text = String::from_utf8_lossy(&raw[..end]);
        let mut lines = text.split("\r\n");
        let start_line = lines.next().expect("split gives at least one piece").to_owned();
        if start_line.contains(['\r', '\n', '\0']) {
            return Err(format!("a control character in {start_line:?}"));
        }
        let fields = lines.map(parse_field).collect::<Result<_, _>>()?;
        Ok(Some(Self { start_line, fields, raw }))
    }
}

fn parse_field(line: &str) -> Result<Field, String> {
    let Some((name, value)) = line.split_once(':') else {
        return Err(format!("a field line without a colon: {line:?}"));
    };
    if !is_all(name, |byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte)) {
        return Err(format!("not a field name: {name:?}"));
    }
    if value.contains(['\r', '\n', '\0']) {
        return Err(format!("a control character in {line:?}"));
    }
    Ok((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()))
}

/// The framing of a message's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    Empty,
    /// `Content-Length`.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// The body ends where the connection does (responses only).
    ToEnd,
}

impl Framing {
    /// The framing of a request with these fields.
    pub(super) fn of_request(fields: &[Field]) -> Result<Self, String> {
        Ok(Self::announced(fields)?.unwrap_or(Self::Empty))
    }

    /// The framing of a response with these fields to a request of this method.
    pub(super) fn of_response(method: &str, status: u16, fields: &[Field]) -> Result<Self, String> {
        let announced = Self::announced(fields)?;
        if method == "HEAD" || is_bodiless(status) {
            return Ok(Self::Empty);
        }
        Ok(announced.unwrap_or(Self::ToEnd))
    }

    fn announced(fields: &[Field]) -> Result<Option<Self>, String> {
        let lengths = all_named(fields, "Content-Length");
        let codings = all_named(fields, "Transfer-Encoding");
        match (lengths.as_slice(), codings.as_slice()) {
            ([], []) => Ok(None),
            ([], [coding]) if coding.eq_ignore_ascii_case("chunked") => Ok(Some(Self::Chunked)),
            ([length], []) if is_all(length, u8::is_ascii_digit) => length
                .parse()
                .map(|length| Some(Self::Length(length)))
                .map_err(|error| format!("Content-Length {length:?}: {error}")),
            _ => Err(format!(
                "not a framing: Content-Length {lengths:?} with Transfer-Encoding {codings:?}"
            )),
        }
    }
}

fn is_bodiless(status: u16) -> bool {
    matches!(status, 100..=199 | 204 | 304)
}

fn is_all(text: &str, allowed: impl Fn(&u8) -> bool) -> bool {
    !text.is_empty() && text.as_bytes().iter().all(allowed)
}

/// A body on its way in: `content` is decoded, `raw` is as it came.
pub(super) struct BodyReader {
    stage: Stage,
    pub(super) content: Vec<u8>,
    pub(super) raw: Vec<u8>,
    pub(super) trailers: Vec<Field>,
}

#[derive(Clone, Copy, PartialEq)]
enum Stage {
    Sized(u64),
    ToEnd,
    ChunkSize,
    ChunkData(u64),
    ChunkEnd,
    Trailers,
    Done,
}

impl BodyReader {
    /// A reader for a body of this framing.
    pub(super) fn new(framing: Framing) -> Self {
        Self {
            stage: match framing {
                Framing::Empty => Stage::Done,
                Framing::Length(length) => Stage::Sized(length),
                Framing::Chunked => Stage::ChunkSize,
                Framing::ToEnd => Stage::ToEnd,
            },
            content: Vec::new(),
            raw: Vec::new(),
            trailers: Vec::new(),
        }
    }

    /// Takes the bytes of the body off the front of `inbox`. Returns whether the body is whole.
    pub(super) fn take(&mut self, inbox: &mut Vec<u8>) -> Result<bool, String> {
        let mut used = 0;
        let outcome = loop {
            match self.advance(&inbox[used..]) {
                Ok(Some(eaten)) => used += eaten,
                Ok(None) => break Ok(self.stage == Stage::Done),
                Err(error) => break Err(error),
            }
        };
        self.raw.extend(inbox.drain(..used));
        outcome
    }

    /// The bytes since the last call: decoded content and raw bytes.
    pub(super) fn take_progress(&mut self) -> (Vec<u8>, Vec<u8>) {
        (mem::take(&mut self.content), mem::take(&mut self.raw))
    }

    /// One stage forward: how many bytes that took, or `None` if it needs more bytes or no more.
    fn advance(&mut self, bytes: &[u8]) -> Result<Option<usize>, String> {
        match self.stage {
            Stage::Done => Ok(None),
            Stage::Sized(0) => Ok(self.enter(Stage::Done, 0)),
            Stage::ChunkData(0) => Ok(self.enter(Stage::ChunkEnd, 0)),
            _ if bytes.is_empty() => Ok(None),
            Stage::Sized(left) => {
                let eaten = self.keep(bytes, left);
                Ok(self.enter(Stage::Sized(left - eaten as u64), eaten))
            }
            Stage::ChunkData(left) => {
                let eaten = self.keep(bytes, left);
                Ok(self.enter(Stage::ChunkData(left - eaten as u64), eaten))
            }
            Stage::ToEnd => {
                let eaten = self.keep(bytes, u64::MAX);
                Ok(self.enter(Stage::ToEnd, eaten))
            }
            Stage::ChunkSize | Stage::ChunkEnd | Stage::Trailers => self.advance_line(bytes),
        }
    }

    fn advance_line(&mut self, bytes: &[u8]) -> Result<Option<usize>, String> {
        let Some(line) = complete_line(bytes)? else {
            return Ok(None);
        };
        let next = match (self.stage, line.is_empty()) {
            (Stage::ChunkSize, _) => match parse_chunk_size(line)? {
                0 => Stage::Trailers,
                size => Stage::ChunkData(size),
            },
            (Stage::ChunkEnd, true) => Stage::ChunkSize,
            (Stage::ChunkEnd, false) => return Err(format!("{line:?} after a chunk's data")),
            (_, true) => Stage::Done,
            (_, false) => {
                self.trailers.push(parse_field(line)?);
                Stage::Trailers
            }
        };
        Ok(self.enter(next, line.len() + 2))
    }

    fn enter(&mut self, stage: Stage, eaten: usize) -> Option<usize> {
        self.stage = stage;
        Some(eaten)
    }

    fn keep(&mut self, bytes: &[u8], most: u64) -> usize {
        let eaten = usize::try_from(most).map_or(bytes.len(), |most| most.min(bytes.len()));
        self.content.extend_from_slice(&bytes[..eaten]);
        eaten
    }
}

/// The line at the front, without its CRLF, or `None` if it is not whole yet.
fn complete_line(bytes: &[u8]) -> Result<Option<&str>, String> {
    let Some(end) = bytes.iter().position(|&byte| byte == b'\n') else {
        if bytes.len() > MAX_LINE {
            return Err(format!("no end of the line in {} bytes", bytes.len()));
        }
        return Ok(None);
    };
    let line = &bytes[..end];
    line.strip_suffix(b"\r")
        .filter(|line| !line.contains(&b'\r'))
        .and_then(|line| str::from_utf8(line).ok())
        .map(Some)
        .ok_or_else(|| format!("not a line that ends with CRLF: {}", escaped(&bytes[..=end])))
}

fn parse_chunk_size(line: &str) -> Result<u64, String> {
    let digits = line.split_once(';').map_or(line, |(digits, _)| digits);
    if !is_all(digits, u8::is_ascii_hexdigit) {
        return Err(format!("not a chunk size: {line:?}"));
    }
    u64::from_str_radix(digits, 16).map_err(|error| format!("chunk size {line:?}: {error}"))
}

/// The bytes of a response with a `Content-Length`: `response(404, &[("X-A", "b")], "gone")`.
///
/// A status that never has a body gets no length either.
pub fn response(status: u16, fields: &[(&str, &str)], body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let mut bytes = format!("HTTP/1.1 {status} Scripted\r\n");
    for (name, value) in fields {
        bytes.push_str(&format!("{name}: {value}\r\n"));
    }
    if !is_bodiless(status) {
        bytes.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    bytes.push_str("\r\n");
    let mut bytes = bytes.into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// The bytes of a 200 response with a `Content-Length`.
pub fn ok(body: impl AsRef<[u8]>) -> Vec<u8> {
    response(200, &[], body)
}

/// A chunked body of these pieces, with its end and without trailers: `chunked(["ab", "c"])`.
pub fn chunked<Piece: AsRef<[u8]>>(pieces: impl IntoIterator<Item = Piece>) -> Vec<u8> {
    let pieces: Vec<Piece> = pieces.into_iter().collect();
    let pieces: Vec<&[u8]> = pieces.iter().map(AsRef::as_ref).collect();
    chunked_with_trailers(&pieces, &[])
}

/// A chunked body of these pieces, with its end and these trailers. An empty piece is no chunk: it
/// would be the end.
pub fn chunked_with_trailers(pieces: &[&[u8]], trailers: &[Field]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
        bytes.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        bytes.extend_from_slice(piece);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\n");
    for (name, value) in trailers {
        bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

/// Bytes for a person to read: escaped, and without the middle if there are many.
pub fn escaped(bytes: &[u8]) -> String {
    const SHOWN: usize = 1024;

    if bytes.len() <= 2 * SHOWN {
        return format!("\"{}\"", bytes.escape_ascii());
    }
    let (front, rest) = bytes.split_at(SHOWN);
    let (middle, back) = rest.split_at(rest.len() - SHOWN);
    format!(
        "\"{}\" ... {} bytes ... \"{}\"",
        front.escape_ascii(),
        middle.len(),
        back.escape_ascii()
    )
}
