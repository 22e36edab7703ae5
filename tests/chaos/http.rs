//! The HTTP/1.1 that both sides of the chaos run read: heads and framed bodies, strictly, with
//! little copying.
//!
//! Small on purpose: it runs some thousand times a second beside the balancer, and shares no line
//! with the product.

use memchr::memmem;

/// The received bytes of a connection that are not consumed yet.
#[derive(Default)]
pub struct Inbox {
    bytes: Vec<u8>,
    start: usize,
}

impl Inbox {
    const PIECE: usize = 32 * 1024;

    /// The unread bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.start == self.bytes.len()
    }

    /// Consumes so many bytes.
    pub fn consume(&mut self, count: usize) {
        self.start += count;
        if self.start == self.bytes.len() {
            self.bytes.clear();
            self.start = 0;
        }
    }

    /// Receives once.
    pub fn receive<E>(
        &mut self,
        receive: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        if self.start > 0 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        let len = self.bytes.len();
        self.bytes.resize(len + Self::PIECE, 0);
        let received = receive(&mut self.bytes[len..]);
        self.bytes.truncate(len + received.as_ref().map_or(0, |count| *count));
        received
    }

    /// The length of the head at the front, with its empty line, once it is whole.
    pub fn head_len(&self) -> Option<usize> {
        memmem::find(self.bytes(), b"\r\n\r\n").map(|end| end + 4)
    }
}

/// A message's head.
pub struct Head<'a> {
    pub start_line: &'a str,
    fields: Vec<(&'a str, &'a str)>,
}

impl<'a> Head<'a> {
    /// Parses a complete head; a malformed one is an error.
    pub fn parse(head: &'a [u8]) -> Result<Self, String> {
        let text =
            std::str::from_utf8(head).map_err(|_| format!("not text: {}", head.escape_ascii()))?;
        let lines = text.strip_suffix("\r\n\r\n").ok_or("a head without an end")?;
        if lines.replace("\r\n", "").contains(['\r', '\n', '\0']) {
            return Err(format!("a control character in {lines:?}"));
        }
        let mut lines = lines.split("\r\n");
        let start_line = lines.next().unwrap_or_default();
        let fields = lines.map(|line| {
            let (name, value) = line
                .split_once(':')
                .filter(|(name, _)| is_token(name))
                .ok_or(format!("no field: {line:?}"))?;
            Ok((name, value.trim_matches([' ', '\t'])))
        });
        Ok(Self { start_line, fields: fields.collect::<Result<_, String>>()? })
    }

    /// The value of this field; an error if it is there twice.
    pub fn field(&self, name: &str) -> Result<Option<&'a str>, String> {
        let mut values = self
            .fields
            .iter()
            .filter(|(candidate, _)| candidate.eq_ignore_ascii_case(name))
            .map(|(_, value)| *value);
        let value = values.next();
        if values.next().is_some() { Err(format!("{name} is there twice")) } else { Ok(value) }
    }

    /// The value of this field as a number.
    pub fn number(&self, name: &str) -> Result<Option<u64>, String> {
        let Some(value) = self.field(name)? else {
            return Ok(None);
        };
        let is_plain = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
        value
            .parse()
            .ok()
            .filter(|_| is_plain)
            .map(Some)
            .ok_or_else(|| format!("{name}: {value:?} is no number"))
    }

    /// Whether this message is the last of its connection.
    pub fn announces_close(&self) -> bool {
        let mut connection =
            self.fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case("Connection"));
        connection.any(|(_, value)| {
            value.split(',').any(|option| option.trim().eq_ignore_ascii_case("close"))
        })
    }

    /// How the body is framed; none if the head has no framing.
    pub fn body(&self) -> Result<Option<Body>, String> {
        match (self.number("Content-Length")?, self.field("Transfer-Encoding")?) {
            (None, None) => Ok(None),
            (Some(length), None) => {
                Ok(Some(Body { at: 0, state: State::Plain { left: length as usize } }))
            }
            (None, Some("chunked")) => Ok(Some(Body { at: 0, state: State::ChunkLine })),
            (length, coding) => Err(format!(
                "not a framing: Content-Length {length:?}, Transfer-Encoding {coding:?}"
            )),
        }
    }
}

fn is_token(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

/// Reads a body as it comes.
pub struct Body {
    /// How many bytes of content have come.
    pub at: usize,
    state: State,
}

enum State {
    Plain { left: usize },
    ChunkLine,
    Chunk { left: usize },
    ChunkEnd,
    LastLine,
    Done,
}

impl Body {
    const MAX_LINE: usize = 64;

    /// Reads the input and passes its content, with its offset, to `check`. Returns whether the
    /// body is complete.
    pub fn read(
        &mut self,
        inbox: &mut Inbox,
        mut check: impl FnMut(usize, &[u8]) -> bool,
    ) -> Result<bool, String> {
        loop {
            let bytes = inbox.bytes();
            let (eaten, next) = match self.state {
                State::Done | State::Plain { left: 0 } => return Ok(true),
                _ if bytes.is_empty() => return Ok(false),
                State::Plain { left } | State::Chunk { left } => {
                    let count = left.min(bytes.len());
                    if !check(self.at, &bytes[..count]) {
                        return Err(format!(
                            "wrong content between {} and {}",
                            self.at,
                            self.at + count
                        ));
                    }
                    self.at += count;
                    (count, self.state.after_content(left - count))
                }
                State::ChunkLine => match line(bytes, Self::MAX_LINE)? {
                    None => return Ok(false),
                    Some(line) => {
                        let size =
                            usize::from_str_radix(line, 16).ok().filter(|_| !line.starts_with('+'));
                        let left = size.ok_or_else(|| format!("no chunk size: {line:?}"))?;
                        (
                            line.len() + 2,
                            if left == 0 { State::LastLine } else { State::Chunk { left } },
                        )
                    }
                },
                State::ChunkEnd | State::LastLine => match line(bytes, Self::MAX_LINE)? {
                    None => return Ok(false),
                    Some("") => (
                        2,
                        if matches!(self.state, State::ChunkEnd) {
                            State::ChunkLine
                        } else {
                            State::Done
                        },
                    ),
                    Some(line) => return Err(format!("an empty line was due, not {line:?}")),
                },
            };
            inbox.consume(eaten);
            self.state = next;
        }
    }
}

impl State {
    fn after_content(&self, left: usize) -> Self {
        match self {
            Self::Plain { .. } => Self::Plain { left },
            _ if left == 0 => Self::ChunkEnd,
            _ => Self::Chunk { left },
        }
    }
}

fn line(bytes: &[u8], longest: usize) -> Result<Option<&str>, String> {
    let piece = &bytes[..bytes.len().min(longest)];
    match memmem::find(piece, b"\r\n") {
        Some(end) => std::str::from_utf8(&piece[..end])
            .map(Some)
            .map_err(|_| "a line that is not text".to_owned()),
        None if piece.len() == longest => Err(format!("no line end in {}", piece.escape_ascii())),
        None => Ok(None),
    }
}

#[test]
fn a_chunked_body_is_read_in_any_pieces_and_its_errors_are_reported() {
    let whole = b"5\r\nhello\r\nA\r\n, dear all\r\n0\r\n\r\nnext";
    for cut in 0..whole.len() {
        let (mut inbox, mut content) = (Inbox::default(), Vec::new());
        let mut body = Body { at: 0, state: State::ChunkLine };
        let mut is_complete = false;
        for piece in [&whole[..cut], &whole[cut..]] {
            let received = inbox.receive(|room| {
                room[..piece.len()].copy_from_slice(piece);
                Ok::<_, String>(piece.len())
            });
            assert_eq!(received, Ok(piece.len()));
            is_complete = body.read(&mut inbox, |_, bytes| {
                content.extend_from_slice(bytes);
                true
            }) == Ok(true);
        }
        assert!(is_complete);
        assert_eq!((content.as_slice(), inbox.bytes()), (&b"hello, dear all"[..], &b"next"[..]));
    }
    let mut inbox = Inbox::default();
    let _ = inbox.receive(|room| {
        room[..5].copy_from_slice(b"2\r\nab");
        Ok::<_, String>(5)
    });
    let mut body = Body { at: 0, state: State::ChunkLine };
    assert!(body.read(&mut inbox, |_, _| false).is_err());
}
