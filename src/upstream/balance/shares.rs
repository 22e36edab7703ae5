//! Properties of algorithms, and a proof that the interface fits the seven planned ones.
//!
//! The functions here are models of algorithms, except for the product's round robin.

use super::{Algorithm, Choice, Row};
use crate::config::BackendSpec;
use crate::upstream::backend::{Backend, BackendId, Slot};
use fastrand::Rng;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

const fn row(
    cycle: fn(&[Arc<Backend>]) -> Box<[u32]>,
    choose: fn(&Choice<'_>, &mut Rng) -> Option<usize>,
) -> Row {
    Row { names: &["model"], cycle, choose }
}

fn no_cycle(_: &[Arc<Backend>]) -> Box<[u32]> {
    Box::default()
}

static ROUND_ROBIN: &Row = Algorithm::RoundRobin.row();
static WEIGHTED: Row = row(smooth_cycle, super::round_robin::choose);
static LEAST_CONN: Row = row(no_cycle, least_conn);
static LEAST_RESPONSE_TIME: Row = row(no_cycle, least_response_time);
static RANDOM: Row = row(no_cycle, random);
static P2C: Row = row(no_cycle, p2c);
static IP_HASH: Row = row(no_cycle, ip_hash);

fn all() -> [(&'static str, &'static Row); 7] {
    [
        ("round_robin", ROUND_ROBIN),
        ("weighted", &WEIGHTED),
        ("least_conn", &LEAST_CONN),
        ("least_response_time", &LEAST_RESPONSE_TIME),
        ("random", &RANDOM),
        ("p2c", &P2C),
        ("ip_hash", &IP_HASH),
    ]
}

/// Each backend as many times as its weight, spread evenly.
fn smooth_cycle(up: &[Arc<Backend>]) -> Box<[u32]> {
    let weights: Vec<i64> = up.iter().map(|backend| backend.weight().into()).collect();
    let total: i64 = weights.iter().sum();
    let mut current = vec![0; up.len()];
    let turn = |_| {
        current.iter_mut().zip(&weights).for_each(|(current, weight)| *current += weight);
        let chosen = (0..current.len()).rev().max_by_key(|index| current[*index])?;
        current[chosen] -= total;
        u32::try_from(chosen).ok()
    };
    (0..total).filter_map(turn).collect()
}

fn usable(choice: &Choice<'_>) -> impl Iterator<Item = usize> + Clone {
    (0..choice.up.len()).filter(|index| choice.is_usable(*index))
}

/// The backend with the lowest score; ties rotate.
fn lowest(choice: &Choice<'_>, score: impl Fn(&Backend) -> f64) -> Option<usize> {
    let count = choice.up.len();
    let rotated = |index: &usize| (index + count - choice.turn % count) % count;
    usable(choice).min_by(|one, other| {
        let scores = [one, other].map(|index| score(&choice.up[*index]));
        scores[0].total_cmp(&scores[1]).then_with(|| rotated(one).cmp(&rotated(other)))
    })
}

fn load(backend: &Backend) -> f64 {
    (backend.in_flight() + 1) as f64 / f64::from(backend.weight())
}

fn least_conn(choice: &Choice<'_>, _: &mut Rng) -> Option<usize> {
    lowest(choice, load)
}

thread_local! {
    /// Response times in milliseconds; the product will keep an average in each backend.
    static RESPONSE_TIMES: RefCell<BTreeMap<BackendId, f64>> = RefCell::default();
}

fn least_response_time(choice: &Choice<'_>, rng: &mut Rng) -> Option<usize> {
    // A little exploration: a backend that was slow once must come back.
    if rng.u32(0..100) == 0 {
        return random(choice, rng);
    }
    RESPONSE_TIMES.with_borrow(|times| {
        lowest(choice, |backend| load(backend) * times.get(&backend.id).copied().unwrap_or(1.0))
    })
}

fn random(choice: &Choice<'_>, rng: &mut Rng) -> Option<usize> {
    let count = usable(choice).count();
    if count == 0 { None } else { usable(choice).nth(rng.usize(0..count)) }
}

fn p2c(choice: &Choice<'_>, rng: &mut Rng) -> Option<usize> {
    let (one, other) = (random(choice, rng)?, random(choice, rng)?);
    Some(if load(&choice.up[other]) < load(&choice.up[one]) { other } else { one })
}

/// Rendezvous hashing: each backend has a score of its own for each client.
fn ip_hash(choice: &Choice<'_>, _: &mut Rng) -> Option<usize> {
    usable(choice).max_by_key(|index| {
        let mut hasher = DefaultHasher::new();
        (choice.client, choice.up[*index].id).hash(&mut hasher);
        hasher.finish()
    })
}

fn backends(weights: &[u32]) -> Vec<Arc<Backend>> {
    let spec = |weight| {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        BackendSpec { weight, ..address.into() }
    };
    let backend = |(id, weight): (u32, &u32)| {
        let queue = Arc::new(crate::upstream::queue::PendingQueue::default());
        Arc::new(Backend::new(BackendId(id), &spec(*weight), queue))
    };
    (0..).zip(weights).map(backend).collect()
}

/// A series of choices among the backends that are not excluded.
struct Draw {
    row: &'static Row,
    up: Vec<Arc<Backend>>,
    cycle: Box<[u32]>,
    excluded: BTreeSet<u32>,
    turn: usize,
    rng: Rng,
    /// The slots of all requests, none of which ends.
    slots: Vec<Slot>,
}

impl Draw {
    fn new(row: &'static Row, weights: &[u32]) -> Self {
        let up = backends(weights);
        let (cycle, excluded) = ((row.cycle)(&up), BTreeSet::new());
        Self { row, up, cycle, excluded, turn: 0, rng: Rng::with_seed(7), slots: Vec::new() }
    }

    fn next(&mut self, client: u32) -> Option<usize> {
        let excluded = &self.excluded;
        let choice = Choice {
            up: &self.up,
            cycle: &self.cycle,
            turn: self.turn,
            client: IpAddr::V4(Ipv4Addr::from_bits(client)),
            usable: &|backend| !excluded.contains(&backend.id.0),
        };
        self.turn += 1;
        let chosen = (self.row.choose)(&choice, &mut self.rng)?;
        self.slots.extend(Slot::take(&self.up[chosen]));
        Some(chosen)
    }
}

/// The number of requests for each backend, of `count` requests from different clients.
fn shares(row: &'static Row, weights: &[u32], count: u32) -> Vec<usize> {
    let mut draw = Draw::new(row, weights);
    let mut shares = vec![0; weights.len()];
    for client in 0..count {
        shares[draw.next(client).expect("one is usable")] += 1;
    }
    shares
}

#[test]
fn round_robin_gives_each_backend_the_same_share_of_each_cycle_in_order() {
    for count in 1..9_usize {
        let mut draw = Draw::new(ROUND_ROBIN, &vec![1; count]);
        let chosen: Vec<usize> = (0..5 * count).filter_map(|_| draw.next(0)).collect();
        let expected: Vec<usize> = (0..5 * count).map(|turn| turn % count).collect();
        assert_eq!(chosen, expected);
    }
    assert_eq!(shares(ROUND_ROBIN, &[1, 5, 1], 300), [100, 100, 100], "weights do not matter");
}

#[test]
fn weighted_shares_are_exact_per_cycle_and_spread() {
    assert_eq!(shares(&WEIGHTED, &[5, 1, 1], 700), [500, 100, 100]);
    let mut draw = Draw::new(&WEIGHTED, &[5, 1, 1]);
    let chosen: Vec<usize> = (0..7).filter_map(|_| draw.next(0)).collect();
    assert_eq!(chosen, [0, 0, 1, 0, 2, 0, 0]);
}

#[test]
fn shares_follow_the_weights_that_an_algorithm_compares() {
    assert_eq!(shares(&LEAST_CONN, &[1, 1, 1], 300), [100, 100, 100]);
    assert_eq!(shares(&LEAST_CONN, &[2, 1, 1], 400), [200, 100, 100]);
    for row in [&P2C, &RANDOM, &IP_HASH] {
        for share in shares(row, &[1, 1, 1], 3000) {
            assert!((900..1100).contains(&share), "{share}");
        }
    }
}

#[test]
fn a_slow_backend_gets_fewer_requests_but_some() {
    RESPONSE_TIMES.set(BTreeMap::from([(BackendId(1), 9.0)]));
    let shares = shares(&LEAST_RESPONSE_TIME, &[1, 1], 1000);
    RESPONSE_TIMES.take();
    assert!((50..150).contains(&shares[1]), "{shares:?}");
}

#[test]
fn only_the_clients_of_a_lost_backend_move() {
    let mut draw = Draw::new(&IP_HASH, &[1; 5]);
    let before: Vec<_> = (0..1000).map(|client| draw.next(client)).collect();
    draw.excluded.insert(2);
    let after: Vec<_> = (0..1000).map(|client| draw.next(client)).collect();
    for (before, after) in before.into_iter().zip(after) {
        assert!(after != Some(2) && (before == after || before == Some(2)));
    }
}

#[test]
fn an_excluded_backend_is_never_chosen_and_any_other_may_be() {
    for (name, row) in all() {
        for excluded in 0_u32..16 {
            let mut draw = Draw::new(row, &[3, 1, 2, 1]);
            draw.excluded = (0..4).filter(|index| excluded & 1 << index != 0).collect();
            let chosen: BTreeSet<_> = (0..3000).filter_map(|client| draw.next(client)).collect();
            let expected: BTreeSet<_> =
                (0_usize..4).filter(|index| excluded & 1 << index == 0).collect();
            assert_eq!(chosen, expected, "{name}");
        }
    }
}

#[test]
fn without_backends_none_is_chosen() {
    for (name, row) in all() {
        assert_eq!(Draw::new(row, &[]).next(1), None, "{name}");
    }
}
