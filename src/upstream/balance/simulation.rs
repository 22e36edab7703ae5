//! `least_response_time` with a virtual clock: clients that each send one request after the other,
//! to backends with given response times.

use super::shares::{Draw, counts};
use crate::config::Algorithm;
use crate::upstream::backend::Slot;
use crate::upstream::response_time::Measured;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);

/// The backend of each of `count` requests, from this many clients at once. `time`: the response
/// time of a backend, and which of its requests that is.
fn simulate(
    mut draw: Draw,
    clients: usize,
    count: usize,
    mut time: impl FnMut(usize, usize) -> Duration,
) -> Vec<usize> {
    let (mut chosen, mut sent) = (Vec::new(), vec![0; draw.up.len()]);
    let mut slots: Vec<Option<Slot>> = Vec::new();
    // The requests in flight: when each is over, its number, and its response time.
    let mut in_flight = BinaryHeap::new();
    let mut now = Duration::ZERO;
    while chosen.len() < count {
        if in_flight.len() == clients {
            let Reverse((at, number, taken)) = in_flight.pop().expect("there are clients");
            now = at;
            slots[number] = None;
            let backend: usize = chosen[number];
            draw.up[backend].response_time.record(Measured::Exactly(taken), draw.moment());
        }
        let number = chosen.len();
        let backend = draw.next(0).expect("all are usable");
        slots.push(Slot::take(&draw.up[backend]));
        chosen.push(backend);
        let taken = time(backend, sent[backend]);
        sent[backend] += 1;
        in_flight.push(Reverse((now + taken, number, taken)));
    }
    chosen
}

fn equal_backends(count: usize, seed: u64) -> Draw {
    Draw::new(Algorithm::LeastResponseTime, &vec![1; count]).seeded(seed)
}

/// More clients or a slower backend would make its ten responses a large part of the whole run.
#[test]
fn equal_backends_of_which_one_was_slow_for_ten_responses_end_with_even_shares() {
    let cases = [(2, 1, 10), (2, 1, 1000), (3, 1, 10), (3, 1, 1000), (3, 8, 10), (5, 16, 10)];
    for (backends, clients, factor) in cases {
        for seed in 0..20 {
            let slow = |backend, number| {
                if backend == 0 && number < 10 { factor * MS } else { MS }
            };
            let chosen = simulate(equal_backends(backends, seed), clients, 1500, slow);
            let (shares, even) = (counts(&chosen, backends), 1500 / backends);
            let are_even = shares.iter().all(|share| share.abs_diff(even) * 5 <= even);
            assert!(are_even, "{clients} clients, {factor} times, seed {seed}: {shares:?}");
        }
    }
}

#[test]
fn a_backend_that_was_slow_for_long_comes_back() {
    let slow = |backend, number| if backend == 0 && number < 300 { 50 * MS } else { MS };
    let chosen = simulate(equal_backends(3, 7), 8, 60_000, slow);
    let last = counts(&chosen[50_000..], 3);
    assert!(last.iter().all(|share| share.abs_diff(3333) < 400), "{last:?}");
}

#[test]
fn a_slow_backend_gets_few_requests_and_never_none() {
    let time = |backend, _| if backend == 0 { 100 * MS } else { MS };
    let chosen = simulate(equal_backends(3, 7), 8, 10_000, time);
    for window in chosen[5000..].chunks(1000) {
        let share = counts(window, 3)[0];
        assert!((1..30).contains(&share), "{share} of 1000");
    }
}

#[test]
fn delays_at_random_leave_the_shares_even() {
    for seed in 0..20 {
        let mut rng = fastrand::Rng::with_seed(100 + seed);
        // A response takes 1 ms in the mean, exponentially distributed, and one of 50 takes 30 ms.
        let time = move |_, _| {
            let delayed = rng.u8(0..50) == 0;
            let usual = MS.mul_f64(-(1.0 - rng.f64()).ln());
            if delayed { 30 * MS } else { usual }
        };
        let shares = counts(&simulate(equal_backends(3, seed), 4, 3000, time), 3);
        assert!(shares.iter().all(|share| share.abs_diff(1000) < 120), "{seed}: {shares:?}");
    }
}
