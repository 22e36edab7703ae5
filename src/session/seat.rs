//! The wait for a slot at a backend, when each has as many requests as it may.

use super::context::Context;
use super::stop::Stop;
use crate::config::{Deadline, Timeout};
use crate::error::Cause;
use crate::upstream::backend::BackendId;
use crate::upstream::queue::Ticket;

/// A request's place in the queue.
#[derive(Debug, Default)]
pub(super) struct Seat {
    is_queued: bool,
    was_called: bool,
    /// Its position, also when it comes back.
    ticket: Option<Ticket>,
    /// The first wait's deadline holds for all.
    deadline: Option<Deadline>,
}

impl Seat {
    /// Joins the queue, behind the requests that wait already; one that was called and found no
    /// slot has its position of before.
    pub(super) fn join(&mut self, tried: &[BackendId], cx: &Context<'_>) -> Result<(), Stop> {
        self.ticket =
            cx.shared.cluster.queue().join(cx.session.token, cx.session.caller, tried, self.ticket);
        if self.ticket.is_none() {
            return Err(Cause::BackendFull.into());
        }
        self.is_queued = true;
        // A slot may have come free before we had joined. It is for the first in line that can use
        // it.
        cx.shared.cluster.call_next();
        Ok(())
    }

    /// Until when to wait.
    pub(super) fn wait(&mut self, cx: &Context<'_>) -> Result<Deadline, Stop> {
        let deadline = *self.deadline.get_or_insert_with(|| cx.deadline(Timeout::Queue));
        if deadline.has_passed(cx.now) {
            self.leave(cx);
            return Err(Cause::BackendFull.into());
        }
        Ok(deadline)
    }

    /// Takes a call: a slot came free. False if nobody waits here.
    pub(super) fn take_call(&mut self) -> bool {
        self.was_called = std::mem::take(&mut self.is_queued);
        self.was_called
    }

    /// Whether a call was taken since this was asked last.
    pub(super) fn was_called(&mut self) -> bool {
        std::mem::take(&mut self.was_called)
    }

    pub(super) fn leave(&mut self, cx: &Context<'_>) {
        if std::mem::take(&mut self.is_queued) {
            cx.shared.cluster.queue().leave(cx.session.token, cx.session.caller);
        }
    }
}
