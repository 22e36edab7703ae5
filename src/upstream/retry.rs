//! The retry contract as a pure function, and the retry budget.
//!
//! Runs on workers. The README has the contract: every request that can safely be sent again is
//! sent again, and no request is executed twice that must not be. [`Retries`] belongs to one
//! request, [`Budget`] is shared by all workers and must cost a request nothing unless it is retried.

use super::backend::BackendId;
use crate::config;
use crate::error::Cause;
use crate::metrics::Counters;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How an attempt failed before a byte of its response was forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The connect failed: nothing was sent.
    Connect,
    /// A reused connection ended.
    Reused {
        /// Whether any byte of the request was written.
        written: bool,
    },
    /// A fresh connection ended.
    Fresh {
        /// Whether any byte of the request was written.
        written: bool,
    },
    /// The head of the response is invalid or incomplete.
    BadResponse,
    /// The backend was marked down while its first byte was awaited.
    MarkedDown,
}

/// A failed attempt, as the retry contract sees it.
#[derive(Clone, Copy, Debug)]
pub struct FailedAttempt {
    /// How it failed.
    pub kind: FailureKind,
    /// Whether the method is idempotent (RFC 9110 section 9.2.2).
    pub is_idempotent: bool,
    /// Whether every byte of the body that was read so far is still kept, and no byte of a response
    /// was forwarded.
    pub is_replayable: bool,
}

/// The next step after a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryDecision {
    /// The same backend once more, on a fresh connection.
    FreshConnection,
    /// Another backend, if there is an untried one.
    OtherBackend,
    /// No further attempt: the client gets the error.
    GiveUp,
}

/// The retry contract.
pub fn decide(failed: FailedAttempt) -> RetryDecision {
    let FailedAttempt { kind, is_idempotent, is_replayable } = failed;
    match kind {
        // Nothing was sent, so the whole body is still there.
        FailureKind::Connect => RetryDecision::OtherBackend,
        FailureKind::Reused { written } if is_replayable && (is_idempotent || !written) => {
            RetryDecision::FreshConnection
        }
        FailureKind::Fresh { written } if is_replayable && (is_idempotent || !written) => {
            RetryDecision::OtherBackend
        }
        FailureKind::BadResponse | FailureKind::MarkedDown if is_replayable && is_idempotent => {
            RetryDecision::OtherBackend
        }
        FailureKind::Reused { .. }
        | FailureKind::Fresh { .. }
        | FailureKind::BadResponse
        | FailureKind::MarkedDown => RetryDecision::GiveUp,
    }
}

/// Whether a retry after this failure costs budget: the request was sent, so retries would multiply
/// the load of failing backends. Retries that happen at most once per request are free: the fresh
/// connection after a dead reused one, and the move away from a backend that was marked down.
pub fn costs_budget(kind: FailureKind) -> bool {
    matches!(kind, FailureKind::Fresh { written: true } | FailureKind::BadResponse)
}

/// The attempts of one request so far.
#[derive(Debug, Default)]
pub struct Retries {
    tried: Vec<BackendId>,
    failed_backends: usize,
    last_failure: Option<Cause>,
    /// The failure that the next attempt follows, if it is a retry.
    retry_of: Option<FailureKind>,
    was_moved: bool,
    attempts: u32,
}

impl Retries {
    /// The backends that are excluded: the request has failed there, or they do not support its
    /// framing.
    pub fn tried(&self) -> &[BackendId] {
        &self.tried
    }

    /// Excludes a backend that does not support the framing of the request.
    pub fn exclude(&mut self, backend: BackendId) {
        self.tried.push(backend);
    }

    /// The cause of the last failure, for the error response when no backend is left.
    pub fn last_failure(&self) -> Option<Cause> {
        self.last_failure
    }

    /// Whether the request has left a backend that was marked down; that is allowed once.
    pub fn was_moved(&self) -> bool {
        self.was_moved
    }

    /// Records a failed attempt and returns the next step: the retry contract, within the limit of
    /// attempts.
    pub fn record_failure(
        &mut self,
        backend: BackendId,
        failed: FailedAttempt,
        cause: Cause,
    ) -> RetryDecision {
        let is_move = failed.kind == FailureKind::MarkedDown;
        let decision = decide(failed);
        self.last_failure = Some(cause);
        self.was_moved |= is_move;
        if decision == RetryDecision::OtherBackend {
            // A backend that was marked down has not failed the request, so it does not count.
            self.failed_backends += usize::from(!is_move);
            self.tried.push(backend);
            if self.failed_backends >= config::MAX_ATTEMPTS {
                return RetryDecision::GiveUp;
            }
        }
        if decision != RetryDecision::GiveUp {
            self.retry_of = Some(failed.kind);
        }
        decision
    }

    /// The number of attempts so far.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Counts an attempt and returns the failure that it follows, if it is a retry.
    pub fn begin_attempt(&mut self) -> Option<FailureKind> {
        self.attempts += 1;
        self.retry_of.take()
    }
}

/// Retries per recent request.
const RETRY_RATIO: f64 = 0.2;
/// Retries per second on top, so that a few are possible without many requests.
const MIN_RETRIES_PER_SEC: f64 = 3.0;
/// The length of a window; recent requests are those of the running window and the one before.
const WINDOW: Duration = Duration::from_secs(10);

/// The retry budget of all workers.
#[derive(Debug)]
pub struct Budget {
    /// The counters of each worker's requests, summed only for a withdrawal, so that a request costs
    /// nothing.
    workers: Vec<Arc<Counters>>,
    /// Protects the windows; taken by workers for each retry that costs budget, and once a second.
    windows: Mutex<Windows>,
}

impl Budget {
    /// A budget for the requests that these workers count.
    pub fn new(workers: Vec<Arc<Counters>>, now: Instant) -> Self {
        let windows = Windows {
            started: now,
            requests_at_start: 0,
            withdrawn: 0,
            previous: Window::default(),
        };
        Self { workers, windows: Mutex::new(windows) }
    }

    /// Withdraws one retry; false if the budget is exhausted.
    pub fn withdraw(&self, now: Instant) -> bool {
        let mut windows = self.windows.lock();
        // Summed under the lock, so that the sums of two workers arrive in ascending order.
        windows.withdraw(self.requests(), now)
    }

    /// To be called each second while there are requests, so that windows end on time.
    pub fn tick(&self, now: Instant) {
        let mut windows = self.windows.lock();
        windows.advance(self.requests(), now);
    }

    fn requests(&self) -> u64 {
        self.workers.iter().map(|counters| counters.requests.get()).sum()
    }
}

/// A window that has ended.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    requests: u64,
    withdrawn: u64,
    length: Duration,
}

/// The running window and the one before.
#[derive(Debug)]
struct Windows {
    started: Instant,
    requests_at_start: u64,
    withdrawn: u64,
    previous: Window,
}

impl Windows {
    fn withdraw(&mut self, requests: u64, now: Instant) -> bool {
        self.advance(requests, now);
        let running = now.saturating_duration_since(self.started);
        let seconds = (self.previous.length + running).max(WINDOW).as_secs_f64();
        let recent = self.previous.requests + (requests - self.requests_at_start);
        let allowed = RETRY_RATIO * recent as f64 + MIN_RETRIES_PER_SEC * seconds;
        let has_budget = (self.previous.withdrawn + self.withdrawn + 1) as f64 <= allowed;
        self.withdrawn += u64::from(has_budget);
        has_budget
    }

    /// Begins a new window when the running one is over. A window that ran for two was an idle one:
    /// no tick has ended it.
    fn advance(&mut self, requests: u64, now: Instant) {
        let length = now.saturating_duration_since(self.started);
        if length < WINDOW {
            return;
        }
        let ended = Window {
            requests: requests - self.requests_at_start,
            withdrawn: self.withdrawn,
            length,
        };
        self.previous = if length < 2 * WINDOW { ended } else { Window::default() };
        (self.started, self.requests_at_start, self.withdrawn) = (now, requests, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contract_row_by_row() {
        use RetryDecision::{FreshConnection, GiveUp, OtherBackend};
        let (sent, unsent) = (true, false);
        // kind, is_idempotent, is_replayable, decision
        let rows = [
            (FailureKind::Connect, true, true, OtherBackend),
            (FailureKind::Connect, false, true, OtherBackend),
            (FailureKind::Connect, false, false, OtherBackend),
            (FailureKind::Reused { written: sent }, true, true, FreshConnection),
            (FailureKind::Reused { written: sent }, true, false, GiveUp),
            (FailureKind::Reused { written: sent }, false, true, GiveUp),
            (FailureKind::Reused { written: unsent }, false, true, FreshConnection),
            (FailureKind::Fresh { written: sent }, true, true, OtherBackend),
            (FailureKind::Fresh { written: sent }, true, false, GiveUp),
            (FailureKind::Fresh { written: sent }, false, true, GiveUp),
            (FailureKind::Fresh { written: unsent }, false, true, OtherBackend),
            (FailureKind::BadResponse, true, true, OtherBackend),
            (FailureKind::BadResponse, true, false, GiveUp),
            (FailureKind::BadResponse, false, true, GiveUp),
            (FailureKind::MarkedDown, true, true, OtherBackend),
            (FailureKind::MarkedDown, true, false, GiveUp),
            (FailureKind::MarkedDown, false, true, GiveUp),
        ];
        for (kind, is_idempotent, is_replayable, decision) in rows {
            let failed = FailedAttempt { kind, is_idempotent, is_replayable };
            assert_eq!(decide(failed), decision, "{failed:?}");
        }
    }

    #[test]
    fn only_a_sent_request_with_another_backend_costs_budget() {
        for kind in [
            FailureKind::Connect,
            FailureKind::Reused { written: false },
            FailureKind::Reused { written: true },
            FailureKind::Fresh { written: false },
            FailureKind::MarkedDown,
        ] {
            assert!(!costs_budget(kind), "{kind:?}");
        }
        assert!(costs_budget(FailureKind::Fresh { written: true }));
        assert!(costs_budget(FailureKind::BadResponse));
    }

    #[test]
    fn a_request_is_given_up_after_three_failed_backends_and_a_move_does_not_count() {
        let failed = |kind| FailedAttempt { kind, is_idempotent: true, is_replayable: true };
        let mut retries = Retries::default();
        assert_eq!(retries.begin_attempt(), None, "the first attempt is no retry");
        assert_eq!(
            retries.record_failure(
                BackendId(0),
                failed(FailureKind::Reused { written: true }),
                Cause::BackendClosed
            ),
            RetryDecision::FreshConnection
        );
        assert_eq!(retries.begin_attempt(), Some(FailureKind::Reused { written: true }));
        assert_eq!(retries.tried(), [BackendId(0); 0], "the same backend once more");
        assert_eq!(
            retries.record_failure(
                BackendId(0),
                failed(FailureKind::Connect),
                Cause::ConnectFailed
            ),
            RetryDecision::OtherBackend
        );
        assert_eq!(
            retries.record_failure(
                BackendId(1),
                failed(FailureKind::MarkedDown),
                Cause::FirstByteTimeout
            ),
            RetryDecision::OtherBackend
        );
        assert_eq!(
            retries.record_failure(
                BackendId(2),
                failed(FailureKind::BadResponse),
                Cause::BadResponse
            ),
            RetryDecision::OtherBackend
        );
        assert_eq!(
            retries.record_failure(
                BackendId(3),
                failed(FailureKind::Connect),
                Cause::ConnectTimeout
            ),
            RetryDecision::GiveUp
        );
        assert_eq!(
            (retries.tried(), retries.last_failure()),
            (&[0, 1, 2, 3].map(BackendId)[..], Some(Cause::ConnectTimeout))
        );
        assert!(retries.was_moved());
    }

    fn withdraw_all(budget: &Budget, now: Instant) -> u64 {
        (0..).take_while(|_| budget.withdraw(now)).count() as u64
    }

    #[test]
    fn the_budget_grows_with_the_requests_of_all_workers() {
        let workers = [Arc::<Counters>::default(), Arc::default()];
        let now = Instant::now();
        let budget = Budget::new(workers.to_vec(), now);
        assert_eq!(withdraw_all(&budget, now), 30, "three per second, for a window");
        workers[0].requests.add(100);
        workers[1].requests.add(900);
        assert_eq!(withdraw_all(&budget, now), 200);
    }

    #[test]
    fn the_budget_recovers_with_time_and_old_retries_no_longer_count() {
        let (worker, start, second) =
            (Arc::<Counters>::default(), Instant::now(), Duration::from_secs(1));
        let budget = Budget::new(vec![Arc::clone(&worker)], start);
        worker.requests.add(1000);
        assert_eq!(withdraw_all(&budget, start + 9 * second), 230);
        assert_eq!(withdraw_all(&budget, start + 11 * second), 3, "three per second");
        budget.tick(start + 22 * second);
        assert_eq!(
            withdraw_all(&budget, start + 22 * second),
            30,
            "the requests of the window before last no longer count"
        );
    }

    #[test]
    fn an_idle_hour_does_not_count_as_a_window() {
        let (worker, start) = (Arc::<Counters>::default(), Instant::now());
        let budget = Budget::new(vec![Arc::clone(&worker)], start);
        worker.requests.add(1000);
        assert_eq!(withdraw_all(&budget, start + Duration::from_secs(3600)), 30);
    }
}
