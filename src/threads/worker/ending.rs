//! The ends of sessions that a worker decides: all sessions in a drain, and the oldest one if too
//! many linger. Runs on that worker.

use super::Worker;
use crate::config;
use crate::net::Token;
use crate::reason::Reason;
use std::time::Instant;

impl Worker {
    /// Begins a drain. An idle session stays open for a short time, for a request on its way; a busy
    /// one may continue until the deadline, if there is one.
    pub(super) fn begin_drain(&mut self, until: Option<Instant>, ready: &mut Vec<Token>) {
        (self.resources.draining, self.drain_until) = (true, until);
        self.resources.connections.close_idle();
        let mut tokens = self.sessions.tokens();
        tokens.retain(|token| self.schedule(*token));
        ready.extend(tokens);
    }

    /// The number of aborted connections, once the drain has ended.
    pub(super) fn drained(&mut self) -> Option<usize> {
        if self.resources.draining && self.sessions.is_empty() && self.inbox.is_empty() {
            return Some(0);
        }
        (self.resources.now() >= self.drain_until?).then(|| self.abort_all())
    }

    /// Closes all sessions. Returns the number of busy ones: the others have no response to lose.
    fn abort_all(&mut self) -> usize {
        let mut aborted = 0;
        for token in self.sessions.tokens() {
            let is_busy = self.sessions.get_mut(token).is_some_and(|session| session.is_busy());
            self.close(token, if is_busy { Reason::DrainAborted } else { Reason::Drained });
            aborted += usize::from(is_busy);
        }
        aborted
    }

    /// Ends the oldest lingering session if there are too many, because its client has had the most
    /// time to read the response.
    pub(super) fn limit_lingering(&mut self) {
        self.resources.local.lingering.retain(|token| self.sessions.get_mut(*token).is_some());
        if self.resources.local.lingering.len() > config::MAX_LINGERING
            && let Some(token) = self.resources.local.lingering.pop_front()
        {
            let context = self.resources.context(token);
            if let Some(session) = self.sessions.get_mut(token) {
                session.shorten_linger(&context);
            }
            self.step(token);
        }
    }
}
