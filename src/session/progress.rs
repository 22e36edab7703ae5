//! Whether a body moves: the deadline that is put off while it does.

use crate::config::{Deadline, Timeout};
use std::time::{Duration, Instant};

/// Who is not ready.
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
    at: Instant,
    timeout: Duration,
}

impl Progress {
    pub(super) fn new(now: Instant, timeout: Duration) -> Self {
        Self { moved: 0, at: now + timeout, timeout }
    }

    /// Notes bytes that moved. The deadline is put off once `enough` have: one that any byte puts
    /// off lets a drip live for ever.
    pub(super) fn note(&mut self, bytes: usize, enough: u64, now: Instant) {
        self.moved += bytes as u64;
        if self.moved >= enough {
            *self = Self::new(now, self.timeout);
        }
    }

    /// Whichever was put off further.
    pub(super) fn later(self, other: Self) -> Self {
        if other.at > self.at { other } else { self }
    }

    pub(super) fn deadline(&self) -> Deadline {
        Deadline { timeout: Timeout::Body, at: self.at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drip_does_not_put_the_deadline_off() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut progress = Progress::new(start, 30 * second);
        for tick in 0..29 {
            progress.note(1, 1024, start + tick * second);
        }
        assert_eq!(progress.deadline().at, start + 30 * second);
        progress.note(1024, 1024, start + 29 * second);
        assert_eq!(progress.deadline().at, start + 59 * second);
    }
}
