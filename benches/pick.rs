//! Micro-benchmarks of a pick under each algorithm: the choice, and the slot taken and released.
//! `cargo bench --bench pick`; see `benches/README.md`.

use divan::Bencher;
use lb_threads::config::{Algorithm, Config};
use lb_threads::upstream::cluster::{Picked, Wanted};
use lb_threads::upstream::registry::Registry;
use lb_threads::upstream::response_time::Measured;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

const BACKENDS: [u16; 3] = [3, 30, 300];

fn main() {
    divan::main();
}

/// A pool of backends with weights from 1 to 5, each with a request in flight and a response time.
fn busy_pool(algorithm: Algorithm, count: u16) -> (Registry, Vec<Picked>) {
    let mut config = Config::default();
    (config.settings.algorithm, config.settings.health.checks) = (Algorithm::RoundRobin, false);
    config.backends =
        (1..=count).map(|port| SocketAddr::from(([127, 0, 0, 1], port)).into()).collect();
    for (backend, weight) in config.backends.iter_mut().zip((1..=5).cycle()) {
        backend.weight = weight;
    }
    let registry = Registry::new(&config);
    let slots = (0..count).map(|_| pick(&registry, 0, &mut fastrand::Rng::new())).collect();
    for (status, milliseconds) in registry.statuses().iter().zip((1..=10).cycle()) {
        let time = Measured::Exactly(Duration::from_millis(milliseconds));
        registry.cluster().record_response_time(&status.backend, time);
    }
    config.settings.algorithm = algorithm;
    registry.apply_settings(&config.settings);
    (registry, slots)
}

fn pick(registry: &Registry, client: u32, rng: &mut fastrand::Rng) -> Picked {
    let client = Ipv4Addr::from_bits(client).into();
    let wanted = Wanted { tried: &[], is_idempotent: true, client };
    // No probe is due, so the time does not matter.
    registry.cluster().pick(&wanted, Instant::now(), rng)
}

fn bench(bencher: Bencher<'_, '_>, algorithm: Algorithm, count: u16) {
    let (registry, _slots) = busy_pool(algorithm, count);
    let (mut rng, mut client) = (fastrand::Rng::with_seed(7), 0);
    bencher.bench_local(|| {
        client += 1;
        pick(&registry, client, &mut rng)
    });
}

macro_rules! benchmarks {
    ($($name:ident, $algorithm:ident;)*) => {
        $(#[divan::bench(args = BACKENDS)]
        fn $name(bencher: Bencher<'_, '_>, backends: u16) {
            bench(bencher, Algorithm::$algorithm, backends);
        })*
    };
}

benchmarks! {
    round_robin, RoundRobin;
    weighted, Weighted;
    least_conn, LeastConn;
    least_response_time, LeastResponseTime;
    random, Random;
    p2c, P2c;
    ip_hash, IpHash;
}

/// The cost of each response, under every algorithm.
#[divan::bench]
fn record_a_response_time(bencher: Bencher<'_, '_>) {
    let (registry, _slots) = busy_pool(Algorithm::RoundRobin, 3);
    let backend = &registry.statuses()[0].backend;
    let time = Measured::Exactly(divan::black_box(Duration::from_millis(3)));
    bencher.bench_local(|| registry.cluster().record_response_time(backend, time));
}

/// The cost of a new snapshot with 300 backends, of which the order of turns is the largest part.
#[divan::bench(args = [5, 1000])]
fn publish_a_weighted_cycle_of_300(bencher: Bencher<'_, '_>, most: u32) {
    let mut config = Config::default();
    (config.settings.algorithm, config.settings.health.checks) = (Algorithm::Weighted, false);
    config.backends =
        (1..=300).map(|port| SocketAddr::from(([127, 0, 0, 1], port)).into()).collect();
    for (backend, weight) in config.backends.iter_mut().zip((1..=most).cycle().step_by(7)) {
        backend.weight = weight;
    }
    let registry = Registry::new(&config);
    bencher.bench_local(|| registry.apply_settings(&config.settings));
}
