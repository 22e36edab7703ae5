//! Moving a long body of known length through a pipe inside the kernel: no copy through our memory.
//!
//! Measured at 1 MiB answers; see `benches/README.md`. Below [`config::SPLICE_BYTES`] copying is cheaper.

use super::download::CLOSED;
use super::exchange::Exchange;
use super::{Client, Context, Flow, Verdict};
use crate::config;
use crate::net::Read;
use crate::reason::Reason;

impl Exchange {
    /// Starts splicing if it is worth it and nothing is left in our buffers; whether it did.
    pub(super) fn start_splice(&mut self, client: &Client, context: &mut Context<'_>) -> bool {
        let is_long = self.download.length_left().is_some_and(|left| left >= config::SPLICE_BYTES);
        if !is_long || !self.answer.bytes.is_empty() || !self.upload.is_done() {
            return false;
        }
        let Some(pipe) = context.pipes.take() else {
            return false;
        };
        if self.set_nonblocking(client, context).is_err() {
            context.pipes.give(pipe);
            return false;
        }
        context.buffers.reclaim(&mut self.answer.bytes);
        context.buffers.reclaim(&mut self.output);
        self.download.pipe = Some(pipe);
        true
    }

    fn set_nonblocking(&mut self, client: &Client, context: &mut Context<'_>) -> std::io::Result<()> {
        client.stream.set_nonblocking(true)?;
        match self.attempt.stream(context.connections) {
            Some(backend) => backend.set_nonblocking(true),
            None => Ok(()),
        }
    }

    fn end_splice_of_backend(&mut self, context: &mut Context<'_>) {
        let backend = self.attempt.stream(context.connections);
        self.answer.keeps_backend &= backend.is_some_and(|backend| backend.set_nonblocking(false).is_ok());
        self.release_link(context);
    }

    /// Part of state `ResponseBody`: backend → pipe → client, the pipe emptied before it is filled again.
    pub(super) fn splice_answer(&mut self, client: &mut Client, context: &mut Context<'_>) -> Flow {
        let mut moved = 0;
        loop {
            match self.drain_pipe(client, context) {
                Err(reason) => return Flow::close(reason),
                Ok(false) => return self.wait_for_body(Reason::SlowReader, client, context),
                Ok(true) => {}
            }
            if self.download.is_done() {
                return self.end_splice(client, context);
            }
            if moved >= config::STEP_BYTES {
                return Flow::Yield(Verdict::Again);
            }
            match self.fill_pipe(context) {
                Ok(Read::Bytes(count)) => {
                    moved += count;
                    self.download.progress.note(count, 1, context.now);
                    self.download.took(count as u64);
                    if self.download.is_done() {
                        // The rest is in the pipe: the backend need not wait for the client.
                        self.end_splice_of_backend(context);
                    }
                }
                Ok(Read::Blocked) => return self.wait_for_body(Reason::AnswerTimeout, client, context),
                Ok(Read::End) => return self.break_off(&CLOSED, client, context),
                Err(error) => return self.break_off(&error, client, context),
            }
        }
    }

    /// Whether the pipe is empty now.
    fn drain_pipe(&mut self, client: &mut Client, context: &Context<'_>) -> Result<bool, Reason> {
        let Some(pipe) = &mut self.download.pipe else {
            return Ok(true);
        };
        let mut drained = 0;
        while !pipe.is_empty() {
            match client.stream.splice_from(pipe) {
                Ok(0) => break,
                Ok(count) => drained += count,
                Err(_) => return Err(Reason::ClientReset),
            }
        }
        let is_empty = pipe.is_empty();
        self.note_sent(drained, context);
        Ok(is_empty)
    }

    fn fill_pipe(&mut self, context: &mut Context<'_>) -> std::io::Result<Read> {
        let limit = self.download.length_left().map_or(usize::MAX, |left| usize::try_from(left).unwrap_or(usize::MAX));
        let backend = self.attempt.stream(context.connections);
        match (backend, &mut self.download.pipe) {
            (Some(backend), Some(pipe)) => backend.splice_to(pipe, limit.min(config::STEP_BYTES)),
            _ => Ok(Read::End),
        }
    }

    fn end_splice(&mut self, client: &mut Client, context: &mut Context<'_>) -> Flow {
        self.ending.keeps_client &= client.stream.set_nonblocking(false).is_ok();
        if let Some(pipe) = self.download.pipe.take() {
            context.pipes.give(pipe);
        }
        self.finish(client, context)
    }
}
