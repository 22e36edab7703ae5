//! A request: all of it follows from its key and the run's seed.
//!
//! Client and backend derive the same plan independently, so that each can check the other's bytes:
//! a request or a response of another key, or without a byte, is noticed wherever it was mixed up.

use std::io::Write;

/// The number of a request: unique within a run.
pub type Key = u32;

/// The method of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Get,
    Head,
    Put,
    Post,
}

/// A request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upload {
    None,
    Length(usize),
    Chunked(usize),
}

/// The framing of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Length,
    Chunked,
    /// The body ends with the backend's connection.
    ToEnd,
}

/// How the client behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    KeepAlive,
    /// The request has `Connection: close`.
    Close,
    /// The client resets the connection on purpose, inside the request or the response.
    Abort,
    /// The request upgrades to a WebSocket.
    Upgrade,
}

/// A column of the report: the meaning of a loss of this kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    Get,
    Head,
    Put,
    /// Its body is larger than the balancer's replay buffer.
    LargePut,
    Post,
    Upgrade,
}

impl Class {
    pub const ALL: [Self; 6] =
        [Self::Get, Self::Head, Self::Put, Self::LargePut, Self::Post, Self::Upgrade];
    pub const NAMES: [&str; 6] = ["GET", "HEAD", "PUT", "large PUT", "POST", "upgrade"];

    /// Whether a loss of it is avoidable: it is retryable and replayable.
    pub fn is_replayable(self) -> bool {
        matches!(self, Self::Get | Self::Head | Self::Put)
    }
}

/// A body larger than this is not replayable.
const REPLAYABLE_BYTES: usize = 64 * 1024;

/// A request and the response to it.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub key: Key,
    pub method: Method,
    pub upload: Upload,
    pub manner: Manner,
    pub shape: Shape,
    /// The length of the response's body.
    pub size: usize,
    seed: u64,
}

impl Plan {
    /// The plan of this key.
    pub fn of(seed: u64, key: Key) -> Self {
        let mut rng = fastrand::Rng::with_seed(mix(seed, u64::from(key)));
        let method = match rng.u32(..100) {
            0..60 => Method::Get,
            60..70 => Method::Head,
            70..82 => Method::Put,
            _ => Method::Post,
        };
        let upload = if matches!(method, Method::Put | Method::Post) {
            draw_upload(&mut rng)
        } else {
            Upload::None
        };
        let manner = match rng.u32(..1000) {
            0..40 => Manner::Close,
            40..60 => Manner::Abort,
            60..75 if method == Method::Get => Manner::Upgrade,
            _ => Manner::KeepAlive,
        };
        let shape = match rng.u32(..100) {
            0..65 => Shape::Length,
            65..95 => Shape::Chunked,
            _ => Shape::ToEnd,
        };
        let size = match rng.u32(..1000) {
            0..850 => rng.usize(..4096),
            850..990 => rng.usize(4096..65_536),
            _ if method == Method::Get && manner != Manner::Upgrade => 1024 * 1024,
            _ => 0,
        };
        // A client that still sends does not read: its response has to fit into the sockets'
        // buffers.
        let size = if upload == Upload::None { size } else { size % 16_384 };
        Self { key, method, upload, manner, shape, size, seed }
    }

    /// The report's column.
    pub fn class(&self) -> Class {
        match self.method {
            _ if self.manner == Manner::Upgrade => Class::Upgrade,
            Method::Get => Class::Get,
            Method::Head => Class::Head,
            Method::Put if self.upload_bytes() > REPLAYABLE_BYTES => Class::LargePut,
            Method::Put => Class::Put,
            Method::Post => Class::Post,
        }
    }

    /// Whether the client may pipeline it after another request.
    pub fn is_pipelinable(&self) -> bool {
        self.upload == Upload::None && self.manner == Manner::KeepAlive && self.size <= 65_536
    }

    /// How many bytes its body has.
    pub fn upload_bytes(&self) -> usize {
        match self.upload {
            Upload::None => 0,
            Upload::Length(size) | Upload::Chunked(size) => size,
        }
    }

    /// The method in the request line.
    pub fn method_name(&self) -> &'static str {
        match self.method {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Put => "PUT",
            Method::Post => "POST",
        }
    }

    /// Appends the request: head and body.
    pub fn write_request(&self, out: &mut Vec<u8>) {
        let (method, key) = (self.method_name(), self.key);
        write!(out, "{method} /key/{key} HTTP/1.1\r\nHost: chaos.test\r\nX-Key: {key}\r\n")
            .expect("a vector takes every write");
        match self.manner {
            Manner::Close => out.extend_from_slice(b"Connection: close\r\n"),
            Manner::Upgrade => out.extend_from_slice(
                b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
            ),
            Manner::KeepAlive | Manner::Abort => {}
        }
        let body = Pattern::of_request(self);
        match self.upload {
            Upload::None => out.extend_from_slice(b"\r\n"),
            Upload::Length(size) => {
                write!(out, "Content-Length: {size}\r\n\r\n").expect("a vector takes every write");
                body.append(out, size);
            }
            Upload::Chunked(size) => {
                out.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
                body.append_chunked(out, size);
            }
        }
    }
}

fn draw_upload(rng: &mut fastrand::Rng) -> Upload {
    let size = match rng.u32(..100) {
        0..91 => rng.usize(..2000),
        91..98 => 100 * 1024,
        98 => 600 * 1024,
        _ => 0,
    };
    if rng.u32(..100) < 30 { Upload::Chunked(size) } else { Upload::Length(size) }
}

/// A body: bytes that identify their key and their offset in the body.
#[derive(Clone, Copy)]
pub struct Pattern {
    base: u64,
}

impl Pattern {
    const BLOCK: usize = 4096;
    const MAX_CHUNK: usize = 40_000;

    /// The request.
    pub fn of_request(plan: &Plan) -> Self {
        Self { base: mix(plan.seed, u64::from(plan.key) << 1) }
    }

    /// The response.
    pub fn of_response(plan: &Plan) -> Self {
        Self { base: mix(plan.seed, (u64::from(plan.key) << 1) | 1) }
    }

    /// Appends the whole body.
    pub fn append(self, out: &mut Vec<u8>, size: usize) {
        self.append_range(out, 0, size);
    }

    /// Appends the whole body as chunks, with the last one.
    pub fn append_chunked(self, out: &mut Vec<u8>, size: usize) {
        let mut at = 0;
        while at < size {
            // Sizes that differ, without a generator: any cut is right.
            let chunk = (size - at).min(1 + (self.base as usize ^ at) % Self::MAX_CHUNK);
            write!(out, "{chunk:x}\r\n").expect("a vector takes every write");
            self.append_range(out, at, chunk);
            out.extend_from_slice(b"\r\n");
            at += chunk;
        }
        out.extend_from_slice(b"0\r\n\r\n");
    }

    /// Whether the body has these bytes at this offset.
    pub fn matches(self, at: usize, bytes: &[u8]) -> bool {
        let mut block = [0; Self::BLOCK];
        let mut at = at;
        bytes.chunks(Self::BLOCK - 8).all(|piece| {
            let expected = self.fill(&mut block, at, piece.len());
            at += piece.len();
            piece == expected
        })
    }

    fn append_range(self, out: &mut Vec<u8>, at: usize, size: usize) {
        let mut block = [0; Self::BLOCK];
        let mut done = 0;
        while done < size {
            let piece = (size - done).min(Self::BLOCK - 8);
            out.extend_from_slice(self.fill(&mut block, at + done, piece));
            done += piece;
        }
    }

    /// The `size` bytes at `at`: whole words are written, from the one in which they begin.
    fn fill(self, block: &mut [u8; Self::BLOCK], at: usize, size: usize) -> &[u8] {
        let (first, skip) = (at / 8, at % 8);
        for (number, word) in
            block[..(skip + size).next_multiple_of(8)].chunks_exact_mut(8).enumerate()
        {
            let value = (self.base ^ (first + number) as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            word.copy_from_slice(&value.to_le_bytes());
        }
        &block[skip..skip + size]
    }
}

fn mix(seed: u64, value: u64) -> u64 {
    let mixed =
        (seed ^ value.wrapping_mul(0xD6E8_FEB8_6659_FD93)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed ^ (mixed >> 31)
}

#[test]
fn a_body_matches_its_key_in_any_pieces_and_no_other_key() {
    let plan = Plan { size: 20_000, ..Plan::of(7, 3) };
    let mut body = Vec::new();
    Pattern::of_response(&plan).append(&mut body, plan.size);
    for piece in [1, 7, 8, 4088, 4096, 20_000] {
        let mut at = 0;
        for bytes in body.chunks(piece) {
            assert!(Pattern::of_response(&plan).matches(at, bytes));
            assert!(!Pattern::of_response(&plan).matches(at + 8, bytes));
            at += bytes.len();
        }
    }
    assert!(!Pattern::of_request(&plan).matches(0, &body[..64]));
    assert!(!Pattern::of_response(&Plan::of(7, 4)).matches(0, &body[..64]));
}
