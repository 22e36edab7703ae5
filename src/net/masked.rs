//! A transport for tests: every byte is masked on the wire, and reads return received bytes in
//! small pieces.
//!
//! It has two properties of TLS: received bytes may wait inside it, and no byte may bypass it.

use super::socket::{receive, send};
use rustix::io::Errno;
use std::net::TcpStream;

/// The maximum number of bytes that one read returns.
const PIECE: usize = 1000;
const MASK: u8 = 0x5a;

/// A socket whose bytes are masked.
#[derive(Debug)]
pub(crate) struct Masked {
    socket: TcpStream,
    received: Vec<u8>,
    has_ended: bool,
}

impl Masked {
    pub(crate) fn new(socket: TcpStream) -> Self {
        Self { socket, received: Vec::with_capacity(16 * 1024), has_ended: false }
    }

    pub(super) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    pub(super) fn holds_received(&self) -> bool {
        !self.received.is_empty()
    }

    pub(super) fn receive(&mut self, bytes: &mut Vec<u8>) -> Result<usize, Errno> {
        if self.received.is_empty() && !self.has_ended {
            self.has_ended = receive(&self.socket, &mut self.received)? == 0;
            mask(&mut self.received);
        }
        let count = self.received.len().min(PIECE).min(bytes.capacity() - bytes.len());
        bytes.extend(self.received.drain(..count));
        Ok(count)
    }

    pub(super) fn send(&mut self, bytes: &[u8], end_follows: bool) -> Result<usize, Errno> {
        let mut masked = bytes.to_vec();
        mask(&mut masked);
        send(&self.socket, &masked, end_follows)
    }
}

/// Masks or unmasks.
pub(crate) fn mask(bytes: &mut [u8]) {
    bytes.iter_mut().for_each(|byte| *byte ^= MASK);
}
