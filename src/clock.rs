//! A worker's clock. Runs on that worker, which reads the time once per iteration of its loop.

use std::time::{Duration, Instant, SystemTime};

/// The time of an iteration, and the value of a `Date` field.
#[derive(Debug)]
pub struct Clock {
    now: Instant,
    date: String,
    date_until: Instant,
}

impl Clock {
    /// A clock with the current time.
    pub fn new() -> Self {
        let now = Instant::now();
        let mut clock = Self { now, date: String::new(), date_until: now };
        clock.update();
        clock
    }

    /// Reads the time. Returns whether a new second has begun.
    pub fn update(&mut self) -> bool {
        self.now = Instant::now();
        let is_new_second = self.now >= self.date_until;
        if is_new_second {
            let wall = SystemTime::now();
            self.date = httpdate::fmt_http_date(wall);
            let into_second =
                wall.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.subsec_nanos());
            self.date_until =
                self.now + (Duration::from_secs(1) - Duration::from_nanos(u64::from(into_second)));
        }
        is_new_second
    }

    /// The time of this iteration.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// The value of a `Date` field (RFC 9110 section 6.6.1).
    pub fn date(&self) -> &str {
        &self.date
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}
