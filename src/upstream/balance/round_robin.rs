//! Round robin: each backend in its turn.

use crate::upstream::backend::Backend;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Offers the backends in their order, from the one that `turn` points at, until one is taken; moves the turn on.
pub fn pick<T>(up: &[Arc<Backend>], turn: &AtomicUsize, take: impl FnMut(&Arc<Backend>) -> Option<T>) -> Option<T> {
    if up.is_empty() {
        return None;
    }
    let first = turn.fetch_add(1, Relaxed) % up.len();
    let (before, after) = up.split_at(first);
    after.iter().chain(before).find_map(take)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backends(count: usize) -> Vec<Arc<Backend>> {
        let address = "127.0.0.1:1".parse().unwrap();
        (0..count).map(|id| Arc::new(Backend::new(id, id.to_string(), address))).collect()
    }

    #[test]
    fn each_has_its_turn() {
        let (up, turn) = (backends(3), AtomicUsize::new(0));
        let picked: Vec<_> = (0..7).map(|_| pick(&up, &turn, |backend| Some(backend.id)).unwrap()).collect();
        assert_eq!(picked, [0, 1, 2, 0, 1, 2, 0]);
    }

    #[test]
    fn one_that_is_not_usable_is_passed_over() {
        let (up, turn) = (backends(3), AtomicUsize::new(1));
        assert_eq!(pick(&up, &turn, |backend| (backend.id != 1).then_some(backend.id)), Some(2));
        assert_eq!(pick(&up, &turn, |_| None::<usize>), None);
        assert_eq!(pick(&[], &turn, |backend| Some(backend.id)), None);
    }
}
