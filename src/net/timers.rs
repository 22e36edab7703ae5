//! A worker's timers: one list per timeout class, threaded through the slab.
//!
//! All entries of a class have (nearly) the same duration, so that a new one belongs at the end,
//! and the front is the next to expire. Setting, moving and clearing a deadline cost a few pointer
//! writes; memory is one small entry a slot.

use super::Token;
use crate::config::{Deadline, Timeout};
use std::time::Instant;

const NONE: u32 = u32::MAX;

/// One entry per session; the session's index is the entry's. An idle connection has one, so it is
/// kept small.
#[derive(Clone, Copy, Debug)]
struct Entry {
    at: Instant,
    /// The list that the entry is in, if it is armed.
    timeout: Option<Timeout>,
    generation: u32,
    prev: u32,
    next: u32,
}

const _: () = assert!(size_of::<Entry>() <= 32);

#[derive(Clone, Copy, Debug)]
struct List {
    first: u32,
    last: u32,
}

/// The timers of all sessions of a worker; a session has at most one.
#[derive(Debug)]
pub struct Timers {
    entries: Vec<Entry>,
    lists: [List; Timeout::COUNT],
}

impl Default for Timers {
    fn default() -> Self {
        Self { entries: Vec::new(), lists: [List { first: NONE, last: NONE }; Timeout::COUNT] }
    }
}

impl Timers {
    /// Sets a session's deadline, in place of the one it had.
    pub fn set(&mut self, token: Token, deadline: Deadline) {
        let index = token.index();
        let Deadline { at, timeout } = deadline;
        if self.entries.len() <= index as usize {
            let unarmed = Entry { at, timeout: None, generation: 0, prev: NONE, next: NONE };
            self.entries.resize(index as usize + 1, unarmed);
        }
        let entry = self.entry(index);
        if (entry.timeout, entry.at, entry.generation) == (Some(timeout), at, token.generation()) {
            return;
        }
        self.unlink(index);
        // Nearly always the end of the list. A retry keeps the deadline of its first attempt, so a
        // few must look further ahead.
        let list = self.lists[timeout as usize];
        let mut prev = list.last;
        while prev != NONE && self.entry(prev).at > at {
            prev = self.entry(prev).prev;
        }
        let next = if prev == NONE { list.first } else { self.entry(prev).next };
        let (timeout, generation) = (Some(timeout), token.generation());
        self.entries[index as usize] = Entry { at, timeout, generation, prev, next };
        self.join(deadline.timeout, prev, index);
        self.join(deadline.timeout, index, next);
    }

    /// Takes a session's deadline away.
    pub fn clear(&mut self, token: Token) {
        if (token.index() as usize) < self.entries.len() {
            self.unlink(token.index());
        }
    }

    /// Takes out one session whose deadline has passed.
    pub fn pop_expired(&mut self, now: Instant) -> Option<Token> {
        let mut fronts = self.lists.iter().map(|list| list.first).filter(|first| *first != NONE);
        let index = fronts.find(|first| self.entry(*first).at <= now)?;
        self.unlink(index);
        Some(Token::new(index, self.entry(index).generation))
    }

    /// When the next deadline passes.
    pub fn next(&self) -> Option<Instant> {
        let armed = self.lists.iter().filter(|list| list.first != NONE);
        armed.map(|list| self.entry(list.first).at).min()
    }

    fn entry(&self, index: u32) -> &Entry {
        &self.entries[index as usize]
    }

    fn unlink(&mut self, index: u32) {
        let Entry { timeout, prev, next, .. } = *self.entry(index);
        if let Some(timeout) = timeout {
            self.entries[index as usize].timeout = None;
            self.join(timeout, prev, next);
        }
    }

    /// Makes two entries neighbours; none stands for an end of the list.
    fn join(&mut self, timeout: Timeout, prev: u32, next: u32) {
        let list = &mut self.lists[timeout as usize];
        match prev {
            NONE => list.first = next,
            prev => self.entries[prev as usize].next = next,
        }
        match next {
            NONE => list.last = prev,
            next => self.entries[next as usize].prev = prev,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Slab;
    use std::time::Duration;

    fn tokens(count: usize) -> Vec<Token> {
        let mut slab = Slab::default();
        (0..count).map(|_| slab.insert(())).collect()
    }

    fn deadline(start: Instant, timeout: Timeout, seconds: u64) -> Deadline {
        Deadline { timeout, at: start + Duration::from_secs(seconds) }
    }

    fn expired(timers: &mut Timers, now: Instant) -> Vec<Token> {
        let mut all: Vec<_> = std::iter::from_fn(|| timers.pop_expired(now)).collect();
        all.sort_by_key(|token| token.index());
        all
    }

    #[test]
    fn they_expire_when_they_are_due_whatever_their_class() {
        let (tokens, start, mut timers) = (tokens(3), Instant::now(), Timers::default());
        timers.set(tokens[0], deadline(start, Timeout::Idle, 75));
        timers.set(tokens[1], deadline(start, Timeout::Head, 10));
        timers.set(tokens[2], deadline(start, Timeout::Head, 12));
        assert_eq!(timers.next(), Some(start + Duration::from_secs(10)));
        assert_eq!(expired(&mut timers, start + Duration::from_secs(10)), [tokens[1]]);
        assert_eq!(expired(&mut timers, start + Duration::from_secs(80)), [tokens[0], tokens[2]]);
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn one_that_is_set_again_or_cleared_does_not_expire() {
        let (tokens, start, mut timers) = (tokens(3), Instant::now(), Timers::default());
        for token in &tokens {
            timers.set(*token, deadline(start, Timeout::Body, 5));
        }
        timers.set(tokens[1], deadline(start, Timeout::Body, 9));
        timers.clear(tokens[2]);
        assert_eq!(expired(&mut timers, start + Duration::from_secs(5)), [tokens[0]]);
        assert_eq!(expired(&mut timers, start + Duration::from_secs(9)), [tokens[1]]);
    }

    #[test]
    fn one_that_is_due_earlier_than_the_last_is_put_in_its_place() {
        let (tokens, start, mut timers) = (tokens(3), Instant::now(), Timers::default());
        for (token, seconds) in tokens.iter().zip([5, 9, 7]) {
            timers.set(*token, deadline(start, Timeout::FirstByte, seconds));
        }
        assert_eq!(expired(&mut timers, start + Duration::from_secs(7)), [tokens[0], tokens[2]]);
    }

    #[test]
    fn any_sequence_keeps_the_lists_whole() {
        let (tokens, start, mut timers) = (tokens(20), Instant::now(), Timers::default());
        let mut rng = fastrand::Rng::with_seed(7);
        let mut expected = vec![None; tokens.len()];
        let classes = [Timeout::Idle, Timeout::Head, Timeout::Body];
        for _ in 0..5_000 {
            let index = rng.usize(..tokens.len());
            if rng.bool() {
                let deadline = deadline(start, classes[rng.usize(..3)], rng.u64(..100));
                timers.set(tokens[index], deadline);
                expected[index] = Some(deadline.at);
            } else {
                timers.clear(tokens[index]);
                expected[index] = None;
            }
            assert_eq!(timers.next(), expected.iter().flatten().min().copied());
        }
        let end = start + Duration::from_secs(3600);
        let mut left: Vec<_> =
            std::iter::from_fn(|| timers.pop_expired(end)).map(Token::index).collect();
        left.sort_unstable();
        let set = tokens
            .iter()
            .zip(&expected)
            .filter(|(_, at)| at.is_some())
            .map(|(token, _)| token.index());
        assert_eq!(left, set.collect::<Vec<_>>(), "each once, from wherever it stood");
    }
}
