//! The checker threads: as many as there are checks in flight, started when one is missing and
//! ended when one was not needed.
//!
//! The daemon owns this and does all the counting, so that nothing is shared but two channels.

use super::check::{self, Checker, Job, Outcome, Target};
use crate::config::HealthSettings;
use crossbeam_channel::Sender;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// A checker's stack, in bytes. A check needs more than 64 KiB of it in a debug build, and less
/// than 80.
const STACK_BYTES: usize = 256 * 1024;
/// How often it is found out how many were needed.
const REVIEW_PERIOD: Duration = Duration::from_secs(30);

/// The threads as the daemon sees them.
pub struct Checkers {
    jobs: Sender<Job>,
    /// How backends are checked from now on.
    checker: Arc<Checker>,
    /// Starts one more.
    spawn: Spawn,
    count: usize,
    in_flight: usize,
    /// The most checks in flight since the last review.
    needed: usize,
    next_review: Instant,
    limit: usize,
    /// The most threads now: the limit, but fewer from a failure to start one until the next
    /// review.
    most: usize,
}

type Spawn = Box<dyn FnMut(usize) -> io::Result<()> + Send>;

impl Checkers {
    /// Starts the first one, which stays: it checks whatever the machine refuses later.
    pub fn start(
        health: &HealthSettings,
        limit: usize,
        results: &Sender<Outcome>,
        now: Instant,
    ) -> io::Result<Self> {
        let (jobs, todo) = crossbeam_channel::unbounded();
        let results = results.clone();
        let spawn = move |number| {
            let (todo, results) = (todo.clone(), results.clone());
            let thread =
                thread::Builder::new().name(format!("checker-{number}")).stack_size(STACK_BYTES);
            thread.spawn(move || check::run(&todo, &results)).map(drop)
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
            needed: 0,
            next_review: now + REVIEW_PERIOD,
            limit,
            most: limit,
        })
    }

    /// Changes how backends are checked; checks in flight stay as they are.
    pub fn apply(&mut self, health: &HealthSettings) {
        self.checker = Arc::new(Checker::new(health));
    }

    /// Has a backend checked, by a new thread if all are busy.
    pub fn check(&mut self, target: Target) {
        self.in_flight += 1;
        self.needed = self.needed.max(self.in_flight);
        // The checkers live as long as this sender.
        let _ = self.jobs.send(Job::Check(target, Arc::clone(&self.checker)));
        while self.count < self.in_flight.min(self.most) {
            match (self.spawn)(self.count) {
                Ok(()) => self.count += 1,
                Err(error) => self.give_back_some(&error),
            }
        }
    }

    /// The machine has no thread left: others need some too, so a quarter of ours end. The checks
    /// wait for the rest.
    fn give_back_some(&mut self, error: &io::Error) {
        log::warn!(
            "health checks wait for {} threads: cannot start another: {error}; raise ulimit -u",
            self.count
        );
        self.most = self.count - self.count / 4;
        self.dismiss_beyond(self.most);
    }

    fn dismiss_beyond(&mut self, count: usize) {
        for _ in count..self.count {
            let _ = self.jobs.send(Job::End);
        }
        self.count = self.count.min(count);
    }

    /// A check has ended.
    pub fn ended(&mut self) {
        self.in_flight -= 1;
    }

    /// Ends the threads that were not needed for a while.
    pub fn dismiss_idle(&mut self, now: Instant) {
        if now < self.next_review {
            return;
        }
        self.dismiss_beyond(self.needed.max(1));
        self.needed = self.in_flight;
        self.next_review = now + REVIEW_PERIOD;
        self.most = self.limit;
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

    /// Checkers that do nothing, of which only so many can be started.
    fn checkers(most: usize, now: Instant) -> (Checkers, Receiver<Job>) {
        let (jobs, todo) = crossbeam_channel::unbounded();
        let spawn = move |number| {
            if number < most { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
        };
        let health = HealthSettings::default();
        (Checkers::with(jobs, &health, Box::new(spawn), LIMIT, now).unwrap(), todo)
    }

    #[test]
    fn there_are_as_many_as_checks_in_flight_and_never_too_many() {
        let (mut checkers, todo) = checkers(usize::MAX, Instant::now());
        assert_eq!(checkers.count, 1);
        for number in 1..=LIMIT + 10 {
            checkers.check(target());
            assert_eq!((checkers.count, todo.len()), (number.min(LIMIT), number));
        }
    }

    #[test]
    fn a_free_one_is_used_again() {
        let (mut checkers, _todo) = checkers(usize::MAX, Instant::now());
        for _ in 0..10 {
            checkers.check(target());
            checkers.check(target());
            checkers.ended();
            checkers.ended();
        }
        assert_eq!(checkers.count, 2);
    }

    #[test]
    fn those_that_were_not_needed_for_a_while_end_but_one() {
        let now = Instant::now();
        let (mut checkers, todo) = checkers(usize::MAX, now);
        for _ in 0..20 {
            checkers.check(target());
        }
        for _ in 0..17 {
            checkers.ended();
        }
        checkers.dismiss_idle(now + REVIEW_PERIOD);
        assert_eq!(checkers.count, 20, "all were needed since the last review");
        checkers.dismiss_idle(now + REVIEW_PERIOD * 3 / 2);
        assert_eq!(checkers.count, 20, "too early");
        checkers.dismiss_idle(now + REVIEW_PERIOD * 2);
        assert_eq!(checkers.count, 3, "as many as are busy");
        (0..3).for_each(|_| checkers.ended());
        checkers.dismiss_idle(now + REVIEW_PERIOD * 3);
        checkers.dismiss_idle(now + REVIEW_PERIOD * 4);
        assert_eq!(checkers.count, 1);
        assert_eq!(
            todo.try_iter().filter(|job| matches!(job, Job::End)).count(),
            19,
            "each gets its end"
        );
    }

    #[test]
    fn when_no_thread_can_be_started_some_are_given_back_and_checks_wait_for_the_rest() {
        let now = Instant::now();
        let (mut checkers, todo) = checkers(8, now);
        for _ in 0..20 {
            checkers.check(target());
        }
        assert_eq!((checkers.count, todo.len()), (6, 22), "no more are tried for now");
        checkers.dismiss_idle(now + REVIEW_PERIOD);
        checkers.check(target());
        assert_eq!(checkers.count, 6, "tried again");
        assert_eq!(todo.try_iter().filter(|job| matches!(job, Job::End)).count(), 4);
    }

    #[test]
    fn the_first_one_is_never_given_back() {
        let now = Instant::now();
        let (mut checkers, _todo) = checkers(1, now);
        checkers.check(target());
        checkers.check(target());
        checkers.dismiss_idle(now + REVIEW_PERIOD);
        assert_eq!(checkers.count, 1);
    }
}
