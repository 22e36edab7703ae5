//! The backend's response: its head is read completely, validated, and re-serialised for the
//! client, and its body is forwarded.

use super::attempt::Attempt;
use super::client::Client;
use super::context::{Context, Local};
use super::download::{BodyError, BodyStart, Download, Downloaded};
use super::progress::{Blocked, Progress};
use super::request::{ReplyOptions, Request};
use super::stop::{AttemptError, Stop};
use super::trace;
use super::upload::{Upload, Uploaded};
use crate::config::{self, Deadline};
use crate::error::Cause;
use crate::net::{Buffers, Read};
use crate::reason::Reason;
use crate::upstream::connection_pool::Connection;
use crate::upstream::retry::FailureKind;
use crate::wire::head_end::HeadEnd;
use crate::wire::response::{self, ResponseHead};
use crate::wire::rewrite::{self, ConnectionHeader, ResponseFraming};
use crate::wire::{Body, Version, fields};
use std::time::Duration;

/// Reads the heads of one attempt: any 1xx, and the final one.
#[derive(Debug, Default)]
pub(super) struct ResponseReader {
    end: HeadEnd,
    /// The number of 1xx so far.
    interim_count: u32,
}

/// The failure to read a head.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HeadError {
    /// The head is invalid or truncated; the detail.
    Bad(&'static str),
    /// The connection ended before the first byte; the detail.
    Closed(String),
}

impl HeadError {
    /// The failure of the attempt; `written`: whether a byte of the request was sent.
    pub(super) fn into_attempt_error(self, attempt: &Attempt, written: bool) -> AttemptError {
        match self {
            Self::Bad(detail) => AttemptError::bad_response(detail),
            Self::Closed(detail) => attempt.closed(written, detail),
        }
    }
}

/// A head that was written to the client's output.
#[derive(Clone, Copy, Debug)]
pub(super) struct ForwardedHead {
    pub(super) kind: HeadKind,
    pub(super) status: u16,
    pub(super) is_http10: bool,
    body: BodyStart,
    /// Whether the backend leaves its connection open.
    is_persistent: bool,
    /// The backend's `Keep-Alive: timeout`.
    keep_alive: Option<Duration>,
    /// Whether the client's connection stays open after the response.
    keeps_client: bool,
}

/// The kind of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeadKind {
    /// A 1xx, which another head follows.
    Interim,
    /// The final head, which the body follows.
    Final,
    /// A 101, which the protocol follows that the client has asked for.
    Upgrade,
}

impl ResponseReader {
    /// Reads the next head and writes it to the client's output; none if it is incomplete.
    pub(super) fn read(
        &mut self,
        (backend, client): (&mut Connection, &mut Client),
        options: ReplyOptions<'_>,
        local: &mut Local,
    ) -> Result<Option<ForwardedHead>, HeadError> {
        match self.find_end(backend, &mut local.buffers)? {
            Some(length) => self.forward(length, (backend, client), options, local).map(Some),
            None => Ok(None),
        }
    }

    /// Reads until a head is complete, and returns its length; none if more is to come.
    fn find_end(
        &mut self,
        backend: &mut Connection,
        buffers: &mut Buffers,
    ) -> Result<Option<usize>, HeadError> {
        loop {
            match self.end.find(backend.input.unread()) {
                Ok(Some(length)) if length <= config::MAX_RESPONSE_HEAD_BYTES => {
                    return Ok(Some(length));
                }
                Ok(None) if backend.input.len() < config::MAX_RESPONSE_HEAD_BYTES => {}
                _ => {
                    return Err(HeadError::Bad(
                        "its head is too large or has a line that does not end in CR LF",
                    ));
                }
            }
            if !backend.stream.is_readable() {
                return Ok(None);
            }
            buffers.ensure(&mut backend.input);
            if backend.input.room() == 0 {
                backend.input.grow_to(config::MAX_RESPONSE_HEAD_BYTES);
            }
            let detail = match backend.stream.read(&mut backend.input) {
                Ok(Read::Bytes(_)) => continue,
                Ok(Read::Blocked) => return Ok(None),
                Ok(Read::End) => "closed the connection before its response".to_owned(),
                Err(error) => error.to_string(),
            };
            let is_inside = !backend.input.is_empty();
            return Err(if is_inside {
                HeadError::Bad("it ended inside its head")
            } else {
                HeadError::Closed(detail)
            });
        }
    }

    /// Validates a complete head and writes it to the client's output. The client's connection
    /// closes after the response if its end delimits the body.
    fn forward(
        &mut self,
        length: usize,
        (backend, client): (&mut Connection, &mut Client),
        options: ReplyOptions<'_>,
        local: &mut Local,
    ) -> Result<ForwardedHead, HeadError> {
        let request = options.request;
        local.buffers.ensure(&mut client.output);
        response::lower_minor_version(backend.input.unread_mut());
        let (bytes, following) = backend.input.unread().split_at(length);
        let (mut storage, mut large_storage) =
            (fields::field_storage(), fields::large_field_storage(self.end.lines()));
        let storage =
            if large_storage.is_empty() { &mut storage[..] } else { &mut large_storage[..] };
        let parsed = response::parse(bytes, storage, request.is_head);
        trace::head(
            client,
            "← received",
            bytes,
            parsed.as_ref().map_or(Body::None, |head| head.body),
            following,
        );
        let head = parsed.map_err(|_| HeadError::Bad("its head is not valid HTTP/1.1"))?;
        let kind = self.validate(&head, request)?;
        let framing = if kind == HeadKind::Final {
            rewrite::response_framing(head.body, request.version)
        } else {
            ResponseFraming::Plain
        };
        let keeps_client = options.keeps_open && framing != ResponseFraming::UntilClose;
        let options = ReplyOptions { keeps_open: keeps_client, ..options };
        let mut fields = options.fields(&local.clock);
        match kind {
            HeadKind::Upgrade => fields.connection = ConnectionHeader::WebSocket,
            HeadKind::Interim => fields.connection = ConnectionHeader::Omit,
            HeadKind::Final => {}
        }
        let starts_at = client.output.len();
        // HTTP/1.0 has no 1xx.
        if kind != HeadKind::Interim || request.version == Version::Http11 {
            rewrite::response(client.output.as_vec_mut(), &head, framing, fields);
        }
        let forwarded = ForwardedHead {
            kind,
            status: head.status,
            is_http10: head.version == Version::Http10,
            body: BodyStart { body: head.body, framing, starts_at, is_last: !keeps_client },
            is_persistent: head.is_persistent(),
            keep_alive: head.keep_alive,
            keeps_client,
        };
        backend.input.consume(length);
        self.end = HeadEnd::default();
        Ok(forwarded)
    }

    fn validate(
        &mut self,
        head: &ResponseHead<'_, '_>,
        request: &Request,
    ) -> Result<HeadKind, HeadError> {
        match head.status {
            101 if request.websocket && head.websocket => Ok(HeadKind::Upgrade),
            101 => Err(HeadError::Bad("it switches to an unrequested protocol")),
            _ if head.is_interim() => {
                self.interim_count += 1;
                if self.interim_count > config::MAX_INTERIM_RESPONSES {
                    Err(HeadError::Bad("it sends too many 1xx responses"))
                } else {
                    Ok(HeadKind::Interim)
                }
            }
            _ => Ok(HeadKind::Final),
        }
    }
}

/// The response that is being forwarded, and whether its connections stay open.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) download: Download,
    pub(super) keeps_client: bool,
    keeps_backend: bool,
    backend_idle_timeout: Duration,
    /// Whether the backend accepts no more of the request.
    upload_is_over: bool,
}

/// The progress of a response in one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Forwarded {
    /// The client has the whole response.
    All,
    /// The I/O budget of the step is used up.
    BudgetUsed,
    /// One side is not ready.
    Wait(Deadline),
}

impl Response {
    /// Whether the rest of the request is no longer sent.
    fn is_request_over(&self) -> bool {
        self.upload_is_over || self.download.is_received()
    }

    /// The response with this head; `is_sent`: the whole request was sent.
    pub(super) fn new(
        head: &ForwardedHead,
        is_sent: bool,
        client: &Client,
        cx: &Context<'_>,
    ) -> Self {
        let download = Download::new(head.body, client, Progress::new(cx.now));
        Self {
            download,
            keeps_client: head.keeps_client,
            keeps_backend: is_sent && head.is_persistent,
            backend_idle_timeout: idle_time(
                head.keep_alive,
                cx.shared.settings.timeouts.backend_idle,
            ),
            upload_is_over: false,
        }
    }

    /// Forwards the body until one side is blocked.
    pub(super) fn forward(
        &mut self,
        attempt: &mut Attempt,
        upload: &mut Upload,
        client: &mut Client,
        cx: &mut Context<'_>,
    ) -> Result<Forwarded, Stop> {
        self.download.allow_splice(upload.is_sent());
        if self.download.deadline(cx).has_passed(cx.now) {
            client.stream.retry_write();
        }
        loop {
            let backend = attempt.connection(cx.connections);
            return match self.download.pump(client, backend, cx.local) {
                Ok(Downloaded::Received) => {
                    self.release_backend(attempt, cx);
                    continue;
                }
                Ok(Downloaded::All) => Ok(Forwarded::All),
                Ok(Downloaded::BudgetUsed) => Ok(Forwarded::BudgetUsed),
                Ok(Downloaded::Blocked(Blocked::OnClient)) => {
                    self.wait(Reason::SlowReader, (attempt, upload), client, cx)
                }
                Ok(Downloaded::Blocked(Blocked::OnBackend)) => {
                    self.wait(Reason::ResponseTimeout, (attempt, upload), client, cx)
                }
                Err(BodyError::Client(reason)) => Err(reason.into()),
                Err(BodyError::Backend(detail)) => Err(self.truncate(&detail, attempt, client, cx)),
            };
        }
    }

    /// The deadline while one side is blocked; `late` is why the connection ends once it has
    /// passed. During an early response, the rest of the request is still sent.
    fn wait(
        &mut self,
        late: Reason,
        (attempt, upload): (&Attempt, &mut Upload),
        client: &mut Client,
        cx: &mut Context<'_>,
    ) -> Result<Forwarded, Stop> {
        if !upload.is_sent() && !self.is_request_over() {
            match upload.send(client, attempt, cx) {
                Ok(Uploaded::Blocked(_)) => {}
                Ok(Uploaded::BudgetUsed) => return Ok(Forwarded::BudgetUsed),
                // The request is complete, or has failed: the response continues in any case.
                _ => self.upload_is_over = true,
            }
            self.download.merge_progress(upload.progress());
        }
        Ok(Forwarded::Wait(self.download.deadline(cx).unless_passed(cx.now, late)?))
    }

    /// Truncates the response: the connection closes without the proper end of the body. If no byte
    /// of the response was sent, an error response replaces it.
    fn truncate(
        &self,
        detail: &str,
        attempt: &mut Attempt,
        client: &mut Client,
        cx: &mut Context<'_>,
    ) -> Stop {
        if self.download.retract(client) {
            attempt.record_failure(FailureKind::BadResponse, detail, cx);
            return Cause::BadResponse.into();
        }
        attempt.close(cx);
        let _ = client.flush(&cx.local.counters);
        let backend = &attempt.backend().name;
        // A line about the backend; that of the request has the code.
        log::info!(
            event = "state", backend = backend.as_str();
            "backend {backend} truncated a response after {} bytes: {detail}", client.sent
        );
        Reason::ResponseTruncated.into()
    }

    /// Releases the slot and the connection of a backend that has sent the whole response.
    fn release_backend(&self, attempt: &mut Attempt, cx: &mut Context<'_>) {
        let backend = attempt.connection(cx.connections);
        let is_clean = backend.is_some_and(|backend| {
            self.download.finish_backend(backend) && backend.input.is_empty()
        });
        let is_kept = self.keeps_backend && is_clean && !cx.draining;
        attempt.release(is_kept.then_some(self.backend_idle_timeout), cx);
    }
}

/// The idle timeout of a backend connection: one second less than the backend has announced, up to
/// a limit, or the default.
fn idle_time(announced: Option<Duration>, default: Duration) -> Duration {
    let margin = Duration::from_secs(1);
    announced
        .map_or(default, |announced| announced.saturating_sub(margin).min(config::MAX_BACKEND_IDLE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keep_alive_field_of_a_backend_counts_within_limits() {
        let seconds = Duration::from_secs;
        for (announced, kept) in [(None, 4), (Some(10), 9), (Some(0), 0), (Some(u32::MAX), 60)] {
            let announced = announced.map(|announced| seconds(announced.into()));
            assert_eq!(idle_time(announced, seconds(4)), seconds(kept), "{announced:?}");
        }
    }
}
