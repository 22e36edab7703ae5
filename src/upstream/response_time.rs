//! The average response time of one backend, for `least_response_time`.
//!
//! Recorded by workers under every algorithm, so that a change of the algorithm starts with data,
//! and read by picks. Relaxed loads and stores: of two workers that record at the same time one may
//! overwrite the other, or leave a mix of both, which the next response corrects.
//!
//! Time is counted in picks of the pool, so that a backend that was slow comes back after some
//! requests, at any rate of requests. While a backend is unused, its average fades towards the mean
//! of the pool, within `MAX_ROUNDS` requests per backend, and sooner if few responses are known.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

/// The share of one response in the average of a backend in steady use.
const STEP: f32 = 1.0 / 8.0;
/// A response counts as at most this many times the average, because one delay is no evidence.
const MAX_FACTOR: f32 = 2.0;
/// Shorter response times are equal: their differences are those of the scheduling of threads.
const MIN_SECONDS: f32 = 0.001;
/// The age at which an average has faded, in picks per backend: the exploration, about one request
/// in so many of a backend's even share.
const MAX_ROUNDS: f32 = 64.0;
/// The increase of that age with each response, until the maximum is reached.
const ROUNDS_PER_RESPONSE: f32 = 0.25;

/// A point in time, as picks of the pool count it.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// The number of the pick; wraps around.
    pub pick: u32,
    /// The backends that are up, among which the picks are shared.
    pub backends: u32,
}

/// The length of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measured {
    /// The time until the response.
    Exactly(Duration),
    /// A lower bound, because the attempt ended without a response, or with one that shows an error:
    /// a backend that fails fast must not look fast.
    AtLeast(Duration),
}

/// The average response time of one backend.
#[derive(Debug, Default)]
pub struct ResponseTime {
    /// Seconds as the bits of an `f32`; 0 before the first response.
    average: AtomicU32,
    /// Responses in the average.
    responses: AtomicU32,
    /// The pick at the last record.
    recorded: AtomicU32,
}

impl ResponseTime {
    /// The average in seconds; none before the first response.
    pub fn average(&self) -> Option<f32> {
        let average = f32::from_bits(self.average.load(Relaxed));
        (average > 0.0).then_some(average)
    }

    /// The response time to expect, in seconds: the average, faded towards the pool's `mean`.
    pub(super) fn expected(&self, mean: f32, now: Moment) -> f32 {
        self.average().map_or(mean, |average| mean + (average - mean) * self.freshness(now))
    }

    /// Adds an attempt to the average. An old average counts less.
    pub(super) fn record(&self, measured: Measured, now: Moment) {
        let (average, responses) = (self.average(), self.responses.load(Relaxed));
        let seconds = |time: Duration| time.as_secs_f32().max(MIN_SECONDS);
        let seconds = match (measured, average) {
            (Measured::Exactly(time), _) => seconds(time),
            (Measured::AtLeast(time), Some(average)) => seconds(time).max(average),
            (Measured::AtLeast(_), None) => return,
        };
        let new = average.map_or(seconds, |average| {
            let step = 1.0 - (1.0 - STEP) * self.freshness(now);
            average + step * (seconds.min(average * MAX_FACTOR) - average)
        });
        self.average.store(new.to_bits(), Relaxed);
        self.responses.store(responses.saturating_add(1), Relaxed);
        self.recorded.store(now.pick, Relaxed);
    }

    /// From 1 after a record to 0 when the average has faded.
    fn freshness(&self, now: Moment) -> f32 {
        let unused = now.pick.wrapping_sub(self.recorded.load(Relaxed)) as f32;
        let responses = self.responses.load(Relaxed) as f32;
        let rounds = (1.0 + ROUNDS_PER_RESPONSE * responses).min(MAX_ROUNDS);
        (1.0 - unused / (rounds * now.backends.max(1) as f32)).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn at(pick: u32) -> Moment {
        Moment { pick, backends: 2 }
    }

    /// A backend with many responses of a time, the last one at pick 1000.
    fn steady(time: Duration) -> ResponseTime {
        let measured = ResponseTime::default();
        (0..=1000).for_each(|pick| measured.record(Measured::Exactly(time), at(pick)));
        measured
    }

    fn milliseconds(measured: &ResponseTime, now: Moment) -> f32 {
        measured.expected(0.001, now) * 1000.0
    }

    #[test]
    fn a_backend_without_responses_is_expected_to_be_as_fast_as_the_pool() {
        let measured = ResponseTime::default();
        assert_eq!((measured.average(), measured.expected(0.5, at(7))), (None, 0.5));
        measured.record(Measured::AtLeast(MS), at(8));
        assert_eq!(measured.average(), None, "a failure is no evidence of speed");
    }

    #[test]
    fn the_average_follows_a_change_of_the_response_time() {
        let measured = steady(8 * MS);
        assert!((milliseconds(&measured, at(1000)) - 8.0).abs() < 0.01);
        for time in [2 * MS, 40 * MS] {
            (1001..1100).for_each(|pick| measured.record(Measured::Exactly(time), at(pick)));
            let expected = time.as_secs_f32() * 1000.0;
            assert!((milliseconds(&measured, at(1100)) / expected - 1.0).abs() < 0.05, "{time:?}");
        }
    }

    #[test]
    fn one_long_delay_changes_the_average_little() {
        let measured = steady(MS);
        measured.record(Measured::Exactly(1000 * MS), at(1001));
        assert!(milliseconds(&measured, at(1001)) < 1.2);
    }

    #[test]
    fn an_unused_average_fades_towards_the_mean_and_one_of_few_responses_sooner() {
        let measured = steady(9 * MS);
        let ages = [0, 64, 128, 1000].map(|age| milliseconds(&measured, at(1000 + age)).round());
        assert_eq!(ages, [9.0, 5.0, 1.0, 1.0]);
        let young = ResponseTime::default();
        young.record(Measured::Exactly(9 * MS), at(0));
        assert_eq!([0, 3].map(|age| milliseconds(&young, at(age)).round()), [9.0, 1.0]);
    }

    #[test]
    fn the_first_response_after_a_long_time_replaces_the_average() {
        let measured = steady(100 * MS);
        measured.record(Measured::Exactly(MS), at(1200));
        assert!((milliseconds(&measured, at(1200)) - 1.0).abs() < 0.01);
    }

    #[test]
    fn a_failure_never_shortens_the_average_and_a_long_wait_for_nothing_extends_it() {
        let measured = steady(10 * MS);
        let before = measured.average();
        (1001..1500).for_each(|pick| measured.record(Measured::AtLeast(MS), at(pick)));
        assert_eq!(measured.average(), before);
        assert_eq!(milliseconds(&measured, at(1500)).round(), 10.0, "nor does it fade meanwhile");
        measured.record(Measured::AtLeast(100 * MS), at(1500));
        assert!(measured.average() > before);
    }

    #[test]
    fn the_number_of_the_pick_may_wrap_around() {
        let measured = ResponseTime::default();
        (0..200).for_each(|_| measured.record(Measured::Exactly(9 * MS), at(u32::MAX)));
        assert_eq!(milliseconds(&measured, at(0)).round(), 9.0);
    }
}
