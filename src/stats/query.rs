//! The results of queries: reports by period, totals since the start. Plain values.

use super::histogram;
use super::numbers::{Event, FIRST_STATUS, Spread, Tally, Totals};
use super::period::Period;
use crate::config::DURATION_BOUNDS as BOUNDS;
use crate::upstream::backend::{Backend, BackendId};
use std::sync::Arc;
use std::time::Duration;

/// The statistics of some periods, in the order in which they were asked for.
#[derive(Clone, Debug)]
pub struct Report {
    /// Each period with its statistics.
    pub periods: Vec<(Period, PeriodStats)>,
}

/// The statistics of one period.
#[derive(Clone, Debug)]
pub struct PeriodStats {
    /// The time that the numbers cover: up to a twelfth less than the period, or the time since the
    /// start.
    pub covered: Duration,
    /// All requests, those to removed backends included.
    pub total: Summary,
    /// The requests that reached no backend: rejected before, or no backend was up.
    pub without_backend: Summary,
    /// The backends that have had a request since the start; a removed one for an hour at most.
    pub backends: Vec<(Arc<Backend>, Summary)>,
}

impl PeriodStats {
    /// The summary of a backend; all zero if it has had no request.
    pub fn of(&self, id: BackendId) -> Summary {
        let mut backends = self.backends.iter();
        backends.find(|(backend, _)| backend.id == id).map_or_else(Summary::default, |row| row.1)
    }
}

/// The numbers of one backend, or of all, in one period. Defined in `stats/sample.rs`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Summary {
    /// The number of requests.
    pub requests: u64,
    /// The share of all requests, from 0 to 1.
    pub share: f64,
    /// The number of errors.
    pub errors: u64,
    /// The errors per request, from 0 to 1.
    pub error_rate: f64,
    /// The requests per second of the covered time.
    pub requests_per_second: f64,
    /// The number of bytes from clients.
    pub bytes_in: u64,
    /// The number of bytes to clients.
    pub bytes_out: u64,
    /// The response times; none if no request has one.
    pub response_time: Option<ResponseTimes>,
}

/// The response times of a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseTimes {
    /// The average, exact.
    pub avg: Duration,
    /// The median, within 3 %, as the other percentiles.
    pub p50: Duration,
    /// The 95th percentile.
    pub p95: Duration,
    /// The 99th percentile.
    pub p99: Duration,
    /// The maximum: exact if it was the longest until then, else within 3 %.
    pub max: Duration,
}

impl Summary {
    /// The summary of these numbers; `all` is the number of all requests in the covered time.
    pub(super) fn new(
        (tally, max): (&Tally<u64, u64>, Duration),
        all: u64,
        covered: Duration,
    ) -> Self {
        let per = |count: u64, of: f64| if of > 0.0 { count as f64 / of } else { 0.0 };
        Self {
            requests: tally.requests,
            share: per(tally.requests, all as f64).min(1.0),
            errors: tally.errors,
            error_rate: per(tally.errors, tally.requests as f64).min(1.0),
            requests_per_second: per(tally.requests, covered.as_secs_f64()),
            bytes_in: tally.bytes_in,
            bytes_out: tally.bytes_out,
            response_time: ResponseTimes::new(tally, max),
        }
    }
}

impl ResponseTimes {
    fn new(tally: &Tally<u64, u64>, max: Duration) -> Option<Self> {
        let percentiles = histogram::percentiles(&tally.histogram, [50, 95, 99])?;
        let count: u64 = tally.histogram.iter().sum();
        // The representative of the maximum's bucket may be above it.
        let [p50, p95, p99] = percentiles.map(|percentile| percentile.min(max));
        Some(Self { avg: Duration::from_nanos(tally.time / count), p50, p95, p99, max })
    }
}

/// The numbers since the start, which never fall, for `/metrics`.
#[derive(Clone, Debug)]
pub struct Cumulative {
    /// All requests, those to removed backends included.
    pub total: BackendTotals,
    /// The requests that reached no backend.
    pub without_backend: BackendTotals,
    /// The backends that have had a request, and the members that statistics know of, each with the
    /// numbers of its name; a removed one for an hour at most.
    pub backends: Vec<(Arc<Backend>, BackendTotals)>,
}

/// The numbers of one name of a backend: since it was first added, if it was added again.
#[derive(Clone, Debug, Default)]
pub struct BackendTotals {
    /// The number of requests, those without a status included.
    pub requests: u64,
    /// The number of errors.
    pub errors: u64,
    /// The number of bytes from clients.
    pub bytes_in: u64,
    /// The number of bytes to clients.
    pub bytes_out: u64,
    /// The status codes that have occurred, ascending, each with its number of requests.
    pub by_status: Vec<(u16, u64)>,
    /// The number of requests without a status: the client went away before.
    pub without_status: u64,
    /// The response times.
    pub response_time: Distribution,
    /// The times to the first byte.
    pub first_byte: Distribution,
    /// The times in the queue, of requests that were queued.
    pub queue_wait: Distribution,
    /// The connects that were begun.
    pub connects: u64,
    /// The connects that were rejected, or failed otherwise, before their timeout.
    pub connects_failed: u64,
    /// The connects that timed out.
    pub connects_timed_out: u64,
    /// The attempts on an idle connection.
    pub reuses: u64,
    /// The attempts on an idle connection that ended before a byte of the response.
    pub stale_reuses: u64,
}

/// Durations by bucket, in Prometheus' form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    /// The number of durations up to each of [`Distribution::BOUNDS`], inclusive; they ascend.
    pub buckets: [u64; BOUNDS.len()],
    /// The number of all durations.
    pub count: u64,
    /// Their sum.
    pub sum: Duration,
}

impl Distribution {
    /// The upper bounds of the buckets, in microseconds.
    pub const BOUNDS: [u64; BOUNDS.len()] = BOUNDS;

    /// The distribution of these counts, which are not cumulative, and this sum in nanoseconds.
    pub fn new(counts: &[u64; BOUNDS.len() + 1], nanos: u64) -> Self {
        let mut below = 0;
        let buckets = std::array::from_fn(|index| {
            below += counts[index];
            below
        });
        let count = below + counts[BOUNDS.len()];
        Self { buckets, count, sum: Duration::from_nanos(nanos) }
    }
}

impl From<&Spread<u64, u64>> for Distribution {
    fn from(spread: &Spread<u64, u64>) -> Self {
        Self::new(&spread.counts, spread.sum)
    }
}

impl From<&Totals> for BackendTotals {
    fn from(totals: &Totals) -> Self {
        let statuses = (FIRST_STATUS..).zip(totals.statuses);
        let event = |event: Event| totals.events[event as usize];
        Self {
            requests: totals.tally.requests,
            errors: totals.tally.errors,
            bytes_in: totals.tally.bytes_in,
            bytes_out: totals.tally.bytes_out,
            without_status: totals.without_status,
            by_status: statuses.filter(|(_, count)| *count > 0).collect(),
            response_time: Distribution::new(&totals.response_time, totals.tally.time),
            first_byte: Distribution::from(&totals.first_byte),
            queue_wait: Distribution::from(&totals.queue_wait),
            connects: event(Event::Connect),
            connects_failed: event(Event::ConnectFailed),
            connects_timed_out: event(Event::ConnectTimedOut),
            reuses: event(Event::Reuse),
            stale_reuses: event(Event::StaleReuse),
        }
    }
}
