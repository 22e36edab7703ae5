//! The choice of a backend for a request, and of another one after a failed attempt: the queue, the
//! retry contract, the retry budget.

use super::attempt::{Attempt, Opened, Reuse};
use super::client::Client;
use super::context::Context;
use super::flow::State;
use super::request::Request;
use super::stop::{AttemptError, Stop};
use super::trace;
use super::upload::{FramingSupport, Upload};
use crate::config::{Deadline, Timeout};
use crate::error::Cause;
use crate::stats::Event;
use crate::upstream::backend::{Backend, Slot};
use crate::upstream::cluster::{Picked, Wanted};
use crate::upstream::queue::{Grant, Position};
use crate::upstream::retry::{self, FailedAttempt, FailureKind, Retries, RetryDecision};
use crate::wire::Body;
use std::sync::Arc;
use std::time::Duration;

/// The attempts of one request, past and present.
#[derive(Debug, Default)]
pub(super) struct Dispatcher {
    retries: Retries,
    /// None before the first wait for a slot.
    queued: Option<Queued>,
    /// The backend for which the body is being buffered.
    buffering_for: Option<Arc<Backend>>,
    attempt: Option<Attempt>,
}

/// The request in the queue, while all backends are full.
#[derive(Debug)]
struct Queued {
    /// Kept for a later wait, in which the request is ahead of newer ones.
    position: Position,
    wait: Wait,
}

/// The last wait for a slot.
#[derive(Debug)]
enum Wait {
    /// The queue has not granted a slot yet.
    Until(Deadline),
    /// The wait is over, with the granted slot until an attempt takes it.
    Over(Option<Slot>),
}

/// A slot at a chosen backend.
#[derive(Debug)]
struct Chosen {
    slot: Slot,
    /// Whether the backend was healthy when it was chosen.
    is_healthy: bool,
}

/// The parts of an exchange that an attempt needs.
pub(super) struct Outgoing<'e> {
    pub(super) client: &'e Client,
    pub(super) request: &'e Request,
    pub(super) upload: &'e mut Upload,
}

impl Dispatcher {
    /// Takes a slot at a backend that was not tried, and starts an attempt there; or queues the
    /// request for one. `waited`: its time in the queue so far.
    pub(super) fn dispatch(
        &mut self,
        outgoing: Outgoing<'_>,
        waited: Duration,
        cx: &mut Context<'_>,
    ) -> Result<State, Stop> {
        let mut reserved = self.reserved_slot(cx);
        loop {
            let chosen = match reserved.take() {
                Some(slot) => Chosen { slot, is_healthy: true },
                None => match self.pick(&outgoing, cx) {
                    Picked::Backend(slot) => Chosen { slot, is_healthy: true },
                    Picked::Unhealthy(slot) => Chosen { slot, is_healthy: false },
                    Picked::AllFull => return self.enqueue(waited, cx),
                    Picked::NoneUp => {
                        return Err(self.retries.last_failure().unwrap_or(Cause::NoBackend).into());
                    }
                },
            };
            let backend = chosen.slot.backend();
            match outgoing.upload.choose_framing(backend.is_http10_only()) {
                FramingSupport::Ready => {
                    return self.start_attempt(chosen, Reuse::Any, outgoing, cx);
                }
                // The slot is released meanwhile, since a slow client would block it; the backend
                // stays the same.
                FramingSupport::AfterBuffering => {
                    self.buffering_for = Some(Arc::clone(backend));
                    return Ok(State::BufferBody);
                }
                FramingSupport::Unsupported => self.retries.exclude(backend.id),
            }
        }
    }

    /// The slot that the queue has granted, or one at the backend for which the body was buffered,
    /// if that backend still accepts requests.
    fn reserved_slot(&mut self, cx: &Context<'_>) -> Option<Slot> {
        let granted = match &mut self.queued {
            Some(Queued { wait: Wait::Over(granted), .. }) => granted.take(),
            _ => None,
        };
        let granted = granted.filter(|slot| slot.backend().accepts_work());
        let buffered_for = self.buffering_for.take();
        granted.or_else(|| buffered_for.and_then(|backend| cx.shared.cluster.acquire(&backend)))
    }

    fn pick(&self, outgoing: &Outgoing<'_>, cx: &mut Context<'_>) -> Picked {
        if outgoing.request.is_for_control {
            return self.pick_control(cx);
        }
        let wanted = Wanted {
            tried: self.retries.tried(),
            is_idempotent: outgoing.request.is_idempotent,
            client: outgoing.request.client,
        };
        cx.shared.cluster.pick(&wanted, cx.now, &mut cx.local.rng)
    }

    /// A slot at the control threads, unless the request has failed there: no other backend serves it.
    fn pick_control(&self, cx: &Context<'_>) -> Picked {
        let control = cx.shared.control.as_ref().filter(|_| self.retries.tried().is_empty());
        let slot = control.and_then(|control| cx.shared.cluster.acquire(control));
        slot.map_or(Picked::NoneUp, Picked::Backend)
    }

    /// Queues the request for the rest of its time in the queue: the time at a backend does not
    /// count.
    fn enqueue(&mut self, waited: Duration, cx: &Context<'_>) -> Result<State, Stop> {
        let full = cx.deadline(Timeout::Queue);
        let deadline = Deadline { at: full.at - waited, ..full };
        deadline.unless_passed(cx.now, self.no_slot())?;
        let (session, earlier) = (cx.session, self.queued.as_ref().map(|queued| queued.position));
        let tried = self.retries.tried();
        let position = cx
            .shared
            .cluster
            .enqueue(session.token, session.mailbox, tried, earlier)
            .ok_or(Cause::BackendFull)?;
        self.queued = Some(Queued { position, wait: Wait::Until(deadline) });
        Ok(State::Queued)
    }

    /// The cause if no slot is granted in time: that of a failed attempt comes first, because the
    /// request may have been executed.
    fn no_slot(&self) -> Cause {
        self.retries.last_failure().unwrap_or(Cause::BackendFull)
    }

    /// The deadline of the wait for a slot; none once the queue has granted one.
    pub(super) fn wait(&self, cx: &Context<'_>) -> Result<Option<Deadline>, Stop> {
        match self.queued {
            Some(Queued { wait: Wait::Until(deadline), .. }) => {
                deadline.unless_passed(cx.now, self.no_slot()).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Accepts the queue's grant. False if it is not for this wait: the slot goes to the next
    /// request.
    pub(super) fn grant(&mut self, grant: Grant) -> bool {
        match &mut self.queued {
            Some(Queued { position, wait: wait @ Wait::Until(_) })
                if *position == grant.position =>
            {
                *wait = Wait::Over(grant.slot);
                true
            }
            _ => false,
        }
    }

    /// Leaves the queue and drops a granted slot.
    fn cancel(&mut self, cx: &Context<'_>) {
        if let Some(queued) = &mut self.queued
            && let Wait::Until(_) = std::mem::replace(&mut queued.wait, Wait::Over(None))
        {
            cx.shared.cluster.cancel(queued.position);
        }
    }

    /// Starts an attempt at the chosen backend.
    fn start_attempt(
        &mut self,
        chosen: Chosen,
        reuse: Reuse,
        outgoing: Outgoing<'_>,
        cx: &mut Context<'_>,
    ) -> Result<State, Stop> {
        let Outgoing { client, request, upload } = outgoing;
        // Withdrawn here, because only a retry that has a backend costs budget.
        if let Some(failed) = self.retries.begin_attempt() {
            let cause = self.retries.last_failure().unwrap_or(Cause::BackendClosed);
            if retry::costs_budget(failed) && !cx.shared.budget.withdraw(cx.now) {
                cx.local.counters.retries_over_budget.add(1);
                return Err(cause.into());
            }
            cx.local.counters.retried(cause);
        }
        let Chosen { slot, is_healthy } = chosen;
        let name = &slot.backend().name;
        upload.start_attempt((!request.has_host).then_some(name.as_str()));
        if log::log_enabled!(log::Level::Debug) {
            trace::head(client, &format!("→ sent to {name}"), upload.kept(), Body::None, b"");
        }
        // A request that cannot be sent twice must not be lost on a connection that the backend has
        // closed.
        let is_risky = !request.is_idempotent || !upload.is_received();
        let reuse = if reuse == Reuse::Any && is_risky { Reuse::Verified } else { reuse };
        match self.attempt.insert(Attempt::new(slot, is_healthy, cx)).open(reuse, cx)? {
            Opened::Reused => Ok(State::SendRequest),
            Opened::Connecting => Ok(State::Connecting),
        }
    }

    /// Applies the retry contract to an attempt that failed before a byte of its response was
    /// forwarded.
    pub(super) fn next_attempt(
        &mut self,
        error: &AttemptError,
        is_replayable: bool,
        outgoing: Outgoing<'_>,
        cx: &mut Context<'_>,
    ) -> Result<State, Stop> {
        let kind = error.kind;
        let attempt = self.attempt_mut();
        attempt.record_failure(kind, &error.detail, cx);
        attempt.close(cx);
        let backend = Arc::clone(attempt.backend());
        if kind == FailureKind::Connect {
            outgoing.upload.reopen_framing();
            let has_timed_out = error.cause == Cause::ConnectTimeout;
            let event = if has_timed_out { Event::ConnectTimedOut } else { Event::ConnectFailed };
            cx.local.recorder.count(&backend, event);
        }
        let failed_attempt =
            FailedAttempt { kind, is_idempotent: outgoing.request.is_idempotent, is_replayable };
        let decision = self.retries.record_failure(backend.id, failed_attempt, error.cause);
        log::debug!(
            "{} attempt at backend {} failed: {}; {decision:?}",
            outgoing.client.peer(),
            backend.name,
            error.detail
        );
        match decision {
            RetryDecision::GiveUp => Err(error.cause.into()),
            RetryDecision::OtherBackend => {
                self.attempt_mut().release(None, cx);
                Ok(State::Dispatch)
            }
            RetryDecision::FreshConnection => {
                let (slot, is_healthy) = self.attempt.take().expect(IN_ATTEMPT).into_parts();
                self.start_attempt(Chosen { slot, is_healthy }, Reuse::Never, outgoing, cx)
            }
        }
    }

    /// Whether the backend of the attempt was marked down meanwhile, and the request was not moved
    /// before.
    pub(super) fn is_stranded(&self) -> bool {
        self.attempt().was_marked_down() && !self.retries.was_moved()
    }

    /// Whether an untried backend has capacity.
    pub(super) fn can_move(&self, cx: &Context<'_>) -> bool {
        cx.shared.cluster.any_untried(self.retries.tried(), Backend::has_capacity)
    }

    /// The current attempt.
    pub(super) fn attempt(&self) -> &Attempt {
        self.attempt.as_ref().expect(IN_ATTEMPT)
    }

    /// The current attempt.
    pub(super) fn attempt_mut(&mut self) -> &mut Attempt {
        self.attempt.as_mut().expect(IN_ATTEMPT)
    }

    /// The current attempt, for the protocol that follows.
    pub(super) fn into_attempt(self) -> Attempt {
        self.attempt.expect(IN_ATTEMPT)
    }

    /// The backend of the last attempt, for the record.
    pub(super) fn backend(&self) -> Option<&Arc<Backend>> {
        self.attempt.as_ref().map(Attempt::backend)
    }

    /// Whether the last attempt had a reused connection.
    pub(super) fn is_reused(&self) -> bool {
        self.attempt.as_ref().is_some_and(Attempt::is_reused)
    }

    /// The number of attempts.
    pub(super) fn attempts(&self) -> u32 {
        self.retries.attempts()
    }

    /// Returns the memory of the connection's empty buffer to the pool.
    pub(super) fn recycle(&self, cx: &mut Context<'_>) {
        if let Some(backend) =
            self.attempt.as_ref().and_then(|attempt| attempt.connection(cx.connections))
        {
            cx.local.buffers.recycle(&mut backend.input);
        }
    }

    /// Leaves the queue and ends the attempt.
    pub(super) fn release(&mut self, cx: &mut Context<'_>) {
        self.cancel(cx);
        if let Some(attempt) = &mut self.attempt {
            attempt.release(None, cx);
        }
    }
}

const IN_ATTEMPT: &str = "an attempt is being made";
