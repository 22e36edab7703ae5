//! One attempt at one backend: a slot and a connection. Independent of HTTP.

use super::context::Context;
use super::stop::{AttemptError, Stop};
use crate::config::{Deadline, Timeout};
use crate::error::Cause;
use crate::net;
use crate::net::Token;
use crate::stats::Event;
use crate::upstream::addresses::Walk;
use crate::upstream::backend::{Backend, Connecting, Slot};
use crate::upstream::connection_pool::{Connection, ConnectionPool};
use crate::upstream::health::{Observation, Outcome};
use crate::upstream::response_time::Measured;
use crate::upstream::retry::FailureKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The time that an address gets at least, before the next one is tried: longer than a round trip to
/// anywhere, as in RFC 8305 section 8.
const MIN_ADDRESS_TIME: Duration = Duration::from_millis(250);

/// One attempt at one backend.
#[derive(Debug)]
pub(super) struct Attempt {
    /// The slot at the backend, until the attempt is over.
    slot: Slot,
    /// The connection; none before it is opened and after it is released.
    connection: Option<Token>,
    connecting: Option<Connecting>,
    /// The addresses that may still be tried, while a connect is in progress.
    walk: Option<Walk>,
    /// The deadline of the connect to the present address.
    address_deadline: Deadline,
    /// The deadline of the connects to all addresses together.
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
        let connect_deadline = cx.deadline(Timeout::Connect);
        Self {
            began_healthy,
            slot,
            connection: None,
            connecting: None,
            walk: None,
            address_deadline: connect_deadline,
            connect_deadline,
            started: cx.now,
            sent: None,
            is_reused: false,
        }
    }

    pub(super) fn backend(&self) -> &Arc<Backend> {
        self.slot.backend()
    }

    /// Whether the connection of the attempt had served others before.
    pub(super) fn is_reused(&self) -> bool {
        self.is_reused
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
        self.connecting = Some(Connecting::new(backend));
        self.walk = Some(backend.addresses.walk());
        self.connect_to_next(None, cx)?;
        Ok(Opened::Connecting)
    }

    /// The deadline of the connect while it is in progress; none once it has succeeded. After a
    /// failure, the next address of the backend is tried while there is time.
    pub(super) fn poll_connect(&mut self, cx: &mut Context<'_>) -> Result<Option<Deadline>, Stop> {
        let connected = self
            .connection(cx.connections)
            .map_or(Ok(false), |connection| connection.stream.connected());
        let failure = match connected {
            Ok(true) => {
                self.connecting = None;
                if let Some(walk) = self.walk.take() {
                    walk.record_success();
                }
                return Ok(None);
            }
            Ok(false) if !self.address_deadline.has_passed(cx.now) => {
                return Ok(Some(self.address_deadline));
            }
            Ok(false) => AttemptError::connect_timeout(),
            Err(error) => AttemptError::connect(&error),
        };
        if self.connect_deadline.has_passed(cx.now) {
            return Err(failure.into());
        }
        self.close_connection(cx);
        self.connect_to_next(Some(failure.into()), cx).map(Some)
    }

    /// Starts a connect to the next address, which gets its share of the time that is left: a black
    /// hole leaves enough for the others. Without a further address, the attempt fails as the last
    /// connect did; `failure` is that of the one before.
    fn connect_to_next(
        &mut self,
        mut failure: Option<Stop>,
        cx: &mut Context<'_>,
    ) -> Result<Deadline, Stop> {
        while let Some((address, left)) = self.next_address() {
            let to = (self.slot.backend(), address);
            match cx.connections.open(&cx.local.poller, to, cx.session.token, cx.now) {
                Ok(connection) => {
                    self.connection = Some(connection);
                    cx.local.counters.backend_connects.add(1);
                    cx.local.recorder.count(self.backend(), Event::Connect);
                    let time = self.connect_deadline.at.saturating_duration_since(cx.now);
                    let share = (time / left).max(MIN_ADDRESS_TIME).min(time);
                    let at = cx.now + share;
                    self.address_deadline = Deadline { at, ..self.connect_deadline };
                    return Ok(self.address_deadline);
                }
                // After another failure, this machine rather does not have the family of the address.
                Err(error) if net::is_resource_exhaustion(&error) && failure.is_none() => {
                    let name = &self.backend().name;
                    log::warn!(
                        event = "limit", backend = name.as_str();
                        "cannot open a connection to backend {name}: {error}"
                    );
                    failure = Some(Cause::Overload.into());
                }
                Err(error) if net::is_resource_exhaustion(&error) => {}
                Err(error) => failure = Some(AttemptError::connect(&error).into()),
            }
        }
        // Only a name that lost its addresses after the backend was chosen has none.
        Err(failure.unwrap_or_else(|| AttemptError::unresolved().into()))
    }

    /// The next address to be tried, and the number of those that are left with it.
    fn next_address(&mut self) -> Option<(SocketAddr, u32)> {
        let walk = self.walk.as_mut()?;
        let left = u32::try_from(walk.left()).unwrap_or(u32::MAX);
        Some((walk.next()?, left))
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
                log::info!(
                    event = "state", backend = backend.name.as_str();
                    "bad response from backend {}: {detail}", backend.name
                );
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
        (self.connecting, self.walk) = (None, None);
        self.record_response_time(Measured::AtLeast, cx);
        self.close_connection(cx);
    }

    fn close_connection(&mut self, cx: &mut Context<'_>) {
        if let Some(input) = self.connection.take().and_then(|token| cx.connections.close(token)) {
            cx.local.buffers.put(input);
        }
    }

    /// The slot, and whether the backend was healthy, for another attempt at the same backend.
    pub(super) fn into_parts(self) -> (Slot, bool) {
        (self.slot, self.began_healthy)
    }
}
