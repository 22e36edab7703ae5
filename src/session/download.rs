//! The download of a response's body to the client, decoded strictly and framed as the client
//! supports it. Small pieces are sent at once.

use super::client::Client;
use super::context::{Context, Local};
use super::progress::{Blocked, Progress};
use super::splice::Splice;
use crate::config::{self, Deadline};
use crate::net::{Buffer, Pipes, Read};
use crate::reason::Reason;
use crate::upstream::connection_pool::Connection;
use crate::wire::Body;
use crate::wire::body::{BodyReader, BodyWriter};
use crate::wire::chunked::BadChunk;
use crate::wire::rewrite::ResponseFraming;
use std::io;

/// The maximum number of bytes in the output of a slow client while the backend is still read.
const OUTPUT_BYTES: usize = 64 * 1024;
/// The detail of a body truncated by the backend's close.
const CLOSED: &str = "it closed the connection inside the body";

/// The download of one body.
#[derive(Debug)]
pub(super) struct Download {
    reader: BodyReader,
    framing: ResponseFraming,
    progress: Progress,
    /// The pipe of a body that moves inside the kernel.
    splice: Option<Splice>,
    may_splice: bool,
    /// The value of [`Client::sent`] before the head.
    sent_before: u64,
    /// The offset of the head in the client's output.
    starts_at: usize,
    /// Whether the backend has sent exactly the announced bytes, so that its connection can be
    /// reused.
    is_exact: bool,
    /// The client's connection ends behind this response.
    is_last: bool,
}

/// The framing of a body, by the response's head.
#[derive(Clone, Copy, Debug)]
pub(super) struct BodyStart {
    /// The backend's framing.
    pub(super) body: Body,
    /// The framing for the client.
    pub(super) framing: ResponseFraming,
    /// The offset of the head in the client's output: an earlier 1xx may precede it.
    pub(super) starts_at: usize,
    /// Whether the client's connection ends behind this response.
    pub(super) is_last: bool,
}

/// The progress of a body in one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Downloaded {
    /// The backend has sent the whole body. It is released before the client gets the end: the
    /// client's next request may need the slot.
    Received,
    /// The client has the whole body.
    All,
    /// One side is not ready.
    Blocked(Blocked),
    /// The I/O budget of the step is used up.
    BudgetUsed,
}

/// The failure to forward a body to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum BodyError {
    /// The client's connection failed.
    Client(Reason),
    /// The backend closed the connection inside the body or sent invalid framing; the detail.
    Backend(String),
}

impl Download {
    /// The download of a body whose head is in the client's output.
    pub(super) fn new(start: BodyStart, client: &Client, progress: Progress) -> Self {
        Self {
            reader: start.body.into(),
            framing: start.framing,
            progress,
            splice: None,
            may_splice: false,
            sent_before: client.sent,
            starts_at: start.starts_at,
            is_exact: true,
            is_last: start.is_last,
        }
    }

    /// Whether the backend has sent the whole body.
    pub(super) fn is_received(&self) -> bool {
        self.reader.is_done()
    }

    pub(super) fn deadline(&mut self, cx: &Context<'_>) -> Deadline {
        self.progress.deadline(cx.shared.settings.timeouts.body)
    }

    /// Counts the progress of the upload as well, while the request is still being sent.
    pub(super) fn merge_progress(&mut self, upload: Progress) {
        self.progress = self.progress.latest(upload);
    }

    /// Allows splicing once the whole request is sent: no other bytes move on these sockets then.
    pub(super) fn allow_splice(&mut self, is_request_sent: bool) {
        self.may_splice = is_request_sent;
    }

    /// Whether the response is truncated and its end would look clean: the truncation of a
    /// close-delimited body shows only in a reset.
    pub(super) fn looks_complete_but_is_truncated(&self, client: &Client) -> bool {
        self.framing == ResponseFraming::UntilClose
            && !(self.is_received() && client.output.is_empty())
    }

    /// Removes the response from the client's output, unless a byte of it was sent; whether it was
    /// removed.
    pub(super) fn retract(&self, client: &mut Client) -> bool {
        let is_unsent = client.sent == self.sent_before;
        if is_unsent {
            client.output.truncate_by(client.output.len() - self.starts_at);
        }
        is_unsent
    }

    /// Forwards the body until one side is blocked.
    pub(super) fn pump(
        &mut self,
        client: &mut Client,
        mut backend: Option<&mut Connection>,
        local: &mut Local,
    ) -> Result<Downloaded, BodyError> {
        let (mut moved, now) = (0, local.clock.now());
        local.buffers.ensure(&mut client.output);
        loop {
            if self.splice.is_some() {
                return self.pump_pipe(client, backend, local);
            }
            let has_more = match &mut backend {
                Some(backend) => self.transfer(&mut backend.input, &mut client.output)?,
                None => false,
            };
            if self.is_received() && backend.is_some() {
                return Ok(Downloaded::Received);
            }
            let sent = if self.is_last && self.is_received() {
                client.flush_last(&local.counters)?
            } else {
                client.flush(&local.counters)?
            };
            self.progress.note(sent, config::PROGRESS_BYTES, now);
            if !client.output.is_empty() {
                return Ok(Downloaded::Blocked(Blocked::OnClient));
            }
            if self.is_received() {
                return Ok(Downloaded::All);
            }
            if has_more {
                // The rest of the input is forwarded before the backend is read again.
                continue;
            }
            if moved >= config::MAX_STEP_BYTES {
                return Ok(Downloaded::BudgetUsed);
            }
            let backend =
                backend.as_deref_mut().ok_or_else(|| BodyError::Backend(CLOSED.to_owned()))?;
            if self.start_splice(client, backend, local) {
                continue;
            }
            match self.read(backend, client, local)? {
                Read::Bytes(count) => {
                    moved += count;
                    self.progress.note(count, 1, now);
                }
                Read::Blocked => return Ok(Downloaded::Blocked(Blocked::OnBackend)),
                Read::End => self.end_by_close(client)?,
            }
        }
    }

    /// Moves the backend's input to the client's output; whether it stopped because the output is
    /// full.
    fn transfer(&mut self, input: &mut Buffer, output: &mut Buffer) -> Result<bool, BadChunk> {
        while !input.is_empty() {
            if output.len() >= OUTPUT_BYTES {
                return Ok(true);
            }
            let moved = self.reader.transfer(
                self.writer(),
                input.unread(),
                usize::MAX,
                output.as_vec_mut(),
            )?;
            if moved.consumed == 0 {
                break;
            }
            input.consume(moved.consumed);
        }
        Ok(false)
    }

    fn writer(&self) -> BodyWriter {
        if self.framing == ResponseFraming::Chunked { BodyWriter::Chunked } else { BodyWriter::Raw }
    }

    /// Reads more of the body. A body with a length is read straight into the client's output,
    /// which saves a copy.
    fn read(
        &mut self,
        backend: &mut Connection,
        client: &mut Client,
        local: &mut Local,
    ) -> io::Result<Read> {
        let Some(remaining) =
            self.reader.remaining().filter(|_| self.framing == ResponseFraming::Plain)
        else {
            local.buffers.ensure(&mut backend.input);
            backend.input.make_room();
            if backend.input.room() == 0 {
                backend.input.grow_to(2 * config::MAX_TRAILER_BYTES + backend.input.len());
            }
            return backend.stream.read(&mut backend.input);
        };
        let read = backend.stream.read(&mut client.output)?;
        if let Read::Bytes(count) = read {
            let surplus = (count as u64).saturating_sub(remaining);
            if surplus > 0 {
                // Bytes beyond the announced length are not forwarded, and the connection is not
                // reused.
                client.output.truncate_by(usize::try_from(surplus).unwrap_or(count));
                self.is_exact = false;
            }
            self.reader.skip(count as u64 - surplus);
        }
        Ok(read)
    }

    fn end_by_close(&mut self, client: &mut Client) -> Result<(), BodyError> {
        self.is_exact = false;
        let is_end = self.reader.end_by_close(self.writer(), client.output.as_vec_mut());
        if is_end { Ok(()) } else { Err(BodyError::Backend(CLOSED.to_owned())) }
    }

    /// Starts splicing if the rest of the body is long enough and our buffers are empty; whether it
    /// did.
    fn start_splice(
        &mut self,
        client: &mut Client,
        backend: &mut Connection,
        local: &mut Local,
    ) -> bool {
        let is_long =
            self.reader.remaining().is_some_and(|remaining| remaining >= config::MIN_SPLICE_BYTES);
        let is_possible =
            self.may_splice && client.stream.can_splice() && backend.stream.can_splice();
        if !is_long || !is_possible || !backend.input.is_empty() {
            return false;
        }
        self.splice = Splice::start(client, &backend.stream, &mut local.pipes);
        if self.splice.is_some() {
            local.buffers.recycle(&mut backend.input);
            local.buffers.recycle(&mut client.output);
        }
        self.splice.is_some()
    }

    /// Moves bytes from the backend through the pipe to the client; the pipe is emptied before it
    /// is filled again.
    fn pump_pipe(
        &mut self,
        client: &mut Client,
        mut backend: Option<&mut Connection>,
        local: &mut Local,
    ) -> Result<Downloaded, BodyError> {
        let (mut moved, now) = (0, local.clock.now());
        while let Some(splice) = &mut self.splice {
            if self.reader.is_done() && backend.is_some() {
                return Ok(Downloaded::Received);
            }
            let drained = splice.drain(client, &local.counters)?;
            self.progress.note(drained, config::PROGRESS_BYTES, now);
            if !splice.is_empty() {
                return Ok(Downloaded::Blocked(Blocked::OnClient));
            }
            if self.reader.is_done() {
                break;
            }
            if moved >= config::MAX_STEP_BYTES {
                return Ok(Downloaded::BudgetUsed);
            }
            let backend =
                backend.as_deref_mut().ok_or_else(|| BodyError::Backend(CLOSED.to_owned()))?;
            match splice.fill(&mut backend.stream, self.reader.remaining().unwrap_or_default())? {
                Read::Bytes(count) => {
                    moved += count;
                    self.progress.note(count, 1, now);
                    self.reader.skip(count as u64);
                }
                Read::Blocked => return Ok(Downloaded::Blocked(Blocked::OnBackend)),
                Read::End => return Err(BodyError::Backend(CLOSED.to_owned())),
            }
        }
        Ok(Downloaded::All)
    }

    /// Ends the backend's part; whether its connection can be reused.
    pub(super) fn finish_backend(&self, backend: &Connection) -> bool {
        self.is_exact && (self.splice.is_none() || backend.stream.set_nonblocking(false).is_ok())
    }

    /// Ends the client's part; whether its connection can stay open.
    pub(super) fn finish_client(&mut self, client: &Client, pipes: &mut Pipes) -> bool {
        let is_usable = self.splice.is_none() || client.stream.set_nonblocking(false).is_ok();
        self.drop_pipe(pipes);
        is_usable
    }

    /// Returns the pipe, if there is one.
    pub(super) fn drop_pipe(&mut self, pipes: &mut Pipes) {
        if let Some(splice) = self.splice.take() {
            splice.end(pipes);
        }
    }
}

impl From<Reason> for BodyError {
    fn from(reason: Reason) -> Self {
        Self::Client(reason)
    }
}

impl From<BadChunk> for BodyError {
    fn from(_: BadChunk) -> Self {
        Self::Backend("its chunks are not well-formed".to_owned())
    }
}

impl From<io::Error> for BodyError {
    fn from(error: io::Error) -> Self {
        Self::Backend(error.to_string())
    }
}
