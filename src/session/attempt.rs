//! One attempt at one backend: a slot and a connection. Independent of HTTP.

use super::context::Context;
use super::stop::{AttemptError, Stop};
use crate::config::{Deadline, Timeout};
use crate::error::Cause;
use crate::net;
use crate::net::Token;
use crate::stats::Event;
use crate::upstream::backend::{Backend, Connecting, Slot};
use crate::upstream::connection_pool::{Connection, ConnectionPool};
use crate::upstream::health::{Observation, Outcome};
use crate::upstream::response_time::Measured;
use crate::upstream::retry::FailureKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One attempt at one backend.
#[derive(Debug)]
pub(super) struct Attempt {
    /// The slot at the backend, until the attempt is over.
    slot: Slot,
    /// The connection; none before it is opened and after it is released.
    connection: Option<Token>,
    connecting: Option<Connecting>,
    connect_deadline: Deadline,
    started: Instant,
    /// When the whole request was sent, while the response is awaited.
    sent: Option<Instant>,
    is_reused: bool,
    /// Whether the backend was healthy when it was chosen. False for a probe request and for the
    /// last resort.
    began_healthy: bool,
}

/// The idle connections that an attempt may reuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reuse {
    /// None, because a reused connection has just failed.
    Never,
    /// Connections that are verified before use, because the request cannot be sent twice.
    Verified,
    /// Any.
    Any,
}

/// The state of a connection that was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opened {
    /// An idle connection is reused.
    Reused,
    /// A connect is in progress.
    Connecting,
}

impl Attempt {
    /// An attempt with this slot; `began_healthy` comes with the choice of the backend, whose state
    /// may have changed since.
    pub(super) fn new(slot: Slot, began_healthy: bool, cx: &Context<'_>) -> Self {
        Self {
            began_healthy,
            slot,
            connection: None,
            connecting: None,
            connect_deadline: cx.deadline(Timeout::Connect),
            started: cx.now,
            sent: None,
            is_reused: false,
        }
    }

    pub(super) fn backend(&self) -> &Arc<Backend> {
        self.slot.backend()
    }

    /// The connection, while there is one.
    pub(super) fn connection<'c>(
        &self,
        connections: &'c mut ConnectionPool,
    ) -> Option<&'c mut Connection> {
        connections.get(self.connection?)
    }

    /// Checks an idle connection out, or starts a connect. Resource exhaustion of this machine is
    /// no failure of the backend.
    pub(super) fn open(&mut self, reuse: Reuse, cx: &mut Context<'_>) -> Result<Opened, Stop> {
        let backend = self.slot.backend();
        if reuse != Reuse::Never {
            let is_verified = reuse == Reuse::Verified;
            self.connection =
                cx.connections.check_out(backend, cx.session.token, is_verified, cx.now);
        }
        self.is_reused = self.connection.is_some();
        if self.is_reused {
            cx.local.counters.backend_reuses.add(1);
            cx.local.recorder.count(backend, Event::Reuse);
            return Ok(Opened::Reused);
        }
        match cx.connections.open(&cx.local.poller, backend, cx.session.token, cx.now) {
            Ok(connection) => {
                self.connecting = Some(Connecting::new(backend));
                self.connection = Some(connection);
                cx.local.counters.backend_connects.add(1);
                cx.local.recorder.count(backend, Event::Connect);
                Ok(Opened::Connecting)
            }
            Err(error) if net::is_resource_exhaustion(&error) => {
                log::warn!("cannot open a connection to backend {}: {error}", backend.name);
                Err(Cause::Overload.into())
            }
            Err(error) => Err(AttemptError::connect(&error).into()),
        }
    }

    /// The deadline of the connect while it is in progress; none once it has succeeded.
    pub(super) fn poll_connect(&mut self, cx: &mut Context<'_>) -> Result<Option<Deadline>, Stop> {
        let connected = self
            .connection(cx.connections)
            .map_or(Ok(false), |connection| connection.stream.connected());
        match connected {
            Ok(true) => {
                self.connecting = None;
                Ok(None)
            }
            Ok(false) if self.connect_deadline.has_passed(cx.now) => Err(AttemptError::new(
                FailureKind::Connect,
                Cause::ConnectTimeout,
                "the connect timed out",
            )
            .into()),
            Ok(false) => Ok(Some(self.connect_deadline)),
            Err(error) => Err(AttemptError::connect(&error).into()),
        }
    }

    /// The failure of a connection that ended before a byte of the response; `written`: whether a
    /// byte of the request was sent.
    pub(super) fn closed(&self, written: bool, detail: String) -> AttemptError {
        let kind = if self.is_reused {
            FailureKind::Reused { written }
        } else {
            FailureKind::Fresh { written }
        };
        AttemptError::new(kind, Cause::BackendClosed, detail)
    }

    /// Starts the measurement of the response time: the whole request is sent.
    pub(super) fn await_response(&mut self, now: Instant) {
        self.sent = Some(now);
    }

    /// Records the response time, or a lower bound of it; nothing for an early response.
    fn record_response_time(&mut self, measured: fn(Duration) -> Measured, cx: &Context<'_>) {
        if let Some(sent) = self.sent.take() {
            let time = cx.now.saturating_duration_since(sent);
            cx.shared.cluster.record_response_time(self.backend(), measured(time));
        }
    }

    /// Records the backend's response: its time and its version. An error counts as no fast response.
    pub(super) fn record_response(&mut self, status: u16, is_http10: bool, cx: &Context<'_>) {
        let is_error = status >= 500;
        self.record_response_time(if is_error { Measured::AtLeast } else { Measured::Exactly }, cx);
        self.backend().record_version(is_http10);
        cx.shared.registry.observe_response(self.backend(), self.started, cx.now);
    }

    /// Records the failure, if it is evidence about the backend's health.
    pub(super) fn record_failure(&self, kind: FailureKind, detail: &str, cx: &mut Context<'_>) {
        let backend = self.backend();
        let outcome = match kind {
            FailureKind::Connect | FailureKind::Fresh { written: false } => Outcome::ConnectFailed,
            FailureKind::Fresh { written: true } => Outcome::SendFailed,
            FailureKind::BadResponse => {
                log::info!("bad response from backend {}: {detail}", backend.name);
                Outcome::SendFailed
            }
            // A backend may close an idle connection at any time.
            FailureKind::Reused { .. } => return self.record_stale(cx),
            // The health was recorded by the observation that marked the backend down.
            FailureKind::MarkedDown => return,
        };
        let seen = Observation::Attempt { outcome, started: self.started };
        cx.shared.registry.observe(backend.id, seen, detail, cx.now);
    }

    /// Records a reused connection that was closed already, so that the pool can derive how long
    /// the backend keeps idle connections.
    fn record_stale(&self, cx: &mut Context<'_>) {
        if let Some(connection) = self.connection {
            cx.local.counters.stale_reuses.add(1);
            cx.local.recorder.count(self.backend(), Event::StaleReuse);
            cx.connections.record_stale(connection, self.started, cx.now);
        }
    }

    /// Whether the backend was marked down after it was chosen.
    pub(super) fn was_marked_down(&self) -> bool {
        self.began_healthy && !self.backend().is_serving()
    }

    /// Ends the attempt: its slot is released, and its connection is kept for reuse for this time,
    /// or closed.
    pub(super) fn release(&mut self, keep_for: Option<Duration>, cx: &mut Context<'_>) {
        if let Some(keep_for) = keep_for
            && let Some(token) = self.connection.take()
        {
            if let Some(connection) = cx.connections.get(token) {
                cx.local.buffers.recycle(&mut connection.input);
            }
            cx.connections.check_in(token, keep_for, cx.now);
        }
        self.close(cx);
        self.slot.release();
    }

    /// Closes the connection, in any state.
    pub(super) fn close(&mut self, cx: &mut Context<'_>) {
        self.connecting = None;
        self.record_response_time(Measured::AtLeast, cx);
        if let Some(input) = self.connection.take().and_then(|token| cx.connections.close(token)) {
            cx.local.buffers.put(input);
        }
    }

    /// The slot, and whether the backend was healthy, for another attempt at the same backend.
    pub(super) fn into_parts(self) -> (Slot, bool) {
        (self.slot, self.began_healthy)
    }
}
