//! Finding a backend for a request, and another one after a failed attempt: the queue, the retry
//! contract, the budget.

use super::attempt::{Attempt, Opened, Reuse};
use super::client::Client;
use super::context::Context;
use super::flow::State;
use super::request::Request;
use super::seat::Seat;
use super::stop::{AttemptError, Stop};
use super::trace;
use super::upload::{FramingSupport, Upload};
use crate::config::Deadline;
use crate::error::Cause;
use crate::upstream::backend::{Backend, InFlight};
use crate::upstream::cluster::Picked;
use crate::upstream::retry::{self, Failed, Failure, Next, Retries};
use crate::wire::Body;
use std::sync::Arc;

/// The attempts of one request.
#[derive(Debug, Default)]
pub(super) struct Dispatcher {
    retries: Retries,
    seat: Seat,
    /// The backend whose turn it was when the body began to be buffered.
    buffering_for: Option<Arc<Backend>>,
    attempt: Option<Attempt>,
}

/// What is to be sent to a backend.
pub(super) struct Outgoing<'e> {
    pub(super) client: &'e Client,
    pub(super) request: &'e Request,
    pub(super) upload: &'e mut Upload,
}

impl Dispatcher {
    /// Takes a slot at the backend whose turn it is among those that were not tried, and starts an
    /// attempt.
    pub(super) fn dispatch(
        &mut self,
        outgoing: Outgoing<'_>,
        cx: &mut Context<'_>,
    ) -> Result<State, Stop> {
        if let Some(slot) =
            self.buffering_for.take().and_then(|backend| cx.shared.cluster.pick_again(&backend))
        {
            return self.start_attempt(slot, Reuse::Any, outgoing, cx);
        }
        let was_called = self.seat.was_called();
        if !was_called
            && cx.shared.cluster.queue().has_waiters()
            && cx.shared.cluster.any_up(|backend| self.is_untried(backend))
        {
            return self.enqueue(cx);
        }
        loop {
            let slot = match cx.shared.cluster.pick(
                self.retries.tried(),
                outgoing.request.is_idempotent,
                cx.now,
            ) {
                Picked::Backend(slot) => slot,
                Picked::AllFull => return self.enqueue(cx),
                Picked::NoneUp => {
                    // If it was called, the slot is for the next one.
                    cx.shared.cluster.call_next();
                    return Err(self.retries.last_failure().unwrap_or(Cause::NoBackend).into());
                }
            };
            match outgoing.upload.choose_framing(slot.backend().speaks_http10()) {
                FramingSupport::Ready => {
                    if was_called {
                        // It may have got another slot than the one it was called for.
                        cx.shared.cluster.call_next();
                    }
                    return self.start_attempt(slot, Reuse::Any, outgoing, cx);
                }
                // The slot is not held meanwhile: a slow client would block it. But it is still
                // that backend's turn.
                FramingSupport::AfterBuffering => {
                    self.buffering_for = Some(Arc::clone(slot.backend()));
                    return Ok(State::BufferBody);
                }
                FramingSupport::Unsupported => self.retries.rule_out(slot.backend().id),
            }
        }
    }

    fn enqueue(&mut self, cx: &Context<'_>) -> Result<State, Stop> {
        self.seat.join(self.retries.tried(), cx)?;
        Ok(State::Queued)
    }

    /// Until when to wait for a slot.
    pub(super) fn wait(&mut self, cx: &Context<'_>) -> Result<Deadline, Stop> {
        self.seat.wait(cx)
    }

    /// Takes a call from the queue: a slot came free. False if nobody waits here.
    pub(super) fn take_call(&mut self) -> bool {
        self.seat.take_call()
    }

    /// Starts an attempt at the backend of this slot.
    fn start_attempt(
        &mut self,
        slot: InFlight,
        reuse: Reuse,
        outgoing: Outgoing<'_>,
        cx: &mut Context<'_>,
    ) -> Result<State, Stop> {
        let Outgoing { client, request, upload } = outgoing;
        // Paid here, where there is a backend to send it to: only what is really sent again draws
        // on the budget.
        if let Some(failed) = self.retries.begin_attempt() {
            if retry::draws_on_budget(failed) && !cx.shared.budget.spend(cx.now) {
                return Err(self.retries.last_failure().unwrap_or(Cause::BackendClosed).into());
            }
            cx.local.counters.retries.add(1);
        }
        let name = &slot.backend().name;
        upload.start_attempt((!request.has_host).then_some(name.as_str()));
        if log::log_enabled!(log::Level::Debug) {
            trace::head(client, &format!("→ sent to {name}"), upload.kept(), Body::None, b"");
        }
        // What may not be sent again, or not from its start, must not be lost to a connection that
        // the backend has closed.
        let is_risky = !request.is_idempotent || !upload.is_received();
        let reuse = if reuse == Reuse::Any && is_risky { Reuse::Verified } else { reuse };
        match self.attempt.insert(Attempt::new(slot, cx)).open(reuse, cx)? {
            Opened::Reused => Ok(State::SendRequest),
            Opened::Connecting => Ok(State::Connecting),
        }
    }

    /// An attempt has failed before a byte of its response was forwarded: the retry contract says
    /// what follows.
    pub(super) fn next_attempt(
        &mut self,
        error: &AttemptError,
        is_replayable: bool,
        outgoing: Outgoing<'_>,
        cx: &mut Context<'_>,
    ) -> Result<State, Stop> {
        let failed = error.failed;
        let attempt = self.attempt_mut();
        attempt.note_failure(failed, &error.detail, cx);
        attempt.close(cx);
        let backend = Arc::clone(attempt.backend());
        if failed == Failed::Connect {
            outgoing.upload.reopen_framing();
        }
        let failure = Failure {
            failed,
            idempotent: outgoing.request.is_idempotent,
            replayable: is_replayable,
        };
        let next = self.retries.note(backend.id, failure, error.cause);
        log::debug!(
            "{} attempt at backend {} failed: {}; {next:?}",
            outgoing.client.peer(),
            backend.name,
            error.detail
        );
        match next {
            Next::GiveUp => Err(error.cause.into()),
            Next::OtherBackend => {
                self.attempt_mut().release(None, cx);
                Ok(State::Dispatch)
            }
            Next::FreshConnection => {
                let slot = self.attempt.take().expect(IN_ATTEMPT).into_slot();
                self.start_attempt(slot, Reuse::Never, outgoing, cx)
            }
        }
    }

    /// Whether the backend of the attempt was marked down meanwhile and there is another to go to.
    /// Once per request.
    pub(super) fn is_stranded(&self, cx: &Context<'_>) -> bool {
        let attempt = self.attempt();
        let is_other = |other: &Backend| {
            other.id != attempt.backend().id && self.is_untried(other) && other.has_place()
        };
        attempt.was_marked_down() && !self.retries.was_moved() && cx.shared.cluster.any_up(is_other)
    }

    fn is_untried(&self, backend: &Backend) -> bool {
        !self.retries.tried().contains(&backend.id)
    }

    /// The attempt that is being made.
    pub(super) fn attempt(&self) -> &Attempt {
        self.attempt.as_ref().expect(IN_ATTEMPT)
    }

    /// The attempt that is being made.
    pub(super) fn attempt_mut(&mut self) -> &mut Attempt {
        self.attempt.as_mut().expect(IN_ATTEMPT)
    }

    /// The attempt, for the protocol that follows.
    pub(super) fn into_attempt(self) -> Attempt {
        self.attempt.expect(IN_ATTEMPT)
    }

    /// The backend that has served or failed the request last, for its record.
    pub(super) fn backend(&self) -> Option<&Backend> {
        self.attempt.as_ref().map(|attempt| &**attempt.backend())
    }

    /// How many attempts were made.
    pub(super) fn attempts(&self) -> u32 {
        self.retries.attempts()
    }

    /// Gives the memory of an empty buffer back: what waits holds as little as it can.
    pub(super) fn reclaim(&self, cx: &mut Context<'_>) {
        if let Some(backend) =
            self.attempt.as_ref().and_then(|attempt| attempt.connection(cx.connections))
        {
            cx.local.buffers.reclaim(&mut backend.input);
        }
    }

    /// Gives everything back.
    pub(super) fn release(&mut self, cx: &mut Context<'_>) {
        self.seat.leave(cx);
        if let Some(attempt) = &mut self.attempt {
            attempt.release(None, cx);
        }
    }
}

const IN_ATTEMPT: &str = "a backend is asked in an attempt";
