//! Least response time: a backend at random, less often the slower it responds and the busier it is.
//!
//! At random and not always the fastest, because averages of equal backends differ by chance: the
//! fastest of the moment would get all requests. For the same reason small differences do not
//! count. `upstream::response_time` has the averages, which fade while a backend is unused: that is
//! the exploration, by which a backend that was slow comes back.

use super::choice::{Choice, load};
use crate::upstream::backend::Backend;
use fastrand::Rng;
use std::sync::Arc;

/// Backends are equally fast up to this many times the response time of the fastest one.
const TOLERANCE: f32 = 1.5;

/// None is needed.
pub(super) fn cycle(_: &[Arc<Backend>]) -> Box<[u32]> {
    Box::default()
}

/// A usable backend, as often as its weight over the square of the time that a request is expected
/// to take.
pub(super) fn choose(choice: &Choice<'_>, rng: &mut Rng) -> Option<usize> {
    let (pool, now) = (Pool::of(choice.up), choice.moment());
    let rate = |backend: &Backend| {
        let expected = backend.response_time.expected(pool.mean, now);
        let time = f64::from(expected.max(TOLERANCE * pool.fastest)) * (1.0 + load(backend));
        f64::from(backend.weight()) / (time * time)
    };
    choice.draw(rate, rng)
}

/// The response times of the pool, in seconds.
struct Pool {
    fastest: f32,
    /// Harmonic, so that one slow backend changes it little: the mean over requests if each backend
    /// gets them as often as it is fast.
    mean: f32,
}

impl Pool {
    fn of(up: &[Arc<Backend>]) -> Self {
        let (mut count, mut rate, mut fastest) = (0.0, 0.0, f32::INFINITY);
        for average in up.iter().filter_map(|backend| backend.response_time.average()) {
            (count, rate, fastest) = (count + 1.0, rate + 1.0 / average, average.min(fastest));
        }
        // If no response is known, all backends are equal, at any time.
        if count > 0.0 {
            Self { fastest, mean: count / rate }
        } else {
            Self { fastest: 1.0, mean: 1.0 }
        }
    }
}
