//! Whether a failed request is sent again: the retry contract as a pure function, and the budget
//! for it.
//!
//! The contract stands in the README. What it protects: no request is lost that could be saved, and
//! none is executed twice that must not be.

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
    /// It was never connected: nothing was sent.
    Connect,
    /// A connection that had served before died; `written` says whether any byte of this request
    /// went out on it.
    Reused {
        /// Whether any byte of the request was written.
        written: bool,
    },
    /// A fresh connection died.
    Fresh {
        /// Whether any byte of the request was written.
        written: bool,
    },
    /// The head of the response is invalid, or broke off.
    BadResponse,
    /// The backend was marked down while its first byte was awaited.
    MarkedDown,
}

/// What is known when an attempt has failed.
#[derive(Clone, Copy, Debug)]
pub struct Failure {
    /// How it failed.
    pub failed: FailureKind,
    /// Whether doing it twice is as good as doing it once.
    pub idempotent: bool,
    /// Whether every byte of the body that was read so far is still kept, and no byte of a response
    /// was forwarded.
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
        FailureKind::Connect => Next::OtherBackend,
        FailureKind::Reused { written } if replayable && (idempotent || !written) => {
            Next::FreshConnection
        }
        FailureKind::Fresh { written } if replayable && (idempotent || !written) => {
            Next::OtherBackend
        }
        FailureKind::BadResponse | FailureKind::MarkedDown if replayable && idempotent => {
            Next::OtherBackend
        }
        FailureKind::Reused { .. }
        | FailureKind::Fresh { .. }
        | FailureKind::BadResponse
        | FailureKind::MarkedDown => Next::GiveUp,
    }
}

/// Whether the retry must be paid for: something was sent, so a failing cluster would get more of
/// it. What happens once per request at most is free: the fresh connection after a dead reused one,
/// the move away from a backend that was marked down.
pub fn costs_budget(failed: FailureKind) -> bool {
    matches!(failed, FailureKind::Fresh { written: true } | FailureKind::BadResponse)
}

/// The attempts of one request so far.
#[derive(Debug, Default)]
pub struct Retries {
    /// Backends that are no use any more.
    tried: Vec<BackendId>,
    failed_backends: usize,
    last_failure: Option<Cause>,
    /// The next attempt is a retry of one that failed like this.
    retry_of: Option<FailureKind>,
    was_moved: bool,
    attempts: u32,
}

impl Retries {
    /// Backends that are no use any more: the request has failed there, or they do not support its
    /// framing.
    pub fn tried(&self) -> &[BackendId] {
        &self.tried
    }

    /// A backend does not support the framing of the request.
    pub fn rule_out(&mut self, backend: BackendId) {
        self.tried.push(backend);
    }

    /// What the client is told if nobody is left, if anything has failed.
    pub fn last_failure(&self) -> Option<Cause> {
        self.last_failure
    }

    /// Whether the request has left a backend that was marked down. Once is enough.
    pub fn was_moved(&self) -> bool {
        self.was_moved
    }

    /// Notes a failed attempt and says what is next: the retry contract, and the limit of attempts.
    pub fn note(&mut self, backend: BackendId, failure: Failure, cause: Cause) -> Next {
        let is_move = failure.failed == FailureKind::MarkedDown;
        let next = decide(failure);
        self.last_failure = Some(cause);
        self.was_moved |= is_move;
        if next == Next::OtherBackend {
            // A move from a backend that was marked down comes on top: it has not failed.
            self.failed_backends += usize::from(!is_move);
            self.tried.push(backend);
            if self.failed_backends >= config::MAX_ATTEMPTS {
                return Next::GiveUp;
            }
        }
        if next != Next::GiveUp {
            self.retry_of = Some(failure.failed);
        }
        next
    }

    /// How many attempts were made.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Takes note that an attempt begins; what failure it follows, if it is a retry.
    pub fn begin_attempt(&mut self) -> Option<FailureKind> {
        self.attempts += 1;
        self.retry_of.take()
    }
}

/// What share of recent requests may be sent again.
const RETRY_RATIO: f64 = 0.2;
/// How many a second may be in any case.
const MIN_RETRIES_PER_SEC: f64 = 3.0;
/// Recent is what lies in the running window and in the one before.
const WINDOW: Duration = Duration::from_secs(10);

/// What may be sent again, over all workers.
#[derive(Debug)]
pub struct Budget {
    /// Each counts its worker's requests; summed only when something is to be spent, so that a
    /// request costs nothing.
    workers: Vec<Arc<Counters>>,
    /// Protects the windows; taken by workers for each request that is sent again, and once a
    /// second.
    window: Mutex<BudgetWindow>,
}

impl Budget {
    /// A budget for the requests that these workers count.
    pub fn new(workers: Vec<Arc<Counters>>, now: Instant) -> Self {
        let window = BudgetWindow {
            started: now,
            requests_before: 0,
            withdrawn: 0,
            earlier: Window::default(),
        };
        Self { workers, window: Mutex::new(window) }
    }

    /// Takes one retry out, if there is one.
    pub fn withdraw(&self, now: Instant) -> bool {
        let mut window = self.window.lock();
        // Summed under the lock, so that no sum is smaller than one that was taken in before.
        window.withdraw(self.requests(), now)
    }

    /// To be called each second while there are requests, so that a quiet time is not taken for a
    /// busy one.
    pub fn tick(&self, now: Instant) {
        let mut window = self.window.lock();
        window.turn(self.requests(), now);
    }

    fn requests(&self) -> u64 {
        self.workers.iter().map(|counters| counters.requests.get()).sum()
    }
}

/// What happened in one window.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    requests: u64,
    withdrawn: u64,
    length: Duration,
}

/// Two windows: the running one and the one before.
#[derive(Debug)]
struct BudgetWindow {
    started: Instant,
    requests_before: u64,
    withdrawn: u64,
    earlier: Window,
}

impl BudgetWindow {
    fn withdraw(&mut self, requests: u64, now: Instant) -> bool {
        self.turn(requests, now);
        let running = now.saturating_duration_since(self.started);
        let seconds = (self.earlier.length + running).max(WINDOW).as_secs_f64();
        let recent = self.earlier.requests + (requests - self.requests_before);
        let allowed = RETRY_RATIO * recent as f64 + MIN_RETRIES_PER_SEC * seconds;
        let may_spend = (self.earlier.withdrawn + self.withdrawn + 1) as f64 <= allowed;
        self.withdrawn += u64::from(may_spend);
        may_spend
    }

    /// Begins a new window when the running one is over. One that nobody ended in time was a quiet
    /// one.
    fn turn(&mut self, requests: u64, now: Instant) {
        let length = now.saturating_duration_since(self.started);
        if length < WINDOW {
            return;
        }
        let ended =
            Window { requests: requests - self.requests_before, withdrawn: self.withdrawn, length };
        self.earlier = if length < 2 * WINDOW { ended } else { Window::default() };
        (self.started, self.requests_before, self.withdrawn) = (now, requests, 0);
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
        for (failed, idempotent, replayable, next) in rows {
            let failure = Failure { failed, idempotent, replayable };
            assert_eq!(decide(failure), next, "{failure:?}");
        }
    }

    #[test]
    fn only_a_sent_request_with_another_backend_costs_budget() {
        for failed in [
            FailureKind::Connect,
            FailureKind::Reused { written: false },
            FailureKind::Reused { written: true },
            FailureKind::Fresh { written: false },
            FailureKind::MarkedDown,
        ] {
            assert!(!costs_budget(failed), "{failed:?}");
        }
        assert!(costs_budget(FailureKind::Fresh { written: true }));
        assert!(costs_budget(FailureKind::BadResponse));
    }

    #[test]
    fn three_backends_are_tried_and_a_move_comes_on_top() {
        let failure = |failed| Failure { failed, idempotent: true, replayable: true };
        let mut retries = Retries::default();
        assert_eq!(retries.begin_attempt(), None, "the first attempt is no retry");
        assert_eq!(
            retries.note(
                BackendId(0),
                failure(FailureKind::Reused { written: true }),
                Cause::BackendClosed
            ),
            Next::FreshConnection
        );
        assert_eq!(retries.begin_attempt(), Some(FailureKind::Reused { written: true }));
        assert_eq!(retries.tried(), [BackendId(0); 0], "the same backend once more");
        assert_eq!(
            retries.note(BackendId(0), failure(FailureKind::Connect), Cause::ConnectFailed),
            Next::OtherBackend
        );
        assert_eq!(
            retries.note(BackendId(1), failure(FailureKind::MarkedDown), Cause::FirstByteTimeout),
            Next::OtherBackend
        );
        assert_eq!(
            retries.note(BackendId(2), failure(FailureKind::BadResponse), Cause::BadResponse),
            Next::OtherBackend
        );
        assert_eq!(
            retries.note(BackendId(3), failure(FailureKind::Connect), Cause::ConnectTimeout),
            Next::GiveUp
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
    fn a_budget_is_a_share_of_the_requests_of_all_workers() {
        let workers = [Arc::<Counters>::default(), Arc::default()];
        let now = Instant::now();
        let budget = Budget::new(workers.to_vec(), now);
        assert_eq!(withdraw_all(&budget, now), 30, "three a second, for a window");
        workers[0].requests.add(100);
        workers[1].requests.add(900);
        assert_eq!(withdraw_all(&budget, now), 200);
    }

    #[test]
    fn a_budget_recovers_with_time_and_forgets_old_retries() {
        let (worker, start, second) =
            (Arc::<Counters>::default(), Instant::now(), Duration::from_secs(1));
        let budget = Budget::new(vec![Arc::clone(&worker)], start);
        worker.requests.add(1000);
        assert_eq!(withdraw_all(&budget, start + 9 * second), 230);
        assert_eq!(withdraw_all(&budget, start + 11 * second), 3, "three a second");
        budget.tick(start + 22 * second);
        assert_eq!(
            withdraw_all(&budget, start + 22 * second),
            30,
            "the thousand and what they paid for are gone"
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
