//! Weighted round robin: each backend in turn, as often as its weight, interleaved.

use super::choice::Choice;
use crate::upstream::backend::Backend;
use fastrand::Rng;
use std::sync::Arc;

/// The most turns of a cycle, but for backends that round up to their one turn. Weights with a
/// larger sum are scaled to it: each share is then exact to half a turn, about 0.006 %.
const MAX_TURNS: u64 = 8192;

/// Each backend as often as its weight, spread evenly (nginx calls it smooth): in each turn every
/// backend earns its weight, and the one with the most pays the sum of all.
pub(super) fn cycle(up: &[Arc<Backend>]) -> Box<[u32]> {
    let turns = turns(up.iter().map(|backend| backend.weight().into()).collect());
    let total: i64 = turns.iter().sum();
    let mut earned = vec![0; turns.len()];
    let turn = |_| {
        let (mut richest, mut most) = (0, i64::MIN);
        for (index, (earned, turns)) in earned.iter_mut().zip(&turns).enumerate() {
            *earned += turns;
            if *earned > most {
                (richest, most) = (index, *earned);
            }
        }
        earned[richest] -= total;
        richest as u32
    };
    (0..total).map(turn).collect()
}

/// The turns of each backend in a cycle: its weight, in the shortest cycle that has the same shares.
fn turns(weights: Vec<u64>) -> Vec<i64> {
    let sum: u64 = weights.iter().sum();
    let scaled = |weight: u64| if sum > MAX_TURNS { scale(weight, sum) } else { weight };
    let turns: Vec<u64> = weights.into_iter().map(scaled).collect();
    let divisor = turns.iter().copied().fold(0, greatest_common_divisor).max(1);
    turns.into_iter().map(|turns| (turns / divisor) as i64).collect()
}

/// The turns of a weight, rounded, but at least one.
fn scale(weight: u64, sum: u64) -> u64 {
    ((weight * MAX_TURNS + sum / 2) / sum).max(1)
}

fn greatest_common_divisor(one: u64, other: u64) -> u64 {
    if other == 0 { one } else { greatest_common_divisor(other, one % other) }
}

/// The backend of this turn, or the next usable one in the cycle.
pub(super) fn choose(choice: &Choice<'_>, _: &mut Rng) -> Option<usize> {
    choice.next_in_cycle()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cycle_is_as_short_as_its_shares_allow() {
        assert_eq!(turns(vec![500, 100, 100]), [5, 1, 1]);
        assert_eq!(turns(vec![7; 3]), [1; 3]);
        assert_eq!(turns(vec![1000, 999]), [1000, 999]);
        assert!(turns(vec![]).is_empty());
    }

    #[test]
    fn the_length_of_a_cycle_is_bounded_and_shares_are_rounded_to_half_a_turn() {
        let weights: Vec<u64> = (1..=1000).collect();
        let (turns, sum) = (turns(weights.clone()), weights.iter().sum::<u64>() as f64);
        let total: i64 = turns.iter().sum();
        assert!(total as u64 <= MAX_TURNS + weights.len() as u64, "{total}");
        for (weight, turns) in weights.into_iter().zip(turns) {
            let exact = weight as f64 * MAX_TURNS as f64 / sum;
            assert!((turns as f64 - exact).abs() <= 0.5 || turns == 1, "{turns} for {exact}");
        }
    }
}
