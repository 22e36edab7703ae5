//! The input of an algorithm for one request, and the searches that several algorithms share.
//!
//! Made by a worker for each pick, from plain references. Must never lock or allocate. Each search
//! looks at a backend a constant number of times.

use crate::upstream::backend::Backend;
use crate::upstream::response_time::Moment;
use fastrand::Rng;
use std::net::IpAddr;
use std::sync::Arc;

/// Draws from the cycle before a sample looks at all backends.
const DRAWS: usize = 4;

/// One choice among the backends that are up.
pub struct Choice<'c> {
    /// The backends that are up.
    pub up: &'c [Arc<Backend>],
    /// The algorithm's precomputed order of them: indices into `up`.
    pub cycle: &'c [u32],
    /// The number of the pick, over all workers.
    pub turn: usize,
    /// The client's address, for algorithms that send a client to the same backend each time.
    pub client: IpAddr,
    /// Whether a backend may be chosen: it has capacity, and the request has not tried it.
    pub usable: &'c dyn Fn(&Backend) -> bool,
}

impl Choice<'_> {
    fn is_usable(&self, index: usize) -> bool {
        (self.usable)(&self.up[index])
    }

    /// The time of the pick.
    pub(super) fn moment(&self) -> Moment {
        Moment { pick: self.turn as u32, backends: self.up.len() as u32 }
    }

    /// The backend of this turn in the cycle, or the next usable one.
    pub(super) fn next_in_cycle(&self) -> Option<usize> {
        let start = self.turn % self.cycle.len().max(1);
        let (earlier, later) = self.cycle.split_at(start);
        let turns = later.iter().chain(earlier).map(|index| *index as usize);
        // A cycle has the same backend many times if it has a large weight.
        let found = turns.take(self.up.len()).find(|index| self.is_usable(*index));
        found.or_else(|| self.usable_from_turn().next())
    }

    /// The usable backend with the lowest score; none is negative. Equal backends take turns, as
    /// they do in the cycle.
    pub(super) fn lowest(&self, score: impl Fn(&Backend) -> f64) -> Option<usize> {
        let mut lowest: Option<(usize, f64)> = None;
        for index in self.usable_from_turn() {
            let score = score(&self.up[index]);
            if lowest.is_none_or(|(_, least)| score < least) {
                lowest = Some((index, score));
            }
            if score == 0.0 {
                break;
            }
        }
        lowest.map(|(index, _)| index)
    }

    /// The usable backends once around, from this turn's in the cycle on.
    fn usable_from_turn(&self) -> impl Iterator<Item = usize> {
        let turn = self.cycle.get(self.turn % self.cycle.len().max(1));
        let start = turn.map_or(0, |index| *index as usize);
        (start..self.up.len()).chain(0..start).filter(|index| self.is_usable(*index))
    }

    /// A usable backend at random, as often as it is in the cycle, but not `except`.
    pub(super) fn sample(&self, except: Option<usize>, rng: &mut Rng) -> Option<usize> {
        for _ in 0..DRAWS {
            let index = *rng.choice(self.cycle)? as usize;
            if Some(index) != except && self.is_usable(index) {
                return Some(index);
            }
        }
        let except = except.map(|index| Arc::as_ptr(&self.up[index]));
        let is_other = |backend: &Backend| except.is_none_or(|other| !std::ptr::eq(other, backend));
        self.draw(|backend| if is_other(backend) { f64::from(backend.weight()) } else { 0.0 }, rng)
    }

    /// A usable backend at random, as often as its rate. In one pass: each backend replaces the
    /// choice among the earlier ones with the probability of its share so far.
    pub(super) fn draw(&self, rate: impl Fn(&Backend) -> f64, rng: &mut Rng) -> Option<usize> {
        let (mut total, mut chosen) = (0.0, None);
        for index in (0..self.up.len()).filter(|index| self.is_usable(*index)) {
            let rate = rate(&self.up[index]);
            total += rate;
            if rng.f64() * total < rate {
                chosen = Some(index);
            }
        }
        chosen
    }
}

/// The requests in flight per weight.
pub(super) fn load(backend: &Backend) -> f64 {
    // The quotients of equal ratios are equal, because division rounds correctly.
    backend.in_flight() as f64 / f64::from(backend.weight())
}
