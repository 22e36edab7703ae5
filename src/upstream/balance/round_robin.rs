//! Round robin: each backend in its turn.

use crate::upstream::backend::Backend;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The backends in their order, from the one whose turn it is; moves the turn on.
pub fn order<'s>(
    up: &'s [Arc<Backend>],
    turn: &AtomicUsize,
) -> impl Iterator<Item = &'s Arc<Backend>> + Clone {
    let first = turn.fetch_add(1, Relaxed) % up.len().max(1);
    let (before, after) = up.split_at(first);
    after.iter().chain(before)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backends(count: usize) -> Vec<Arc<Backend>> {
        let address = "127.0.0.1:1".parse().unwrap();
        (0..count).map(|id| Arc::new(Backend::new(id, id.to_string(), address))).collect()
    }

    #[test]
    fn each_has_its_turn_and_the_others_follow_in_order() {
        let (up, turn) = (backends(3), AtomicUsize::new(0));
        let orders: Vec<Vec<usize>> =
            (0..4).map(|_| order(&up, &turn).map(|backend| backend.id).collect()).collect();
        assert_eq!(orders, [[0, 1, 2], [1, 2, 0], [2, 0, 1], [0, 1, 2]]);
    }

    #[test]
    fn of_nobody_nobody_is_next() {
        assert!(order(&[], &AtomicUsize::new(7)).next().is_none());
    }
}
