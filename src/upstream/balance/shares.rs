//! Properties of the algorithms: shares, orders, exclusions.

use super::choice::load;
use super::{Choice, functions};
use crate::config::{Algorithm, BackendSpec};
use crate::upstream::backend::{Backend, BackendId, Slot};
use crate::upstream::response_time::{Measured, Moment};
use fastrand::Rng;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// A backend of this weight, at a port of its own.
fn backend(id: u32, weight: u32) -> Arc<Backend> {
    let address = SocketAddr::from(([127, 0, 0, 1], 8000 + id as u16));
    let spec = BackendSpec { weight, ..address.into() };
    let queue = Arc::new(crate::upstream::queue::PendingQueue::default());
    Arc::new(Backend::new(BackendId(id), &spec, queue))
}

/// A series of choices among the backends that are not excluded.
pub(super) struct Draw {
    algorithm: Algorithm,
    pub(super) up: Vec<Arc<Backend>>,
    cycle: Box<[u32]>,
    excluded: BTreeSet<u32>,
    turn: usize,
    rng: Rng,
}

impl Draw {
    pub(super) fn new(algorithm: Algorithm, weights: &[u32]) -> Self {
        let up = (0..).zip(weights).map(|(id, weight)| backend(id, *weight)).collect();
        let excluded = BTreeSet::new();
        let mut draw = Self {
            algorithm,
            up,
            cycle: Box::default(),
            excluded,
            turn: 0,
            rng: Rng::with_seed(7),
        };
        draw.publish();
        draw
    }

    /// The seed of the random choices.
    pub(super) fn seeded(self, seed: u64) -> Self {
        Self { rng: Rng::with_seed(seed), ..self }
    }

    /// Makes the cycle, as a new snapshot does.
    fn publish(&mut self) {
        self.cycle = (functions(self.algorithm).cycle)(&self.up);
    }

    /// The choice for the request of a client.
    fn next_of(&mut self, client: IpAddr) -> Option<usize> {
        let excluded = &self.excluded;
        let choice = Choice {
            up: &self.up,
            cycle: &self.cycle,
            turn: self.turn,
            client,
            usable: &|backend| !excluded.contains(&backend.id.0),
        };
        self.turn = self.turn.wrapping_add(1);
        (functions(self.algorithm).choose)(&choice, &mut self.rng)
    }

    /// The choice for the request of a client with this number.
    pub(super) fn next(&mut self, client: u32) -> Option<usize> {
        self.next_of(IpAddr::V4(Ipv4Addr::from_bits(client)))
    }

    /// The choices for the next requests, of different clients.
    fn take(&mut self, count: u32) -> Vec<usize> {
        (0..count).filter_map(|client| self.next(client)).collect()
    }

    /// The time as picks count it.
    pub(super) fn moment(&self) -> Moment {
        Moment { pick: self.turn as u32, backends: self.up.len() as u32 }
    }
}

/// The number of requests for each backend, of `count` requests from different clients.
fn shares(algorithm: Algorithm, weights: &[u32], count: u32) -> Vec<usize> {
    counts(&Draw::new(algorithm, weights).take(count), weights.len())
}

pub(super) fn counts(chosen: &[usize], backends: usize) -> Vec<usize> {
    (0..backends).map(|one| chosen.iter().filter(|index| **index == one).count()).collect()
}

/// Sets of weights from 1 to `most`.
fn weights(most: u32) -> impl Iterator<Item = Vec<u32>> {
    let mut rng = Rng::with_seed(11);
    (0..50).map(move |_| (0..rng.usize(1..12)).map(|_| rng.u32(1..=most)).collect())
}

#[test]
fn round_robin_gives_each_backend_the_same_share_of_each_cycle_in_order() {
    for count in 1..9_usize {
        let chosen = Draw::new(Algorithm::RoundRobin, &vec![1; count]).take(40);
        let expected: Vec<usize> = (0..40).map(|turn| turn % count).collect();
        assert_eq!(chosen, expected);
    }
    let shares = shares(Algorithm::RoundRobin, &[1, 5, 1], 300);
    assert_eq!(shares, [100, 100, 100], "weights do not matter");
}

#[test]
fn weighted_shares_are_exact_over_each_cycle_wherever_it_begins() {
    for weights in weights(30) {
        let cycle: u32 = weights.iter().sum();
        let chosen = Draw::new(Algorithm::Weighted, &weights).take(3 * cycle);
        let expected: Vec<usize> = weights.iter().map(|weight| *weight as usize).collect();
        for window in chosen.windows(cycle as usize) {
            assert_eq!(counts(window, weights.len()), expected);
        }
    }
}

#[test]
fn weighted_turns_are_interleaved() {
    let chosen = Draw::new(Algorithm::Weighted, &[5, 1, 1]).take(700);
    assert_eq!(chosen[..7], [0, 0, 1, 0, 2, 0, 0]);
    assert!(chosen.windows(7).all(|window| counts(window, 3)[0] <= 5));
    // Between two turns of a backend there are never two fewer or more than its share of them.
    for weights in weights(9) {
        let cycle: usize = weights.iter().map(|weight| *weight as usize).sum();
        let chosen = Draw::new(Algorithm::Weighted, &weights).take(cycle as u32);
        for length in 1..cycle {
            for (backend, count) in counts(&chosen[..length], weights.len()).iter().enumerate() {
                let exact = f64::from(weights[backend]) * length as f64 / cycle as f64;
                let bound = weights.len() as f64 / 2.0 + 1.0;
                assert!((*count as f64 - exact).abs() < bound, "{weights:?} {length}");
            }
        }
    }
}

#[test]
fn a_change_of_weight_applies_to_the_next_pick() {
    for algorithm in [Algorithm::Weighted, Algorithm::Random, Algorithm::IpHash] {
        let mut draw = Draw::new(algorithm, &[1000, 1]);
        assert!(counts(&draw.take(1000), 2)[0] > 980, "{algorithm:?}");
        draw.up[0].set_weight(1);
        draw.up[1].set_weight(1000);
        draw.publish();
        assert!(counts(&draw.take(1000), 2)[1] > 980, "{algorithm:?}");
    }
}

#[test]
fn shares_follow_the_weights() {
    for algorithm in Algorithm::ALL.iter().skip(1) {
        let shares = shares(*algorithm, &[4, 2, 1, 1], 8000);
        for (share, expected) in shares.iter().zip([4000, 2000, 1000, 1000]) {
            // Of two backends that are both idle, P2C takes the first that it has drawn.
            assert!(share.abs_diff(expected) < 200, "{algorithm:?}: {shares:?}");
        }
    }
}

/// Requests begin and end in any order, while backends are excluded at random: `check` looks at each
/// choice, before the request begins.
fn under_load(algorithm: Algorithm, check: impl Fn(&Draw, usize)) {
    let mut rng = Rng::with_seed(3);
    for weights in weights(9) {
        let (mut draw, mut slots) = (Draw::new(algorithm, &weights), Vec::<Slot>::new());
        for client in 0..400 {
            draw.excluded = (0..weights.len() as u32).filter(|_| rng.u8(0..5) == 0).collect();
            let Some(chosen) = draw.next(client) else {
                assert_eq!(draw.excluded.len(), weights.len(), "all are excluded");
                continue;
            };
            check(&draw, chosen);
            slots.extend(Slot::take(&draw.up[chosen]));
            while rng.u8(0..3) == 0 && !slots.is_empty() {
                slots.swap_remove(rng.usize(0..slots.len()));
            }
        }
    }
}

#[test]
fn least_conn_never_picks_a_backend_with_more_requests_per_weight_than_another_usable_one() {
    under_load(Algorithm::LeastConn, |draw, chosen| {
        let chosen = &draw.up[chosen];
        for other in draw.up.iter().filter(|one| !draw.excluded.contains(&one.id.0)) {
            let products = [(chosen, other), (other, chosen)]
                .map(|(one, other)| one.in_flight() as u64 * u64::from(other.weight()));
            assert!(products[0] <= products[1], "{products:?}");
        }
    });
}

#[test]
fn p2c_never_picks_the_busiest_of_several() {
    under_load(Algorithm::P2c, |draw, chosen| {
        let others = draw.up.iter().filter(|one| !draw.excluded.contains(&one.id.0));
        let others = others.filter(|one| one.id != draw.up[chosen].id);
        let least_of_others = others.map(|one| load(one)).max_by(f64::total_cmp);
        assert!(least_of_others.is_none_or(|most| load(&draw.up[chosen]) <= most));
    });
}

#[test]
fn least_conn_spreads_requests_that_stay_by_weight() {
    for weights in [&[1, 1, 1][..], &[2, 1, 1], &[7, 3]] {
        let (mut draw, mut slots) = (Draw::new(Algorithm::LeastConn, weights), Vec::new());
        let sum: u32 = weights.iter().sum();
        for client in 0..100 * sum {
            let chosen = draw.next(client).expect("one is usable");
            slots.extend(Slot::take(&draw.up[chosen]));
        }
        let in_flight = draw.up.iter().map(|backend| backend.in_flight() as u32);
        assert!(in_flight.eq(weights.iter().map(|weight| 100 * weight)), "{weights:?}");
    }
}

#[test]
fn only_the_clients_of_a_lost_backend_move_and_they_spread() {
    let mut draw = Draw::new(Algorithm::IpHash, &[1, 2, 3, 1, 1]);
    let before = draw.take(8000);
    draw.excluded.insert(2);
    let after = draw.take(8000);
    for (before, after) in before.iter().zip(&after) {
        assert!(*after != 2 && (before == after || *before == 2));
    }
    for (backend, expected) in counts(&after, 5).into_iter().zip([1600, 3200, 0, 1600, 1600]) {
        assert!(backend.abs_diff(expected) < 160, "{backend}");
    }
    draw.excluded.clear();
    draw.up.remove(1);
    let fewer = draw.take(8000);
    for (before, after) in before.into_iter().zip(fewer) {
        // The indices of the later backends have changed, their names have not.
        let after = if after == 0 { 0 } else { after + 1 };
        assert!(before == after || before == 1);
    }
}

#[test]
fn a_client_has_the_same_backend_in_every_process_in_both_forms_of_its_address() {
    let mut draw = Draw::new(Algorithm::IpHash, &[1; 8]);
    let mut of = |text: &str| draw.next_of(text.parse().unwrap()).unwrap();
    assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
    let chosen = ["192.0.2.1", "192.0.2.2", "10.1.2.3", "2001:db8::1", "2001:db8:1::1"].map(of);
    assert_eq!(chosen, [2, 7, 1, 5, 7], "a change of the hash moves every client");
}

#[test]
fn a_slow_backend_gets_few_requests_and_a_failing_one_gains_none() {
    for (measured, bounds) in [
        (Measured::Exactly(Duration::from_millis(9)), 20..200),
        (Measured::Exactly(Duration::from_millis(1)), 1350..1650),
        (Measured::AtLeast(Duration::from_micros(1)), 1350..1650),
    ] {
        let mut draw = Draw::new(Algorithm::LeastResponseTime, &[1, 1]);
        let mut share = 0;
        for client in 0..3000 {
            let chosen = draw.next(client).unwrap();
            let fast = Measured::Exactly(Duration::from_millis(1));
            let measured = if chosen == 1 { measured } else { fast };
            draw.up[chosen].response_time.record(measured, draw.moment());
            share += chosen;
        }
        assert!(bounds.contains(&share), "{measured:?}: {share}");
    }
}

#[test]
fn an_excluded_backend_is_never_chosen_and_any_other_may_be() {
    for algorithm in Algorithm::ALL {
        for excluded in 0_u32..16 {
            let mut draw = Draw::new(*algorithm, &[3, 1, 2, 1]);
            draw.excluded = (0..4).filter(|index| excluded & 1 << index != 0).collect();
            let chosen: BTreeSet<_> = draw.take(3000).into_iter().collect();
            let expected: BTreeSet<_> =
                (0_usize..4).filter(|index| excluded & 1 << index == 0).collect();
            assert_eq!(chosen, expected, "{algorithm:?}");
        }
    }
}

#[test]
fn without_backends_none_is_chosen() {
    for algorithm in Algorithm::ALL {
        assert_eq!(Draw::new(*algorithm, &[]).next(1), None, "{algorithm:?}");
    }
}

#[test]
fn every_algorithm_has_a_bounded_number_of_looks_at_backends() {
    use std::cell::Cell;
    for algorithm in Algorithm::ALL {
        let draw = Draw::new(*algorithm, &(1..=300).collect::<Vec<u32>>());
        let looks = Cell::new(0);
        let choice = Choice {
            up: &draw.up,
            cycle: &draw.cycle,
            turn: 5,
            client: Ipv4Addr::LOCALHOST.into(),
            usable: &|_| {
                looks.set(looks.get() + 1);
                false
            },
        };
        assert_eq!((functions(*algorithm).choose)(&choice, &mut Rng::with_seed(1)), None);
        assert!(looks.get() <= 600, "{algorithm:?}: {}", looks.get());
    }
}
