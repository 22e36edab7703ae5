//! Least connections: the backend with the fewest requests in flight per weight. Equally busy
//! backends take turns, as often as their weights.

use super::choice::{Choice, load};
pub(super) use super::weighted::cycle;
use fastrand::Rng;

/// The usable backend with the fewest requests in flight per weight.
pub(super) fn choose(choice: &Choice<'_>, _: &mut Rng) -> Option<usize> {
    choice.lowest(load)
}
