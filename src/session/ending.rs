//! How an exchange ends: its line in the log, and what becomes of the client's connection after the last answer.

use super::exchange::Exchange;
use super::{Client, Context, Deadline, Flow, State, Verdict};
use crate::config::{self, Timeout};
use crate::net::Read;
use crate::reason::Reason;
use std::time::Instant;

/// How the exchange ends, and the connection with it or not.
#[derive(Debug)]
pub(super) struct Ending {
    pub(super) keeps_client: bool,
    /// Why the connection will end, once the exchange does.
    pub(super) reason: Reason,
    /// For the last things that are done: an answer of ours, a tunnel, the linger.
    pub(super) deadline: Deadline,
    linger_left: usize,
    linger_until: Instant,
}

impl Ending {
    pub(super) fn unknown(context: &Context<'_>) -> Self {
        Self {
            keeps_client: false,
            reason: Reason::AnsweredLast,
            deadline: context.deadline(Timeout::Linger),
            linger_left: config::LINGER_BYTES,
            linger_until: context.now,
        }
    }
}

impl Exchange {
    /// On the way into `Linger`: nothing more is sent, and nothing is kept for another attempt.
    pub(super) fn start_linger(&mut self, client: &Client, context: &mut Context<'_>) {
        client.stream.shutdown_write();
        self.outbound.release();
        context.lingering.push_back(context.key);
        self.ending.deadline = context.deadline(Timeout::Linger);
        self.ending.linger_until = context.now + context.config.timeouts.linger_in_all;
    }

    /// State `Linger`: closing over bytes that were not read would send a reset, which may overtake the response.
    pub(super) fn linger(&mut self, client: &mut Client, context: &mut Context<'_>) -> Flow {
        if context.has_expired() || context.now >= self.ending.linger_until || client.stream.is_broken() {
            return Flow::close(self.ending.reason);
        }
        context.buffers.lend(&mut self.input);
        let mut dropped = 0;
        while self.ending.linger_left > 0 && dropped < config::STEP_BYTES {
            self.input.clear();
            match client.stream.read(&mut self.input) {
                Ok(Read::Bytes(count)) => {
                    dropped += count;
                    self.ending.linger_left = self.ending.linger_left.saturating_sub(count);
                }
                Ok(Read::Blocked) => return self.wait_for_linger(dropped, context),
                Ok(Read::End) | Err(_) => return Flow::close(self.ending.reason),
            }
        }
        self.input.clear();
        if self.ending.linger_left > 0 {
            return Flow::Yield(Verdict::Again);
        }
        // It is not listened to any longer. A few lines of ours have reached it long since; a long response needs the rest of the time.
        if self.download.sent > config::BUFFERED_BYTES {
            return self.wait_for_linger(dropped, context);
        }
        Flow::close(self.ending.reason)
    }

    /// Waits for more to drop. A client that still sends has more time, up to the limit.
    fn wait_for_linger(&mut self, dropped: usize, context: &Context<'_>) -> Flow {
        if dropped > 0 {
            self.ending.deadline = context.deadline(Timeout::Linger);
        }
        self.ending.deadline.at = self.ending.deadline.at.min(self.ending.linger_until);
        Flow::wait(self.ending.deadline)
    }

    /// The last byte of a backend's answer is sent: the summary for the log, and what becomes of the connection.
    pub(super) fn finish(&mut self, client: &Client, context: &mut Context<'_>) -> Flow {
        self.log_summary(client, context);
        if self.ending.keeps_client {
            return Flow::Done;
        }
        let is_early = !self.upload.is_done();
        self.ending.reason = match (is_early, context.draining && self.request.is_persistent) {
            (true, _) => Reason::EarlyAnswer,
            (false, true) => Reason::Drained,
            (false, false) => Reason::AnsweredLast,
        };
        // Closing over unread bytes would send a reset, which may overtake the response. A client that meant to go on may have
        // sent its next request before it saw that the connection ends.
        if is_early || self.request.is_persistent || !self.input.is_empty() || client.stream.is_readable() {
            return Flow::Goto(State::Linger);
        }
        Flow::close(self.ending.reason)
    }

    /// One line a request: who asked for what, who served it, how long it took.
    pub(super) fn log_summary(&mut self, client: &Client, context: &Context<'_>) {
        let Some(label) = self.request.label.take() else {
            return;
        };
        if self.answer.status == 0 {
            log::info!("{} \"{label}\" not answered, in stage {}, backend {}", client.peer, self.stage(), self.backend_name());
            return;
        }
        log::info!(
            "{} \"{label}\" {} from {} in {:.1} ms, done in {:.1} ms, {} bytes",
            client.peer,
            self.answer.status,
            self.backend_name(),
            self.answer.after.as_secs_f64() * 1000.0,
            context.now.saturating_duration_since(self.request.started).as_secs_f64() * 1000.0,
            self.download.sent,
        );
    }
}

const _: () = assert!(config::LINGER_BYTES > config::REQUEST_HEAD_BYTES);
