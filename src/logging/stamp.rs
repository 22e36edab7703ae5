//! Times of log lines as text, made once per second and thread.

use super::number::push_number;
use crate::clock;
use std::time::{Duration, SystemTime};

/// The text of the current second.
#[derive(Debug, Default)]
pub struct Stamp {
    second: u64,
    /// `2026-11-27T00:16:20.`
    rfc3339: String,
    /// `27/Nov/2026:00:16:20 +0000`
    apache: String,
}

impl Stamp {
    /// Appends a time in RFC 3339, in UTC with milliseconds.
    pub fn push_rfc3339(&mut self, line: &mut Vec<u8>, at: SystemTime) {
        let milliseconds = self.update(at).subsec_millis();
        line.extend_from_slice(self.rfc3339.as_bytes());
        push_number(line, milliseconds.into(), 3);
        line.push(b'Z');
    }

    /// Appends a time as in Apache's log, in UTC.
    pub fn push_apache(&mut self, line: &mut Vec<u8>, at: SystemTime) {
        self.update(at);
        line.extend_from_slice(self.apache.as_bytes());
    }

    fn update(&mut self, at: SystemTime) -> Duration {
        let since_epoch = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        if since_epoch.as_secs() != self.second || self.rfc3339.is_empty() {
            self.second = since_epoch.as_secs();
            self.rfc3339 = clock::rfc3339(Duration::from_secs(self.second));
            self.apache = apache(&httpdate::fmt_http_date(at));
            self.rfc3339.truncate("2026-11-27T00:16:20.".len());
        }
        since_epoch
    }
}

/// `Fri, 27 Nov 2026 00:16:20 GMT` as `27/Nov/2026:00:16:20 +0000`.
fn apache(http_date: &str) -> String {
    let mut words = http_date.split(' ').skip(1);
    let mut next = || words.next().unwrap_or_default();
    let (day, month, year, time) = (next(), next(), next(), next());
    format!("{day}/{month}/{year}:{time} +0000")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_exact_whatever_was_asked_for_before() {
        let mut stamp = Stamp::default();
        for (milliseconds, rfc3339, apache) in [
            (0, "1970-01-01T00:00:00.000Z", "01/Jan/1970:00:00:00 +0000"),
            (1_795_738_580_007, "2026-11-27T00:16:20.007Z", "27/Nov/2026:00:16:20 +0000"),
            (1_795_738_580_999, "2026-11-27T00:16:20.999Z", "27/Nov/2026:00:16:20 +0000"),
            (1_795_738_581_000, "2026-11-27T00:16:21.000Z", "27/Nov/2026:00:16:21 +0000"),
            (1_000, "1970-01-01T00:00:01.000Z", "01/Jan/1970:00:00:01 +0000"),
        ] {
            let at = SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds);
            let (mut one, mut other) = (Vec::new(), Vec::new());
            stamp.push_rfc3339(&mut one, at);
            stamp.push_apache(&mut other, at);
            assert_eq!(String::from_utf8(one).unwrap(), rfc3339);
            assert_eq!(String::from_utf8(other).unwrap(), apache);
        }
    }
}
