//! Waiting for a place at a backend, when each has as many requests as it may.

use super::exchange::Exchange;
use super::{Client, Context, Deadline, Flow, State};
use crate::config::Timeout;
use crate::error::Cause;
use crate::upstream::queue::Ticket;

/// The wait for a place at a backend.
#[derive(Debug, Default)]
pub(super) struct Seat {
    pub(super) is_queued: bool,
    pub(super) was_called: bool,
    /// Its place in the queue, also when it comes back.
    pub(super) ticket: Option<Ticket>,
    /// The first wait's deadline holds for all.
    pub(super) deadline: Option<Deadline>,
}

impl Exchange {
    /// Waits for a place, behind those who wait already; who was called and found none has the place of before.
    pub(super) fn join_queue(&mut self, client: &mut Client, context: &mut Context<'_>) -> Flow {
        self.seat.ticket = context.cluster.queue().join(context.key, context.caller, &self.history.tried, self.seat.ticket);
        if self.seat.ticket.is_none() {
            return self.refuse(Cause::BackendFull, client, context);
        }
        self.seat.is_queued = true;
        // A place may have come free before we had joined. It is for the first in line that can use it, whoever that is.
        context.cluster.call_next();
        Flow::Goto(State::Queue)
    }

    /// State `Queue`.
    pub(super) fn wait_for_place(&mut self, client: &mut Client, context: &mut Context<'_>) -> Flow {
        if context.has_expired() {
            self.leave_queue(context);
            return self.refuse(Cause::BackendFull, client, context);
        }
        Flow::wait(*self.seat.deadline.get_or_insert_with(|| context.deadline(Timeout::Queue)))
    }

    /// Takes a call: a place came free. False if this exchange does not wait for one.
    pub(super) fn take_call(&mut self) -> bool {
        let was_queued = std::mem::take(&mut self.seat.is_queued);
        if was_queued {
            self.seat.was_called = true;
            self.state = State::Dispatch;
        }
        was_queued
    }

    pub(super) fn leave_queue(&mut self, context: &Context<'_>) {
        if std::mem::take(&mut self.seat.is_queued) {
            context.cluster.queue().leave(context.key, context.caller);
        }
    }
}
