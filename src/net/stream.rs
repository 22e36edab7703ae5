//! A connected socket and its readiness. The only type that reads from and writes to connections.
//!
//! Readiness is edge-triggered: *readable* and *writable* are set by events and cleared only by
//! EAGAIN or a short read or write. No call here waits.

use super::pipe::Pipe;
use super::transport::Transport;
use super::{Buffer, Event};
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};

/// The result of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// This many bytes, at least one.
    Bytes(usize),
    /// Nothing yet.
    Blocked,
    /// The peer has closed its sending side.
    End,
}

/// A connected socket with its readiness.
#[derive(Debug)]
pub struct Stream {
    transport: Transport,
    readable: bool,
    writable: bool,
    /// The peer's FIN was seen: no further event will announce the end, so a short read must not
    /// clear `readable`.
    hung_up: bool,
    /// A reset or an error was seen.
    broken: bool,
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.transport.as_fd()
    }
}

impl Stream {
    /// A socket that was just accepted. Its first event shows whether bytes have come.
    pub fn accepted(socket: TcpStream) -> Self {
        Self {
            transport: Transport::Plain(socket),
            readable: false,
            writable: true,
            hung_up: false,
            broken: false,
        }
    }

    /// Masks all bytes from now on.
    #[cfg(test)]
    pub(crate) fn mask(&mut self) {
        if let Transport::Plain(socket) = &self.transport {
            let socket = socket.try_clone().expect("a descriptor is free");
            self.transport = Transport::Masked(Box::new(super::masked::Masked::new(socket)));
        }
    }

    /// Starts a connect. [`Stream::connected`] returns its result.
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        // Non-blocking while the connect is in progress; `connected` restores blocking mode.
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        sockopt::set_tcp_nodelay(&socket, true)?;
        match rustix::net::connect(&socket, &address) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(errno) => return Err(errno.into()),
        }
        Ok(Self { writable: false, ..Self::accepted(TcpStream::from(socket)) })
    }

    /// Whether the connect has succeeded; an error if it has failed.
    pub fn connected(&mut self) -> io::Result<bool> {
        if self.broken || self.writable {
            sockopt::socket_error(self.transport.socket())??;
        }
        if self.broken {
            return Err(Errno::CONNRESET.into());
        }
        if self.writable {
            self.set_nonblocking(false)?;
        }
        Ok(self.writable)
    }

    /// Records an event.
    pub fn note(&mut self, event: Event) {
        let flags = event.flags;
        self.hung_up |= flags.intersects(EventFlags::RDHUP | EventFlags::HUP);
        self.broken |= flags.contains(EventFlags::ERR);
        self.readable |= self.hung_up || self.broken || flags.contains(EventFlags::IN);
        self.writable |= self.broken || flags.intersects(EventFlags::OUT | EventFlags::HUP);
    }

    /// Whether a read may return bytes or the end.
    pub fn is_readable(&self) -> bool {
        self.readable
    }

    /// Whether a reset or an error was seen.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Reads what fits into the buffer's room.
    pub fn read(&mut self, buffer: &mut Buffer) -> io::Result<Read> {
        if !self.readable {
            return Ok(Read::Blocked);
        }
        let room = buffer.room();
        debug_assert!(room > 0, "a read without room would look like the end");
        match self.transport.receive(buffer.as_vec_mut()) {
            Ok(0) => Ok(Read::End),
            Ok(count) => {
                self.readable = count == room || self.hung_up || !self.transport.is_direct();
                Ok(Read::Bytes(count))
            }
            Err(Errno::AGAIN) => {
                self.readable = false;
                Ok(Read::Blocked)
            }
            Err(errno) => Err(errno.into()),
        }
    }

    /// Writes as much as the socket accepts and returns the number of bytes, 0 if it is full.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.send(bytes, false)
    }

    fn send(&mut self, bytes: &[u8], end_follows: bool) -> io::Result<usize> {
        if !self.writable {
            return Ok(0);
        }
        match self.transport.send(bytes, end_follows) {
            Ok(count) => {
                self.writable = count == bytes.len();
                Ok(count)
            }
            Err(Errno::AGAIN) => {
                self.writable = false;
                Ok(0)
            }
            Err(errno) => Err(errno.into()),
        }
    }

    /// Writes as much of the buffer as the socket accepts; whether the buffer is empty now.
    pub fn flush(&mut self, buffer: &mut Buffer) -> io::Result<bool> {
        self.send_from(buffer, false)
    }

    /// Like [`Stream::flush`], for bytes behind which the connection is closed at once, or shut down
    /// for sending: one segment carries the last of them and the end, instead of one segment each.
    pub fn flush_last(&mut self, buffer: &mut Buffer) -> io::Result<bool> {
        self.send_from(buffer, true)
    }

    fn send_from(&mut self, buffer: &mut Buffer, end_follows: bool) -> io::Result<bool> {
        if !buffer.is_empty() {
            let written = self.send(buffer.unread(), end_follows)?;
            buffer.consume(written);
        }
        Ok(buffer.is_empty())
    }

    /// Allows the next write without an event: the kernel reports room only when a third of its
    /// buffer is free, which with a large buffer and a slow reader may take longer than the
    /// timeout.
    pub fn retry_write(&mut self) {
        self.writable = true;
    }

    /// Whether the peer has neither sent nor closed, regardless of events, and records it. One
    /// system call, nothing is consumed.
    pub fn is_idle_and_open(&mut self) -> bool {
        let is_idle_and_open = self.transport.is_idle_and_open();
        self.readable = !is_idle_and_open;
        is_idle_and_open
    }

    /// Whether bytes may move through a pipe inside the kernel.
    pub fn can_splice(&self) -> bool {
        self.transport.is_direct()
    }

    /// Moves up to `limit` bytes from the socket into a pipe. The socket must be in non-blocking
    /// mode.
    pub fn splice_to(&mut self, pipe: &mut Pipe, limit: usize) -> io::Result<Read> {
        if !self.readable {
            return Ok(Read::Blocked);
        }
        match self.transport.splice_to(pipe, limit) {
            Ok(0) => Ok(Read::End),
            Ok(count) => {
                pipe.filled(count);
                Ok(Read::Bytes(count))
            }
            Err(Errno::AGAIN) => {
                // An empty socket and a full pipe both return EAGAIN: only the pipe's state
                // distinguishes them.
                self.readable = !pipe.is_empty();
                Ok(Read::Blocked)
            }
            Err(errno) => Err(errno.into()),
        }
    }

    /// Moves bytes from a pipe into the socket, as many as it accepts. The socket must be in
    /// non-blocking mode.
    pub fn splice_from(&mut self, pipe: &mut Pipe) -> io::Result<usize> {
        if !self.writable {
            return Ok(0);
        }
        match self.transport.splice_from(pipe) {
            Ok(count) => {
                pipe.drained(count);
                Ok(count)
            }
            Err(Errno::AGAIN) => {
                self.writable = false;
                Ok(0)
            }
            Err(errno) => Err(errno.into()),
        }
    }

    /// Sets or ends non-blocking mode. Splicing needs it: `splice` waits on a blocking socket
    /// regardless of its flags.
    pub fn set_nonblocking(&self, on: bool) -> io::Result<()> {
        self.transport.socket().set_nonblocking(on)
    }

    /// Makes the close a reset, so that a truncated message does not look whole to the peer.
    pub fn reset_on_close(&self) {
        self.transport.reset_on_close();
    }

    /// Closes the sending side.
    pub fn shutdown_write(&self) {
        self.transport.shutdown_write();
    }
}
