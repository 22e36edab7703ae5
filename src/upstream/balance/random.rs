//! Random: any backend, as often as its weight.

use super::choice::Choice;
pub(super) use super::weighted::cycle;
use fastrand::Rng;

/// A usable backend at random.
pub(super) fn choose(choice: &Choice<'_>, rng: &mut Rng) -> Option<usize> {
    choice.sample(None, rng)
}
