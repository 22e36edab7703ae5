//! A worker's timers: one list per timeout class, threaded through the slab.
//!
//! All entries of a class have (nearly) the same duration, so that a new one belongs at the end,
//! and the front is the next to expire. Setting, moving and clearing a deadline cost a few pointer
//! writes; memory is one small entry per session. When durations change, new deadlines get lists of
//! their own: otherwise the insertion of a shorter one would walk over all longer ones. Owned by
//! one worker.

use super::Token;
use crate::config::{Deadline, Timeout};
use std::time::Instant;

const NONE: u32 = u32::MAX;

/// The entry of the session with the same index. Small, because every idle connection has one.
#[derive(Clone, Copy, Debug)]
struct Entry {
    at: Instant,
    /// The class of the entry's list; none if no deadline is set.
    timeout: Option<Timeout>,
    /// The index of the entry's list among the two of its class.
    epoch: u8,
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
    /// The lists of deadlines from before and after the last change of durations.
    lists: [[List; Timeout::COUNT]; 2],
    /// The index of the lists for new deadlines.
    epoch: u8,
    /// The lower bound of all deadlines. Deadlines that are cleared leave it as it is, so that a
    /// turn of the worker looks at no list before it has passed.
    earliest: Option<Instant>,
}

impl Default for Timers {
    fn default() -> Self {
        let lists = [List { first: NONE, last: NONE }; Timeout::COUNT];
        Self { entries: Vec::new(), lists: [lists; 2], epoch: 0, earliest: None }
    }
}

impl Timers {
    /// Separates later deadlines from those that are set, because the durations of some classes
    /// have changed. A second change before the earlier deadlines have ended is correct as well,
    /// but makes insertion slower.
    pub fn change_durations(&mut self) {
        self.epoch = 1 - self.epoch;
    }

    /// Sets a session's deadline, which replaces an earlier one.
    pub fn set(&mut self, token: Token, deadline: Deadline) {
        let index = token.index();
        let Deadline { at, timeout } = deadline;
        if self.entries.len() <= index as usize {
            let unset =
                Entry { at, timeout: None, epoch: 0, generation: 0, prev: NONE, next: NONE };
            self.entries.resize(index as usize + 1, unset);
        }
        let entry = self.entry(index);
        if (entry.timeout, entry.at, entry.generation) == (Some(timeout), at, token.generation()) {
            return;
        }
        self.unlink(index);
        // Nearly always the end of the list. A retry keeps the deadline of its first attempt, which
        // may belong further ahead.
        let epoch = self.epoch;
        let list = self.lists[usize::from(epoch)][timeout as usize];
        let mut prev = list.last;
        while prev != NONE && self.entry(prev).at > at {
            prev = self.entry(prev).prev;
        }
        let next = if prev == NONE { list.first } else { self.entry(prev).next };
        let (generation, class) = (token.generation(), (timeout, epoch));
        let timeout = Some(timeout);
        self.entries[index as usize] = Entry { at, timeout, epoch, generation, prev, next };
        self.link(class, prev, index);
        self.link(class, index, next);
        self.earliest = Some(self.earliest.map_or(at, |earliest| earliest.min(at)));
    }

    /// Removes a session's deadline.
    pub fn clear(&mut self, token: Token) {
        if (token.index() as usize) < self.entries.len() {
            self.unlink(token.index());
        }
    }

    /// Removes one deadline that has passed and returns its session.
    pub fn pop_expired(&mut self, now: Instant) -> Option<Token> {
        if self.earliest.is_none_or(|earliest| earliest > now) {
            return None;
        }
        let Some(index) = self.fronts().find(|first| self.entry(*first).at <= now) else {
            self.earliest = self.fronts().map(|first| self.entry(first).at).min();
            return None;
        };
        self.unlink(index);
        Some(Token::new(index, self.entry(index).generation))
    }

    /// A time before which no deadline passes: that of the earliest, or of one that was cleared since
    /// [`Timers::pop_expired`] has last found nothing at such a time.
    pub fn next(&self) -> Option<Instant> {
        self.earliest
    }

    /// The first entries of all lists.
    fn fronts(&self) -> impl Iterator<Item = u32> {
        self.lists.iter().flatten().map(|list| list.first).filter(|first| *first != NONE)
    }

    fn entry(&self, index: u32) -> &Entry {
        &self.entries[index as usize]
    }

    fn unlink(&mut self, index: u32) {
        let Entry { timeout, epoch, prev, next, .. } = *self.entry(index);
        if let Some(timeout) = timeout {
            self.entries[index as usize].timeout = None;
            self.link((timeout, epoch), prev, next);
        }
    }

    /// Links two entries; `NONE` is an end of the list.
    fn link(&mut self, (timeout, epoch): (Timeout, u8), prev: u32, next: u32) {
        let list = &mut self.lists[usize::from(epoch)][timeout as usize];
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
    fn entries_of_every_class_expire_when_they_are_due() {
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
    fn a_deadline_that_is_set_again_or_cleared_does_not_expire() {
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
    fn an_entry_due_earlier_than_the_last_is_inserted_in_order() {
        let (tokens, start, mut timers) = (tokens(3), Instant::now(), Timers::default());
        for (token, seconds) in tokens.iter().zip([5, 9, 7]) {
            timers.set(*token, deadline(start, Timeout::FirstByte, seconds));
        }
        assert_eq!(expired(&mut timers, start + Duration::from_secs(7)), [tokens[0], tokens[2]]);
    }

    #[test]
    fn any_sequence_keeps_the_lists_consistent() {
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
            if rng.u8(..) == 0 {
                timers.change_durations();
            }
            let earliest = expected.iter().flatten().min().copied();
            if timers.next() != earliest {
                let cleared = timers.next().expect("a deadline is set, or one was");
                assert!(earliest.is_none_or(|earliest| cleared < earliest));
                assert_eq!(timers.pop_expired(cleared), None);
                assert_eq!(timers.next(), earliest, "one wake-up for nothing at most");
            }
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
        assert_eq!(left, set.collect::<Vec<_>>(), "each once, from any position");
    }

    #[test]
    fn deadlines_from_before_and_after_a_change_expire_when_they_are_due() {
        let (tokens, start, mut timers) = (tokens(4), Instant::now(), Timers::default());
        timers.set(tokens[0], deadline(start, Timeout::Idle, 75));
        timers.set(tokens[1], deadline(start, Timeout::Idle, 76));
        timers.change_durations();
        timers.set(tokens[2], deadline(start, Timeout::Idle, 5));
        timers.set(tokens[1], deadline(start, Timeout::Idle, 6));
        timers.change_durations();
        timers.set(tokens[3], deadline(start, Timeout::Idle, 60));
        for (seconds, token) in [(5, 2), (6, 1), (60, 3), (75, 0)] {
            let due = start + Duration::from_secs(seconds);
            assert_eq!(timers.next(), Some(due));
            assert_eq!(expired(&mut timers, due), [tokens[token]]);
        }
        assert_eq!(timers.next(), None);
    }
}
