//! The numbers that are counted per backend, in three forms: as atomics of the worker that counts,
//! as sums of several workers ([`Read`]), and as totals ([`Totals`]).
//!
//! `S` is the type of the many small numbers, `L` that of the few large ones. Plain data. The counts
//! of histograms and of status codes have 32 bits in a worker and wrap: their differences between
//! two reads are exact, as long as fewer than 2^32 requests come between.

use super::histogram::{self, BUCKETS};
use super::sample::Sample;
use crate::config::DURATION_BOUNDS as BOUNDS;
use std::time::Duration;

/// The lowest and the number of status codes.
pub const FIRST_STATUS: u16 = 100;
const STATUSES: usize = 500;

/// An event of an attempt, counted when it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A connect was begun.
    Connect,
    /// A connect failed.
    ConnectFailed,
    /// A connect timed out.
    ConnectTimedOut,
    /// An idle connection was reused.
    Reuse,
    /// A reused connection had ended before a byte of the response.
    StaleReuse,
}

/// The number of events.
const EVENTS: usize = Event::StaleReuse as usize + 1;

/// The numbers of reports by period.
#[derive(Debug)]
pub struct Tally<S, L> {
    pub requests: L,
    pub errors: L,
    pub bytes_in: L,
    pub bytes_out: L,
    /// The sum of response times, in nanoseconds.
    pub time: L,
    /// Response times by [`histogram::bucket`].
    pub histogram: [S; BUCKETS],
}

/// Durations counted by [`BOUNDS`].
#[derive(Debug)]
pub struct Spread<S, L> {
    /// Not cumulative; the last one is above every bound.
    pub counts: [S; BOUNDS.len() + 1],
    /// In nanoseconds.
    pub sum: L,
}

/// All numbers of one backend.
#[derive(Debug)]
pub struct Numbers<S, L> {
    pub tally: Tally<S, L>,
    /// Requests by status code, from [`FIRST_STATUS`] on.
    pub statuses: [S; STATUSES],
    /// Requests without a status: the client went away before.
    pub without_status: L,
    /// Response times by [`BOUNDS`]; their sum is in the tally.
    pub response_time: [S; BOUNDS.len() + 1],
    pub first_byte: Spread<S, L>,
    pub queue_wait: Spread<S, L>,
    pub events: [L; EVENTS],
}

/// The sum of what workers have counted, as they have it.
pub type Read = Numbers<u32, u64>;
/// The numbers since a beginning.
pub type Totals = Numbers<u64, u64>;

fn zeros<T: Default, const N: usize>() -> [T; N] {
    std::array::from_fn(|_| T::default())
}

impl<S: Default, L: Default> Default for Tally<S, L> {
    fn default() -> Self {
        Self {
            requests: L::default(),
            errors: L::default(),
            bytes_in: L::default(),
            bytes_out: L::default(),
            time: L::default(),
            histogram: zeros(),
        }
    }
}

impl<S: Default, L: Default> Default for Spread<S, L> {
    fn default() -> Self {
        Self { counts: zeros(), sum: L::default() }
    }
}

impl<S: Default, L: Default> Default for Numbers<S, L> {
    fn default() -> Self {
        Self {
            tally: Tally::default(),
            statuses: zeros(),
            without_status: L::default(),
            response_time: zeros(),
            first_byte: Spread::default(),
            queue_wait: Spread::default(),
            events: zeros(),
        }
    }
}

fn merge_all<A, B>(to: &mut [A], from: &[B], merge: impl Fn(&mut A, &B)) {
    to.iter_mut().zip(from).for_each(|(to, from)| merge(to, from));
}

impl<S, L> Tally<S, L> {
    /// Applies the functions to each pair of numbers.
    pub fn merge<T, M>(
        &mut self,
        from: &Tally<T, M>,
        small: impl Fn(&mut S, &T),
        large: impl Fn(&mut L, &M),
    ) {
        large(&mut self.requests, &from.requests);
        large(&mut self.errors, &from.errors);
        large(&mut self.bytes_in, &from.bytes_in);
        large(&mut self.bytes_out, &from.bytes_out);
        large(&mut self.time, &from.time);
        merge_all(&mut self.histogram, &from.histogram, small);
    }
}

impl<S, L> Spread<S, L> {
    fn merge<T, M>(
        &mut self,
        from: &Spread<T, M>,
        small: impl Fn(&mut S, &T),
        large: impl Fn(&mut L, &M),
    ) {
        large(&mut self.sum, &from.sum);
        merge_all(&mut self.counts, &from.counts, small);
    }
}

impl<S, L> Numbers<S, L> {
    /// Applies the functions to each pair of numbers.
    pub fn merge<T, M>(
        &mut self,
        from: &Numbers<T, M>,
        small: impl Fn(&mut S, &T) + Copy,
        large: impl Fn(&mut L, &M) + Copy,
    ) {
        self.tally.merge(&from.tally, small, large);
        merge_all(&mut self.statuses, &from.statuses, small);
        large(&mut self.without_status, &from.without_status);
        merge_all(&mut self.response_time, &from.response_time, small);
        self.first_byte.merge(&from.first_byte, small, large);
        self.queue_wait.merge(&from.queue_wait, small, large);
        merge_all(&mut self.events, &from.events, large);
    }
}

impl Read {
    /// Adds these numbers, as wrapping ones.
    pub fn add(&mut self, more: &Self) {
        self.merge(
            more,
            |sum, more| *sum = sum.wrapping_add(*more),
            |sum, more| *sum = sum.wrapping_add(*more),
        );
    }
}

impl Totals {
    /// Adds these numbers.
    pub fn add(&mut self, more: &Self) {
        let add = |sum: &mut u64, more: &u64| *sum += more;
        self.merge(more, add, add);
    }

    /// Sets these to `read` less `earlier`, the totals of everything that was read before.
    pub fn set_difference(&mut self, read: &Read, earlier: &Self) {
        self.merge(read, |to, from| *to = u64::from(*from), |to, from| *to = *from);
        let subtract_small =
            |to: &mut u64, from: &u64| *to = u64::from((*to as u32).wrapping_sub(*from as u32));
        let subtract = |to: &mut u64, from: &u64| *to = to.wrapping_sub(*from);
        self.merge(earlier, subtract_small, subtract);
    }
}

/// A number of a worker's record, to which only that worker adds.
pub trait Cell: Default {
    /// Adds to it.
    fn add(&self, amount: u64);
}

impl<S: Cell, L: Cell> Spread<S, L> {
    fn record(&self, duration: Duration) {
        let (nanos, micros) = nanos_and_micros(duration);
        self.sum.add(nanos);
        self.counts[bound(micros)].add(1);
    }
}

impl<S: Cell, L: Cell> Numbers<S, L> {
    /// Counts an exchange. Returns its response time in nanoseconds, if it has one.
    pub fn record(&self, sample: &Sample) -> Option<u64> {
        let tally = &self.tally;
        tally.requests.add(1);
        tally.errors.add(u64::from(sample.is_error()));
        tally.bytes_in.add(sample.bytes_in);
        tally.bytes_out.add(sample.bytes_out);
        let status = sample.status.and_then(|status| status.checked_sub(FIRST_STATUS));
        match status.and_then(|index| self.statuses.get(usize::from(index))) {
            Some(count) => count.add(1),
            None => self.without_status.add(1),
        }
        if let Some(duration) = sample.first_byte() {
            self.first_byte.record(duration);
        }
        if !sample.queued.is_zero() {
            self.queue_wait.record(sample.queued);
        }
        let (nanos, micros) = sample.response_time().map(nanos_and_micros)?;
        tally.time.add(nanos);
        tally.histogram[histogram::bucket(micros)].add(1);
        self.response_time[bound(micros)].add(1);
        Some(nanos)
    }
}

/// The index of the first bound that is not below a duration.
fn bound(micros: u64) -> usize {
    BOUNDS.partition_point(|bound| *bound < micros)
}

/// A duration in nanoseconds, and in microseconds rounded up, so that it is above a bound of whole
/// microseconds exactly if it is longer.
fn nanos_and_micros(duration: Duration) -> (u64, u64) {
    let nanos = duration.as_secs().saturating_mul(1_000_000_000);
    let nanos = nanos.saturating_add(u64::from(duration.subsec_nanos()));
    (nanos, nanos.div_ceil(1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Cell for std::cell::Cell<u64> {
        fn add(&self, amount: u64) {
            self.set(self.get() + amount);
        }
    }

    #[test]
    fn a_bound_is_inclusive_to_the_nanosecond() {
        let spread = Spread::<std::cell::Cell<u64>, std::cell::Cell<u64>>::default();
        for (index, bound) in BOUNDS.into_iter().enumerate() {
            let bound = Duration::from_micros(bound);
            spread.record(bound);
            assert_eq!(spread.counts[index].get(), 1 + u64::from(index > 0), "{bound:?}");
            spread.record(bound + Duration::from_nanos(1));
            assert_eq!(spread.counts[index + 1].get(), 1, "{bound:?}");
        }
    }

    #[test]
    fn differences_are_exact_when_small_counts_wrap() {
        let (mut earlier, mut read) = (Totals::default(), Read::default());
        earlier.statuses[0] = (7 << 32) + u64::from(u32::MAX);
        (earlier.tally.requests, read.tally.requests) = (10, 13);
        read.statuses[0] = 2;
        let mut change = Totals::default();
        change.set_difference(&read, &earlier);
        assert_eq!((change.statuses[0], change.tally.requests), (3, 3));
        earlier.add(&change);
        assert_eq!(earlier.statuses[0] as u32, 2);
    }
}
