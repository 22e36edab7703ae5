//! What idle connections to a backend are worth: how long the backend lets them live, learned from
//! how they end.
//!
//! Shared by all workers, atomics only; pure judgement with `now` as a parameter. While nothing
//! speaks against reuse, asking costs one relaxed load. What is learned is a rule of thumb, so two
//! workers that learn at once may do it in either order.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// No limit.
const ANY: u64 = u64::MAX;
/// A backend that closes connections this soon closes them at any moment.
const AT_ONCE: Duration = Duration::from_millis(20);
/// For how long one end counts: it may have been a restart.
const CHANCE: Duration = Duration::from_secs(2);
/// For how long two count, from the second on, and for how long a second is waited for.
const HABIT: Duration = Duration::from_secs(60);
/// Ends after each other of which the operator is told, and deaths in a row after which requests
/// that can be sent again are spared.
const OFTEN: u32 = 3;
/// A connection that died before it had served this many requests counts as one of a row.
const FEW: u32 = 10;
/// For how long requests that can be sent again are spared: shorter than a habit, so that they try
/// first whether it is over.
const SPARED: Duration = Duration::from_secs(30);

/// The life of one connection so far.
#[derive(Clone, Copy, Debug)]
pub struct Life {
    /// When it was opened.
    pub opened: Instant,
    /// Since when it has been idle, or had been when it was reused.
    pub idle_since: Instant,
    /// How many requests it has served.
    pub served: u32,
}

/// What is known about the idle connections to one backend.
#[derive(Debug)]
pub struct Reuse {
    started: Instant,
    /// How long a connection may have been idle, in microseconds.
    limit: AtomicU64,
    /// When one last ended that was opened after the one before had ended, in microseconds since
    /// the start.
    ended_at: AtomicU64,
    ends: AtomicU32,
    /// When one last died under a request, likewise.
    died_at: AtomicU64,
    deaths_in_a_row: AtomicU32,
    is_announced: AtomicBool,
}

impl Reuse {
    /// Nothing is known yet.
    pub fn new(now: Instant) -> Self {
        Self {
            started: now,
            limit: AtomicU64::new(ANY),
            ended_at: AtomicU64::new(0),
            ends: AtomicU32::new(0),
            died_at: AtomicU64::new(0),
            deaths_in_a_row: AtomicU32::new(0),
            is_announced: AtomicBool::new(false),
        }
    }

    /// Whether a connection that has been idle this long will do for a request; `may_repeat` says
    /// that it can be sent again.
    pub fn allows(&self, idle: Duration, may_repeat: bool, now: Instant) -> bool {
        let limit = self.limit.load(Relaxed);
        limit == ANY || micros(idle) < limit || self.allows_older(may_repeat, self.clock(now))
    }

    /// The backend closed one that nobody used. Returns how long it lived, if the operator is to be
    /// told.
    pub fn closed(&self, life: &Life, now: Instant) -> Option<Duration> {
        let age = now.saturating_duration_since(life.idle_since);
        // One that closes after a while is in order: nothing but the age has to be minded.
        let is_news = self.learn(life, age, now) && self.limit.load(Relaxed) == 0 && self.is_news();
        is_news.then_some(age)
    }

    /// One that was reused at `reused` died without a byte of a response. Returns how long it
    /// lived, if the operator is to be told.
    pub fn died(&self, life: &Life, reused: Instant, now: Instant) -> Option<Duration> {
        if !self.learn(life, reused.saturating_duration_since(life.idle_since), now) {
            return None;
        }
        if life.served < FEW {
            self.died_at.store(self.clock(now), Relaxed);
            self.deaths_in_a_row.fetch_add(1, Relaxed);
        }
        self.is_news().then(|| now.saturating_duration_since(life.idle_since))
    }

    /// A connection has served one more request and is idle again.
    pub fn lives(&self, life: &Life) {
        if life.served == FEW && self.deaths_in_a_row.load(Relaxed) > 0 {
            self.deaths_in_a_row.store(0, Relaxed);
        }
    }

    /// Takes in an end. A restart ends many at once: those that were open when the last one ended
    /// belong to it and tell nothing new.
    fn learn(&self, life: &Life, age: Duration, now: Instant) -> bool {
        let (now, last) = (self.clock(now), self.ended_at.load(Relaxed));
        if self.clock(life.opened) < last
            || self.ended_at.compare_exchange(last, now, Relaxed, Relaxed).is_err()
        {
            return false;
        }
        self.forget_after(now.saturating_sub(last));
        let safe = if age < AT_ONCE { 0 } else { micros(age / 2) };
        self.limit.fetch_min(safe, Relaxed);
        self.ends.fetch_add(1, Relaxed);
        true
    }

    fn allows_older(&self, may_repeat: bool, now: u64) -> bool {
        self.forget_after(now.saturating_sub(self.ended_at.load(Relaxed)));
        if self.limit.load(Relaxed) == ANY {
            return true;
        }
        let since_death = now.saturating_sub(self.died_at.load(Relaxed));
        may_repeat && (self.deaths_in_a_row.load(Relaxed) < OFTEN || since_death >= micros(SPARED))
    }

    /// Forgets what has not been seen again for so long.
    fn forget_after(&self, quiet: u64) {
        let is_habit = self.ends.load(Relaxed) > 1;
        if quiet >= micros(if is_habit { HABIT } else { CHANCE }) {
            self.limit.store(ANY, Relaxed);
        }
        if quiet >= micros(HABIT) {
            self.ends.store(0, Relaxed);
            self.deaths_in_a_row.store(0, Relaxed);
            self.is_announced.store(false, Relaxed);
        }
    }

    fn is_news(&self) -> bool {
        self.ends.load(Relaxed) >= OFTEN && !self.is_announced.swap(true, Relaxed)
    }

    fn clock(&self, at: Instant) -> u64 {
        micros(at.saturating_duration_since(self.started))
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const SECOND: Duration = Duration::from_secs(1);

    /// A backend's connections, one after the other.
    struct Story {
        reuse: Reuse,
        now: Instant,
    }

    impl Story {
        fn new() -> Self {
            let now = Instant::now();
            Self { reuse: Reuse::new(now), now }
        }

        /// A connection serves a few requests and then is idle for this long.
        fn idle(&mut self, served: u32, idle: Duration) -> Life {
            let opened = self.now;
            self.now += MS;
            let life = Life { opened, idle_since: self.now, served };
            self.now += idle;
            life
        }

        fn closes_after(&mut self, idle: Duration) -> Option<Duration> {
            let life = self.idle(1, idle);
            self.reuse.closed(&life, self.now)
        }

        fn dies_after(&mut self, idle: Duration) -> Option<Duration> {
            let (life, reused) = (self.idle(1, idle), self.now);
            self.now += MS;
            self.reuse.died(&life, reused, self.now)
        }

        /// What is allowed at this age: a GET, a POST.
        fn allowed(&self, idle: Duration) -> [bool; 2] {
            [true, false].map(|may_repeat| self.reuse.allows(idle, may_repeat, self.now))
        }
    }

    #[test]
    fn while_nothing_ends_everything_is_reused() {
        assert_eq!(Story::new().allowed(60 * SECOND), [true, true]);
    }

    #[test]
    fn what_cannot_be_sent_again_keeps_away_from_the_age_at_which_connections_end() {
        let mut story = Story::new();
        assert_eq!([(); 3].map(|()| story.closes_after(2 * SECOND)), [None; 3], "that is in order");
        story.now += 5 * SECOND;
        assert_eq!(
            (story.allowed(SECOND - MS), story.allowed(SECOND)),
            ([true, true], [true, false])
        );
        assert!(story.closes_after(3 * MS).is_some(), "that is not");
        assert_eq!(story.allowed(Duration::ZERO), [true, false], "it may close at any moment");
        story.now += HABIT;
        assert_eq!(story.allowed(60 * SECOND), [true, true]);
    }

    #[test]
    fn a_restart_ends_many_connections_and_is_soon_forgotten() {
        let mut story = Story::new();
        let lives: Vec<Life> = (0..100).map(|_| story.idle(1, MS)).collect();
        for life in &lives {
            let told =
                [story.reuse.closed(life, story.now), story.reuse.died(life, story.now, story.now)];
            assert_eq!(told, [None, None]);
        }
        assert_eq!(story.allowed(SECOND), [true, false]);
        story.now += CHANCE;
        assert_eq!(story.allowed(SECOND), [true, true]);
    }

    #[test]
    fn when_reused_connections_die_in_a_row_nothing_is_reused_for_a_while() {
        let mut story = Story::new();
        assert_eq!(
            [(); 4].map(|()| story.dies_after(MS)),
            [None, None, Some(2 * MS), None],
            "said once"
        );
        assert_eq!(story.allowed(Duration::ZERO), [false, false]);
        story.now += SPARED;
        assert_eq!(story.allowed(SECOND), [true, false], "a GET may try");
        assert_eq!(story.dies_after(MS), None);
        assert_eq!(story.allowed(Duration::ZERO), [false, false], "one more death is enough");
        story.now += HABIT;
        assert_eq!(story.allowed(60 * SECOND), [true, true]);
        assert!(
            [(); 3].map(|()| story.dies_after(MS))[2].is_some(),
            "said again after it was over"
        );
    }

    #[test]
    fn rare_deaths_keep_nobody_from_reuse_who_can_be_sent_again() {
        let mut story = Story::new();
        for _ in 0..10 {
            story.dies_after(MS);
            let life = story.idle(FEW, MS);
            story.reuse.lives(&life);
        }
        assert_eq!(story.allowed(SECOND), [true, false]);
        let mut story = Story::new();
        for _ in 0..10 {
            let life = story.idle(FEW, MS);
            story.reuse.died(&life, story.now, story.now);
        }
        assert_eq!(story.allowed(SECOND), [true, false], "nor does one that had served many");
    }
}
