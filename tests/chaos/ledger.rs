//! The ledger: the outcome of every request, counted on both sides.
//!
//! A backend enters that it saw a key, began to execute it, and which fault it met; the client
//! enters its result. One word per key, so that millions of them stay small. An outcome that must
//! never happen is a violation; a lost request is a loss, with cause and blame.

use super::faults::Fault;
use super::plan::{Class, Key, Plan};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::Duration;

/// The result at a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The right response.
    Served,
    /// The backend's own error, forwarded.
    BackendError,
    /// A visibly truncated response: right, if the backend truncated it.
    Truncated,
    /// Pipelined after a response that announced the close, or was truncated.
    BehindClose,
    /// Nothing: the client reset the connection on purpose.
    Aborted,
    /// Nothing, or the balancer's own error.
    Lost,
}

impl Outcome {
    pub const ALL: [Self; 6] = [
        Self::Served,
        Self::BackendError,
        Self::Truncated,
        Self::BehindClose,
        Self::Aborted,
        Self::Lost,
    ];
    pub const NAMES: [&str; 6] = [
        "served",
        "backend's error forwarded",
        "shown as truncation",
        "after a close",
        "aborted on purpose",
        "lost",
    ];
}

/// The fault that a loss is ascribed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Blame {
    /// A backend had the request and did this to it last.
    Met(Fault),
    /// No backend touched it, but these faults were active, as a mask.
    During(u32),
    /// No fault was active.
    Nothing,
}

/// How many requests of each class, and how many of them a backend had seen.
#[derive(Clone, Copy, Default)]
pub struct Tally {
    pub by_class: [u64; Class::ALL.len()],
    pub had: u64,
}

/// The requests that backends began to execute.
#[derive(Default)]
pub struct Executions {
    pub begun: u64,
    pub keys: u64,
    /// Executed more than once, and meant to be repeatable.
    pub repeated: u64,
    /// Faults met, by fault.
    pub met: [u64; Fault::ALL.len()],
}

/// Requests that took longer than this are counted.
pub const SLOW: [Duration; 4] = [
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(15),
    Duration::from_secs(29),
];

/// The bits of a key's entry.
mod entry {
    pub const EXECUTIONS: u32 = 0xF;
    pub const SEEN: u32 = 1 << 4;
    pub const FAULTS_SHIFT: u32 = 5;
    pub const FAULTS: u32 = 0x7FFF << FAULTS_SHIFT;
    pub const LAST_SHIFT: u32 = 20;
    pub const LAST: u32 = 0xF << LAST_SHIFT;
    pub const OUTCOME_SHIFT: u32 = 24;
}

const PIECE: usize = 1 << 16;
const PIECES: usize = 1 << 10;
/// A truncated response that no backend truncated.
const CUT: &str = "response truncated";
const VIOLATIONS_KEPT: usize = 50;

const _: () = assert!(Fault::ALL.len() <= 15, "an entry has four bits for the last fault");

/// The entries of all requests.
pub struct Ledger {
    pub seed: u64,
    offered: AtomicU32,
    entries: Vec<OnceLock<Box<[AtomicU32]>>>,
    outcomes: [[AtomicU64; Class::ALL.len()]; Outcome::ALL.len()],
    slow: [AtomicU64; SLOW.len()],
    losses: Mutex<BTreeMap<(String, Blame), Tally>>,
    truncations: Mutex<BTreeMap<Blame, Tally>>,
    violations: Mutex<Vec<String>>,
    violation_count: AtomicU64,
}

impl Ledger {
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            offered: AtomicU32::new(0),
            entries: (0..PIECES).map(|_| OnceLock::new()).collect(),
            outcomes: Default::default(),
            slow: Default::default(),
            losses: Mutex::default(),
            truncations: Mutex::default(),
            violations: Mutex::default(),
            violation_count: AtomicU64::new(0),
        }
    }

    /// A request is about to be made.
    pub fn offer(&self) -> Plan {
        Plan::of(self.seed, self.offered.fetch_add(1, Relaxed))
    }

    /// How many requests were made.
    pub fn offered(&self) -> u32 {
        self.offered.load(Relaxed)
    }

    /// Whether a client has made this request: any other key is an invention.
    pub fn contains(&self, key: Key) -> bool {
        key < self.offered()
    }

    fn entry(&self, key: Key) -> &AtomicU32 {
        let piece = self
            .entries
            .get(key as usize / PIECE)
            .expect("the run has fewer requests than the ledger has pages");
        &piece.get_or_init(|| (0..PIECE).map(|_| AtomicU32::new(0)).collect())[key as usize % PIECE]
    }
}

/// The entries of backends.
impl Ledger {
    /// The request's head came.
    pub fn saw(&self, key: Key) {
        self.entry(key).fetch_or(entry::SEEN, Relaxed);
    }

    /// The whole request came and is being executed.
    pub fn executed(&self, plan: &Plan) {
        let more =
            |entry: u32| (entry & entry::EXECUTIONS < entry::EXECUTIONS).then_some(entry + 1);
        let before =
            self.entry(plan.key).fetch_update(Relaxed, Relaxed, more).unwrap_or_else(|full| full)
                & entry::EXECUTIONS;
        if before > 0 && plan.class() == Class::Post {
            self.violate("POST executed twice", &format!("key {}", plan.key));
        }
    }

    /// This fault was done to the request.
    pub fn met(&self, key: Key, fault: Fault) {
        let note = |entry: u32| {
            Some(
                entry & !entry::LAST
                    | fault.bit() << entry::FAULTS_SHIFT
                    | (fault as u32 + 1) << entry::LAST_SHIFT,
            )
        };
        self.entry(key).fetch_update(Relaxed, Relaxed, note).expect("it is always updated");
    }
}

/// The entries of clients.
impl Ledger {
    /// The client got something for its request.
    pub fn settle(&self, plan: &Plan, outcome: Outcome, took: Duration) {
        let before =
            self.entry(plan.key).fetch_or((outcome as u32 + 1) << entry::OUTCOME_SHIFT, Relaxed);
        assert_eq!(
            before >> entry::OUTCOME_SHIFT,
            0,
            "key {} is settled twice: a mistake of the test",
            plan.key
        );
        if matches!(outcome, Outcome::Served | Outcome::BackendError)
            && before & entry::EXECUTIONS == 0
        {
            self.violate("response to a request that was never executed", &format!("{plan:?}"));
        }
        self.outcomes[outcome as usize][plan.class() as usize].fetch_add(1, Relaxed);
        for (slow, count) in SLOW.iter().zip(&self.slow) {
            if outcome != Outcome::Aborted && took > *slow {
                count.fetch_add(1, Relaxed);
            }
        }
    }

    /// The client got nothing, or an error of the balancer's own. `weather`: the faults that were
    /// active meanwhile.
    pub fn lose(&self, plan: &Plan, cause: &str, weather: u32, took: Duration) {
        self.settle(plan, Outcome::Lost, took);
        let blame = self.blame(plan.key, weather, cause);
        let had = self.entry(plan.key).load(Relaxed) & entry::SEEN != 0;
        lock(&self.losses).entry((cause.to_owned(), blame)).or_default().add(plan.class(), had);
    }

    /// The client saw a truncated response. If no backend truncated it, it is lost.
    pub fn truncate(&self, plan: &Plan, weather: u32, took: Duration) {
        let entry = self.entry(plan.key).load(Relaxed);
        let met = (entry & entry::FAULTS) >> entry::FAULTS_SHIFT;
        let is_explained =
            Fault::ALL.iter().any(|fault| fault.truncates() && (met & fault.bit()) != 0);
        if !is_explained {
            self.lose(plan, CUT, weather, took);
            return;
        }
        self.settle(plan, Outcome::Truncated, took);
        lock(&self.truncations)
            .entry(self.blame(plan.key, weather, CUT))
            .or_default()
            .add(plan.class(), true);
    }

    fn blame(&self, key: Key, weather: u32, cause: &str) -> Blame {
        let last = (self.entry(key).load(Relaxed) & entry::LAST) >> entry::LAST_SHIFT;
        match last.checked_sub(1) {
            Some(number) => Blame::Met(Fault::ALL[number as usize]),
            None if weather == 0 => Blame::Nothing,
            None => Blame::During(Fault::suspects(weather, cause)),
        }
    }

    /// Records a violation.
    pub fn violate(&self, rule: &str, what: &str) {
        self.violation_count.fetch_add(1, Relaxed);
        let mut violations = lock(&self.violations);
        if violations.len() < VIOLATIONS_KEPT {
            violations.push(format!("{rule}: {what}"));
        }
    }
}

/// The readers for the report.
impl Ledger {
    pub fn count(&self, outcome: Outcome, class: Class) -> u64 {
        self.outcomes[outcome as usize][class as usize].load(Relaxed)
    }

    pub fn total(&self, outcome: Outcome) -> u64 {
        Class::ALL.iter().map(|class| self.count(outcome, *class)).sum()
    }

    pub fn slow(&self) -> [u64; SLOW.len()] {
        std::array::from_fn(|number| self.slow[number].load(Relaxed))
    }

    pub fn losses(&self) -> BTreeMap<(String, Blame), Tally> {
        lock(&self.losses).clone()
    }

    pub fn truncations(&self) -> BTreeMap<Blame, Tally> {
        lock(&self.truncations).clone()
    }

    /// The first violations in words, and how many there were.
    pub fn violations(&self) -> (Vec<String>, u64) {
        (lock(&self.violations).clone(), self.violation_count.load(Relaxed))
    }

    /// Goes over all entries. Keys without an outcome are a mistake of the test.
    pub fn executions(&self) -> Executions {
        let mut sum = Executions::default();
        for key in 0..self.offered() {
            let entry = self.entry(key).load(Relaxed);
            let begun = u64::from(entry & entry::EXECUTIONS);
            sum.begun += begun;
            sum.keys += u64::from(begun > 0);
            sum.repeated += u64::from(begun > 1);
            for fault in Fault::ALL {
                sum.met[*fault as usize] +=
                    u64::from((entry >> entry::FAULTS_SHIFT) & fault.bit() != 0);
            }
            if entry >> entry::OUTCOME_SHIFT == 0 {
                self.violate(
                    "a request without an outcome",
                    &format!("{:?}", Plan::of(self.seed, key)),
                );
            }
        }
        sum
    }
}

impl Tally {
    fn add(&mut self, class: Class, had: bool) {
        self.by_class[class as usize] += 1;
        self.had += u64::from(had && !class.is_replayable());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder of a ledger's lock panics")
}
