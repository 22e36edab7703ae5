//! Whether a failed request is sent again: the retry contract as a pure function, and the budget for it.
//!
//! The contract stands in the README. What it protects: no request is lost that could be saved, and none is executed twice that
//! must not be.

use std::time::{Duration, Instant};

/// How an attempt failed before any byte of an answer was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// It was never connected: nothing was sent.
    Connect,
    /// A connection that had served before died; `written` says whether any byte of this request went out on it.
    Reused {
        /// Whether any byte of the request was written.
        written: bool,
    },
    /// A fresh connection died.
    Fresh {
        /// Whether any byte of the request was written.
        written: bool,
    },
}

/// What is known when an attempt has failed.
#[derive(Clone, Copy, Debug)]
pub struct Failure {
    /// How it failed.
    pub failed: Failed,
    /// Whether doing it twice is as good as doing it once.
    pub idempotent: bool,
    /// Whether every byte of the body that was read so far is still kept.
    pub replayable: bool,
}

/// What happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The same backend once more, on a fresh connection.
    FreshConnection,
    /// Another backend, if there is one.
    OtherBackend,
    /// The client gets the error.
    GiveUp,
}

/// The retry contract.
pub fn decide(failure: Failure) -> Next {
    let Failure { failed, idempotent, replayable } = failure;
    match failed {
        // Nothing of the body can have been dropped, because nothing was sent.
        Failed::Connect => Next::OtherBackend,
        Failed::Reused { written } if replayable && (idempotent || !written) => Next::FreshConnection,
        Failed::Fresh { written } if replayable && (idempotent || !written) => Next::OtherBackend,
        Failed::Reused { .. } | Failed::Fresh { .. } => Next::GiveUp,
    }
}

/// Whether the retry must be paid for: something was sent, so a failing cluster would get more of it.
pub fn draws_on_budget(failed: Failed) -> bool {
    matches!(failed, Failed::Reused { written: true } | Failed::Fresh { written: true })
}

/// What share of requests may be sent again.
const SHARE: f64 = 0.2;
/// How many a second may be in any case.
const AT_LEAST_A_SECOND: f64 = 3.0;
/// How many may be saved up.
const MOST: f64 = 100.0;

/// A token bucket that each request fills a little. Owned by one worker.
#[derive(Debug)]
pub struct Budget {
    tokens: f64,
    filled_at: Instant,
}

impl Budget {
    /// A budget with a few seconds' worth in it.
    pub fn new(now: Instant) -> Self {
        Self { tokens: 10.0 * AT_LEAST_A_SECOND, filled_at: now }
    }

    /// Counts a request.
    pub fn earn(&mut self) {
        self.tokens = (self.tokens + SHARE).min(MOST);
    }

    /// Takes one retry out, if there is one.
    pub fn spend(&mut self, now: Instant) -> bool {
        let elapsed: Duration = now.saturating_duration_since(self.filled_at);
        self.filled_at = now;
        self.tokens = (self.tokens + elapsed.as_secs_f64() * AT_LEAST_A_SECOND).min(MOST);
        let has_one = self.tokens >= 1.0;
        if has_one {
            self.tokens -= 1.0;
        }
        has_one
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contract_row_by_row() {
        use Next::{FreshConnection, GiveUp, OtherBackend};
        let (sent, unsent) = (true, false);
        // failed, idempotent, replayable → next
        let rows = [
            (Failed::Connect, true, true, OtherBackend),
            (Failed::Connect, false, true, OtherBackend),
            (Failed::Connect, false, false, OtherBackend),
            (Failed::Reused { written: sent }, true, true, FreshConnection),
            (Failed::Reused { written: sent }, true, false, GiveUp),
            (Failed::Reused { written: sent }, false, true, GiveUp),
            (Failed::Reused { written: unsent }, false, true, FreshConnection),
            (Failed::Fresh { written: sent }, true, true, OtherBackend),
            (Failed::Fresh { written: sent }, true, false, GiveUp),
            (Failed::Fresh { written: sent }, false, true, GiveUp),
            (Failed::Fresh { written: unsent }, false, true, OtherBackend),
        ];
        for (failed, idempotent, replayable, next) in rows {
            let failure = Failure { failed, idempotent, replayable };
            assert_eq!(decide(failure), next, "{failure:?}");
        }
    }

    #[test]
    fn only_what_was_sent_is_paid_for() {
        assert!(!draws_on_budget(Failed::Connect));
        assert!(!draws_on_budget(Failed::Reused { written: false }));
        assert!(draws_on_budget(Failed::Reused { written: true }));
        assert!(draws_on_budget(Failed::Fresh { written: true }));
    }

    #[test]
    fn a_budget_runs_out_and_fills_with_requests_and_time() {
        let mut now = Instant::now();
        let mut budget = Budget::new(now);
        while budget.spend(now) {}
        for _ in 0..5 {
            budget.earn();
        }
        assert!(budget.spend(now) && !budget.spend(now), "five requests pay for one retry");
        now += Duration::from_secs(1);
        assert!(budget.spend(now) && budget.spend(now) && budget.spend(now) && !budget.spend(now));
    }
}
