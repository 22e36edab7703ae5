//! The layer between a stream and its socket: plain, and later TLS.
//!
//! A transport never waits: it returns `EAGAIN` instead, in any mode of the socket.

#[cfg(test)]
use super::masked::Masked;
use super::pipe::Pipe;
use super::socket::{peek, receive, send};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{Shutdown, sockopt};
use rustix::pipe::SpliceFlags;
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// The transport of a stream's bytes over its socket.
#[derive(Debug)]
pub(super) enum Transport {
    /// The socket alone.
    Plain(TcpStream),
    /// A mask, as a stand-in for TLS: bytes differ on the wire, and received bytes may be buffered
    /// inside.
    #[cfg(test)]
    Masked(Box<Masked>),
}

impl AsFd for Transport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket().as_fd()
    }
}

impl Transport {
    /// The socket below.
    pub(super) fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            #[cfg(test)]
            Self::Masked(masked) => masked.socket(),
        }
    }

    /// Receives into the spare capacity of `bytes` and returns the number of bytes: 0 at the end.
    pub(super) fn receive(&mut self, bytes: &mut Vec<u8>) -> Result<usize, Errno> {
        match self {
            Self::Plain(socket) => receive(socket, bytes),
            #[cfg(test)]
            Self::Masked(masked) => masked.receive(bytes),
        }
    }

    /// Sends from the start of `bytes`; how many were taken.
    /// With `end_follows` the end of the connection follows at once.
    pub(super) fn send(&mut self, bytes: &[u8], end_follows: bool) -> Result<usize, Errno> {
        match self {
            Self::Plain(socket) => send(socket, bytes, end_follows),
            #[cfg(test)]
            Self::Masked(masked) => masked.send(bytes, end_follows),
        }
    }

    /// Whether the peer has neither sent nor closed. One system call, nothing is consumed.
    pub(super) fn is_idle_and_open(&self) -> bool {
        #[cfg(test)]
        if let Self::Masked(masked) = self
            && masked.holds_received()
        {
            return false;
        }
        matches!(peek(self.socket()), Err(Errno::AGAIN))
    }

    /// Whether the stream's bytes are those of the socket: then a short read has emptied it, and
    /// splicing is possible.
    pub(super) fn is_direct(&self) -> bool {
        matches!(self, Self::Plain(_))
    }

    /// Moves up to `limit` bytes from the socket into a pipe.
    pub(super) fn splice_to(&self, pipe: &mut Pipe, limit: usize) -> Result<usize, Errno> {
        retry_on_intr(|| {
            rustix::pipe::splice(self.socket(), None, pipe.entry(), None, limit, SPLICE)
        })
    }

    /// Moves bytes from a pipe into the socket.
    pub(super) fn splice_from(&self, pipe: &mut Pipe) -> Result<usize, Errno> {
        retry_on_intr(|| {
            rustix::pipe::splice(pipe.exit(), None, self.socket(), None, pipe.len(), SPLICE)
        })
    }

    /// Makes the close a reset.
    pub(super) fn reset_on_close(&self) {
        // Fails only on a closed connection, which needs no reset.
        let _ = sockopt::set_socket_linger(self.socket(), Some(Duration::ZERO));
    }

    /// Closes the sending side.
    pub(super) fn shutdown_write(&self) {
        // Fails only on a closed connection.
        let _ = rustix::net::shutdown(self.socket(), Shutdown::Write);
    }
}

const SPLICE: SpliceFlags = SpliceFlags::NONBLOCK.union(SpliceFlags::MOVE);
