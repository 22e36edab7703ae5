//! Collection and windows in virtual time, beside a list of all requests.

mod added_again;

use super::collector::{MAX_REMOVED, Row};
use super::numbers::Tally;
use super::record::Record;
use super::windows::{SLOTS, WINDOWS, Window};
use super::*;
use crate::config::Config;
use crate::reason::Reason;
use crate::upstream::backend::Backend;
use crate::upstream::registry::Registry;
use std::net::SocketAddr;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// One request in the list.
#[derive(Clone, Copy, Debug)]
struct Request {
    at: Instant,
    /// The index of its backend.
    backend: Option<usize>,
    status: u16,
    micros: u64,
    bytes: (u64, u64),
    is_truncated: bool,
}

impl Request {
    fn random(at: Instant, backend: Option<usize>, rng: &mut fastrand::Rng) -> Self {
        Self {
            at,
            backend,
            status: [200, 200, 200, 304, 404, 500, 503][rng.usize(..7)],
            micros: (rng.f64() * 22.0).exp() as u64,
            bytes: (rng.u64(..5000), rng.u64(..1_000_000)),
            is_truncated: rng.u8(..20) == 0,
        }
    }

    fn sample(&self) -> Sample {
        Sample {
            status: Some(self.status),
            reason: self.is_truncated.then_some(Reason::ResponseTruncated),
            request_ended: Some(self.at),
            responded: (self.status != 503).then_some(self.at),
            ended: self.at + Duration::from_micros(self.micros),
            queued: Duration::ZERO,
            bytes_in: self.bytes.0,
            bytes_out: self.bytes.1,
        }
    }
}

/// Statistics of two workers, their backends, and the list.
struct Walk {
    stats: Stats,
    recorders: [Recorder; 2],
    registry: Registry,
    backends: Vec<Arc<Backend>>,
    list: Vec<Request>,
    start: Instant,
    rng: fastrand::Rng,
}

impl Walk {
    fn new(count: u16) -> Self {
        let start = Instant::now();
        let address = |number: u16| SocketAddr::from(([127, 0, 0, 1], number + 1));
        let backends = (0..count).map(|number| address(number).into()).collect();
        let registry = Registry::new(&Config { backends, ..Config::default() });
        let backends = registry.statuses().into_iter().map(|status| status.backend).collect();
        let stats = Stats::new(start);
        let recorders = [stats.recorder(), stats.recorder()];
        let rng = fastrand::Rng::with_seed(12);
        Self { stats, recorders, registry, backends, list: Vec::new(), start, rng }
    }

    fn record(&mut self, request: Request) {
        let backend = request.backend.map(|index| &self.backends[index]);
        self.recorders[self.rng.usize(..2)].record(backend, &request.sample());
        self.list.push(request);
    }

    /// Records requests at random times up to `until`.
    fn record_some(&mut self, since: Instant, until: Instant, backends: &[Option<usize>]) {
        let count = if self.rng.u8(..8) == 0 { self.rng.usize(..4) } else { 0 };
        let span = (until - since).as_nanos() as u64;
        let mut times: Vec<u64> = (0..count).map(|_| self.rng.u64(1..span)).collect();
        times.sort_unstable();
        for nanos in times {
            let backend = backends[self.rng.usize(..backends.len())];
            let at = since + Duration::from_nanos(nanos);
            let request = Request::random(at, backend, &mut self.rng);
            self.record(request);
        }
    }

    /// Compares every period with the list.
    fn check(&self, now: Instant) {
        for (period, shown) in self.stats.report(Period::ALL, now).periods {
            let uptime = now - self.start;
            let bounds = period.length().map_or((uptime, uptime), |length| {
                let slot = length / SLOTS as u32;
                ((length - slot).min(uptime), length.min(uptime) + SECOND / 10)
            });
            assert!(
                bounds.0 <= shown.covered && shown.covered <= bounds.1,
                "{period:?} covers {:?} after {uptime:?}",
                shown.covered
            );
            let begin = now - shown.covered;
            let first = self.list.partition_point(|request| request.at <= begin);
            let counted = &self.list[first..];
            let of = |backend| counted.iter().filter(move |request| request.backend == backend);
            let context = (period, uptime);
            check_summary(&shown.total, counted.iter(), (counted.len(), shown.covered), context);
            let without = &shown.without_backend;
            check_summary(without, of(None), (counted.len(), shown.covered), context);
            for (backend, summary) in &shown.backends {
                let index = self.backends.iter().position(|one| one.id == backend.id);
                check_summary(summary, of(index), (counted.len(), shown.covered), context);
            }
        }
    }
}

/// Compares a summary with these requests.
fn check_summary<'r>(
    shown: &Summary,
    requests: impl Iterator<Item = &'r Request>,
    (all, covered): (usize, Duration),
    context: (Period, Duration),
) {
    let (mut count, mut errors, mut bytes, mut times) = (0, 0, (0, 0), Vec::new());
    for request in requests {
        count += 1;
        errors += u64::from(request.status >= 500 || request.is_truncated);
        bytes = (bytes.0 + request.bytes.0, bytes.1 + request.bytes.1);
        if !request.is_truncated {
            times.push(request.micros);
        }
    }
    let exact = (shown.requests, shown.errors, shown.bytes_in, shown.bytes_out);
    assert_eq!(exact, (count, errors, bytes.0, bytes.1), "{context:?}");
    let near = |shown: f64, exact: f64| (shown - exact).abs() <= exact * 1e-9;
    assert!(near(shown.share, count as f64 / all.max(1) as f64), "{context:?}: {shown:?}");
    assert!(near(shown.error_rate, errors as f64 / count.max(1) as f64), "{context:?}");
    assert!(near(shown.requests_per_second * covered.as_secs_f64(), count as f64), "{context:?}");
    let Some(response_time) = shown.response_time else {
        return assert!(times.is_empty(), "{context:?}");
    };
    let avg = times.iter().sum::<u64>() as f64 / times.len() as f64;
    let shown = response_time;
    assert!((shown.avg.as_nanos() as f64 - avg * 1e3).abs() < 2.0, "{context:?}: {shown:?}");
    for (percent, shown) in [(50, shown.p50), (95, shown.p95), (99, shown.p99), (100, shown.max)] {
        let rank = (times.len() * percent).div_ceil(100) - 1;
        let exact = *times.select_nth_unstable(rank).1 as f64;
        let error = (shown.as_secs_f64() * 1e6 - exact).abs();
        assert!(error <= exact * 0.03, "{context:?}: p{percent} of {exact} us is {shown:?}");
    }
}

#[test]
fn every_window_matches_the_list_of_requests_through_25_hours() {
    let mut walk = Walk::new(4);
    let (mut now, mut due) = (walk.start, walk.stats.collect(walk.start));
    let mut checked_at = now;
    while now < walk.start + 25 * HOUR {
        let uptime = now - walk.start;
        // The fourth backend has its first request after two hours, and the third is removed after
        // ten; a response on its way at that time is counted later.
        let backends = match uptime.as_secs() / 3600 {
            0..2 => &[None, Some(0), Some(1), Some(2)][..],
            2..10 => &[None, Some(0), Some(1), Some(2), Some(3)],
            _ => &[None, Some(0), Some(1), Some(3)],
        };
        if uptime >= 10 * HOUR {
            walk.registry.remove(walk.backends[2].id);
        }
        let next = due + Duration::from_micros(walk.rng.u64(..500));
        walk.record_some(now, next, backends);
        now = next;
        due = walk.stats.collect(now);
        if now - checked_at >= 75 * SECOND {
            // Also within a slot.
            let later = now + (due - now) / 2;
            let at = if walk.rng.bool() { now } else { later };
            walk.check(at);
            (now, checked_at) = (later, now);
        }
    }
    let all = walk.stats.cumulative(now);
    assert!(walk.list.len() > 2000 && all.total.requests == walk.list.len() as u64);
    assert_eq!(all.backends.len(), 3, "the removed one is gone after an hour");
}

/// A request that took a millisecond.
fn request(walk: &Walk, backend: usize) -> Request {
    let at = walk.start;
    let (status, micros, bytes) = (200, 1000, (10, 100));
    Request { at, backend: Some(backend), status, micros, bytes, is_truncated: false }
}

fn rows(walk: &Walk, now: Instant) -> Vec<(u32, u64)> {
    let backends = walk.stats.cumulative(now).backends;
    backends.iter().map(|(backend, totals)| (backend.id.0, totals.requests)).collect()
}

#[test]
fn a_removed_backend_keeps_its_row_for_an_hour_and_its_numbers_stay_in_the_totals() {
    let mut walk = Walk::new(2);
    for backend in [0, 0, 1] {
        walk.record(request(&walk, backend));
    }
    let removed_at = walk.start + SECOND;
    walk.registry.remove(walk.backends[0].id);
    walk.stats.collect(removed_at);
    assert_eq!(rows(&walk, removed_at + HOUR - SECOND), [(0, 2), (1, 1)]);
    let later = removed_at + HOUR;
    walk.stats.collect(later);
    assert_eq!(rows(&walk, later), [(1, 1)]);
    // A response that was on its way for longer.
    walk.record(request(&walk, 0));
    let stats = walk.stats.report(&[Period::All, Period::FiveMinutes], later);
    let requests = stats.periods.iter().map(|(_, stats)| stats.total.requests);
    assert_eq!(requests.collect::<Vec<_>>(), [4, 1]);
    assert_eq!(stats.periods[0].1.total.share, 1.0);
    assert_eq!(rows(&walk, later), [(1, 1)]);
}

#[test]
fn a_hidden_row_lives_until_no_worker_has_its_record() {
    let mut walk = Walk::new(2);
    walk.recorders[0].record(Some(&walk.backends[0]), &request(&walk, 0).sample());
    walk.registry.remove(walk.backends[0].id);
    walk.stats.collect(walk.start);
    walk.stats.collect(walk.start + HOUR);
    let count = || Arc::strong_count(&walk.backends[0]);
    let before = count();
    // The first request to another backend: the worker looks through its records.
    walk.recorders[0].record(Some(&walk.backends[0]), &request(&walk, 0).sample());
    walk.recorders[0].record(Some(&walk.backends[1]), &request(&walk, 1).sample());
    assert_eq!(walk.stats.cumulative(walk.start + HOUR).total.requests, 3);
    assert_eq!(count(), before - 2, "record and row are gone");
}

#[test]
fn of_many_removed_backends_the_last_ones_keep_their_rows() {
    let count = MAX_REMOVED as u16 + 3;
    let mut walk = Walk::new(count);
    for backend in 0..usize::from(count) {
        walk.record(request(&walk, backend));
        walk.stats.collect(walk.start);
        walk.registry.remove(walk.backends[backend].id);
        walk.stats.collect(walk.start + backend as u32 * SECOND);
    }
    let shown = rows(&walk, walk.start + 60 * SECOND);
    assert_eq!((shown.len(), shown[0].0), (MAX_REMOVED, 3));
}

#[test]
fn the_share_of_a_backend_is_that_of_the_last_minute() {
    let mut walk = Walk::new(2);
    let share = |walk: &Walk, at: Duration| {
        let shares = walk.stats.shares(walk.start + at);
        shares.iter().map(|(id, share)| (id.0, *share)).collect::<Vec<_>>()
    };
    walk.record(request(&walk, 0));
    assert_eq!(share(&walk, SECOND), [(0, 1.0)]);
    for step in 1..=11 {
        walk.stats.collect(walk.start + 5 * step * SECOND);
    }
    for _ in 0..3 {
        walk.record(request(&walk, 1));
    }
    assert_eq!(share(&walk, 59 * SECOND), [(0, 0.25), (1, 0.75)]);
    assert_eq!(share(&walk, 60 * SECOND), [(0, 0.0), (1, 1.0)]);
    assert_eq!(share(&walk, 1000 * SECOND), [(0, 0.0), (1, 0.0)], "after a pause");
}

#[test]
fn totals_have_status_codes_and_buckets_that_add_up() {
    let mut walk = Walk::new(1);
    for (status, micros) in [(200, 1000), (200, 1001), (503, 20_000_000)] {
        walk.record(Request { status, micros, ..request(&walk, 0) });
    }
    let backend = Arc::clone(&walk.backends[0]);
    for event in [Event::Connect, Event::ConnectTimedOut, Event::Connect, Event::Reuse] {
        walk.recorders[0].count(&backend, event);
    }
    let totals = &walk.stats.cumulative(walk.start).backends[0].1;
    assert_eq!(totals.by_status, [(200, 2), (503, 1)]);
    let times = totals.response_time;
    let sum = Duration::from_micros(20_002_001);
    assert_eq!((times.buckets[0], times.buckets[1], times.buckets[12]), (1, 2, 2));
    assert_eq!((times.count, times.sum), (3, sum));
    assert_eq!((totals.first_byte.count, totals.queue_wait.count), (2, 0));
    let events = (totals.connects, totals.connects_failed, totals.connects_timed_out);
    assert_eq!((events, totals.reuses, totals.stale_reuses), ((2, 0, 1), 1, 0));
}

/// The most bytes that a backend takes, besides those of the records of workers.
const PER_BACKEND: usize = size_of::<Row>()
    + WINDOWS * (size_of::<Window>() + SLOTS * size_of::<Tally<u32, u64>>())
    + ALLOCATIONS * OVERHEAD;
/// The allocations of a row: itself, windows, slots, records.
const ALLOCATIONS: usize = 3 + WINDOWS * SLOTS;
/// The bytes that the allocator adds to each, at most.
const OVERHEAD: usize = 16;
/// The bytes of a worker's record, in the tables of the worker and of the row: both double.
const PER_RECORD: usize = size_of::<Record>() + OVERHEAD + 2 * 2 * 24;

#[test]
fn memory_is_within_64_mib_at_300_backends_if_every_bucket_is_used() {
    let documented = [119_040, 21_080, 8_510, 4_250];
    let sizes = [
        WINDOWS * SLOTS * size_of::<Tally<u32, u64>>(),
        WINDOWS * size_of::<Window>(),
        size_of::<Row>(),
        size_of::<Record>(),
    ];
    for (documented, size) in documented.iter().zip(sizes) {
        assert!(size.abs_diff(*documented) * 100 < size, "{size}, not {documented}");
    }
    let rows = 300 + MAX_REMOVED + 2;
    let all = rows * (PER_BACKEND + 8 * PER_RECORD);
    assert!(all <= 60 << 20, "{all} bytes");
}
