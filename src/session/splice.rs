//! The pipe through which a long body of known length moves inside the kernel, without a copy in
//! our memory.
//!
//! Below [`config::MIN_SPLICE_BYTES`] copying is cheaper (`benches/README.md`, 1 MiB responses).

use super::client::Client;
use crate::config;
use crate::metrics::Counters;
use crate::net::{Pipe, Pipes, Read, Stream};
use crate::reason::Reason;
use std::io;

/// A pipe between a backend and a client.
#[derive(Debug)]
pub(super) struct Splice {
    pipe: Pipe,
}

impl Splice {
    /// Takes a pipe and sets both sockets to non-blocking mode; none if that fails.
    pub(super) fn start(client: &Client, backend: &Stream, pipes: &mut Pipes) -> Option<Self> {
        let pipe = pipes.get()?;
        let ready =
            client.stream.set_nonblocking(true).and_then(|()| backend.set_nonblocking(true));
        if ready.is_err() {
            pipes.put(pipe);
            return None;
        }
        Some(Self { pipe })
    }

    /// Moves up to `limit` bytes from the backend into the pipe.
    pub(super) fn fill(&mut self, backend: &mut Stream, limit: u64) -> io::Result<Read> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX).min(config::MAX_STEP_BYTES);
        backend.splice_to(&mut self.pipe, limit)
    }

    /// Moves bytes from the pipe to the client, as many as its socket accepts, and returns their
    /// number.
    pub(super) fn drain(
        &mut self,
        client: &mut Client,
        counters: &Counters,
    ) -> Result<usize, Reason> {
        let mut drained = 0;
        while !self.pipe.is_empty() {
            match client.stream.splice_from(&mut self.pipe) {
                Ok(0) => break,
                Ok(count) => drained += count,
                Err(_) => return Err(Reason::ClientReset),
            }
        }
        client.count_sent(drained, counters);
        Ok(drained)
    }

    /// Whether the pipe is empty.
    pub(super) fn is_empty(&self) -> bool {
        self.pipe.is_empty()
    }

    /// Returns the pipe to the pool.
    pub(super) fn end(self, pipes: &mut Pipes) {
        pipes.put(self.pipe);
    }
}
