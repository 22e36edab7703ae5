//! Least response time: a backend at random, less often the slower it responds and the busier it is.
//!
//! At random and not always the fastest, because averages of equal backends differ by chance: the
//! fastest of the moment would get all requests. A backend that is twice as slow gets a quarter of
//! another's share. `upstream::response_time` has the averages, which fade while a backend is
//! unused: that is the exploration, by which a backend that was slow comes back.

use super::choice::{Choice, load};
use crate::upstream::backend::Backend;
use fastrand::Rng;
use std::sync::Arc;

/// None is needed.
pub(super) fn cycle(_: &[Arc<Backend>]) -> Box<[u32]> {
    Box::default()
}

/// A usable backend, as often as its weight over the square of the time that a request is expected
/// to take.
pub(super) fn choose(choice: &Choice<'_>, rng: &mut Rng) -> Option<usize> {
    let (mean, now) = (mean(choice.up), choice.moment());
    let rate = |backend: &Backend| {
        let expected = f64::from(backend.response_time.expected(mean, now));
        let time = expected * (1.0 + load(backend));
        f64::from(backend.weight()) / (time * time)
    };
    choice.draw(rate, rng)
}

/// The mean response time of the pool, in seconds: harmonic, so that one slow backend changes it
/// little. It is the mean over requests if each backend gets them as often as it is fast.
fn mean(up: &[Arc<Backend>]) -> f32 {
    let (mut count, mut rate) = (0.0, 0.0);
    for average in up.iter().filter_map(|backend| backend.response_time.average()) {
        (count, rate) = (count + 1.0, rate + 1.0 / average);
    }
    // If no response is known, all backends are equal, at any mean.
    if count > 0.0 { count / rate } else { 1.0 }
}
