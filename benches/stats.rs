//! Micro-benchmarks of statistics: recording a request, which each one pays, and queries at 300
//! backends. `cargo bench --bench stats`; see `benches/README.md`.

use divan::{Bencher, black_box};
use lb_threads::config::Config;
use lb_threads::stats::{Period, Recorder, Sample, Stats};
use lb_threads::upstream::backend::Backend;
use lb_threads::upstream::registry::Registry;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn main() {
    divan::main();
}

fn backends(count: u16) -> Vec<Arc<Backend>> {
    let address = |number: u16| SocketAddr::from(([127, 0, 0, 1], number + 1));
    let backends = (0..count).map(|number| address(number).into()).collect();
    let registry = Registry::new(&Config { backends, ..Config::default() });
    registry.statuses().into_iter().map(|status| status.backend).collect()
}

/// A response after this many microseconds, and its head half way.
fn sample(now: Instant, micros: u64) -> Sample {
    Sample {
        status: Some(200),
        reason: None,
        request_ended: Some(now),
        responded: Some(now + Duration::from_micros(micros / 2)),
        ended: now + Duration::from_micros(micros),
        queued: Duration::ZERO,
        bytes_in: 200,
        bytes_out: 1300,
    }
}

/// One request, with response times of 1 us to 2 s.
#[divan::bench(args = [1, 300])]
fn record_1000_requests(bencher: Bencher<'_, '_>, count: u16) {
    let (now, backends) = (Instant::now(), backends(count));
    let stats = Stats::new(now);
    let mut rng = fastrand::Rng::with_seed(1);
    let requests: Vec<(usize, Sample)> = (0..1000)
        .map(|_| (rng.usize(..backends.len()), sample(now, (rng.f64() * 14.5).exp() as u64)))
        .collect();
    let mut recorder = stats.recorder();
    bencher.bench_local(|| {
        for (backend, sample) in &requests {
            recorder.record(Some(&backends[*backend]), black_box(sample));
        }
    });
}

/// Statistics of two workers and 300 backends, each with requests in every bucket and slot.
struct Full {
    stats: Stats,
    backends: Vec<Arc<Backend>>,
    recorders: [Recorder; 2],
    now: Instant,
}

impl Full {
    fn new() -> Self {
        let (now, backends) = (Instant::now(), backends(300));
        let stats = Stats::new(now);
        let recorders = [stats.recorder(), stats.recorder()];
        let mut full = Self { stats, backends, recorders, now };
        for _ in 0..12 {
            full.record();
            full.now = full.stats.collect(full.now) + Duration::from_secs(7200);
        }
        full
    }

    /// A request for each worker and backend.
    fn record(&mut self) {
        for (index, backend) in self.backends.iter().enumerate() {
            for recorder in &mut self.recorders {
                recorder.record(Some(backend), &sample(self.now, index as u64 * 1000));
            }
        }
    }
}

/// All six periods, after requests to every backend.
#[divan::bench(sample_count = 50)]
fn report_of_300_backends(bencher: Bencher<'_, '_>) {
    let mut full = Full::new();
    bencher.bench_local(|| {
        full.record();
        full.stats.report(Period::ALL, full.now)
    });
}

/// All totals, after requests to every backend.
#[divan::bench(sample_count = 50)]
fn totals_of_300_backends(bencher: Bencher<'_, '_>) {
    let mut full = Full::new();
    bencher.bench_local(|| {
        full.record();
        full.stats.cumulative(full.now)
    });
}

/// The statistics thread, when no request has come.
#[divan::bench(sample_count = 50)]
fn collect_from_300_idle_backends(bencher: Bencher<'_, '_>) {
    let mut full = Full::new();
    full.stats.collect(full.now);
    bencher.bench_local(|| {
        full.now += Duration::from_secs(5);
        full.stats.collect(full.now)
    });
}
