//! Moving the answer's body from the backend to the client, decoded strictly and framed anew. Small pieces leave at once.

use super::exchange::Exchange;
use super::progress::Progress;
use super::upload::Pumped;
use super::{Client, Context, Flow, State, Verdict};
use crate::config;
use crate::net::{Buffer, Pipe, Read};
use crate::reason::Reason;
use crate::wire::Body;
use crate::wire::body::{BodyReader, BodyWriter};
use crate::wire::chunked::BadChunk;
use crate::wire::rewrite::Delivery;
use std::fmt::Display;

/// What may wait for a slow client before the backend is read again, in bytes.
const OUTPUT_BYTES: usize = 64 * 1024;

/// What is found when a body breaks off because the backend has closed.
pub(super) const CLOSED: &str = "it closed the connection inside the body";

/// What of the answer's body is still to come.
#[derive(Debug)]
pub(super) struct Download {
    reader: BodyReader,
    delivery: Delivery,
    pub(super) progress: Progress,
    /// Holds body bytes on their way inside the kernel.
    pub(super) pipe: Option<Pipe>,
    /// How much of an earlier 1xx stands before the answer in the output, which was not sent yet.
    starts_at: usize,
    /// Bytes sent to the client, heads included.
    pub(super) sent: u64,
    /// The backend does not take the rest of the request: it is not tried any more.
    upload_is_over: bool,
}

impl Download {
    /// Before there is an answer.
    pub(super) fn nothing(context: &Context<'_>) -> Self {
        Self::new(Body::None, Delivery::Plain, 0, context)
    }

    /// `starts_at` is where the answer's head begins in the output.
    pub(super) fn new(body: Body, delivery: Delivery, starts_at: usize, context: &Context<'_>) -> Self {
        Self {
            reader: body.into(),
            delivery,
            progress: Progress::new(context.now, context.config.timeouts.body),
            pipe: None,
            starts_at,
            sent: 0,
            upload_is_over: false,
        }
    }

    /// Whether the backend has sent everything.
    pub(super) fn is_done(&self) -> bool {
        self.reader.is_done()
    }

    /// How much of a body of known length is to come.
    pub(super) fn length_left(&self) -> Option<u64> {
        self.reader.remaining()
    }

    /// Notes body bytes of known length that came.
    pub(super) fn took(&mut self, count: u64) {
        self.reader.skip(count);
    }

    /// Moves what is there from the backend's bytes to the client's; whether it stopped because the client has enough for now.
    fn take(&mut self, answer: &mut Buffer, output: &mut Buffer) -> Result<bool, BadChunk> {
        while !answer.is_empty() {
            if output.len() >= OUTPUT_BYTES {
                return Ok(true);
            }
            let moved = self.reader.transfer(self.writer(), answer.unread(), usize::MAX, output.tail())?;
            if moved.consumed == 0 {
                break;
            }
            answer.consume(moved.consumed);
        }
        Ok(false)
    }

    fn writer(&self) -> BodyWriter {
        if self.delivery == Delivery::Chunked { BodyWriter::Chunked } else { BodyWriter::Raw }
    }

    /// The backend has closed; whether that is how the body ends.
    fn end_by_close(&mut self, output: &mut Buffer) -> bool {
        self.reader.end_by_close(self.writer(), output.tail())
    }

    fn is_plain_length(&self) -> bool {
        self.delivery == Delivery::Plain && self.reader.remaining().is_some()
    }
}

impl Exchange {
    /// State `ResponseBody`.
    pub(super) fn forward_answer(&mut self, client: &mut Client, context: &mut Context<'_>) -> Flow {
        let mut moved = 0;
        context.buffers.lend(&mut self.output);
        if context.has_expired() {
            client.stream.retry_write();
        }
        loop {
            if self.download.pipe.is_some() {
                return self.splice_answer(client, context);
            }
            let Ok(has_more) = self.download.take(&mut self.answer.bytes, &mut self.output) else {
                return self.break_off(&"its chunks are not well-formed", client, context);
            };
            if self.download.is_done() && self.attempt.link.is_some() {
                self.release_link(context);
            }
            match self.flush_output(client, context) {
                Err(reason) => return Flow::close(reason),
                Ok(0) if self.download.is_done() => return self.finish(client, context),
                // What was received must not wait for what was not.
                Ok(0) if has_more => continue,
                Ok(0) => {}
                Ok(_) => return self.wait_for_body(Reason::SlowReader, client, context),
            }
            if moved >= config::STEP_BYTES {
                return Flow::Yield(Verdict::Again);
            }
            if self.start_splice(client, context) {
                continue;
            }
            match self.read_answer(context) {
                Ok(Read::Bytes(count)) => {
                    moved += count;
                    self.download.progress.note(count, 1, context.now);
                }
                Ok(Read::Blocked) => return self.wait_for_body(Reason::AnswerTimeout, client, context),
                Ok(Read::End) if self.download.end_by_close(&mut self.output) => self.answer.keeps_backend = false,
                Ok(Read::End) => return self.break_off(&CLOSED, client, context),
                Err(error) => return self.break_off(&error, client, context),
            }
        }
    }

    /// Sends what there is to the client and returns how much is left.
    pub(super) fn flush_output(&mut self, client: &mut Client, context: &Context<'_>) -> Result<usize, Reason> {
        let before = self.output.len();
        if before == 0 {
            return Ok(0);
        }
        client.stream.flush(&mut self.output).map_err(|_| Reason::ClientReset)?;
        self.note_sent(before - self.output.len(), context);
        Ok(self.output.len())
    }

    pub(super) fn note_sent(&mut self, count: usize, context: &Context<'_>) {
        self.download.sent += count as u64;
        self.download.progress.note(count, config::PROGRESS_BYTES, context.now);
        context.counters.bytes_sent.add(count as u64);
    }

    /// Reads more of the body. A body of known length that needs no framing goes straight into the client's buffer.
    fn read_answer(&mut self, context: &mut Context<'_>) -> std::io::Result<Read> {
        let Some(backend) = self.attempt.stream(context.connections) else {
            return Ok(Read::End);
        };
        if !self.download.is_plain_length() {
            context.buffers.lend(&mut self.answer.bytes);
            self.answer.bytes.make_room();
            if self.answer.bytes.room() == 0 {
                self.answer.bytes.grow_to(2 * config::TRAILER_BYTES + self.answer.bytes.len());
            }
            return backend.read(&mut self.answer.bytes);
        }
        let read = backend.read(&mut self.output)?;
        if let Read::Bytes(count) = read {
            let left = self.download.length_left().unwrap_or_default();
            let surplus = (count as u64).saturating_sub(left);
            if surplus > 0 {
                // More than was announced: nobody asked for it, and what else comes on this connection is not to be trusted.
                self.output.truncate_by(usize::try_from(surplus).unwrap_or(count));
                self.answer.keeps_backend = false;
            }
            self.download.took(count as u64 - surplus);
        }
        Ok(read)
    }

    /// Nothing moves just now. While an answer comes early, the rest of the request is still passed on. `blamed` is the reason
    /// if the time is up.
    pub(super) fn wait_for_body(&mut self, blamed: Reason, client: &mut Client, context: &mut Context<'_>) -> Flow {
        if context.has_expired() && self.download.progress.deadline().at <= context.now {
            return Flow::close(blamed);
        }
        if !self.upload_has_ended() {
            match self.pump_upload(client, context) {
                Pumped::Blocked(_) => {}
                Pumped::Enough => return Flow::Yield(Verdict::Again),
                // Whatever is wrong with the request now: its answer is on the way.
                _ => self.download.upload_is_over = true,
            }
            // While the request still comes, its progress is the exchange's.
            self.download.progress = self.download.progress.later(self.upload.progress);
        }
        Flow::wait(self.download.progress.deadline())
    }

    /// Whether the answer is not whole though its end looks like one: where its end is the connection's, only a reset says so.
    pub(super) fn is_broken_off(&self) -> bool {
        let is_whole = self.download.is_done() && self.output.is_empty();
        self.state == State::ResponseBody && self.download.delivery == Delivery::UntilClose && !is_whole
    }

    fn upload_has_ended(&self) -> bool {
        self.download.upload_is_over || self.upload.is_done() && self.outbound.unsent().is_empty() || self.download.is_done()
    }

    /// The body breaks off: what came is delivered, and the connection closes without the body's proper end. If the client has
    /// seen nothing of the answer yet, it gets an error in its place.
    pub(super) fn break_off(&mut self, finding: &dyn Display, client: &mut Client, context: &mut Context<'_>) -> Flow {
        if self.download.sent == 0 {
            self.output.truncate_by(self.output.len() - self.download.starts_at);
            return self.refuse_answer(finding, client, context);
        }
        self.drop_link(context);
        let _ = self.flush_output(client, context);
        let (backend, sent) = (self.backend_name(), self.download.sent);
        log::info!("{} answer of backend {backend} broke off after {sent} bytes: {finding}", client.peer);
        Flow::close(Reason::AnswerTruncated)
    }
}
