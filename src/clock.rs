//! A worker's clock, which it reads once per iteration of its loop, and dates as text.

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

/// An instant and its date: makes dates of other instants, always the same one of the same instant.
#[derive(Clone, Copy, Debug)]
pub struct Calendar {
    instant: Instant,
    date: SystemTime,
}

impl Calendar {
    /// A calendar that begins now; earlier instants have dates too.
    pub fn new() -> Self {
        Self { instant: Instant::now(), date: SystemTime::now() }
    }

    /// The time from 1970-01-01 to the calendar's begin.
    pub fn began(&self) -> Duration {
        self.since_epoch(self.instant)
    }

    /// The time from 1970-01-01 to an instant.
    pub fn since_epoch(&self, at: Instant) -> Duration {
        let later = at.saturating_duration_since(self.instant);
        let earlier = self.instant.saturating_duration_since(at);
        let date = self.date.checked_add(later).and_then(|date| date.checked_sub(earlier));
        let since_epoch = date.and_then(|date| date.duration_since(SystemTime::UNIX_EPOCH).ok());
        since_epoch.unwrap_or_default()
    }

    /// The date of an instant in RFC 3339, in UTC with milliseconds.
    pub fn rfc3339(&self, at: Instant) -> String {
        rfc3339(self.since_epoch(at))
    }
}

impl Default for Calendar {
    fn default() -> Self {
        Self::new()
    }
}

/// A time since 1970 in RFC 3339, in UTC with milliseconds.
pub(crate) fn rfc3339(since_epoch: Duration) -> String {
    let (seconds, milliseconds) = (since_epoch.as_secs(), since_epoch.subsec_millis());
    let (year, month, day) = civil_date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milliseconds:03}Z")
}

/// Year, month and day of a number of days since 1970-01-01. The year begins in March here, so that
/// the leap day is its last one; 400 years have 146,097 days.
fn civil_date(days_since_epoch: u64) -> (u64, u64, u64) {
    let days = days_since_epoch + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let leap_days = day_of_era / 1460 - day_of_era / 36_524 + day_of_era / 146_096;
    let year_of_era = (day_of_era - leap_days) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_rfc_3339_in_utc_with_milliseconds() {
        for (milliseconds, date) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_800_000, "2000-03-01T00:00:00.000Z"),
            (1_709_210_096_007, "2024-02-29T12:34:56.007Z"),
            (1_767_225_599_000, "2025-12-31T23:59:59.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(rfc3339(Duration::from_millis(milliseconds)), date);
        }
    }

    #[test]
    fn an_instant_before_or_after_the_calendars_begin_has_its_own_date() {
        let at = Instant::now() + Duration::from_secs(10);
        let date = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        let calendar = Calendar { instant: at, date };
        assert_eq!(calendar.rfc3339(at), "1970-01-01T00:01:40.000Z");
        assert_eq!(calendar.rfc3339(at + Duration::from_millis(1500)), "1970-01-01T00:01:41.500Z");
        assert_eq!(calendar.rfc3339(at - Duration::from_secs(10)), "1970-01-01T00:01:30.000Z");
    }
}
