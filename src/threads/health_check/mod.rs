//! Health checks: a daemon thread that keeps the due times, and checker threads that send `GET
//! /health`.
//!
//! The daemon blocks on its channel until the next check is due or a result comes. A checker blocks
//! in `ureq`, for one backend at a time and never longer than the timeout. There are as many
//! checkers as checks in flight, so a hanging backend delays no other, and it has at most one check
//! in flight, and touches nothing shared. Results go to the daemon, which reports them to the
//! registry.

mod check;
mod checkers;
mod schedule;

use crate::config::HealthSettings;
use crate::upstream::health::Observation;
use crate::upstream::registry::Registry;
use check::{Outcome, Target};
use checkers::Checkers;
use crossbeam_channel::{Receiver, Sender};
use schedule::{SOON, Schedule};
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// How long the start waits for the first backend that is up.
const FIRST_UP_TIMEOUT: Duration = Duration::from_millis(1500);
/// How long it then waits for the rest of the first round.
const FIRST_ROUND_TIMEOUT: Duration = Duration::from_millis(500);

/// The running health checks; they end when this is dropped.
#[derive(Debug)]
pub struct HealthChecks {
    settings: Sender<HealthSettings>,
    first_is_up: Receiver<()>,
    first_round_is_over: Receiver<()>,
}

impl HealthChecks {
    /// Starts the daemon and the first checker; `limit` is the most checks at once.
    pub fn start(
        registry: &Arc<Registry>,
        health: &HealthSettings,
        limit: usize,
    ) -> io::Result<Self> {
        let (settings, changes) = crossbeam_channel::unbounded();
        let (results, outcomes) = crossbeam_channel::unbounded();
        let (first_up, first_is_up) = crossbeam_channel::bounded::<()>(0);
        let (first_round, first_round_is_over) = crossbeam_channel::bounded::<()>(0);
        let daemon = Daemon {
            additions: registry.additions(),
            registry: Arc::clone(registry),
            checkers: Checkers::start(health, limit, &results, Instant::now())?,
            outcomes,
            schedule: Schedule::new(health.period),
            first_up: Some(first_up),
            first_round: Some(first_round),
            rng: fastrand::Rng::new(),
        };
        thread::Builder::new().name("health".to_owned()).spawn(move || daemon.run(&changes))?;
        Ok(Self { settings, first_is_up, first_round_is_over })
    }

    /// Waits for the first round: until every backend was checked, but not long for the last ones
    /// if another can serve, and never longer than two seconds.
    pub fn wait_for_first_round(&self) {
        // Each ends by time, or because the daemon drops its end.
        let _ = self.first_is_up.recv_timeout(FIRST_UP_TIMEOUT);
        let _ = self.first_round_is_over.recv_timeout(FIRST_ROUND_TIMEOUT);
    }

    /// Changes the settings for the checks to come. A shorter period brings the next one forward.
    pub fn apply(&self, health: &HealthSettings) {
        // Fails only if the daemon has ended.
        let _ = self.settings.send(health.clone());
    }
}

struct Daemon {
    registry: Arc<Registry>,
    /// Says that backends were added.
    additions: Receiver<()>,
    checkers: Checkers,
    outcomes: Receiver<Outcome>,
    schedule: Schedule,
    /// Dropped when a backend is up, or every backend was checked.
    first_up: Option<Sender<()>>,
    /// Dropped when every backend was checked.
    first_round: Option<Sender<()>>,
    rng: fastrand::Rng,
}

impl Daemon {
    fn run(mut self, changes: &Receiver<HealthSettings>) {
        loop {
            let now = Instant::now();
            self.schedule.follow(self.registry.statuses(), now);
            self.note_first_round();
            for backend in self.schedule.take_due(now, &mut self.rng) {
                self.checkers.check(Target::from(&*backend));
            }
            self.checkers.dismiss_idle(now);
            // Attempts change states too, without a message.
            let wait = self
                .schedule
                .next_due()
                .map_or(SOON, |due| due.saturating_duration_since(now).min(SOON));
            crossbeam_channel::select! {
                recv(self.outcomes) -> outcome => match outcome {
                    Ok(outcome) => self.take(&outcome),
                    Err(_) => return,
                },
                recv(self.additions) -> _ => {}
                recv(changes) -> health => match health {
                    Ok(health) => {
                        self.checkers.apply(&health);
                        self.schedule.set_period(health.period);
                    }
                    Err(_) => return,
                },
                default(wait) => {}
            }
            while let Ok(outcome) = self.outcomes.try_recv() {
                self.take(&outcome);
            }
        }
    }

    fn note_first_round(&mut self) {
        if self.schedule.is_first_round_over() {
            self.first_round = None;
        }
        if self.first_round.is_none() || self.registry.cluster().up() > 0 {
            self.first_up = None;
        }
    }

    fn take(&mut self, outcome: &Outcome) {
        self.checkers.ended();
        let Some(backend) = self.schedule.ended(outcome.id, outcome.result.is_some()) else {
            return;
        };
        // Another process may respond to checks than to requests: only the careful guess is taken
        // from them.
        if outcome.is_http10 {
            backend.record_version(true);
        }
        match outcome.result {
            Some(result) => {
                let seen = Observation::Check(result);
                self.registry.observe(outcome.id, seen, &outcome.detail, Instant::now());
            }
            None => log::warn!("cannot check backend {}: {}", backend.name, outcome.detail),
        }
    }
}
