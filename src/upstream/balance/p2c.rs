//! Power of two choices: two different backends at random, each as often as its weight, and of these
//! the one with fewer requests in flight per weight. Nearly as even as least connections, at a cost
//! that does not grow with the number of backends, and without a herd when several workers pick at
//! the same time.

use super::choice::{Choice, load};
pub(super) use super::weighted::cycle;
use fastrand::Rng;

/// The less busy of two usable backends.
pub(super) fn choose(choice: &Choice<'_>, rng: &mut Rng) -> Option<usize> {
    let one = choice.sample(None, rng)?;
    let Some(other) = choice.sample(Some(one), rng) else {
        return Some(one);
    };
    Some(if load(&choice.up[other]) < load(&choice.up[one]) { other } else { one })
}
