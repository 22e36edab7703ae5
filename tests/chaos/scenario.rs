//! The run: one balancer after another under a load that never stops, with faults at its backends.

use super::backend::Backend;
use super::balancer::{Balancer, End};
use super::clients::{Crowd, Order, Stage};
use super::ledger::Ledger;
use super::outages::Outages;
use super::report::{Report, Run};
use crate::support::{Gate, refused_address};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

/// The interval between two checks.
const TICK: Duration = Duration::from_millis(10);
/// A client's timeout, and some for a busy machine.
const PARKED_WITHIN: Duration = Duration::from_secs(80);
const BACKENDS: usize = 4;
const MEBIBYTE: f64 = 1024.0;

/// The length and the intensity of a run.
#[derive(Clone, Debug)]
pub struct Settings {
    pub seed: u64,
    pub span: Duration,
    pub clients: usize,
    /// After how many percent of responses a client pauses, and for how long at most.
    pub thinking: (u32, Duration),
    /// The longest time for which one balancer runs.
    pub longest_run: Duration,
    /// The longest time for which a backend is bad.
    pub longest_episode: Duration,
    /// Whether each run is printed as it ends.
    pub is_printed: bool,
}

/// A run in progress. The clients end before the backends do.
struct Scenario {
    settings: Settings,
    ledger: Arc<Ledger>,
    crowd: Crowd,
    stage: Arc<Stage>,
    outages: Outages,
    rng: fastrand::Rng,
    runs: Vec<Run>,
    are_parked: bool,
    sockets_at_first: usize,
}

/// Runs it all and returns the results.
pub fn run(settings: Settings) -> Report {
    let ledger = Arc::new(Ledger::new(settings.seed));
    let mut rng = fastrand::Rng::with_seed(settings.seed);
    let stage = Arc::new(Stage::new(refused_address(), Arc::clone(&ledger), settings.thinking));
    let backends = (0..BACKENDS).map(|_| Backend::start(&ledger)).collect();
    let outages = Outages::new(backends, &stage, rng.fork(), settings.longest_episode);
    let crowd = Crowd::start(&stage, settings.clients);
    let runs = Vec::new();
    let mut scenario = Scenario {
        settings,
        ledger,
        crowd,
        stage,
        outages,
        rng,
        runs,
        are_parked: true,
        sockets_at_first: 0,
    };
    let begun = Instant::now();
    while begun.elapsed() < scenario.settings.span {
        scenario.run_balancer(begun);
    }
    scenario.crowd.stop();
    let Scenario { settings, ledger, outages, runs, .. } = scenario;
    Report { settings, took: begun.elapsed(), ledger, runs, episodes: outages.episodes_begun }
}

impl Scenario {
    /// One balancer from its start to its end.
    fn run_balancer(&mut self, begun: Instant) {
        let (offered, start) = (self.ledger.offered(), Instant::now());
        let mut balancer = self.start_balancer();
        self.outages.longest_calm =
            self.settings.longest_episode.mul_f64([0.1, 0.3, 1.0][self.rng.usize(..3)]);
        let span = self.settings.longest_run.mul_f64(0.4 + 0.6 * self.rng.f64());
        let is_last = begun.elapsed() + span >= self.settings.span;
        let mut ticks = 0_u64;
        while start.elapsed() < span && (!ticks.is_multiple_of(10) || balancer.is_running()) {
            self.outages.tick();
            Gate::new().wait_for(TICK);
            ticks += 1;
        }
        let is_parked = (is_last || self.rng.u8(..3) == 0) && balancer.is_running();
        let resident_mib = if is_parked { Some(self.park(&balancer)) } else { None };
        let end = self.stop_balancer(&mut balancer);
        let run = Run {
            words: balancer.words.clone(),
            served_for: start.elapsed(),
            requests: self.ledger.offered() - offered,
            end,
            stopped_in: balancer.stopping_for(),
            peak_mib: balancer.peak_kib as f64 / MEBIBYTE,
            resident_mib,
        };
        if self.settings.is_printed {
            println!(
                "{:>5.0} s  {run}, {} violations so far",
                begun.elapsed().as_secs_f64(),
                self.ledger.violations().1
            );
        }
        self.runs.push(run);
    }

    fn start_balancer(&mut self) -> Balancer {
        let count = self.rng.usize(2..=BACKENDS);
        if self.are_parked || count != self.outages.count {
            self.outages.clear();
            self.outages.count = count;
        }
        let addresses: Vec<_> =
            self.outages.backends.iter().take(count).map(|backend| backend.address).collect();
        let balancer = Balancer::start(self.stage.address, &addresses, &mut self.rng, &self.ledger);
        if self.are_parked {
            self.sockets_at_first = balancer.sockets();
            self.stage.broadcast(Order::Ask);
            self.are_parked = false;
        }
        self.stage.is_serving.store(true, SeqCst);
        self.outages.stopping(false);
        balancer
    }

    /// Makes all clients close, and checks the remaining descriptors. Returns the resident memory.
    fn park(&mut self, balancer: &Balancer) -> f64 {
        self.outages.clear();
        self.stage.broadcast(Order::Park);
        self.are_parked = true;
        let start = Instant::now();
        while self.stage.parked() < self.crowd.len() {
            assert!(
                start.elapsed() < PARKED_WITHIN,
                "clients do not come to rest: a mistake of the test"
            );
            Gate::new().wait_for(TICK);
        }
        balancer.expect_nothing_left(self.sockets_at_first) as f64 / MEBIBYTE
    }

    fn stop_balancer(&mut self, balancer: &mut Balancer) -> End {
        self.outages.stopping(true);
        self.stage.is_serving.store(false, SeqCst);
        if balancer.is_running() {
            balancer.terminate();
        }
        loop {
            if let Some(end) = balancer.ended() {
                return end;
            }
            if !self.are_parked {
                self.outages.tick();
            }
            Gate::new().wait_for(TICK);
        }
    }
}
