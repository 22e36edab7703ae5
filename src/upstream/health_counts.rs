//! The health checks and transitions of one backend, counted. Plain data behind the registry's
//! mutex.

use super::health::{CheckResult, State};
use crate::config::DURATION_BOUNDS;
use std::time::Duration;

/// The counts since the backend was added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealthCounts {
    /// Checks that passed.
    pub passed: u64,
    /// Checks whose response was no 2xx or 3xx, or did not arrive in time.
    pub failed: u64,
    /// Checks whose connect was refused or whose connection broke.
    pub unreachable: u64,
    /// The durations of checks up to each of [`DURATION_BOUNDS`], not cumulative; the last one is
    /// above every bound.
    pub durations: [u64; DURATION_BOUNDS.len() + 1],
    /// The sum of the durations.
    pub duration_sum: Duration,
    /// Changes of state to up, the first one included.
    pub to_up: u64,
    /// Changes of state to down.
    pub to_down: u64,
    /// Ejections.
    pub to_ejected: u64,
}

impl HealthCounts {
    /// Counts a check.
    pub(super) fn count_check(&mut self, result: CheckResult, took: Duration) {
        let count = match result {
            CheckResult::Passed => &mut self.passed,
            CheckResult::Failed => &mut self.failed,
            CheckResult::Unreachable => &mut self.unreachable,
        };
        *count += 1;
        self.duration_sum += took;
        let is_above = |bound: &u64| took > Duration::from_micros(*bound);
        self.durations[DURATION_BOUNDS.partition_point(is_above)] += 1;
    }

    /// Counts a change to this state.
    pub(super) fn count_transition(&mut self, to: State) {
        match to {
            State::Unknown => {}
            State::Up => self.to_up += 1,
            State::Down | State::Unreachable => self.to_down += 1,
            State::Ejected { .. } => self.to_ejected += 1,
        }
    }
}
