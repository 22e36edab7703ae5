//! How long idle connections to a backend may be reused, learned from how they end.
//!
//! Shared by all workers, atomics only; pure, with `now` as a parameter. While connections last,
//! asking costs one relaxed load. The limit is a rule of thumb, so two workers that record an end
//! at once may do it in either order.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// No limit.
const ANY: u64 = u64::MAX;
/// A backend that closes connections this soon may close them at any moment.
const IMMEDIATE: Duration = Duration::from_millis(20);
/// How long a single end counts: it may have been a restart.
const SINGLE_END_MEMORY: Duration = Duration::from_secs(2);
/// How long repeated ends count, from the second on, and how long a second one is waited for.
const REPEATED_ENDS_MEMORY: Duration = Duration::from_secs(60);
/// Consecutive ends that make the log warn, and consecutive stale connections that stop reuse also
/// for requests that can be sent again.
const MANY: u32 = 3;
/// A connection that was stale before it had served this many requests counts as consecutive.
const FEW_REQUESTS: u32 = 10;
/// How long reuse stops for requests that can be sent again: shorter than the memory of repeated
/// ends, so that they find out first whether those are over.
const REUSE_STOP: Duration = Duration::from_secs(30);

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

/// How the idle connections to one backend end.
#[derive(Debug)]
pub struct Reuse {
    started: Instant,
    /// How long a connection may have been idle, in microseconds.
    limit: AtomicU64,
    /// When one last ended that was opened after the one before had ended, in microseconds since
    /// the start.
    ended_at: AtomicU64,
    ends: AtomicU32,
    /// When one was last stale, likewise.
    stale_at: AtomicU64,
    consecutive_stale: AtomicU32,
    has_warned: AtomicBool,
}

impl Reuse {
    /// None has ended yet.
    pub fn new(now: Instant) -> Self {
        Self {
            started: now,
            limit: AtomicU64::new(ANY),
            ended_at: AtomicU64::new(0),
            ends: AtomicU32::new(0),
            stale_at: AtomicU64::new(0),
            consecutive_stale: AtomicU32::new(0),
            has_warned: AtomicBool::new(false),
        }
    }

    /// Whether a connection that has been idle this long will do for a request; `is_retryable` says
    /// that it can be sent again.
    pub fn allows(&self, idle: Duration, is_retryable: bool, now: Instant) -> bool {
        let limit = self.limit.load(Relaxed);
        limit == ANY || micros(idle) < limit || self.allows_older(is_retryable, self.clock(now))
    }

    /// The backend closed an idle connection. Returns how long it lived, if the log must warn.
    pub fn record_closed(&self, life: &Life, now: Instant) -> Option<Duration> {
        let age = now.saturating_duration_since(life.idle_since);
        // A close after a while is in order: only the age has to be avoided.
        let must_warn =
            self.record_end(life, age, now) && self.limit.load(Relaxed) == 0 && self.must_warn();
        must_warn.then_some(age)
    }

    /// A connection that was reused at `reused` ended without a byte of a response. Returns how
    /// long it lived, if the log must warn.
    pub fn record_stale(&self, life: &Life, reused: Instant, now: Instant) -> Option<Duration> {
        if !self.record_end(life, reused.saturating_duration_since(life.idle_since), now) {
            return None;
        }
        if life.served < FEW_REQUESTS {
            self.stale_at.store(self.clock(now), Relaxed);
            self.consecutive_stale.fetch_add(1, Relaxed);
        }
        self.must_warn().then(|| now.saturating_duration_since(life.idle_since))
    }

    /// A connection has served one more request and is idle again.
    pub fn record_served(&self, life: &Life) {
        if life.served == FEW_REQUESTS && self.consecutive_stale.load(Relaxed) > 0 {
            self.consecutive_stale.store(0, Relaxed);
        }
    }

    /// Records an end. A restart ends many connections at once: those that were open at the last
    /// end belong to it, and do not count again.
    fn record_end(&self, life: &Life, age: Duration, now: Instant) -> bool {
        let (now, last) = (self.clock(now), self.ended_at.load(Relaxed));
        if self.clock(life.opened) < last
            || self.ended_at.compare_exchange(last, now, Relaxed, Relaxed).is_err()
        {
            return false;
        }
        self.forget_after(now.saturating_sub(last));
        let safe = if age < IMMEDIATE { 0 } else { micros(age / 2) };
        self.limit.fetch_min(safe, Relaxed);
        self.ends.fetch_add(1, Relaxed);
        true
    }

    fn allows_older(&self, is_retryable: bool, now: u64) -> bool {
        self.forget_after(now.saturating_sub(self.ended_at.load(Relaxed)));
        if self.limit.load(Relaxed) == ANY {
            return true;
        }
        let since_stale = now.saturating_sub(self.stale_at.load(Relaxed));
        is_retryable
            && (self.consecutive_stale.load(Relaxed) < MANY || since_stale >= micros(REUSE_STOP))
    }

    /// Forgets ends that were not repeated for so long.
    fn forget_after(&self, quiet: u64) {
        let is_habit = self.ends.load(Relaxed) > 1;
        if quiet >= micros(if is_habit { REPEATED_ENDS_MEMORY } else { SINGLE_END_MEMORY }) {
            self.limit.store(ANY, Relaxed);
        }
        if quiet >= micros(REPEATED_ENDS_MEMORY) {
            self.ends.store(0, Relaxed);
            self.consecutive_stale.store(0, Relaxed);
            self.has_warned.store(false, Relaxed);
        }
    }

    fn must_warn(&self) -> bool {
        self.ends.load(Relaxed) >= MANY && !self.has_warned.swap(true, Relaxed)
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
            self.reuse.record_closed(&life, self.now)
        }

        fn is_stale_after(&mut self, idle: Duration) -> Option<Duration> {
            let (life, reused) = (self.idle(1, idle), self.now);
            self.now += MS;
            self.reuse.record_stale(&life, reused, self.now)
        }

        /// What is allowed at this age: a GET, a POST.
        fn allowed(&self, idle: Duration) -> [bool; 2] {
            [true, false].map(|is_retryable| self.reuse.allows(idle, is_retryable, self.now))
        }
    }

    #[test]
    fn while_no_connection_ends_all_are_reused() {
        assert_eq!(Story::new().allowed(60 * SECOND), [true, true]);
    }

    #[test]
    fn a_request_that_cannot_be_sent_again_avoids_the_age_at_which_connections_end() {
        let mut story = Story::new();
        assert_eq!([(); 3].map(|()| story.closes_after(2 * SECOND)), [None; 3], "that is in order");
        story.now += 5 * SECOND;
        assert_eq!(
            (story.allowed(SECOND - MS), story.allowed(SECOND)),
            ([true, true], [true, false])
        );
        assert!(story.closes_after(3 * MS).is_some(), "that is not");
        assert_eq!(story.allowed(Duration::ZERO), [true, false], "it may close at any moment");
        story.now += REPEATED_ENDS_MEMORY;
        assert_eq!(story.allowed(60 * SECOND), [true, true]);
    }

    #[test]
    fn a_restart_ends_many_connections_and_is_soon_forgotten() {
        let mut story = Story::new();
        let lives: Vec<Life> = (0..100).map(|_| story.idle(1, MS)).collect();
        for life in &lives {
            let warnings = [
                story.reuse.record_closed(life, story.now),
                story.reuse.record_stale(life, story.now, story.now),
            ];
            assert_eq!(warnings, [None, None]);
        }
        assert_eq!(story.allowed(SECOND), [true, false]);
        story.now += SINGLE_END_MEMORY;
        assert_eq!(story.allowed(SECOND), [true, true]);
    }

    #[test]
    fn after_consecutive_stale_connections_none_is_reused_for_a_while() {
        let mut story = Story::new();
        assert_eq!(
            [(); 4].map(|()| story.is_stale_after(MS)),
            [None, None, Some(2 * MS), None],
            "said once"
        );
        assert_eq!(story.allowed(Duration::ZERO), [false, false]);
        story.now += REUSE_STOP;
        assert_eq!(story.allowed(SECOND), [true, false], "a GET may try");
        assert_eq!(story.is_stale_after(MS), None);
        assert_eq!(story.allowed(Duration::ZERO), [false, false], "one more is enough");
        story.now += REPEATED_ENDS_MEMORY;
        assert_eq!(story.allowed(60 * SECOND), [true, true]);
        assert!(
            [(); 3].map(|()| story.is_stale_after(MS))[2].is_some(),
            "said again after it was over"
        );
    }

    #[test]
    fn rare_stale_connections_do_not_stop_reuse_by_requests_that_can_be_sent_again() {
        let mut story = Story::new();
        for _ in 0..10 {
            story.is_stale_after(MS);
            let life = story.idle(FEW_REQUESTS, MS);
            story.reuse.record_served(&life);
        }
        assert_eq!(story.allowed(SECOND), [true, false]);
        let mut story = Story::new();
        for _ in 0..10 {
            let life = story.idle(FEW_REQUESTS, MS);
            story.reuse.record_stale(&life, story.now, story.now);
        }
        assert_eq!(story.allowed(SECOND), [true, false], "nor does one that had served many");
    }
}
