//! The outcomes of reloads, and the way to the thread that reloads. Plain values and a channel.

use crate::config::{Effects, Problem};
use crossbeam_channel::{Receiver, Sender};
use parking_lot::Mutex;
use std::fmt;
use std::time::{Duration, Instant};

/// The longest wait for a reload that was asked for.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(10);

/// The outcome of a reload.
pub type ReloadOutcome = Result<Effects, ReloadError>;

/// Why nothing was reloaded; the settings in use stay.
#[derive(Clone, Debug)]
pub enum ReloadError {
    /// The balancer was started without a configuration file.
    NoFile,
    /// The file cannot be read, or has these problems.
    Problems(Vec<Problem>),
    /// The machine has not enough threads, or too little time.
    Failed(String),
}

/// The reloads so far.
#[derive(Clone, Debug)]
pub struct Reloads {
    /// The number of reloads that were applied, those without a change included.
    pub succeeded: u64,
    /// The number of reloads that were rejected.
    pub failed: u64,
    /// The time of the last successful load; at first, that of the start.
    pub last_success: Instant,
    /// The time and the first problem of the last reload, if that has failed.
    pub failure: Option<(Instant, String)>,
}

impl Reloads {
    fn new() -> Self {
        Self { succeeded: 0, failed: 0, last_success: Instant::now(), failure: None }
    }

    /// Counts a reload.
    fn record(&mut self, outcome: &ReloadOutcome) {
        let now = Instant::now();
        match outcome {
            Ok(_) => {
                self.succeeded += 1;
                (self.last_success, self.failure) = (now, None);
            }
            Err(error) => {
                self.failed += 1;
                self.failure = Some((now, error.to_string()));
            }
        }
    }
}

/// The way to the thread that reloads.
#[derive(Debug)]
pub(super) struct Reloading {
    requests: Sender<Sender<ReloadOutcome>>,
    /// Protects the counts; taken by the thread after each reload, and by readers.
    reloads: Mutex<Reloads>,
}

impl Reloading {
    /// The way to a thread, and its side: requests for a reload, each with the way back.
    pub(super) fn new() -> (Self, Receiver<Sender<ReloadOutcome>>) {
        let (requests, requested) = crossbeam_channel::unbounded();
        (Self { requests, reloads: Mutex::new(Reloads::new()) }, requested)
    }

    /// Requests a reload, whose outcome the channel gets.
    pub(super) fn request(&self) -> Receiver<ReloadOutcome> {
        let (reply, outcome) = crossbeam_channel::bounded(1);
        // Fails only if the thread has ended; then the channel is closed, too.
        let _ = self.requests.send(reply);
        outcome
    }

    /// Reloads, within ten seconds.
    pub(super) fn reload(&self) -> ReloadOutcome {
        self.request().recv_timeout(RELOAD_TIMEOUT).unwrap_or_else(|_| {
            let problem = format!("no reload within {RELOAD_TIMEOUT:?}: does the disk respond?");
            Err(ReloadError::Failed(problem))
        })
    }

    /// Counts a reload. Returns whether it is the first that succeeds after one that has failed.
    pub(super) fn record(&self, outcome: &ReloadOutcome) -> bool {
        let mut reloads = self.reloads.lock();
        let had_failed = reloads.failure.is_some();
        reloads.record(outcome);
        had_failed && outcome.is_ok()
    }

    /// The reloads so far.
    pub(super) fn reloads(&self) -> Reloads {
        self.reloads.lock().clone()
    }
}

impl fmt::Display for ReloadError {
    /// The first problem, and the number of the others.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFile => f.write_str(
                "there is no configuration file to reload; start the balancer with -c FILE",
            ),
            Self::Problems(problems) => {
                if let Some(first) = problems.first() {
                    write!(f, "{first}")?;
                }
                match problems.len() {
                    0 | 1 => Ok(()),
                    count => write!(f, " (and {} more)", count - 1),
                }
            }
            Self::Failed(problem) => f.write_str(problem),
        }
    }
}

impl std::error::Error for ReloadError {}
