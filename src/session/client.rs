//! The client's side of a session: its socket, its permit, and the bytes in both directions.

use crate::admission::Permit;
use crate::error::Cause;
use crate::metrics::Counters;
use crate::net::{Buffer, Buffers, Read, Stream};
use crate::reason::Reason;
use std::io;
use std::net::{SocketAddr, TcpStream};

/// A client connection with its bytes.
#[derive(Debug)]
pub(super) struct Client {
    /// Declared before the socket, and so dropped before the close: a client that sees the end of
    /// this connection may open another one.
    permit: Permit,
    pub(super) stream: Stream,
    /// Received bytes that were not consumed yet, such as pipelined requests.
    pub(super) input: Buffer,
    /// Bytes to be sent.
    pub(super) output: Buffer,
    /// The number of bytes sent since the exchange began, heads included.
    pub(super) sent: u64,
}

impl Client {
    pub(super) fn new(socket: TcpStream, permit: Permit) -> Self {
        Self {
            permit,
            stream: Stream::accepted(socket),
            input: Buffer::default(),
            output: Buffer::default(),
            sent: 0,
        }
    }

    /// The client's address.
    pub(super) fn peer(&self) -> SocketAddr {
        self.permit.peer()
    }

    /// The cause for which the connection is rejected, if it is over a limit.
    pub(super) fn rejection(&self) -> Option<Cause> {
        self.permit.rejection()
    }

    /// Reads into `input`, which gets memory from the pool if it has none.
    pub(super) fn read(&mut self, buffers: &mut Buffers) -> Result<Read, Reason> {
        if !self.stream.is_readable() {
            return Ok(Read::Blocked);
        }
        buffers.ensure(&mut self.input);
        self.input.make_room();
        self.stream.read(&mut self.input).map_err(|_| Reason::ClientReset)
    }

    /// Sends as much of `output` as the socket accepts and returns the number of bytes.
    pub(super) fn flush(&mut self, counters: &Counters) -> Result<usize, Reason> {
        self.send_output(Stream::flush, counters)
    }

    /// Like [`Client::flush`], for the last bytes before the end of the connection.
    pub(super) fn flush_last(&mut self, counters: &Counters) -> Result<usize, Reason> {
        self.send_output(Stream::flush_last, counters)
    }

    fn send_output(
        &mut self,
        flush: fn(&mut Stream, &mut Buffer) -> io::Result<bool>,
        counters: &Counters,
    ) -> Result<usize, Reason> {
        let before = self.output.len();
        if before == 0 {
            return Ok(0);
        }
        flush(&mut self.stream, &mut self.output).map_err(|_| Reason::ClientReset)?;
        let sent = before - self.output.len();
        self.count_sent(sent, counters);
        Ok(sent)
    }

    /// Counts bytes that were sent.
    pub(super) fn count_sent(&mut self, count: usize, counters: &Counters) {
        self.sent += count as u64;
        counters.bytes_sent.add(count as u64);
    }

    /// Returns the memory of empty buffers: a waiting session holds as little as possible.
    pub(super) fn recycle(&mut self, buffers: &mut Buffers) {
        buffers.recycle(&mut self.input);
        buffers.recycle(&mut self.output);
    }
}
