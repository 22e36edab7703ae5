//! Attempts: choosing a backend, a connection to it, and what happens when an attempt fails before it was answered.

use super::exchange::Exchange;
use super::{Client, Context, Deadline, Flow, State, trace};
use crate::config::{self, Timeout};
use crate::error::Cause;
use crate::net::{self, SlotKey, Stream};
use crate::upstream::backend::{Backend, Connecting, InFlight};
use crate::upstream::cluster::Picked;
use crate::upstream::connections::Connections;
use crate::upstream::health::Outcome;
use crate::upstream::retry::{self, Failed, Failure, Next};
use crate::wire::Body;
use crate::wire::rewrite::{self, RequestEnd};
use std::fmt::Display;
use std::sync::Arc;
use std::time::Instant;

/// What all attempts have in common.
#[derive(Debug, Default)]
pub(super) struct History {
    /// Backends that are no use any more: it has failed there, or they do not know the body's framing.
    pub(super) tried: Vec<usize>,
    pub(super) failed_backends: usize,
    /// It has left a backend that was marked down while its first byte was awaited. Once is enough.
    pub(super) was_moved: bool,
    pub(super) last_failure: Option<Cause>,
    /// The next attempt is a retry of one that failed like this.
    pub(super) retry_of: Option<Failed>,
    /// Until when a backend must answer; all attempts share it. Counted from the request's last byte.
    pub(super) first_byte_deadline: Option<Deadline>,
    /// Until when a backend must say 100 to a client that waits for it.
    pub(super) continue_deadline: Option<Deadline>,
}

/// One try against one backend.
#[derive(Debug)]
pub(super) struct Attempt {
    /// The backend, and the place at it until it is done or has failed.
    pub(super) in_flight: Option<InFlight>,
    /// The backend connection in use.
    pub(super) link: Option<SlotKey>,
    /// Counts the connect while it is in progress.
    pub(super) connecting: Option<Connecting>,
    pub(super) connect_deadline: Deadline,
    pub(super) started: Instant,
    pub(super) is_reused: bool,
    /// The backend was in the healthy set when the attempt began, rather than a trial or a last resort.
    pub(super) began_healthy: bool,
}

impl Attempt {
    pub(super) fn none(context: &Context<'_>) -> Self {
        let connect_deadline = context.deadline(Timeout::Connect);
        Self {
            in_flight: None,
            link: None,
            connecting: None,
            connect_deadline,
            started: context.now,
            is_reused: false,
            began_healthy: false,
        }
    }

    /// The connection to the backend, if there is one.
    pub(super) fn stream<'c>(&self, connections: &'c mut Connections) -> Option<&'c mut Stream> {
        connections.get(self.link?).map(|connection| &mut connection.stream)
    }
}

/// Whether a backend will do for the request's body.
enum Fit {
    Ready,
    /// It knows no chunks: the body must be taken in whole first.
    AfterCollecting,
    /// It knows no chunks, and some were sent already.
    Unsuitable,
}

impl Exchange {
    /// State `Dispatch`.
    pub(super) fn dispatch(&mut self, client: &mut Client, context: &mut Context<'_>) -> Flow {
        let chosen = self.collected.backend.take().and_then(|backend| context.cluster.pick_again(&backend));
        if let Some(in_flight) = chosen {
            return self.start_attempt(in_flight, true, client, context);
        }
        let was_called = std::mem::take(&mut self.seat.was_called);
        if !was_called
            && context.cluster.queue().has_waiters()
            && context.cluster.any_up(|backend| !self.history.tried.contains(&backend.id))
        {
            return self.join_queue(client, context);
        }
        loop {
            match context.cluster.pick(&self.history.tried, self.request.is_idempotent, context.now) {
                Picked::Backend(in_flight) => match self.settle_framing(in_flight.backend()) {
                    Fit::Ready => {
                        if was_called {
                            // It may have got another place than the one it was called for.
                            context.cluster.call_next();
                        }
                        return self.start_attempt(in_flight, true, client, context);
                    }
                    // The place is not held meanwhile: a slow client would block it. But it is still that backend's turn.
                    Fit::AfterCollecting => {
                        self.collected.backend = Some(Arc::clone(in_flight.backend()));
                        return Flow::Goto(State::Collect);
                    }
                    Fit::Unsuitable => self.history.tried.push(in_flight.backend().id),
                },
                Picked::AllFull => return self.join_queue(client, context),
                Picked::NoneUp => {
                    // If it was called, the place is for the next one.
                    context.cluster.call_next();
                    return self.refuse(self.history.last_failure.unwrap_or(Cause::NoBackend), client, context);
                }
            }
        }
    }

    /// Settles how the body is framed for a backend.
    fn settle_framing(&mut self, backend: &Backend) -> Fit {
        match (self.request.is_chunked, self.request_end) {
            (false, _) => self.request_end = Some(RequestEnd::Plain),
            (true, None) if backend.speaks_http10() => return Fit::AfterCollecting,
            (true, None) => self.request_end = Some(RequestEnd::Chunked),
            // Chunks went to another backend before; this one does not know them.
            (true, Some(RequestEnd::Chunked)) if backend.speaks_http10() => return Fit::Unsuitable,
            (true, Some(_)) => {}
        }
        Fit::Ready
    }

    /// Starts an attempt against a backend: on an idle connection if `idle_allowed`, else on a fresh one.
    pub(super) fn start_attempt(
        &mut self,
        in_flight: InFlight,
        idle_allowed: bool,
        client: &mut Client,
        context: &mut Context<'_>,
    ) -> Flow {
        // Paid here, where there is somebody to send it to: only what is really sent again draws on the budget.
        if let Some(failed) = self.history.retry_of.take() {
            if retry::draws_on_budget(failed) && !context.budget.spend(context.now) {
                return self.refuse(self.history.last_failure.unwrap_or(Cause::BackendClosed), client, context);
            }
            context.counters.retries.add(1);
        }
        let backend = in_flight.backend();
        self.attempt.started = context.now;
        self.attempt.began_healthy = backend.serves();
        self.end_head_for(backend, client);
        self.attempt.link = if idle_allowed {
            // What may not be sent again, or not from its start, must not be lost to a connection that the backend has closed.
            let must_be_quiet = !self.request.is_idempotent || !self.upload.is_done();
            context.connections.check_out(backend, context.key, must_be_quiet, context.now)
        } else {
            None
        };
        self.attempt.is_reused = self.attempt.link.is_some();
        if self.attempt.is_reused {
            self.attempt.in_flight = Some(in_flight);
            context.counters.backend_reuses.add(1);
            return Flow::Goto(State::RequestBody);
        }
        let opened = context.connections.open(backend, context.key, context.now);
        self.attempt.connecting = opened.is_ok().then(|| Connecting::new(backend));
        self.attempt.connect_deadline = context.deadline(Timeout::Connect);
        self.attempt.in_flight = Some(in_flight);
        match opened {
            Ok(link) => {
                self.attempt.link = Some(link);
                context.counters.backend_connects.add(1);
                Flow::Goto(State::Connect)
            }
            Err(error) if net::is_shortage(&error) => {
                log::warn!("cannot open a connection to backend {}: {error}", self.backend_name());
                self.refuse(Cause::Overload, client, context)
            }
            Err(error) => self.fail_attempt(Failed::Connect, Cause::ConnectFailed, &error, client, context),
        }
    }

    /// Writes the part of the head that depends on the backend, and behind it a body that was collected for the first attempt.
    fn end_head_for(&mut self, backend: &Backend, client: &Client) {
        let mut end = Vec::new();
        let host = (!self.request.has_host).then_some(backend.name.as_str());
        rewrite::request_end(&mut end, host, self.request_end.unwrap_or(RequestEnd::Plain));
        self.outbound.start_attempt(&end);
        self.outbound.tail().extend_from_slice(&std::mem::take(&mut self.collected.body));
        if log::log_enabled!(log::Level::Debug) {
            trace::head(client.peer, &format!("→ sent to {}", backend.name), self.outbound.kept(), Body::None, b"");
        }
    }

    /// State `Connect`.
    pub(super) fn connect(&mut self, client: &mut Client, context: &mut Context<'_>) -> Flow {
        let connected = match self.attempt.stream(context.connections) {
            Some(backend) => backend.connected(),
            None => Ok(false),
        };
        match connected {
            Ok(true) => {
                self.attempt.connecting = None;
                Flow::Goto(State::RequestBody)
            }
            Ok(false) if context.has_expired() => {
                let finding = "the connect timed out";
                self.fail_attempt(Failed::Connect, Cause::ConnectTimeout, &finding, client, context)
            }
            Ok(false) => Flow::wait(self.attempt.connect_deadline),
            Err(error) => self.fail_attempt(Failed::Connect, Cause::ConnectFailed, &error, client, context),
        }
    }

    /// An attempt has failed before a byte of its response was forwarded. Judges the backend and follows the retry contract.
    pub(super) fn fail_attempt(
        &mut self,
        failed: Failed,
        cause: Cause,
        finding: &dyn Display,
        client: &mut Client,
        context: &mut Context<'_>,
    ) -> Flow {
        let mut in_flight = self.attempt.in_flight.take().expect("an attempt has a backend");
        if let (Failed::Reused { .. }, Some(link)) = (failed, self.attempt.link) {
            context.counters.stale_reuses.add(1);
            context.connections.note_stale(link, self.attempt.started, context.now);
        }
        self.drop_link(context);
        self.history.last_failure = Some(cause);
        let outcome = match failed {
            Failed::Connect | Failed::Fresh { written: false } => Some(Outcome::ConnectFailed),
            Failed::Fresh { written: true } | Failed::BadResponse => Some(Outcome::SendFailed),
            // An idle connection that the backend closed is in order, and one that is marked down is judged already.
            Failed::Reused { .. } | Failed::MarkedDown => None,
        };
        if let Some(outcome) = outcome {
            context.cluster.failed(in_flight.backend(), outcome, &finding.to_string(), self.attempt.started, context.now);
        }
        if failed == Failed::Connect && !self.outbound.has_body() && !self.upload.is_done() {
            // Nobody has heard of the body yet, and it was not taken in either: how it is framed is open again.
            self.request_end = None;
        }
        let failure = Failure {
            failed,
            idempotent: self.request.is_idempotent,
            replayable: self.outbound.is_replayable() && !self.answer.is_forwarded,
        };
        let next = retry::decide(failure);
        let is_other = next == Next::OtherBackend;
        if is_other {
            // A move from a backend that was marked down comes on top: it has not failed.
            self.history.failed_backends += usize::from(failed != Failed::MarkedDown);
            self.history.tried.push(in_flight.backend().id);
        }
        let goes_on = next != Next::GiveUp && !(is_other && self.history.failed_backends >= config::ATTEMPTS);
        if !goes_on {
            self.attempt.in_flight = Some(in_flight);
            return self.refuse(cause, client, context);
        }
        self.history.retry_of = Some(failed);
        self.answer.restart();
        log::debug!("{} attempt at backend {} failed: {finding}; {next:?}", client.peer, in_flight.backend().name);
        if is_other {
            in_flight.release();
            self.attempt.in_flight = Some(in_flight);
            return Flow::Goto(State::Dispatch);
        }
        self.start_attempt(in_flight, false, client, context)
    }

    /// Whether the request waits for the first byte of a backend that was marked down meanwhile, may be sent again, and has another
    /// backend to go to. Once per request: the deadline starts anew.
    pub(super) fn is_stranded(&self, context: &Context<'_>) -> bool {
        let Some(in_flight) = self.attempt.in_flight.as_ref().filter(|_| self.state == State::AwaitResponse) else {
            return false;
        };
        let may_move = self.request.is_idempotent && self.outbound.is_replayable() && !self.answer.is_forwarded;
        let was_marked_down = self.attempt.began_healthy && !in_flight.backend().serves();
        let is_other = |backend: &Backend| backend.id != in_flight.backend().id && !self.history.tried.contains(&backend.id);
        was_marked_down && may_move && !self.history.was_moved && context.cluster.any_up(is_other)
    }

    /// Leaves a backend that was marked down.
    pub(super) fn leave_backend(&mut self, client: &mut Client, context: &mut Context<'_>) -> Flow {
        self.history.was_moved = true;
        self.history.first_byte_deadline = None;
        let finding = "it was marked down while its response was awaited";
        self.fail_attempt(Failed::MarkedDown, Cause::FirstByteTimeout, &finding, client, context)
    }

    /// Whether the backend has said something that was not read yet.
    pub(super) fn link_is_readable(&self, context: &mut Context<'_>) -> bool {
        self.attempt.stream(context.connections).is_some_and(|backend| backend.is_readable())
    }

    /// The backend is done with: its connection is kept if it may be, and it counts as free.
    pub(super) fn release_link(&mut self, context: &mut Context<'_>) {
        if self.answer.keeps_backend
            && self.answer.bytes.is_empty()
            && !context.draining
            && let Some(link) = self.attempt.link.take()
        {
            context.connections.check_in(link, self.answer.backend_idle, context.now);
        }
        self.drop_link(context);
        self.free_place();
    }

    /// The backend has nothing to do for this exchange any more.
    pub(super) fn free_place(&mut self) {
        if let Some(in_flight) = &mut self.attempt.in_flight {
            in_flight.release();
        }
    }

    /// Closes the backend connection, whatever it is doing.
    pub(super) fn drop_link(&mut self, context: &mut Context<'_>) {
        self.attempt.connecting = None;
        if let Some(link) = self.attempt.link.take() {
            context.connections.close(link);
        }
    }
}
