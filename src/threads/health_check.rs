//! Health checks: a daemon thread that keeps the due times, and checker threads that ask `GET /health`.
//!
//! The daemon blocks on its channel until the next check is due or a result comes; a checker blocks in `ureq`, for one backend at
//! a time and never longer than the timeout. A hanging backend thus delays nobody, and has at most one check in flight. Both only
//! report to the cluster, which judges.

use crate::config::HealthConfig;
use crate::net;
use crate::upstream::backend::Backend;
use crate::upstream::cluster::Cluster;
use crate::upstream::health::CheckResult;
use crossbeam_channel::{Receiver, Sender};
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// The most checks at once.
const CHECKERS: usize = 16;
/// How long the start waits for the first round.
const FIRST_ROUND: Duration = Duration::from_secs(2);
/// The time between two checks of a backend whose state is about to change, unless the period is shorter.
const TRANSITION: Duration = Duration::from_secs(1);
/// What is read of a check's body, in bytes.
const BODY_BYTES: u64 = 64 * 1024;

/// The running health checks; they end when this is dropped.
#[derive(Debug)]
pub struct HealthChecks {
    _stop: Sender<()>,
}

/// What a check found.
struct Outcome {
    backend: Arc<Backend>,
    finding: Finding,
}

/// What a check says about the backend, in words.
enum Finding {
    Passed(String),
    Failed(String),
    /// The connection was refused or broke.
    Unreachable(String),
    /// Nothing: this machine has run out of something. That is no fault of the backend.
    Unknown(String),
}

/// Starts the threads and waits until every backend was checked once, or for two seconds.
pub fn start(cluster: &Arc<Cluster>, config: &HealthConfig) -> io::Result<HealthChecks> {
    let (stop, stopped) = crossbeam_channel::bounded::<()>(0);
    let (jobs, todo) = crossbeam_channel::unbounded::<Arc<Backend>>();
    let (results, outcomes) = crossbeam_channel::unbounded::<Outcome>();
    let (first_round, first_round_done) = crossbeam_channel::bounded::<()>(0);
    for number in 0..cluster.standings().len().clamp(1, CHECKERS) {
        let checker = Checker { agent: agent(config), path: config.path.clone(), todo: todo.clone(), results: results.clone() };
        thread::Builder::new().name(format!("checker-{number}")).spawn(move || checker.run())?;
    }
    let daemon = Daemon {
        cluster: Arc::clone(cluster),
        period: config.period,
        jobs,
        outcomes,
        schedule: Vec::new(),
        first_round: Some(first_round),
        rng: fastrand::Rng::new(),
    };
    thread::Builder::new().name("health".to_owned()).spawn(move || daemon.run(&stopped))?;
    // Ends by time, or because the daemon drops its end once every backend has a result.
    let _ = first_round_done.recv_timeout(FIRST_ROUND);
    Ok(HealthChecks { _stop: stop })
}

/// When a backend's next check is due.
struct Due {
    backend: Arc<Backend>,
    at: Instant,
    last: Instant,
    in_flight: bool,
    checked: bool,
}

struct Daemon {
    cluster: Arc<Cluster>,
    period: Duration,
    jobs: Sender<Arc<Backend>>,
    outcomes: Receiver<Outcome>,
    schedule: Vec<Due>,
    /// Dropped when the first round is over.
    first_round: Option<Sender<()>>,
    rng: fastrand::Rng,
}

impl Daemon {
    fn run(mut self, stopped: &Receiver<()>) {
        loop {
            let now = Instant::now();
            self.update_schedule(now);
            if self.schedule.iter().all(|due| due.checked) {
                self.first_round = None;
            }
            self.start_due_checks(now);
            let wait = self.next_due().saturating_duration_since(now).min(TRANSITION);
            crossbeam_channel::select! {
                recv(self.outcomes) -> outcome => match outcome {
                    Ok(outcome) => self.take(&outcome),
                    Err(_) => return,
                },
                recv(stopped) -> _ => return,
                default(wait) => {}
            }
        }
    }

    /// Follows the cluster: new backends are due at once, and those in transition sooner than the period says.
    fn update_schedule(&mut self, now: Instant) {
        let standings = self.cluster.standings();
        self.schedule.retain(|due| standings.iter().any(|standing| standing.backend.id == due.backend.id));
        for standing in standings {
            match self.schedule.iter_mut().find(|due| due.backend.id == standing.backend.id) {
                Some(due) if standing.in_transition => due.at = due.at.min(due.last + self.period.min(TRANSITION)),
                Some(_) => {}
                None => {
                    self.schedule.push(Due { backend: standing.backend, at: now, last: now, in_flight: false, checked: false });
                }
            }
        }
    }

    fn start_due_checks(&mut self, now: Instant) {
        for due in self.schedule.iter_mut().filter(|due| !due.in_flight && due.at <= now) {
            // Jitter only shortens: the promise of how soon a failure is seen holds.
            let jitter = self.period.mul_f64(0.1 * self.rng.f64());
            due.in_flight = true;
            due.last = now;
            due.at = now + (self.period - jitter);
            // The checkers live as long as this sender.
            let _ = self.jobs.send(Arc::clone(&due.backend));
        }
    }

    fn next_due(&self) -> Instant {
        let waiting = self.schedule.iter().filter(|due| !due.in_flight).map(|due| due.at);
        waiting.min().unwrap_or_else(|| Instant::now() + TRANSITION)
    }

    fn take(&mut self, outcome: &Outcome) {
        let (backend, now) = (&outcome.backend, Instant::now());
        match &outcome.finding {
            Finding::Passed(finding) => self.cluster.checked(backend, CheckResult::Passed, finding, now),
            Finding::Failed(finding) => self.cluster.checked(backend, CheckResult::Failed, finding, now),
            Finding::Unreachable(finding) => self.cluster.checked(backend, CheckResult::Unreachable, finding, now),
            Finding::Unknown(finding) => log::warn!("cannot check backend {}: {finding}", backend.name),
        }
        if let Some(due) = self.schedule.iter_mut().find(|due| due.backend.id == outcome.backend.id) {
            due.in_flight = false;
            due.checked = true;
            if matches!(outcome.finding, Finding::Unknown(_)) {
                due.at = due.at.min(now + TRANSITION);
            }
        }
    }
}

struct Checker {
    agent: ureq::Agent,
    path: String,
    todo: Receiver<Arc<Backend>>,
    results: Sender<Outcome>,
}

/// One fresh connection a check, one deadline for all of it, nothing followed, nothing from the environment.
fn agent(config: &HealthConfig) -> ureq::Agent {
    ureq::Agent::config_builder()
        .timeout_global(Some(config.timeout))
        .proxy(None)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .http_status_as_error(false)
        .max_idle_connections(0)
        .max_idle_connections_per_host(0)
        .user_agent("lb-threads health check")
        .build()
        .new_agent()
}

impl Checker {
    fn run(self) {
        while let Ok(backend) = self.todo.recv() {
            // A checker that died would leave its backend unchecked for ever.
            let checked = catch_unwind(AssertUnwindSafe(|| self.check(&backend)));
            let finding = checked.unwrap_or_else(|_| Finding::Unknown("the check panicked".to_owned()));
            if self.results.send(Outcome { backend, finding }).is_err() {
                return;
            }
        }
    }

    fn check(&self, backend: &Backend) -> Finding {
        let path = &self.path;
        let url = format!("http://{}{path}", backend.address);
        let mut response = match self.agent.get(&url).header("Host", &backend.name).call() {
            Ok(response) => response,
            Err(ureq::Error::Io(error)) if net::is_shortage(&error) => return Finding::Unknown(error.to_string()),
            Err(ureq::Error::Io(error)) => return Finding::Unreachable(format!("GET {path} failed: {error}")),
            Err(error) => return Finding::Failed(format!("GET {path} failed: {}", in_words(&error))),
        };
        // Whoever answers checks may be somebody else than who answers requests: only the careful guess is taken from it.
        if response.version() == ureq::http::Version::HTTP_10 {
            backend.note_version(true);
        }
        let status = response.status().as_u16();
        // A longer body is not read to its end: that it comes is proof enough.
        let body = io::copy(&mut response.body_mut().as_reader().take(BODY_BYTES), &mut io::sink());
        match (status, body) {
            (200..=399, Ok(_)) => Finding::Passed(format!("GET {path} answered {status}")),
            (200..=399, Err(error)) => Finding::Failed(format!("GET {path} answered {status}, but its body failed: {error}")),
            (404, _) => Finding::Failed(format!("GET {path} answered 404: add that file, or use --health-path /")),
            _ => Finding::Failed(format!("GET {path} answered {status}")),
        }
    }
}

/// What went wrong, without the library's own words around it.
fn in_words(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Timeout(_) => "timed out".to_owned(),
        other => other.to_string(),
    }
}
