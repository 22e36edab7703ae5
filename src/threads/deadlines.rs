//! A worker's deadlines: one list a timeout class, threaded through the slots.
//!
//! All entries of a class have (nearly) the same duration, so that a new one belongs at the end,
//! and the front is the next to expire. Setting, moving and clearing a deadline cost a few pointer
//! writes; memory is one small entry a slot.

use crate::config::Timeout;
use crate::net::SlotKey;
use crate::session::Deadline;
use std::time::Instant;

const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Entry {
    armed: Option<(SlotKey, Deadline)>,
    before: u32,
    behind: u32,
}

#[derive(Clone, Copy, Debug)]
struct List {
    first: u32,
    last: u32,
}

/// The deadlines of all sessions of a worker; a session has at most one.
#[derive(Debug)]
pub struct Deadlines {
    entries: Vec<Entry>,
    lists: [List; Timeout::COUNT],
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { entries: Vec::new(), lists: [List { first: NONE, last: NONE }; Timeout::COUNT] }
    }
}

impl Deadlines {
    /// Sets a session's deadline, in place of the one it had.
    pub fn set(&mut self, key: SlotKey, deadline: Deadline) {
        let index = key.index();
        if self.entries.len() <= index as usize {
            self.entries
                .resize(index as usize + 1, Entry { armed: None, before: NONE, behind: NONE });
        }
        if self.entries[index as usize].armed == Some((key, deadline)) {
            return;
        }
        self.unlink(index);
        // Nearly always the end of the list. A retry keeps the deadline of its first attempt, so a
        // few must look further ahead.
        let list = self.lists[deadline.timeout as usize];
        let mut before = list.last;
        while before != NONE && self.at(before) > deadline.at {
            before = self.entries[before as usize].before;
        }
        let behind = if before == NONE { list.first } else { self.entries[before as usize].behind };
        self.entries[index as usize] = Entry { armed: Some((key, deadline)), before, behind };
        self.join(deadline.timeout, before, index);
        self.join(deadline.timeout, index, behind);
    }

    /// Takes a session's deadline away.
    pub fn clear(&mut self, key: SlotKey) {
        if (key.index() as usize) < self.entries.len() {
            self.unlink(key.index());
        }
    }

    /// Takes out one session whose deadline has passed.
    pub fn pop_expired(&mut self, now: Instant) -> Option<SlotKey> {
        let mut fronts = self.lists.iter().map(|list| list.first).filter(|first| *first != NONE);
        let index = fronts.find(|first| self.at(*first) <= now)?;
        let (key, _) = self.entries[index as usize].armed?;
        self.unlink(index);
        Some(key)
    }

    /// When the next deadline passes.
    pub fn next(&self) -> Option<Instant> {
        self.lists.iter().filter(|list| list.first != NONE).map(|list| self.at(list.first)).min()
    }

    fn at(&self, index: u32) -> Instant {
        let (_, deadline) = self.entries[index as usize].armed.expect("what is linked is armed");
        deadline.at
    }

    fn unlink(&mut self, index: u32) {
        let Entry { armed, before, behind } = self.entries[index as usize];
        if let Some((_, deadline)) = armed {
            self.entries[index as usize].armed = None;
            self.join(deadline.timeout, before, behind);
        }
    }

    /// Makes two entries neighbours; none stands for an end of the list.
    fn join(&mut self, timeout: Timeout, before: u32, behind: u32) {
        let list = &mut self.lists[timeout as usize];
        match before {
            NONE => list.first = behind,
            before => self.entries[before as usize].behind = behind,
        }
        match behind {
            NONE => list.last = before,
            behind => self.entries[behind as usize].before = before,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Slots;
    use std::time::Duration;

    fn keys(count: usize) -> Vec<SlotKey> {
        let mut slots = Slots::default();
        (0..count).map(|_| slots.insert(())).collect()
    }

    fn deadline(start: Instant, timeout: Timeout, seconds: u64) -> Deadline {
        Deadline { timeout, at: start + Duration::from_secs(seconds) }
    }

    fn expired(deadlines: &mut Deadlines, now: Instant) -> Vec<SlotKey> {
        let mut all: Vec<_> = std::iter::from_fn(|| deadlines.pop_expired(now)).collect();
        all.sort_by_key(|key| key.index());
        all
    }

    #[test]
    fn they_expire_when_they_are_due_whatever_their_class() {
        let (keys, start, mut deadlines) = (keys(3), Instant::now(), Deadlines::default());
        deadlines.set(keys[0], deadline(start, Timeout::Idle, 75));
        deadlines.set(keys[1], deadline(start, Timeout::Head, 10));
        deadlines.set(keys[2], deadline(start, Timeout::Head, 12));
        assert_eq!(deadlines.next(), Some(start + Duration::from_secs(10)));
        assert_eq!(expired(&mut deadlines, start + Duration::from_secs(10)), [keys[1]]);
        assert_eq!(expired(&mut deadlines, start + Duration::from_secs(80)), [keys[0], keys[2]]);
        assert_eq!(deadlines.next(), None);
    }

    #[test]
    fn one_that_is_set_again_or_cleared_does_not_expire() {
        let (keys, start, mut deadlines) = (keys(3), Instant::now(), Deadlines::default());
        for key in &keys {
            deadlines.set(*key, deadline(start, Timeout::Body, 5));
        }
        deadlines.set(keys[1], deadline(start, Timeout::Body, 9));
        deadlines.clear(keys[2]);
        assert_eq!(expired(&mut deadlines, start + Duration::from_secs(5)), [keys[0]]);
        assert_eq!(expired(&mut deadlines, start + Duration::from_secs(9)), [keys[1]]);
    }

    #[test]
    fn one_that_is_due_earlier_than_the_last_is_put_in_its_place() {
        let (keys, start, mut deadlines) = (keys(3), Instant::now(), Deadlines::default());
        for (key, seconds) in keys.iter().zip([5, 9, 7]) {
            deadlines.set(*key, deadline(start, Timeout::FirstByte, seconds));
        }
        assert_eq!(expired(&mut deadlines, start + Duration::from_secs(7)), [keys[0], keys[2]]);
    }

    #[test]
    fn any_sequence_keeps_the_lists_whole() {
        let (keys, start, mut deadlines) = (keys(20), Instant::now(), Deadlines::default());
        let mut rng = fastrand::Rng::with_seed(7);
        let mut expected = vec![None; keys.len()];
        let classes = [Timeout::Idle, Timeout::Head, Timeout::Body];
        for _ in 0..5_000 {
            let index = rng.usize(..keys.len());
            if rng.bool() {
                let deadline = deadline(start, classes[rng.usize(..3)], rng.u64(..100));
                deadlines.set(keys[index], deadline);
                expected[index] = Some(deadline.at);
            } else {
                deadlines.clear(keys[index]);
                expected[index] = None;
            }
            assert_eq!(deadlines.next(), expected.iter().flatten().min().copied());
        }
        let end = start + Duration::from_secs(3600);
        let mut left: Vec<_> =
            std::iter::from_fn(|| deadlines.pop_expired(end)).map(SlotKey::index).collect();
        left.sort_unstable();
        let set =
            keys.iter().zip(&expected).filter(|(_, at)| at.is_some()).map(|(key, _)| key.index());
        assert_eq!(left, set.collect::<Vec<_>>(), "each once, from wherever it stood");
    }
}
