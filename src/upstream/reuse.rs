//! The age up to which idle connections to a backend are reused, learned from how they end.
//!
//! Runs on workers, which share one [`ReuseLimit`] per backend: atomics only, and pure, with `now`
//! as a parameter. While no connection has ended, a look-up costs one relaxed load. The limit is an
//! estimate, so two workers may record ends in either order.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// No limit on the age.
const UNLIMITED: u64 = u64::MAX;
/// Connections that end at a lower age may end at any age.
const IMMEDIATE: Duration = Duration::from_millis(20);
/// The time for which a single end counts: it may have been a restart.
const SINGLE_END_MEMORY: Duration = Duration::from_secs(2);
/// The time for which ends count from the second one on, and within which a second one must follow
/// the first.
const REPEATED_ENDS_MEMORY: Duration = Duration::from_secs(60);
/// Consecutive ends before a warning, and consecutive stale connections before retryable requests
/// get fresh connections as well.
const MAX_CONSECUTIVE: u32 = 3;
/// Requests after which a connection is proof that reuse works: stale ones before it no longer
/// count, and its own end is not counted as stale.
const PROOF_REQUESTS: u32 = 10;
/// The time without reuse for retryable requests. Shorter than [`REPEATED_ENDS_MEMORY`], so that
/// they try reuse again before other requests do.
const REUSE_STOP: Duration = Duration::from_secs(30);

/// The life of one connection so far.
#[derive(Clone, Copy, Debug)]
pub struct Life {
    /// When it was opened.
    pub opened: Instant,
    /// The end of its last response.
    pub idle_since: Instant,
    /// The number of requests that it has served.
    pub served: u32,
}

/// The limit of reuse for one backend.
#[derive(Debug)]
pub struct ReuseLimit {
    started: Instant,
    /// The longest idle time of a connection that is reused, in microseconds.
    limit: AtomicU64,
    /// The time of the last counted end, in microseconds since `started`.
    ended_at: AtomicU64,
    /// Counted ends: each connection was opened after the end before.
    ends: AtomicU32,
    /// The time of the last stale connection, in microseconds since `started`.
    stale_at: AtomicU64,
    consecutive_stale: AtomicU32,
    has_warned: AtomicBool,
}

impl ReuseLimit {
    /// No connection has ended yet.
    pub fn new(now: Instant) -> Self {
        Self {
            started: now,
            limit: AtomicU64::new(UNLIMITED),
            ended_at: AtomicU64::new(0),
            ends: AtomicU32::new(0),
            stale_at: AtomicU64::new(0),
            consecutive_stale: AtomicU32::new(0),
            has_warned: AtomicBool::new(false),
        }
    }

    /// Whether a request may reuse a connection that has been idle for this long.
    pub fn allows(&self, idle: Duration, is_retryable: bool, now: Instant) -> bool {
        let limit = self.limit.load(Relaxed);
        limit == UNLIMITED
            || micros(idle) < limit
            || self.allows_older(is_retryable, self.clock(now))
    }

    /// The backend closed an idle connection. Returns its idle time if a warning is due.
    pub fn record_closed(&self, life: &Life, now: Instant) -> Option<Duration> {
        let age = now.saturating_duration_since(life.idle_since);
        // A backend may have an idle timeout; a warning is due only if it leaves no usable age.
        let must_warn =
            self.record_end(life, age, now) && self.limit.load(Relaxed) == 0 && self.must_warn();
        must_warn.then_some(age)
    }

    /// A connection that was reused at `reused` ended without a byte of a response. Returns its
    /// idle time if a warning is due.
    pub fn record_stale(&self, life: &Life, reused: Instant, now: Instant) -> Option<Duration> {
        if !self.record_end(life, reused.saturating_duration_since(life.idle_since), now) {
            return None;
        }
        if life.served < PROOF_REQUESTS {
            self.stale_at.store(self.clock(now), Relaxed);
            self.consecutive_stale.fetch_add(1, Relaxed);
        }
        self.must_warn().then(|| now.saturating_duration_since(life.idle_since))
    }

    /// A connection has served one more request and is idle again.
    pub fn record_served(&self, life: &Life) {
        if life.served == PROOF_REQUESTS && self.consecutive_stale.load(Relaxed) > 0 {
            self.consecutive_stale.store(0, Relaxed);
        }
    }

    /// Records an end; false if it does not count. A restart ends many connections at once, so
    /// connections that were already open at the last counted end belong to that one.
    fn record_end(&self, life: &Life, age: Duration, now: Instant) -> bool {
        let (now, last) = (self.clock(now), self.ended_at.load(Relaxed));
        if self.clock(life.opened) < last
            || self.ended_at.compare_exchange(last, now, Relaxed, Relaxed).is_err()
        {
            return false;
        }
        self.forget_old_ends(now.saturating_sub(last));
        let safe = if age < IMMEDIATE { 0 } else { micros(age / 2) };
        self.limit.fetch_min(safe, Relaxed);
        self.ends.fetch_add(1, Relaxed);
        true
    }

    /// Whether a request may reuse a connection beyond the limit.
    fn allows_older(&self, is_retryable: bool, now: u64) -> bool {
        self.forget_old_ends(now.saturating_sub(self.ended_at.load(Relaxed)));
        if self.limit.load(Relaxed) == UNLIMITED {
            return true;
        }
        let since_stale = now.saturating_sub(self.stale_at.load(Relaxed));
        is_retryable
            && (self.consecutive_stale.load(Relaxed) < MAX_CONSECUTIVE
                || since_stale >= micros(REUSE_STOP))
    }

    /// Lifts the limit and resets the counts if the last end is long enough ago.
    fn forget_old_ends(&self, since_end: u64) {
        let is_repeated = self.ends.load(Relaxed) > 1;
        if since_end >= micros(if is_repeated { REPEATED_ENDS_MEMORY } else { SINGLE_END_MEMORY }) {
            self.limit.store(UNLIMITED, Relaxed);
        }
        if since_end >= micros(REPEATED_ENDS_MEMORY) {
            self.ends.store(0, Relaxed);
            self.consecutive_stale.store(0, Relaxed);
            self.has_warned.store(false, Relaxed);
        }
    }

    fn must_warn(&self) -> bool {
        self.ends.load(Relaxed) >= MAX_CONSECUTIVE && !self.has_warned.swap(true, Relaxed)
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
    struct Scene {
        reuse: ReuseLimit,
        now: Instant,
    }

    impl Scene {
        fn new() -> Self {
            let now = Instant::now();
            Self { reuse: ReuseLimit::new(now), now }
        }

        /// A connection that serves requests and then is idle for this long.
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

        /// Whether a GET and a POST may reuse a connection of this age.
        fn allowed(&self, idle: Duration) -> [bool; 2] {
            [true, false].map(|is_retryable| self.reuse.allows(idle, is_retryable, self.now))
        }
    }

    #[test]
    fn while_no_connection_ends_all_are_reused() {
        assert_eq!(Scene::new().allowed(60 * SECOND), [true, true]);
    }

    #[test]
    fn a_request_that_is_not_retryable_avoids_the_age_at_which_connections_end() {
        let mut scene = Scene::new();
        assert_eq!([(); 3].map(|()| scene.closes_after(2 * SECOND)), [None; 3], "an idle timeout");
        scene.now += 5 * SECOND;
        assert_eq!(
            (scene.allowed(SECOND - MS), scene.allowed(SECOND)),
            ([true, true], [true, false])
        );
        assert!(scene.closes_after(3 * MS).is_some(), "no usable age");
        assert_eq!(scene.allowed(Duration::ZERO), [true, false], "it may close at any moment");
        scene.now += REPEATED_ENDS_MEMORY;
        assert_eq!(scene.allowed(60 * SECOND), [true, true]);
    }

    #[test]
    fn a_restart_that_ends_many_connections_limits_reuse_for_a_short_time() {
        let mut scene = Scene::new();
        let lives: Vec<Life> = (0..100).map(|_| scene.idle(1, MS)).collect();
        for life in &lives {
            let warnings = [
                scene.reuse.record_closed(life, scene.now),
                scene.reuse.record_stale(life, scene.now, scene.now),
            ];
            assert_eq!(warnings, [None, None]);
        }
        assert_eq!(scene.allowed(SECOND), [true, false]);
        scene.now += SINGLE_END_MEMORY;
        assert_eq!(scene.allowed(SECOND), [true, true]);
    }

    #[test]
    fn after_consecutive_stale_connections_none_is_reused_for_some_time() {
        let mut scene = Scene::new();
        assert_eq!(
            [(); 4].map(|()| scene.is_stale_after(MS)),
            [None, None, Some(2 * MS), None],
            "one warning"
        );
        assert_eq!(scene.allowed(Duration::ZERO), [false, false]);
        scene.now += REUSE_STOP;
        assert_eq!(scene.allowed(SECOND), [true, false], "a GET may try");
        assert_eq!(scene.is_stale_after(MS), None);
        assert_eq!(scene.allowed(Duration::ZERO), [false, false], "one more is enough");
        scene.now += REPEATED_ENDS_MEMORY;
        assert_eq!(scene.allowed(60 * SECOND), [true, true]);
        assert!(
            [(); 3].map(|()| scene.is_stale_after(MS))[2].is_some(),
            "a new warning after the ends had stopped"
        );
    }

    #[test]
    fn rare_stale_connections_do_not_stop_reuse_by_retryable_requests() {
        let mut scene = Scene::new();
        for _ in 0..10 {
            scene.is_stale_after(MS);
            let life = scene.idle(PROOF_REQUESTS, MS);
            scene.reuse.record_served(&life);
        }
        assert_eq!(scene.allowed(SECOND), [true, false]);
        let mut scene = Scene::new();
        for _ in 0..10 {
            let life = scene.idle(PROOF_REQUESTS, MS);
            scene.reuse.record_stale(&life, scene.now, scene.now);
        }
        assert_eq!(scene.allowed(SECOND), [true, false], "nor does one that had served many");
    }
}
