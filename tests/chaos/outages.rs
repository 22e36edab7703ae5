//! The schedule of faults: which backend is bad, how, and for how long; never all of them.

use super::backend::Backend;
use super::clients::Stage;
use super::faults::Fault;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// For this part of the longest episode a fault is still blamed after its end: connections and
/// health states outlive it.
const AFTERMATH: f64 = 0.125;

/// The faults at the first `count` of the backends.
pub struct Outages {
    pub backends: Vec<Backend>,
    /// How many of them are balanced.
    pub count: usize,
    stage: Arc<Stage>,
    rng: fastrand::Rng,
    /// The balancer is being stopped.
    is_stopping: bool,
    /// The next faults.
    deck: Vec<Fault>,
    episodes: Vec<Episode>,
    /// Faults that are over, and until when they are blamed.
    aftermath: Vec<(Fault, Instant)>,
    next: Instant,
    /// Which backend is restarted next, while one after another is.
    rolling: Option<usize>,
    /// How many episodes of each fault there were.
    pub episodes_begun: [u64; Fault::ALL.len()],
    /// No episode is longer.
    longest: Duration,
    /// Nor is any time between the beginnings of two.
    pub longest_calm: Duration,
}

struct Episode {
    backend: usize,
    fault: Fault,
    until: Instant,
}

impl Outages {
    const OF_BACKENDS: [Fault; 6] =
        [Fault::Kill, Fault::Kill, Fault::Kill, Fault::Pause, Fault::Pause, Fault::Rolling];

    pub fn new(
        backends: Vec<Backend>,
        stage: &Arc<Stage>,
        rng: fastrand::Rng,
        longest: Duration,
    ) -> Self {
        Self {
            count: backends.len(),
            backends,
            stage: Arc::clone(stage),
            rng,
            is_stopping: false,
            deck: Vec::new(),
            episodes: Vec::new(),
            aftermath: Vec::new(),
            next: Instant::now(),
            rolling: None,
            episodes_begun: Default::default(),
            longest,
            longest_calm: longest,
        }
    }

    /// Ends faults that are due and begins new ones now and then. To be called often.
    pub fn tick(&mut self) {
        let now = Instant::now();
        let (due, going_on): (Vec<_>, Vec<_>) = std::mem::take(&mut self.episodes)
            .into_iter()
            .partition(|episode| episode.until <= now);
        self.episodes = going_on;
        due.iter().for_each(|episode| self.end(episode));
        if self.rolling.is_some() {
            self.roll();
        } else if now >= self.next {
            self.next = now + self.longest_calm.mul_f64(self.rng.f64());
            self.begin_something();
        }
        self.publish();
    }

    /// Ends everything: all backends are good when this returns.
    pub fn clear(&mut self) {
        self.rolling = None;
        for episode in std::mem::take(&mut self.episodes) {
            self.end(&episode);
        }
        self.publish();
    }

    /// The balancer is about to be stopped, or serves again.
    pub fn stopping(&mut self, is_stopping: bool) {
        if self.is_stopping && !is_stopping {
            self.aftermath.push((Fault::Term, Instant::now() + self.longest.mul_f64(AFTERMATH)));
        }
        self.is_stopping = is_stopping;
        self.episodes_begun[Fault::Term as usize] += u64::from(is_stopping);
        self.publish();
    }

    /// Publishes the faults that clients may blame.
    fn publish(&mut self) {
        let now = Instant::now();
        self.aftermath.retain(|(_, until)| *until > now);
        let going_on = self.episodes.iter().map(|episode| episode.fault);
        let over = self.aftermath.iter().map(|(fault, _)| *fault);
        let stopping = if self.is_stopping { Fault::Term.bit() } else { 0 };
        self.stage
            .weather
            .set(going_on.chain(over).fold(stopping, |mask, fault| mask | fault.bit()));
    }

    fn begin_something(&mut self) {
        let bad = |backend: usize| self.episodes.iter().any(|episode| episode.backend == backend);
        let good: Vec<usize> = (0..self.count).filter(|backend| !bad(*backend)).collect();
        if good.len() < 2 {
            return;
        }
        let backend = good[self.rng.usize(..good.len())];
        match self.draw() {
            Fault::Rolling => {
                // Begins when the others are over, and that is now.
                self.episodes.iter_mut().for_each(|episode| episode.until = Instant::now());
                self.rolling = Some(0);
            }
            fault => {
                let span = self.longest.mul_f64(0.02 + 0.7 * self.rng.f64());
                self.begin(backend, fault, span);
            }
        }
    }

    /// Every fault comes once, and some more often, before any comes again.
    fn draw(&mut self) -> Fault {
        if self.deck.is_empty() {
            self.deck.extend(Fault::OF_REQUESTS.iter().chain(&Self::OF_BACKENDS));
            self.rng.shuffle(&mut self.deck);
        }
        self.deck.pop().expect("the deck was filled")
    }

    fn begin(&mut self, backend: usize, fault: Fault, span: Duration) {
        self.episodes_begun[fault as usize] += 1;
        self.episodes.push(Episode { backend, fault, until: Instant::now() + span });
        // First, so that no loss has an unpublished fault.
        self.publish();
        let backend = &mut self.backends[backend];
        match fault {
            Fault::Kill | Fault::Rolling => backend.kill(fault),
            Fault::Pause => backend.pause.set(true),
            _ => backend.fault_rate.set(fault, [15, 40, 100][self.rng.usize(..3)], self.rng.bool()),
        }
    }

    fn end(&mut self, episode: &Episode) {
        let backend = &mut self.backends[episode.backend];
        match episode.fault {
            Fault::Kill | Fault::Rolling => backend.revive(),
            Fault::Pause => backend.pause.set(false),
            _ => backend.fault_rate.clear(),
        }
        assert!(
            backend.responds(),
            "a backend that is well does not respond: a mistake of the test"
        );
        self.aftermath.push((episode.fault, Instant::now() + self.longest.mul_f64(AFTERMATH)));
    }

    /// Kills the next backend as soon as the one before it responds.
    fn roll(&mut self) {
        let Some(next) = self.rolling.filter(|_| self.episodes.is_empty()) else {
            return;
        };
        if next == self.count {
            self.rolling = None;
            return;
        }
        self.rolling = Some(next + 1);
        let span = self.longest.mul_f64(0.005 + 0.15 * self.rng.f64());
        self.begin(next, Fault::Rolling, span);
    }
}
