//! A limit on the log lines about a frequent event: at most one every few seconds.
//!
//! Plain data of the thread that logs. Suppressed events are counted, so that the next line
//! contains their number.

use std::time::{Duration, Instant};

/// The minimum time between two lines about one kind of event.
const INTERVAL: Duration = Duration::from_secs(5);

/// One kind of event.
#[derive(Debug, Default)]
pub struct RateLimitedLog {
    logged_at: Option<Instant>,
    since_logged: u64,
}

impl RateLimitedLog {
    /// Counts an event. If a line is due, returns the number of events since the last line, this
    /// one included.
    pub fn count(&mut self, now: Instant) -> Option<u64> {
        self.since_logged += 1;
        if self.logged_at.is_some_and(|at| now.duration_since(at) < INTERVAL) {
            return None;
        }
        self.logged_at = Some(now);
        Some(std::mem::take(&mut self.since_logged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_event_is_logged_at_once_and_the_next_ones_together_after_the_interval() {
        let (mut log, start) = (RateLimitedLog::default(), Instant::now());
        assert_eq!(log.count(start), Some(1));
        assert_eq!(log.count(start), None);
        assert_eq!(log.count(start + INTERVAL - Duration::from_millis(1)), None);
        assert_eq!(log.count(start + INTERVAL), Some(3));
        assert_eq!(log.count(start + INTERVAL), None);
        assert_eq!(log.count(start + 3 * INTERVAL), Some(2));
    }
}
