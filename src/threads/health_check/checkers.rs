//! The pool of checker threads: grows with the checks in flight and shrinks after a while.
//!
//! Runs on the health daemon, which owns all counts; the daemon and the checkers share two channels.
//! Must never wait for a checker.

use super::check::{self, CheckOutcome, Checker, Job, Target};
use crate::config::HealthSettings;
use crossbeam_channel::Sender;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// The stack of a checker, in bytes. A check needs between 64 and 80 KiB in a debug build.
const STACK_BYTES: usize = 256 * 1024;
/// The time between two reviews, which end unneeded checkers.
const REVIEW_PERIOD: Duration = Duration::from_secs(30);

/// The pool of checkers.
pub struct Checkers {
    jobs: Sender<Job>,
    /// The client for checks to come.
    checker: Arc<Checker>,
    /// Starts the checker with this number.
    spawn: Spawn,
    count: usize,
    in_flight: usize,
    /// The most checks in flight since the last review.
    peak: usize,
    next_review: Instant,
    limit: usize,
    /// The limit now: lower from a failure to start a thread until the next review.
    current_limit: usize,
}

type Spawn = Box<dyn FnMut(usize) -> io::Result<()> + Send>;

impl Checkers {
    /// Starts the first checker, which never ends: it remains if no other thread can be started.
    pub fn start(
        health: &HealthSettings,
        limit: usize,
        results: &Sender<CheckOutcome>,
        now: Instant,
    ) -> io::Result<Self> {
        let (jobs, receiver) = crossbeam_channel::unbounded();
        let results = results.clone();
        let spawn = move |number| {
            let (jobs, results) = (receiver.clone(), results.clone());
            let thread =
                thread::Builder::new().name(format!("checker-{number}")).stack_size(STACK_BYTES);
            thread.spawn(move || check::run(&jobs, &results)).map(drop)
        };
        Self::with(jobs, health, Box::new(spawn), limit, now)
    }

    fn with(
        jobs: Sender<Job>,
        health: &HealthSettings,
        mut spawn: Spawn,
        limit: usize,
        now: Instant,
    ) -> io::Result<Self> {
        spawn(0)?;
        Ok(Self {
            jobs,
            checker: Arc::new(Checker::new(health)),
            spawn,
            count: 1,
            in_flight: 0,
            peak: 0,
            next_review: now + REVIEW_PERIOD,
            limit,
            current_limit: limit,
        })
    }

    /// Changes the settings of checks to come.
    pub fn apply(&mut self, health: &HealthSettings) {
        self.checker = Arc::new(Checker::new(health));
    }

    /// Starts a check, on a new thread if all are busy.
    pub fn check(&mut self, target: Target) {
        self.in_flight += 1;
        self.peak = self.peak.max(self.in_flight);
        // Never fails: the receiver in `spawn` lives as long as this sender.
        let _ = self.jobs.send(Job::Check(target, Arc::clone(&self.checker)));
        while self.count < self.in_flight.min(self.current_limit) {
            match (self.spawn)(self.count) {
                Ok(()) => self.count += 1,
                Err(error) => self.shrink(&error),
            }
        }
    }

    /// Ends a quarter of the threads, because no thread is left for the rest of the machine. Checks
    /// wait for the others.
    fn shrink(&mut self, error: &io::Error) {
        log::warn!(
            event = "limit";
            "health checks wait for {} threads: cannot start another: {error}; raise ulimit -u",
            self.count
        );
        self.current_limit = self.count - self.count / 4;
        self.end_above(self.current_limit);
    }

    fn end_above(&mut self, limit: usize) {
        for _ in limit..self.count {
            let _ = self.jobs.send(Job::End);
        }
        self.count = self.count.min(limit);
    }

    /// Counts the end of a check.
    pub fn ended(&mut self) {
        self.in_flight -= 1;
    }

    /// Ends the threads that were not needed since the last review, if the next one is due.
    pub fn review(&mut self, now: Instant) {
        if now < self.next_review {
            return;
        }
        self.end_above(self.peak.max(1));
        self.peak = self.in_flight;
        self.next_review = now + REVIEW_PERIOD;
        self.current_limit = self.limit;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::backend::Backend;
    use crossbeam_channel::Receiver;

    const LIMIT: usize = 40;

    fn target() -> Target {
        Target::from(&Backend::at(0, ([127, 0, 0, 1], 1).into()))
    }

    /// Checkers without threads, of which only `max` can be started.
    fn checkers(max: usize, now: Instant) -> (Checkers, Receiver<Job>) {
        let (sender, jobs) = crossbeam_channel::unbounded();
        let spawn = move |number| {
            if number < max { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
        };
        let health = HealthSettings::default();
        (Checkers::with(sender, &health, Box::new(spawn), LIMIT, now).unwrap(), jobs)
    }

    #[test]
    fn there_are_as_many_checkers_as_checks_in_flight_up_to_the_limit() {
        let (mut checkers, jobs) = checkers(usize::MAX, Instant::now());
        assert_eq!(checkers.count, 1);
        for number in 1..=LIMIT + 10 {
            checkers.check(target());
            assert_eq!((checkers.count, jobs.len()), (number.min(LIMIT), number));
        }
    }

    #[test]
    fn an_idle_checker_is_used_again() {
        let (mut checkers, _jobs) = checkers(usize::MAX, Instant::now());
        for _ in 0..10 {
            checkers.check(target());
            checkers.check(target());
            checkers.ended();
            checkers.ended();
        }
        assert_eq!(checkers.count, 2);
    }

    #[test]
    fn checkers_that_were_not_needed_for_a_period_end_except_for_one() {
        let now = Instant::now();
        let (mut checkers, jobs) = checkers(usize::MAX, now);
        for _ in 0..20 {
            checkers.check(target());
        }
        for _ in 0..17 {
            checkers.ended();
        }
        checkers.review(now + REVIEW_PERIOD);
        assert_eq!(checkers.count, 20, "all were needed since the last review");
        checkers.review(now + REVIEW_PERIOD * 3 / 2);
        assert_eq!(checkers.count, 20, "too early");
        checkers.review(now + REVIEW_PERIOD * 2);
        assert_eq!(checkers.count, 3, "as many as are busy");
        (0..3).for_each(|_| checkers.ended());
        checkers.review(now + REVIEW_PERIOD * 3);
        checkers.review(now + REVIEW_PERIOD * 4);
        assert_eq!(checkers.count, 1);
        assert_eq!(
            jobs.try_iter().filter(|job| matches!(job, Job::End)).count(),
            19,
            "each of them gets its end"
        );
    }

    #[test]
    fn when_no_thread_can_be_started_a_quarter_of_the_checkers_end_until_the_next_review() {
        let now = Instant::now();
        let (mut checkers, jobs) = checkers(8, now);
        for _ in 0..20 {
            checkers.check(target());
        }
        assert_eq!((checkers.count, jobs.len()), (6, 22), "no more are started for now");
        checkers.review(now + REVIEW_PERIOD);
        checkers.check(target());
        assert_eq!(checkers.count, 6, "another start has failed");
        assert_eq!(jobs.try_iter().filter(|job| matches!(job, Job::End)).count(), 4);
    }

    #[test]
    fn the_first_checker_never_ends() {
        let now = Instant::now();
        let (mut checkers, _jobs) = checkers(1, now);
        checkers.check(target());
        checkers.check(target());
        checkers.review(now + REVIEW_PERIOD);
        assert_eq!(checkers.count, 1);
    }
}
