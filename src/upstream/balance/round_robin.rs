//! Round robin: each backend in its turn.

use crate::upstream::backend::Backend;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The next usable backend after the one that `turn` points at; moves the turn on. None if none is usable.
pub fn pick<'s>(up: &'s [Arc<Backend>], turn: &AtomicUsize, usable: impl Fn(&Backend) -> bool) -> Option<&'s Arc<Backend>> {
    if up.is_empty() {
        return None;
    }
    let first = turn.fetch_add(1, Relaxed) % up.len();
    let (before, after) = up.split_at(first);
    after.iter().chain(before).find(|backend| usable(backend))
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
        let picked: Vec<_> = (0..7).map(|_| pick(&up, &turn, |_| true).unwrap().id).collect();
        assert_eq!(picked, [0, 1, 2, 0, 1, 2, 0]);
    }

    #[test]
    fn one_that_is_not_usable_is_passed_over() {
        let (up, turn) = (backends(3), AtomicUsize::new(1));
        assert_eq!(pick(&up, &turn, |backend| backend.id != 1).unwrap().id, 2);
        assert!(pick(&up, &turn, |_| false).is_none());
        assert!(pick(&[], &turn, |_| true).is_none());
    }
}
