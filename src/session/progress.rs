//! Whether a body moves: the deadline that is put off while it does.

use crate::config::{Deadline, Timeout};
use std::time::{Duration, Instant};

/// The side that is not ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blocked {
    /// The client sends or takes nothing more.
    OnClient,
    /// The backend sends or takes nothing more.
    OnBackend,
}

/// Bytes since the deadline was last put off.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    moved: u64,
    since: Instant,
    /// Set when it is first asked for, by the timeout of that moment, and then kept.
    deadline: Option<Instant>,
}

impl Progress {
    pub(super) fn new(now: Instant) -> Self {
        Self { moved: 0, since: now, deadline: None }
    }

    /// Records bytes that moved. The deadline is extended once `enough` have: if every byte
    /// extended it, a slow sender could stay for ever.
    pub(super) fn note(&mut self, bytes: usize, enough: u64, now: Instant) {
        self.moved += bytes as u64;
        if self.moved >= enough {
            *self = Self::new(now);
        }
    }

    /// The one that was put off last.
    pub(super) fn later(self, other: Self) -> Self {
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
