//! Health checks: a daemon thread that keeps the due times, and checker threads that send `GET
//! /health`.
//!
//! The daemon blocks on its channels until the next check is due or an outcome arrives, and must
//! never do a check itself. A checker blocks in `ureq`, at most for the timeout, and shares nothing;
//! its outcome goes to the daemon, which reports it to the registry. There are as many checkers as
//! checks in flight, and at most one check in flight per backend, so a hanging backend delays no
//! other.

mod check;
mod checkers;
mod schedule;

use crate::config::HealthSettings;
use crate::upstream::registry::Registry;
use check::{CheckOutcome, Target};
use checkers::Checkers;
use crossbeam_channel::{Receiver, Sender};
use schedule::{FAST_PERIOD, Schedule};
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// The time for which the start waits for the first backend to be up.
const FIRST_UP_TIMEOUT: Duration = Duration::from_millis(1500);
/// The time for which it then waits for the end of the first round.
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
            due: registry.checks_due(),
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

    /// Waits until every backend was checked: at most half a second longer than until one is up, and
    /// at most two seconds.
    pub fn wait_for_first_round(&self) {
        // Each ends by timeout, or when the daemon drops the sender.
        let _ = self.first_is_up.recv_timeout(FIRST_UP_TIMEOUT);
        let _ = self.first_round_is_over.recv_timeout(FIRST_ROUND_TIMEOUT);
    }

    /// Changes the settings for checks to come. A shorter period applies at once.
    pub fn apply(&self, health: &HealthSettings) {
        // Fails only if the daemon has ended.
        let _ = self.settings.send(health.clone());
    }
}

/// The state of the daemon thread.
struct Daemon {
    registry: Arc<Registry>,
    /// Notifications of new backends and new addresses.
    due: Receiver<()>,
    checkers: Checkers,
    outcomes: Receiver<CheckOutcome>,
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
            self.schedule.update(self.registry.statuses(), now);
            self.announce_first_round();
            for backend in self.schedule.take_due(now, &mut self.rng) {
                self.checkers.check(Target::from(&*backend));
            }
            self.checkers.review(now);
            // Attempts change states without a message, so the statuses are read again soon.
            let wait = self
                .schedule
                .next_due()
                .map_or(FAST_PERIOD, |due| due.saturating_duration_since(now).min(FAST_PERIOD));
            crossbeam_channel::select! {
                recv(self.outcomes) -> outcome => match outcome {
                    Ok(outcome) => self.handle(&outcome),
                    Err(_) => return,
                },
                // An error means that another daemon has taken over.
                recv(self.due) -> due => if due.is_err() { return },
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
                self.handle(&outcome);
            }
        }
    }

    fn announce_first_round(&mut self) {
        if self.schedule.is_first_round_over() {
            self.first_round = None;
        }
        if self.first_round.is_none() || self.registry.cluster().up() > 0 {
            self.first_up = None;
        }
    }

    fn handle(&mut self, outcome: &CheckOutcome) {
        self.checkers.ended();
        let Some(backend) = self.schedule.ended(outcome.id, outcome.result.is_some()) else {
            return;
        };
        // Another program may respond to checks than to requests, so only the version without chunks
        // is recorded.
        if outcome.is_http10 {
            backend.record_version(true);
        }
        match outcome.result {
            Some(result) => {
                let check = (result, outcome.took);
                self.registry.observe_check(outcome.id, check, &outcome.detail, Instant::now());
            }
            None => {
                log::warn!(
                    event = "state", backend = backend.name.as_str();
                    "cannot check backend {}: {}", backend.name, outcome.detail
                );
            }
        }
    }
}
