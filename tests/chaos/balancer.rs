//! The balancer under test: the real program, started with random flags, measured, and stopped by a
//! signal.

use super::ledger::Ledger;
use crate::support::program::{Program, command};
use crate::support::{comes_true, until};
use lb_threads::config::Algorithm;
use rustix::process::Signal;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Health checks in flight, and closed connections that the balancer has not seen yet.
const SPARE_SOCKETS: usize = 6;
/// Pipes that each worker keeps for long bodies, by two descriptors.
const KEPT_PIPES: usize = 2 * 16;
/// More than this cannot come from the load of these clients.
const MOST_RESIDENT_KIB: u64 = 64 * 1024;
/// The part kept of a log with panics, in characters.
const LOG_KEPT: usize = 2000;
/// The drain's own 30 s, and some for a busy machine.
const ENDS_WITHIN: Duration = Duration::from_secs(45);

/// A running balancer.
pub struct Balancer {
    program: Program,
    workers: usize,
    /// Its command line, for the report.
    pub words: String,
    ledger: Arc<Ledger>,
    pub peak_kib: u64,
    term_sent: Option<Instant>,
}

/// How a balancer has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Clean,
    /// With connections aborted.
    Cut,
    Wrong,
}

impl Balancer {
    /// Starts it in front of these backends, with random flags, and waits until it accepts
    /// connections.
    pub fn start(
        address: SocketAddr,
        backends: &[SocketAddr],
        rng: &mut fastrand::Rng,
        ledger: &Arc<Ledger>,
    ) -> Self {
        let workers = [1, 2, 4][rng.usize(..3)];
        let mut words: Vec<String> =
            ["1", "--log-level", "warn", "--workers"].map(str::to_owned).to_vec();
        words.push(workers.to_string());
        let algorithm = Algorithm::ALL[rng.usize(..Algorithm::ALL.len())];
        words.extend(["--algorithm".to_owned(), algorithm.name().to_owned()]);
        if rng.u8(..3) == 0 {
            words.push("--no-health-checks".to_owned());
        }
        if rng.u8(..3) == 0 {
            words.extend(["--backend-max-requests".to_owned(), rng.u32(6..40).to_string()]);
        }
        let flags = words.join(" ");
        words.extend(["--port".to_owned(), address.port().to_string()]);
        words.extend(backends.iter().flat_map(|backend| ["-b".to_owned(), backend.to_string()]));
        let mut program = Program::start(command(words));
        until("the balancer accepts connections", || {
            assert!(program.is_running(), "it does not start with {flags}: {}", program.log());
            TcpStream::connect(address).is_ok()
        });
        let words = format!("{flags}, {} backends", backends.len());
        Self { program, workers, words, ledger: Arc::clone(ledger), peak_kib: 0, term_sent: None }
    }

    /// How many sockets it has, which is the same for all balancers before the first request.
    pub fn sockets(&self) -> usize {
        self.descriptors("socket:")
    }

    /// Whether it still runs. Call it often: it samples the memory too.
    pub fn is_running(&mut self) -> bool {
        let kib = self.program.resident_kib();
        if kib > MOST_RESIDENT_KIB && self.peak_kib <= MOST_RESIDENT_KIB {
            self.ledger.violate(
                "memory out of bounds",
                &format!("{kib} KiB resident with {}", self.words),
            );
        }
        self.peak_kib = self.peak_kib.max(kib);
        self.program.is_running()
    }

    /// After all clients have left, no socket or pipe of theirs may remain. Returns the resident
    /// memory then, in KiB.
    pub fn expect_nothing_left(&self, at_first: usize) -> u64 {
        let (sockets, pipes) =
            (at_first + SPARE_SOCKETS, self.workers * KEPT_PIPES + SPARE_SOCKETS);
        let is_idle =
            comes_true(|| self.sockets() <= sockets && self.descriptors("pipe:") <= pipes);
        if !is_idle {
            let now = format!("{} sockets, {} pipes", self.sockets(), self.descriptors("pipe:"));
            let what = format!("{now}; {at_first} sockets at first; {}", self.words);
            self.ledger.violate("descriptors leak", &what);
        }
        self.program.resident_kib()
    }

    fn descriptors(&self, kind: &str) -> usize {
        let of_kind = |path: &Path| path.to_string_lossy().starts_with(kind);
        self.program.descriptors().iter().filter(|(_, path)| of_kind(path)).count()
    }

    /// Sends it TERM.
    pub fn terminate(&mut self) {
        self.program.signal(Signal::TERM);
        self.term_sent = Some(Instant::now());
    }

    /// How it has ended, once it has.
    pub fn ended(&mut self) -> Option<End> {
        if self.is_running() {
            let is_late = self.term_sent.is_some_and(|sent| sent.elapsed() > ENDS_WITHIN);
            if !is_late {
                return None;
            }
            self.ledger.violate("the balancer does not end", &self.words);
            return Some(End::Wrong);
        }
        let code = self.program.exit_code();
        let log = self.program.whole_log();
        if log.contains("panicked") || log.contains("a bug in the balancer") {
            self.ledger
                .violate("the balancer panicked", &log.chars().take(LOG_KEPT).collect::<String>());
        }
        match (code, self.term_sent) {
            (Some(0), Some(_)) => Some(End::Clean),
            (Some(3), Some(_)) => Some(End::Cut),
            _ => {
                self.ledger.violate(
                    "the balancer crashed",
                    &format!("exit {code:?}, {}: {log}", self.words),
                );
                Some(End::Wrong)
            }
        }
    }

    /// How long it has been stopping.
    pub fn stopping_for(&self) -> Duration {
        self.term_sent.map_or(Duration::ZERO, |sent| sent.elapsed())
    }
}
