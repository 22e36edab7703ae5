//! The request on its way to the backend: its head, and its body decoded strictly and framed as
//! that backend supports it.

use super::attempt::Attempt;
use super::client::Client;
use super::context::{Context, Local};
use super::progress::{Blocked, Progress};
use super::replay::ReplayBuffer;
use super::stop::Stop;
use crate::config::{self, Deadline, Timeout};
use crate::error::Cause;
use crate::net::{Buffer, Buffers, Read, Stream};
use crate::reason::Reason;
use crate::wire::Body;
use crate::wire::body::{BodyReader, BodyWriter};
use crate::wire::request::RequestHead;
use crate::wire::rewrite::{self, RequestFraming};
use std::time::Instant;

/// A request on its way to a backend.
#[derive(Debug)]
pub(super) struct Upload {
    reader: BodyReader,
    replay: ReplayBuffer,
    is_chunked: bool,
    /// How the body is framed for the backend, once that is chosen.
    framing: Option<RequestFraming>,
    /// Bytes of body that came so far.
    received: u64,
    /// Anything of it came, if only a part of a chunk's line.
    has_begun: bool,
    limit: u64,
    progress: Progress,
    /// The client waits for a 100 before it sends the body (RFC 9110 section 10.1.1).
    expects_continue: bool,
    continue_deadline: Option<Deadline>,
}

/// How far an upload came in one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Uploaded {
    /// The backend has everything.
    All,
    /// One side is not ready.
    Blocked(Blocked),
    /// The step's share is used.
    ShareUsed,
    /// The backend reads no more. Its response, if any, wins over the error.
    BackendGone,
}

/// Whether a backend supports the framing of the request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FramingSupport {
    /// As it is.
    Ready,
    /// It does not support chunks: the body must be buffered first.
    AfterBuffering,
    /// It does not support chunks, and some were sent already.
    Unsupported,
}

impl Upload {
    /// The body after this head, of this length.
    pub(super) fn new(head: &RequestHead<'_, '_>, received_head: usize, cx: &Context<'_>) -> Self {
        let is_chunked = head.body == Body::Chunked;
        let writer = if is_chunked { BodyWriter::Chunked } else { BodyWriter::Raw };
        Self {
            reader: head.body.into(),
            replay: ReplayBuffer::new(received_head, writer, !head.is_idempotent()),
            is_chunked,
            framing: None,
            received: 0,
            has_begun: false,
            limit: cx.shared.settings.limits.max_body_bytes.unwrap_or(u64::MAX),
            progress: Progress::new(cx.now),
            expects_continue: head.expects_continue,
            continue_deadline: None,
        }
    }

    /// Where the head is written.
    pub(super) fn head_mut(&mut self) -> &mut Vec<u8> {
        self.replay.as_vec_mut()
    }

    /// The head is written, but for what depends on the backend.
    pub(super) fn mark_common_end(&mut self) {
        self.replay.mark_common_end();
    }

    /// Whether the whole body was received.
    pub(super) fn is_received(&self) -> bool {
        self.reader.is_done()
    }

    /// Bytes of body that were received.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// Whether the backend has all of the request.
    pub(super) fn is_sent(&self) -> bool {
        self.is_received() && self.replay.unsent().is_empty()
    }

    /// Whether any byte went out in this attempt.
    pub(super) fn was_written(&self) -> bool {
        self.replay.was_written()
    }

    /// Whether the request is replayable from its first byte.
    pub(super) fn is_replayable(&self) -> bool {
        self.replay.is_replayable()
    }

    /// The bytes ready for the backend from the first one kept, for the log.
    pub(super) fn kept(&self) -> &[u8] {
        self.replay.kept()
    }

    /// Gives the memory back if nothing is kept in it: a request that must not be sent twice is
    /// dropped as it is sent.
    pub(super) fn recycle(&mut self, buffers: &mut Buffers) {
        self.replay.recycle(buffers);
    }

    /// The request will not be retried.
    pub(super) fn release(&mut self) {
        self.replay.release();
    }

    /// The body begins to move now: earlier time, for finding a backend, does not count against it.
    pub(super) fn start_clock(&mut self, now: Instant) {
        self.progress = Progress::new(now);
    }

    /// Whether the client still waits for a 100.
    pub(super) fn awaits_continue(&self) -> bool {
        self.expects_continue && !self.has_begun
    }

    /// A 1xx went to the client: its time for the body begins now.
    pub(super) fn note_interim(&mut self, now: Instant) {
        self.expects_continue = false;
        if !self.is_received() {
            self.start_clock(now);
        }
    }

    /// Sends the client a 100 in place of a backend that supports only HTTP/1.0.
    pub(super) fn send_continue(&mut self, client: &mut Client, local: &mut Local) {
        self.note_interim(local.clock.now());
        local.buffers.ensure(&mut client.output);
        client.output.append(b"HTTP/1.1 100 Continue\r\n\r\n");
    }

    /// Nothing moves just now: until when to wait. A client that waits for a 100 waits for the
    /// backend.
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

    /// Whether the body is over the limit, or has been announced to be.
    pub(super) fn is_too_large(&self) -> bool {
        let announced = self.reader.remaining().unwrap_or(0).max(self.reader.announced());
        self.received.saturating_add(announced) > self.limit
    }

    /// Chooses how the body is framed for a backend.
    pub(super) fn choose_framing(&mut self, is_http10_only: bool) -> FramingSupport {
        match (self.is_chunked, self.framing) {
            (false, _) => self.framing = Some(RequestFraming::Plain),
            (true, None) if is_http10_only => return FramingSupport::AfterBuffering,
            (true, None) => self.framing = Some(RequestFraming::Chunked),
            // Chunks went to another backend before.
            (true, Some(RequestFraming::Chunked)) if is_http10_only => {
                return FramingSupport::Unsupported;
            }
            (true, Some(_)) => {}
        }
        FramingSupport::Ready
    }

    /// The attempt could not be connected. While no backend has heard of the body, its framing is
    /// open again.
    pub(super) fn reopen_framing(&mut self) {
        if !self.replay.has_body() && !self.is_received() {
            self.framing = None;
        }
    }

    /// Starts an attempt: everything is to be sent from the start, with the end of the head that
    /// this backend needs.
    pub(super) fn start_attempt(&mut self, host: Option<&str>) {
        let mut end = Vec::new();
        rewrite::request_framing(&mut end, host, self.framing.unwrap_or(RequestFraming::Plain));
        self.replay.start_attempt(&end);
    }

    /// Sends what there is of the request on the connection of this attempt.
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

    /// The same for any stream, for as long as both sides go along.
    pub(super) fn pump(
        &mut self,
        client: &mut Client,
        backend: &mut Stream,
        local: &mut Local,
    ) -> Result<Uploaded, Stop> {
        let (mut moved, now) = (0, local.clock.now());
        loop {
            let took = self.take(&mut client.input)?;
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
                return Ok(Uploaded::ShareUsed);
            }
            if took && !client.input.is_empty() {
                // There may be room now for what was received already.
                continue;
            }
            match self.read(client, local)? {
                0 => return Ok(Uploaded::Blocked(Blocked::OnClient)),
                count => moved += count,
            }
        }
    }

    /// Takes the whole body in before any of it is sent, for a backend that does not support
    /// chunks: it is sent with its length.
    pub(super) fn buffer(
        &mut self,
        client: &mut Client,
        local: &mut Local,
    ) -> Result<Uploaded, Stop> {
        let (mut moved, now) = (0, local.clock.now());
        loop {
            self.buffer_some(&mut client.input)?;
            if self.is_received() {
                self.framing = Some(RequestFraming::Length(self.received));
                return Ok(Uploaded::All);
            }
            if moved >= config::MAX_STEP_BYTES {
                return Ok(Uploaded::ShareUsed);
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

    /// Reads more of the body; 0 if the client has sent nothing more.
    fn read(&mut self, client: &mut Client, local: &mut Local) -> Result<usize, Stop> {
        match client.read(&mut local.buffers)? {
            Read::Bytes(count) => {
                if !std::mem::replace(&mut self.has_begun, true) {
                    // The client may have waited for a 100: its time for the body begins now.
                    self.start_clock(local.clock.now());
                }
                Ok(count)
            }
            Read::Blocked => Ok(0),
            Read::End => Err(Reason::ClientAborted.into()),
        }
    }

    /// Moves what fits from the client's bytes into the replay buffer; whether anything moved.
    fn take(&mut self, input: &mut Buffer) -> Result<bool, Cause> {
        let mut any = false;
        while !input.is_empty() && !self.is_received() {
            let mut consumed = self.take_some(self.replay.replay_room(), input)?;
            if consumed == 0 {
                // Only now: the next byte of the body ends a full replay buffer, the end of the
                // body does not.
                let room = self.replay.make_room();
                consumed = self.take_some(room, input)?;
            }
            if consumed == 0 {
                break;
            }
            (any, self.has_begun) = (true, true);
            if self.is_too_large() {
                return Err(Cause::BodyTooLarge);
            }
        }
        Ok(any)
    }

    /// Moves one piece, at most `room` bytes of body; how many of the client's bytes are done with.
    fn take_some(&mut self, room: usize, input: &mut Buffer) -> Result<usize, Cause> {
        let moved = self
            .replay
            .append_body(|writer, out| self.reader.transfer(writer, input.unread(), room, out))?;
        self.received += moved.body as u64;
        input.consume(moved.consumed);
        Ok(moved.consumed)
    }

    /// Decodes the received part of a chunked body into the replay buffer, after the head that is
    /// not complete yet.
    fn buffer_some(&mut self, input: &mut Buffer) -> Result<(), Cause> {
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
