//! The end of a connection: a response of our own, and the lingering close.

use super::client::Client;
use super::context::Context;
use super::request::ReplyOptions;
use crate::config::{self, Deadline, Timeout};
use crate::error::Cause;
use crate::net::Read;
use crate::reason::Reason;
use crate::wire::error_response::{self, ErrorFormat};
use crate::wire::reply::{self, ALLOW, Reply};
use std::time::Instant;

/// A response of our own that is being sent, or the lingering close after the last response.
#[derive(Debug)]
pub(super) struct Closing {
    step: Step,
    /// Why the connection ends.
    reason: Reason,
    deadline: Deadline,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Sending a response; whether the connection stays open after it.
    Respond { keeps_open: bool },
    /// Dropping input, at most `bytes`, no longer than `until`: a close over unread bytes would
    /// send a reset, which may destroy the response.
    Linger { bytes: usize, until: Instant },
}

/// The result of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closed {
    /// The client's socket is blocked.
    Wait(Deadline),
    /// The I/O budget of the step is used up.
    BudgetUsed,
    /// The response is sent, and the connection stays open.
    StaysOpen,
    /// The connection is over.
    Over(Reason),
}

impl Closing {
    /// Writes an error response.
    pub(super) fn reject(
        cause: Cause,
        options: ReplyOptions<'_>,
        client: &mut Client,
        cx: &mut Context<'_>,
    ) -> Self {
        cx.local.buffers.ensure(&mut client.output);
        let outage = if cause == Cause::NoBackend { cx.shared.cluster.outage() } else { None };
        let message = outage.as_deref().unwrap_or(cause.description());
        let ReplyOptions { request, keeps_open, .. } = options;
        let format = ErrorFormat { is_head: request.is_head, accepts_json: request.accepts_json };
        error_response::write(
            client.output.as_vec_mut(),
            cause,
            message,
            format,
            options.fields(&cx.local.clock),
        );
        let reason = if client.rejection().is_some() { Reason::Overload } else { Reason::Rejected };
        Self { step: Step::Respond { keeps_open }, reason, deadline: cx.deadline(Timeout::Body) }
    }

    /// Writes the response to an OPTIONS request whose final recipient is the balancer (RFC 9110
    /// section 7.6.2).
    pub(super) fn respond_as_final_recipient(
        options: ReplyOptions<'_>,
        client: &mut Client,
        cx: &mut Context<'_>,
    ) -> Self {
        cx.local.buffers.ensure(&mut client.output);
        let ReplyOptions { request, keeps_open, .. } = options;
        let reply = Reply { status: 200, fields: &[("Allow", ALLOW)], content: None };
        reply::write(
            client.output.as_vec_mut(),
            reply,
            request.is_head,
            options.fields(&cx.local.clock),
        );
        let is_drained = cx.draining && request.is_persistent;
        let reason = if is_drained { Reason::Drained } else { Reason::ClosedAfterResponse };
        Self { step: Step::Respond { keeps_open }, reason, deadline: cx.deadline(Timeout::Body) }
    }

    /// Starts the lingering close, after the last response was sent.
    pub(super) fn linger(reason: Reason, client: &Client, cx: &mut Context<'_>) -> Self {
        client.stream.shutdown_write();
        cx.local.lingering.push_back(cx.session.token);
        let until = cx.now + cx.shared.settings.timeouts.linger_total;
        let step = Step::Linger { bytes: config::LINGER_MAX_BYTES, until };
        Self { step, reason, deadline: cx.deadline(Timeout::Linger) }
    }

    pub(super) fn is_lingering(&self) -> bool {
        matches!(self.step, Step::Linger { .. })
    }

    /// Ends the lingering close at the next step.
    pub(super) fn cut_short(&mut self, cx: &Context<'_>) {
        self.deadline.at = cx.now;
    }

    /// Continues until the client's socket blocks.
    pub(super) fn step(&mut self, client: &mut Client, cx: &mut Context<'_>) -> Closed {
        if let Step::Respond { keeps_open } = self.step {
            if let Err(reason) = client.flush(&cx.local.counters) {
                return Closed::Over(reason);
            }
            match client.output.is_empty() {
                true if keeps_open => return Closed::StaysOpen,
                true => *self = Self::linger(self.reason, client, cx),
                false if self.deadline.has_passed(cx.now) => {
                    return Closed::Over(Reason::SlowReader);
                }
                false => return Closed::Wait(self.deadline),
            }
        }
        self.drop_input(client, cx)
    }

    /// Drops the client's input until the lingering close ends.
    fn drop_input(&mut self, client: &mut Client, cx: &mut Context<'_>) -> Closed {
        let Step::Linger { bytes, until } = &mut self.step else {
            unreachable!("a response is sent before the linger");
        };
        if self.deadline.has_passed(cx.now) || *until <= cx.now || client.stream.is_broken() {
            return Closed::Over(self.reason);
        }
        let mut dropped = 0;
        let is_blocked = loop {
            client.input.clear();
            if *bytes == 0 || dropped >= config::MAX_STEP_BYTES {
                break false;
            }
            match client.read(&mut cx.local.buffers) {
                Ok(Read::Bytes(count)) => {
                    dropped += count;
                    *bytes = bytes.saturating_sub(count);
                }
                Ok(Read::Blocked) => break true,
                Ok(Read::End) | Err(_) => return Closed::Over(self.reason),
            }
        };
        if !is_blocked && *bytes > 0 {
            return Closed::BudgetUsed;
        }
        // Above the limit the input is no longer read. A response that fits into the socket's
        // buffer has arrived by now; a longer one gets the rest of the time.
        if !is_blocked && client.sent <= config::SOCKET_BUFFER_BYTES {
            return Closed::Over(self.reason);
        }
        // Each received byte extends the deadline, up to the limit.
        let at = if dropped > 0 { cx.deadline(Timeout::Linger).at } else { self.deadline.at };
        self.deadline.at = at.min(*until);
        Closed::Wait(self.deadline)
    }
}

const _: () = assert!(config::LINGER_MAX_BYTES > config::MAX_REQUEST_HEAD_BYTES);
