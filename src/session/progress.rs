//! The progress of a body: its deadline is extended while bytes move.

use crate::config::{Deadline, Timeout};
use std::time::{Duration, Instant};

/// The side that is not ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blocked {
    /// The client sends or accepts no more bytes.
    OnClient,
    /// The backend sends or accepts no more bytes.
    OnBackend,
}

/// The bytes moved since the deadline was last extended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    moved: u64,
    since: Instant,
    /// Computed with the timeout at the first call of [`Progress::deadline`], and then kept.
    deadline: Option<Instant>,
}

impl Progress {
    pub(super) fn new(now: Instant) -> Self {
        Self { moved: 0, since: now, deadline: None }
    }

    /// Counts bytes that moved. `threshold` bytes extend the deadline: if every byte did, a slow
    /// sender could stay for ever.
    pub(super) fn note(&mut self, bytes: usize, threshold: u64, now: Instant) {
        self.moved += bytes as u64;
        if self.moved >= threshold {
            *self = Self::new(now);
        }
    }

    /// The progress whose deadline was extended last.
    pub(super) fn latest(self, other: Self) -> Self {
        if other.since > self.since { other } else { self }
    }

    pub(super) fn deadline(&mut self, timeout: Duration) -> Deadline {
        let at = *self.deadline.get_or_insert(self.since + timeout);
        Deadline { timeout: Timeout::Body, at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_bytes_do_not_extend_the_deadline() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut progress = Progress::new(start);
        for tick in 0..29 {
            progress.note(1, 1024, start + tick * second);
            assert_eq!(progress.deadline(30 * second).at, start + 30 * second);
        }
        progress.note(1024, 1024, start + 29 * second);
        assert_eq!(progress.deadline(30 * second).at, start + 59 * second);
    }

    #[test]
    fn another_timeout_holds_from_the_next_deadline_on() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut progress = Progress::new(start);
        assert_eq!(progress.deadline(30 * second).at, start + 30 * second);
        progress.note(1, 1024, start + 10 * second);
        assert_eq!(progress.deadline(5 * second).at, start + 30 * second, "it is set");
        progress.note(1024, 1024, start + 11 * second);
        assert_eq!(progress.deadline(5 * second).at, start + 16 * second);
    }
}
