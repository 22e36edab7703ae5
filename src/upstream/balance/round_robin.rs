//! Round robin: each backend in turn, whatever its weight.

use super::choice::Choice;
use crate::upstream::backend::Backend;
use fastrand::Rng;
use std::sync::Arc;

/// Each backend once.
pub(super) fn cycle(up: &[Arc<Backend>]) -> Box<[u32]> {
    (0_u32..).take(up.len()).collect()
}

/// The backend of this turn, or the next usable one in the cycle.
pub(super) fn choose(choice: &Choice<'_>, _: &mut Rng) -> Option<usize> {
    choice.next_in_cycle()
}
