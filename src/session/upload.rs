//! Moving the request's body from the client to the backend, decoded strictly and framed anew.

use super::exchange::Exchange;
use super::outbound::Outbound;
use super::progress::Progress;
use super::{Client, Context, Flow, State, Verdict};
use crate::config::{self, Timeout};
use crate::error::Cause;
use crate::net::{Buffer, Read};
use crate::reason::Reason;
use crate::upstream::backend::Backend;
use crate::wire::Body;
use crate::wire::body::{BodyReader, BodyWriter};
use crate::wire::rewrite::RequestEnd;
use std::sync::Arc;

/// What of the request's body is still to come.
#[derive(Debug)]
pub(super) struct Upload {
    reader: BodyReader,
    /// Bytes of body that came so far.
    received: u64,
    /// Anything of it came, if only a part of a chunk's line.
    has_begun: bool,
    limit: u64,
    pub(super) progress: Progress,
}

/// A chunked body taken in whole, for an HTTP/1.0 backend.
#[derive(Debug, Default)]
pub(super) struct Collected {
    pub(super) body: Vec<u8>,
    /// The backend whose turn it was when the collecting began.
    pub(super) backend: Option<Arc<Backend>>,
}

/// Who is not ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blocked {
    /// The client has sent nothing more.
    ByClient,
    /// The backend takes nothing more.
    ByBackend,
}

/// How far an upload came in one step.
#[derive(Debug)]
pub(super) enum Pumped {
    /// The backend has everything.
    All,
    /// One side is not ready.
    Blocked(Blocked),
    /// It moved its share of this step.
    Enough,
    /// The client is gone, or broke the framing.
    Ended(Reason),
    /// The client's body is not acceptable.
    Bad(Cause),
    /// The backend takes nothing any more.
    BackendGone,
}

impl Upload {
    pub(super) fn new(body: Body, context: &Context<'_>) -> Self {
        Self {
            reader: body.into(),
            received: 0,
            has_begun: false,
            limit: context.config.body_bytes.unwrap_or(u64::MAX),
            progress: Progress::new(context.now, context.config.timeouts.body),
        }
    }

    /// The body begins to move now: what came before, finding a backend for example, was not its fault.
    pub(super) fn start_clock(&mut self, context: &Context<'_>) {
        self.progress = Progress::new(context.now, context.config.timeouts.body);
    }

    /// Whether the whole body was received and handed on.
    pub(super) fn is_done(&self) -> bool {
        self.reader.is_done()
    }

    /// Moves what fits from the client's bytes to the backend's; whether anything moved.
    fn take(&mut self, input: &mut Buffer, outbound: &mut Outbound) -> Result<bool, Cause> {
        let mut any = false;
        while !input.is_empty() && !self.is_done() {
            let mut consumed = self.take_some(outbound.replay_room(), input, outbound)?;
            if consumed == 0 {
                // Only now: a full replay buffer is cut by the next byte of the body, not by its end.
                consumed = self.take_some(outbound.make_room(), input, outbound)?;
            }
            if consumed == 0 {
                return Ok(any);
            }
            input.consume(consumed);
            (any, self.has_begun) = (true, true);
            if self.is_too_large() {
                return Err(Cause::BodyTooLarge);
            }
        }
        Ok(any)
    }

    /// Whether it is over the limit, or a chunk has been announced that will be.
    fn is_too_large(&self) -> bool {
        self.received.saturating_add(self.reader.announced()) > self.limit
    }

    /// Moves one piece, at most `room` bytes of body; how many of the client's bytes are done with.
    fn take_some(&mut self, room: usize, input: &Buffer, outbound: &mut Outbound) -> Result<usize, Cause> {
        let moved = outbound.append_body(|writer, out| self.reader.transfer(writer, input.unread(), room, out))?;
        self.received += moved.body as u64;
        Ok(moved.consumed)
    }

    /// Decodes a chunked body into `collected`; whether it is whole.
    fn collect(&mut self, input: &mut Buffer, collected: &mut Vec<u8>) -> Result<bool, Cause> {
        while !self.is_done() {
            let moved = self.reader.transfer(BodyWriter::Raw, input.unread(), usize::MAX, collected)?;
            input.consume(moved.consumed);
            self.received += moved.body as u64;
            self.has_begun |= moved.consumed > 0;
            if self.is_too_large() {
                return Err(Cause::BodyTooLarge);
            }
            if collected.len() > config::REPLAY_BYTES {
                return Err(Cause::LengthRequired);
            }
            if moved.consumed == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Exchange {
    /// Sends what there is of the request, for as long as both sides go along.
    pub(super) fn pump_upload(&mut self, client: &mut Client, context: &mut Context<'_>) -> Pumped {
        let mut moved = 0;
        loop {
            let took = match self.upload.take(&mut self.input, &mut self.outbound) {
                Ok(took) => took,
                Err(cause) => return Pumped::Bad(cause),
            };
            while !self.outbound.unsent().is_empty() {
                let Some(backend) = self.attempt.stream(context.connections) else {
                    return Pumped::BackendGone;
                };
                match backend.write(self.outbound.unsent()) {
                    Ok(0) => return Pumped::Blocked(Blocked::ByBackend),
                    Ok(count) => {
                        self.outbound.advance(count);
                        self.upload.progress.note(count, config::PROGRESS_BYTES, context.now);
                    }
                    Err(_) => return Pumped::BackendGone,
                }
            }
            if self.upload.is_done() {
                return Pumped::All;
            }
            if moved >= config::STEP_BYTES {
                return Pumped::Enough;
            }
            if took && !self.input.is_empty() {
                // There may be room now for what was received already.
                continue;
            }
            match self.read_body(client, context) {
                Ok(count) => moved += count,
                Err(stop) => return stop,
            }
        }
    }

    /// Reads more of the body from the client: how many bytes, or what stops it.
    fn read_body(&mut self, client: &mut Client, context: &mut Context<'_>) -> Result<usize, Pumped> {
        context.buffers.lend(&mut self.input);
        self.input.make_room();
        if self.input.room() == 0 {
            // A full buffer from which nothing can be taken: cannot be, because a chunk's line is shorter than the buffer.
            return Err(Pumped::Bad(Cause::BadChunk));
        }
        match client.stream.read(&mut self.input) {
            Ok(Read::Bytes(count)) => {
                if !std::mem::replace(&mut self.upload.has_begun, true) {
                    // The client may have waited for a 100: its time for the body begins now.
                    self.upload.start_clock(context);
                }
                Ok(count)
            }
            Ok(Read::Blocked) => Err(Pumped::Blocked(Blocked::ByClient)),
            Ok(Read::End) => Err(Pumped::Ended(Reason::ClientAborted)),
            Err(_) => Err(Pumped::Ended(Reason::ClientReset)),
        }
    }

    /// State `RequestBody`.
    pub(super) fn send_request(&mut self, client: &mut Client, context: &mut Context<'_>) -> Flow {
        if context.has_expired()
            && let Some(backend) = self.attempt.stream(context.connections)
        {
            backend.retry_write();
        }
        let pumped = self.pump_upload(client, context);
        // The backend may say something before it has everything: a 100, or an early answer.
        if self.link_is_readable(context) && !matches!(pumped, Pumped::Ended(_) | Pumped::Bad(_)) {
            if matches!(pumped, Pumped::All | Pumped::BackendGone) {
                return Flow::Goto(State::AwaitResponse);
            }
            if let Some(flow) = self.look_for_answer(client, context) {
                return flow;
            }
        }
        match pumped {
            Pumped::All => Flow::Goto(State::AwaitResponse),
            Pumped::Enough => Flow::Yield(Verdict::Again),
            Pumped::Ended(reason) => Flow::close(reason),
            Pumped::Bad(cause) => self.refuse(cause, client, context),
            // What it answered before it closed is worth more than the error.
            Pumped::BackendGone => Flow::Goto(State::AwaitResponse),
            Pumped::Blocked(blocked) => self.wait_for_upload(blocked, client, context),
        }
    }

    /// Nothing of the request moves just now. A client that waits for a 100 waits for the backend.
    fn wait_for_upload(&mut self, blocked: Blocked, client: &mut Client, context: &mut Context<'_>) -> Flow {
        if blocked == Blocked::ByClient && self.waits_for_continue() && self.backend_speaks_http10() {
            self.say_continue(context);
        }
        if let Err(reason) = self.flush_output(client, context) {
            return Flow::close(reason);
        }
        let (deadline, cause) = match blocked {
            Blocked::ByClient if self.waits_for_continue() => {
                let deadline = *self.history.continue_deadline.get_or_insert_with(|| context.deadline(Timeout::FirstByte));
                (deadline, Cause::FirstByteTimeout)
            }
            Blocked::ByClient => (self.upload.progress.deadline(), Cause::RequestBodyTimeout),
            Blocked::ByBackend => (self.upload.progress.deadline(), Cause::SendTimeout),
        };
        if context.has_expired() && deadline.at <= context.now {
            return self.refuse(cause, client, context);
        }
        Flow::wait(deadline)
    }

    fn waits_for_continue(&self) -> bool {
        self.request.expects_continue && !self.upload.has_begun && !self.answer.interim_sent
    }

    fn backend_speaks_http10(&self) -> bool {
        self.attempt.in_flight.as_ref().is_some_and(|in_flight| in_flight.backend().speaks_http10())
    }

    /// Tells a client to go on, in place of a backend that speaks HTTP/1.0 and cannot (RFC 9110 section 10.1.1).
    fn say_continue(&mut self, context: &mut Context<'_>) {
        self.answer.interim_sent = true;
        self.upload.start_clock(context);
        context.buffers.lend(&mut self.output);
        self.output.append(b"HTTP/1.1 100 Continue\r\n\r\n");
    }

    /// State `Collect`: an HTTP/1.0 backend cannot be sent chunks, so the body is taken in whole and sent with its length.
    pub(super) fn collect_body(&mut self, client: &mut Client, context: &mut Context<'_>) -> Flow {
        if context.has_expired() {
            return self.refuse(Cause::RequestBodyTimeout, client, context);
        }
        if self.waits_for_continue() && self.input.is_empty() {
            self.say_continue(context);
        }
        if let Err(reason) = self.flush_output(client, context) {
            return Flow::close(reason);
        }
        let mut moved = 0;
        loop {
            match self.upload.collect(&mut self.input, &mut self.collected.body) {
                Err(cause) => return self.refuse(cause, client, context),
                Ok(true) => {
                    self.request_end = Some(RequestEnd::Length(self.collected.body.len() as u64));
                    return Flow::Goto(State::Dispatch);
                }
                Ok(false) => {}
            }
            if moved >= config::STEP_BYTES {
                return Flow::Yield(Verdict::Again);
            }
            match self.read_body(client, context) {
                Ok(count) => {
                    moved += count;
                    self.upload.progress.note(count, config::PROGRESS_BYTES, context.now);
                }
                Err(Pumped::Blocked(_)) => return Flow::wait(self.upload.progress.deadline()),
                Err(Pumped::Ended(reason)) => return Flow::close(reason),
                Err(_) => return self.refuse(Cause::BadChunk, client, context),
            }
        }
    }
}
