//! The backend's response: its head is read completely, validated, and re-serialised for the
//! client; its body follows.

use super::attempt::Attempt;
use super::client::Client;
use super::context::{Context, Local};
use super::download::{BodyError, BodyStart, Download, Downloaded};
use super::progress::{Blocked, Progress};
use super::request::{ReplyOptions, Request};
use super::stop::Stop;
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

/// Reads the heads that one attempt brings.
#[derive(Debug, Default)]
pub(super) struct ResponseReader {
    end: HeadEnd,
    /// How many 1xx came.
    interim_count: u32,
}

/// Why no head comes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HeadError {
    /// It is invalid or truncated; the detail.
    Bad(&'static str),
    /// The connection ended before its first byte; the detail.
    Closed(String),
}

/// A head that was forwarded to the client's output.
#[derive(Clone, Copy, Debug)]
pub(super) struct Forwarded {
    pub(super) kind: Kind,
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

/// The step after a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Another head: this was a 1xx.
    Interim,
    /// The response's body.
    Final,
    /// A protocol that the client has asked for.
    Upgrade,
}

impl ResponseReader {
    /// Reads the next head and writes it to the client's output; none if it is not whole yet.
    pub(super) fn read(
        &mut self,
        (backend, client): (&mut Connection, &mut Client),
        options: ReplyOptions<'_>,
        local: &mut Local,
    ) -> Result<Option<Forwarded>, HeadError> {
        match self.find_end(backend, &mut local.buffers)? {
            Some(length) => self.forward(length, (backend, client), options, local).map(Some),
            None => Ok(None),
        }
    }

    /// Reads until a head is whole, and returns its length; none if more is to come.
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
    /// stays open after it if `may_keep` and the body has an end of its own.
    fn forward(
        &mut self,
        length: usize,
        (backend, client): (&mut Connection, &mut Client),
        options: ReplyOptions<'_>,
        local: &mut Local,
    ) -> Result<Forwarded, HeadError> {
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
        let framing = if kind == Kind::Final {
            rewrite::response_framing(head.body, request.version)
        } else {
            ResponseFraming::Plain
        };
        let keeps_client = options.keeps_open && framing != ResponseFraming::UntilClose;
        let options = ReplyOptions { keeps_open: keeps_client, ..options };
        let mut fields = options.fields(&local.clock);
        match kind {
            Kind::Upgrade => fields.connection = ConnectionHeader::WebSocket,
            Kind::Interim => fields.connection = ConnectionHeader::Omit,
            Kind::Final => {}
        }
        let starts_at = client.output.len();
        // HTTP/1.0 has no 1xx.
        if kind != Kind::Interim || request.version == Version::Http11 {
            rewrite::response(client.output.as_vec_mut(), &head, framing, fields);
        }
        let forwarded = Forwarded {
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
    ) -> Result<Kind, HeadError> {
        match head.status {
            101 if request.websocket && head.websocket => Ok(Kind::Upgrade),
            101 => Err(HeadError::Bad("it switches to an unrequested protocol")),
            _ if head.is_interim() => {
                self.interim_count += 1;
                let is_endless = self.interim_count > config::MAX_INTERIM_RESPONSES;
                if is_endless {
                    Err(HeadError::Bad("it sends 1xx without end"))
                } else {
                    Ok(Kind::Interim)
                }
            }
            _ => Ok(Kind::Final),
        }
    }
}

/// The response that is being forwarded, and the fate of its connections.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) download: Download,
    pub(super) keeps_client: bool,
    keeps_backend: bool,
    backend_idle_timeout: Duration,
    /// The backend does not take the rest of the request: it is not tried any more.
    upload_is_over: bool,
}

/// How far a response came in one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Forwarding {
    /// The client has everything.
    All,
    /// The step's share is used.
    ShareUsed,
    /// Nothing moves just now.
    Wait(Deadline),
}

impl Response {
    /// Whether the rest of the request is not sent any more.
    fn is_request_over(&self) -> bool {
        self.upload_is_over || self.download.is_received()
    }

    /// The response with this head; `is_sent`: the backend has the whole request.
    pub(super) fn new(head: &Forwarded, is_sent: bool, client: &Client, cx: &Context<'_>) -> Self {
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

    /// Forwards the body, for as long as both sides go along.
    pub(super) fn forward(
        &mut self,
        attempt: &mut Attempt,
        upload: &mut Upload,
        client: &mut Client,
        cx: &mut Context<'_>,
    ) -> Result<Forwarding, Stop> {
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
                Ok(Downloaded::All) => Ok(Forwarding::All),
                Ok(Downloaded::ShareUsed) => Ok(Forwarding::ShareUsed),
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

    /// Nothing of the response moves just now; `late` is why the connection ends if that lasts too
    /// long. While the response comes early, the rest of the request is still forwarded.
    fn wait(
        &mut self,
        late: Reason,
        (attempt, upload): (&Attempt, &mut Upload),
        client: &mut Client,
        cx: &mut Context<'_>,
    ) -> Result<Forwarding, Stop> {
        if !upload.is_sent() && !self.is_request_over() {
            match upload.send(client, attempt, cx) {
                Ok(Uploaded::Blocked(_)) => {}
                Ok(Uploaded::ShareUsed) => return Ok(Forwarding::ShareUsed),
                // Whatever is wrong with the request now: its response is on the way.
                _ => self.upload_is_over = true,
            }
            self.download.follow(upload.progress());
        }
        Ok(Forwarding::Wait(self.download.deadline(cx).unless_passed(cx.now, late)?))
    }

    /// The body is truncated: received bytes are forwarded, and the connection closes without the
    /// body's proper end. Before the first byte of the response the client gets an error in its
    /// place.
    fn truncate(
        &self,
        detail: &str,
        attempt: &mut Attempt,
        client: &mut Client,
        cx: &mut Context<'_>,
    ) -> Stop {
        if self.download.retract(client) {
            attempt.note_failure(FailureKind::BadResponse, detail, cx);
            return Cause::BadResponse.into();
        }
        attempt.close(cx);
        let _ = client.flush(&cx.local.counters);
        let (peer, backend) = (client.peer(), &attempt.backend().name);
        log::info!(
            "{peer} response of backend {backend} truncated after {} bytes: {detail}",
            client.sent
        );
        Reason::ResponseTruncated.into()
    }

    /// The backend has sent everything: its connection is kept if it may be, and its slot is free.
    fn release_backend(&self, attempt: &mut Attempt, cx: &mut Context<'_>) {
        let backend = attempt.connection(cx.connections);
        let is_clean = backend.is_some_and(|backend| {
            self.download.leave_backend(backend) && backend.input.is_empty()
        });
        let is_kept = self.keeps_backend && is_clean && !cx.draining;
        attempt.release(is_kept.then_some(self.backend_idle_timeout), cx);
    }
}

/// How long the backend connection is kept: a second less than the backend announces, within
/// limits, or our own default.
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
