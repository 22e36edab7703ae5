//! The upload of a request to a backend: its head, and its body, decoded strictly and framed as the
//! backend supports it.

use super::attempt::Attempt;
use super::client::Client;
use super::context::{Context, Local};
use super::progress::{Blocked, Progress};
use super::record::ExchangeData;
use super::replay::ReplayBuffer;
use super::stop::Stop;
use crate::config::{self, Deadline, Timeout};
use crate::error::Cause;
use crate::net::{Buffer, Read, Stream};
use crate::reason::Reason;
use crate::wire::Body;
use crate::wire::body::{BodyReader, BodyWriter};
use crate::wire::request::RequestHead;
use crate::wire::rewrite::{self, RequestFraming};
use std::time::Instant;

/// The upload of one request, over all attempts.
#[derive(Debug)]
pub(super) struct Upload {
    reader: BodyReader,
    replay: ReplayBuffer,
    is_chunked: bool,
    /// The framing of the body for the backend, once it is chosen.
    framing: Option<RequestFraming>,
    /// The number of bytes of body that were received.
    received: u64,
    /// When the request's last byte was received.
    ended: Option<Instant>,
    /// Whether any part of the body was received, including the framing of a chunk.
    has_begun: bool,
    /// The maximum number of bytes of body.
    limit: u64,
    progress: Progress,
    /// Whether the client awaits a 100 before it sends the body (RFC 9110 section 10.1.1).
    expects_continue: bool,
    continue_deadline: Option<Deadline>,
}

/// The progress of an upload in one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Uploaded {
    /// The whole request is sent, or buffered.
    All,
    /// One side is not ready.
    Blocked(Blocked),
    /// The I/O budget of the step is used up.
    BudgetUsed,
    /// The backend accepts no more bytes. Its response, if any, takes precedence over the error.
    BackendGone,
}

/// Whether a backend supports the framing of the request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FramingSupport {
    /// The backend supports it.
    Ready,
    /// The backend does not support chunks: the body must be buffered first.
    AfterBuffering,
    /// The backend does not support chunks, and some were sent to another one already.
    Unsupported,
}

impl Upload {
    /// The upload of the request with this head, which was received with this length.
    pub(super) fn new(head: &RequestHead<'_, '_>, head_length: usize, cx: &Context<'_>) -> Self {
        let is_chunked = head.body == Body::Chunked;
        let writer = if is_chunked { BodyWriter::Chunked } else { BodyWriter::Raw };
        Self {
            reader: head.body.into(),
            replay: ReplayBuffer::new(head_length, writer, !head.is_idempotent()),
            is_chunked,
            framing: None,
            received: 0,
            ended: (head.body == Body::None).then_some(cx.now),
            has_begun: false,
            limit: cx.shared.settings.limits.max_body_bytes.unwrap_or(u64::MAX),
            progress: Progress::new(cx.now),
            expects_continue: head.expects_continue,
            continue_deadline: None,
        }
    }

    /// The buffer to write the head to.
    pub(super) fn head_mut(&mut self) -> &mut Vec<u8> {
        self.replay.as_vec_mut()
    }

    /// Marks the end of the part of the head that is the same for all backends.
    pub(super) fn mark_common_end(&mut self) {
        self.replay.mark_common_end();
    }

    /// Whether the whole body was received.
    pub(super) fn is_received(&self) -> bool {
        self.reader.is_done()
    }

    /// Adds the body's bytes and its end to the data of the exchange.
    pub(super) fn record(&self, data: &mut ExchangeData) {
        data.bytes_in += self.received;
        data.request_ended = self.ended;
    }

    /// Notes the request's end, if it was received.
    fn note_end(&mut self, now: Instant) {
        if self.ended.is_none() && self.is_received() {
            self.ended = Some(now);
        }
    }

    /// Whether the whole request was sent.
    pub(super) fn is_sent(&self) -> bool {
        self.is_received() && self.replay.unsent().is_empty()
    }

    /// Whether a byte was sent in this attempt.
    pub(super) fn was_written(&self) -> bool {
        self.replay.was_written()
    }

    /// Whether the request can be sent again from its first byte.
    pub(super) fn is_replayable(&self) -> bool {
        self.replay.is_replayable()
    }

    /// The kept bytes of the request, for the log.
    pub(super) fn kept(&self) -> &[u8] {
        self.replay.kept()
    }

    /// Frees the memory if no byte is kept.
    pub(super) fn shrink(&mut self) {
        self.replay.shrink();
    }

    /// Drops the kept bytes: the request will not be retried.
    pub(super) fn release(&mut self) {
        self.replay.release();
    }

    /// Restarts the body's timeout: the time before, in the queue for example, does not count.
    pub(super) fn start_clock(&mut self, now: Instant) {
        self.progress = Progress::new(now);
    }

    /// Whether the client still awaits a 100.
    pub(super) fn awaits_continue(&self) -> bool {
        self.expects_continue && !self.has_begun
    }

    /// Notes that a 1xx was forwarded: the client's time for the body begins now.
    pub(super) fn note_interim(&mut self, now: Instant) {
        self.expects_continue = false;
        if !self.is_received() {
            self.start_clock(now);
        }
    }

    /// Writes a 100 for the client, in place of a backend that supports only HTTP/1.0.
    pub(super) fn send_continue(&mut self, client: &mut Client, local: &mut Local) {
        self.note_interim(local.clock.now());
        local.buffers.ensure(&mut client.output);
        client.output.append(b"HTTP/1.1 100 Continue\r\n\r\n");
    }

    /// The deadline while one side is blocked. It is the backend's first-byte timeout if the client
    /// awaits a 100.
    pub(super) fn wait(&mut self, blocked: Blocked, cx: &Context<'_>) -> Result<Deadline, Stop> {
        let (deadline, cause) = match blocked {
            Blocked::OnClient if self.awaits_continue() => {
                let deadline =
                    *self.continue_deadline.get_or_insert_with(|| cx.deadline(Timeout::FirstByte));
                (deadline, Cause::FirstByteTimeout)
            }
            Blocked::OnClient => (self.deadline(cx), Cause::RequestBodyTimeout),
            Blocked::OnBackend => (self.deadline(cx), Cause::SendTimeout),
        };
        deadline.unless_passed(cx.now, cause)
    }

    pub(super) fn progress(&self) -> Progress {
        self.progress
    }

    pub(super) fn deadline(&mut self, cx: &Context<'_>) -> Deadline {
        self.progress.deadline(cx.shared.settings.timeouts.body)
    }

    /// Whether the received or announced body is over the limit.
    pub(super) fn is_too_large(&self) -> bool {
        let announced = self.reader.remaining().unwrap_or(0).max(self.reader.announced());
        self.received.saturating_add(announced) > self.limit
    }

    /// Chooses the framing of the body for a backend.
    pub(super) fn choose_framing(&mut self, is_http10_only: bool) -> FramingSupport {
        match (self.is_chunked, self.framing) {
            (false, _) => self.framing = Some(RequestFraming::Plain),
            (true, None) if is_http10_only => return FramingSupport::AfterBuffering,
            (true, None) => self.framing = Some(RequestFraming::Chunked),
            // Chunks were sent to another backend before.
            (true, Some(RequestFraming::Chunked)) if is_http10_only => {
                return FramingSupport::Unsupported;
            }
            (true, Some(_)) => {}
        }
        FramingSupport::Ready
    }

    /// Allows another framing after a failed connect, unless a part of the body was framed already.
    pub(super) fn reopen_framing(&mut self) {
        if !self.replay.has_body() && !self.is_received() {
            self.framing = None;
        }
    }

    /// Starts an attempt: the request is sent from its first byte, with the end of the head for
    /// this backend. `host` is the value of `Host` if the client has sent none.
    pub(super) fn start_attempt(&mut self, host: Option<&str>) {
        let framing = self.framing.unwrap_or(RequestFraming::Plain);
        self.replay.start_attempt(|out| rewrite::request_framing(out, host, framing));
    }

    /// Sends the request on the connection of this attempt, until one side is blocked.
    pub(super) fn send(
        &mut self,
        client: &mut Client,
        attempt: &Attempt,
        cx: &mut Context<'_>,
    ) -> Result<Uploaded, Stop> {
        let is_late = self.deadline(cx).has_passed(cx.now);
        let Some(backend) = attempt.connection(cx.connections) else {
            return Ok(Uploaded::BackendGone);
        };
        if is_late {
            backend.stream.retry_write();
        }
        self.pump(client, &mut backend.stream, cx.local)
    }

    /// As [`Upload::send`], on any stream.
    pub(super) fn pump(
        &mut self,
        client: &mut Client,
        backend: &mut Stream,
        local: &mut Local,
    ) -> Result<Uploaded, Stop> {
        let (mut moved, now) = (0, local.clock.now());
        loop {
            let has_transferred = self.transfer(&mut client.input)?;
            self.note_end(now);
            while !self.replay.unsent().is_empty() {
                match backend.write(self.replay.unsent()) {
                    Ok(0) => return Ok(Uploaded::Blocked(Blocked::OnBackend)),
                    Ok(count) => {
                        self.replay.advance(count);
                        self.progress.note(count, config::PROGRESS_BYTES, now);
                    }
                    Err(_) => return Ok(Uploaded::BackendGone),
                }
            }
            if self.is_received() {
                return Ok(Uploaded::All);
            }
            if moved >= config::MAX_STEP_BYTES {
                return Ok(Uploaded::BudgetUsed);
            }
            if has_transferred && !client.input.is_empty() {
                // The replay buffer may have room now for the rest of the input.
                continue;
            }
            match self.read(client, local)? {
                0 => return Ok(Uploaded::Blocked(Blocked::OnClient)),
                count => moved += count,
            }
        }
    }

    /// Buffers the whole body before any of it is sent, for a backend that does not support chunks:
    /// the body is sent with its length.
    pub(super) fn buffer(
        &mut self,
        client: &mut Client,
        local: &mut Local,
    ) -> Result<Uploaded, Stop> {
        let (mut moved, now) = (0, local.clock.now());
        loop {
            self.buffer_input(&mut client.input)?;
            self.note_end(now);
            if self.is_received() {
                self.framing = Some(RequestFraming::Length(self.received));
                return Ok(Uploaded::All);
            }
            if moved >= config::MAX_STEP_BYTES {
                return Ok(Uploaded::BudgetUsed);
            }
            match self.read(client, local)? {
                0 => return Ok(Uploaded::Blocked(Blocked::OnClient)),
                count => {
                    moved += count;
                    self.progress.note(count, config::PROGRESS_BYTES, now);
                }
            }
        }
    }

    /// Reads more of the body and returns the number of bytes: 0 if the client's socket is blocked.
    fn read(&mut self, client: &mut Client, local: &mut Local) -> Result<usize, Stop> {
        match client.read(&mut local.buffers)? {
            Read::Bytes(count) => {
                if !std::mem::replace(&mut self.has_begun, true) {
                    // The client's time for the body begins now: it may have awaited a 100.
                    self.start_clock(local.clock.now());
                }
                Ok(count)
            }
            Read::Blocked => Ok(0),
            Read::End => Err(Reason::ClientAborted.into()),
        }
    }

    /// Moves as much of the client's input into the replay buffer as fits; whether any byte moved.
    fn transfer(&mut self, input: &mut Buffer) -> Result<bool, Cause> {
        let mut has_transferred = false;
        while !input.is_empty() && !self.is_received() {
            let mut consumed = self.transfer_piece(self.replay.replay_room(), input)?;
            if consumed == 0 {
                // Not earlier: a body that just fits, up to its end, keeps the request replayable.
                let room = self.replay.make_room();
                consumed = self.transfer_piece(room, input)?;
            }
            if consumed == 0 {
                break;
            }
            (has_transferred, self.has_begun) = (true, true);
            if self.is_too_large() {
                return Err(Cause::BodyTooLarge);
            }
        }
        Ok(has_transferred)
    }

    /// Moves one piece, at most `room` bytes of body, and returns the number of consumed bytes.
    fn transfer_piece(&mut self, room: usize, input: &mut Buffer) -> Result<usize, Cause> {
        let moved = self
            .replay
            .append_body(|writer, out| self.reader.transfer(writer, input.unread(), room, out))?;
        self.received += moved.body as u64;
        input.consume(moved.consumed);
        Ok(moved.consumed)
    }

    /// Decodes the received part of a chunked body into the replay buffer, after the common part of
    /// the head.
    fn buffer_input(&mut self, input: &mut Buffer) -> Result<(), Cause> {
        while !self.is_received() {
            let moved = self.reader.transfer(
                BodyWriter::Raw,
                input.unread(),
                usize::MAX,
                self.replay.as_vec_mut(),
            )?;
            input.consume(moved.consumed);
            self.received += moved.body as u64;
            self.has_begun |= moved.consumed > 0;
            if self.is_too_large() {
                return Err(Cause::BodyTooLarge);
            }
            if self.received > config::MAX_REPLAY_BYTES as u64 {
                return Err(Cause::LengthRequired);
            }
            if moved.consumed == 0 {
                break;
            }
        }
        Ok(())
    }
}
