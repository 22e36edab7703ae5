//! The script of clients and origin, from an input.
//!
//! The first byte is about all; sections follow, separated by 0xFF, each of one byte and a text. A
//! section is bytes from a client, or a response of the origin, in the order of its requests.
//!
//! The first byte: 1 and 2 how the clients end, 4 they read late. A section's first byte: 1 a
//! response; 2, 4, 8 how often the text is repeated, or its part after an empty line; 16 a client
//! waits for an idle moment before, the origin responds at the request's head; 32 in small pieces;
//! 64, 128 which client, or the origin's action after it.

/// How often a section's text is repeated.
const REPEATS: [usize; 8] = [1, 1, 2, 16, 256, 1024, 4096, 16384];
/// The limits of one section and of one client, in bytes.
const MOST_BYTES: usize = 160 * 1024;
const MOST_SECTIONS: usize = 48;
const PIECES: usize = 8;
/// How many clients there are at once.
pub const CLIENTS: usize = 4;

/// The clients' action after the last byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// They close their sending side and read to the end.
    Finish,
    /// They stay until they are closed.
    Stay,
    /// They close at once.
    Leave,
    /// They reset the connection.
    Reset,
}

/// The origin's action after a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// It reads the next request.
    Stay,
    /// It closes.
    Close,
    /// It resets the connection.
    Reset,
}

/// Bytes that are sent at once.
#[derive(Clone, Debug)]
pub struct Piece {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Not before an idle moment.
    pub waits: bool,
}

/// The origin's response to one request.
#[derive(Clone, Debug)]
pub struct Response {
    /// The bytes, in the pieces in which they are sent.
    pub pieces: Vec<Vec<u8>>,
    /// As soon as the request's head is there.
    pub early: bool,
    /// The action after them.
    pub then: Then,
}

/// All of it.
#[derive(Clone, Debug)]
pub struct Script {
    /// How the clients end.
    pub ending: Ending,
    /// Whether they read only when everything is sent.
    pub reads_late: bool,
    /// The bytes of each client.
    pub clients: [Vec<Piece>; CLIENTS],
    /// The origin's responses.
    pub responses: Vec<Response>,
}

impl Script {
    /// None if it is empty.
    pub fn of(input: &[u8]) -> Option<Self> {
        let (flags, sections) = input.split_first()?;
        let ending =
            [Ending::Finish, Ending::Stay, Ending::Leave, Ending::Reset][usize::from(flags & 3)];
        let mut script = Self {
            ending,
            reads_late: flags & 4 != 0,
            clients: Default::default(),
            responses: Vec::new(),
        };
        for section in sections.split(|byte| *byte == 0xFF).take(MOST_SECTIONS) {
            if let Some((op, text)) = section.split_first() {
                script.add(*op, text);
            }
        }
        Some(script)
    }

    fn add(&mut self, op: u8, text: &[u8]) {
        let bytes = repeat(text, REPEATS[usize::from(op >> 1 & 7)]);
        let length = if op & 32 != 0 { bytes.len().div_ceil(PIECES) } else { bytes.len() };
        let pieces = bytes.chunks(length.max(1)).map(<[u8]>::to_vec);
        if op & 1 != 0 {
            let then = [Then::Stay, Then::Stay, Then::Close, Then::Reset][usize::from(op >> 6)];
            self.responses.push(Response { pieces: pieces.collect(), early: op & 16 != 0, then });
            return;
        }
        let client = &mut self.clients[usize::from(op >> 6)];
        let sent: usize = client.iter().map(|piece| piece.bytes.len()).sum();
        if sent + bytes.len() <= MOST_BYTES {
            client.extend(pieces.map(|bytes| Piece { bytes, waits: op & 16 != 0 }));
        }
    }
}

/// A body is repeated and its head is not.
fn repeat(text: &[u8], times: usize) -> Vec<u8> {
    let head = text.windows(4).position(|end| end == b"\r\n\r\n").map_or(0, |at| at + 4);
    let (head, body) = if head < text.len() { text.split_at(head) } else { (&[][..], text) };
    let times = times.min(MOST_BYTES / body.len().max(1)).max(1);
    [head, &body.repeat(times)].concat()
}
