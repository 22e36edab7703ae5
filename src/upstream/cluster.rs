//! The set of backends: who is in it, who is up, and who is next.
//!
//! Workers read the healthy set, an immutable snapshot behind a `parking_lot::RwLock<Arc<..>>`. Judging, the rule about the last
//! backend and rebuilding the snapshot happen under one mutex, taken by checkers and by workers that saw a failure.

use super::backend::{Backend, InFlight};
use super::balance::round_robin;
use super::health::{Attempt, Health, Rules};
use crate::config::{BackendAddress, HealthConfig};
use parking_lot::{Mutex, RwLock};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

/// How long the next trial of an ejected backend is put off when one is taken: its result decides, unless it is never known.
const NEXT_TRIAL: Duration = Duration::from_secs(30);

/// Who gets work: immutable, replaced as a whole at each transition.
#[derive(Debug, Default)]
pub struct HealthySet {
    /// The backends that are up.
    pub up: Vec<Arc<Backend>>,
    /// Ejected backends that only a trial request can bring back, because there are no checks.
    pub on_trial: Vec<Arc<Backend>>,
}

#[derive(Debug)]
struct Member {
    backend: Arc<Backend>,
    health: Health,
}

/// The backends and their judgement.
#[derive(Debug)]
pub struct Cluster {
    /// Protects the pointer to the snapshot; taken by every pick for reading, for a moment.
    healthy: RwLock<Arc<HealthySet>>,
    /// Protects membership and judgement; taken by checkers for each result, and by workers only for failures.
    members: Mutex<Vec<Member>>,
    turn: AtomicUsize,
    rules: Rules,
    started: Instant,
}

/// What the checker threads need to know about one backend.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Who it is.
    pub backend: Arc<Backend>,
    /// Whether it gets work.
    pub is_up: bool,
    /// Whether its state is about to change.
    pub in_transition: bool,
}

impl Cluster {
    /// A cluster of these backends: all down until checked, or all up if there are no checks.
    pub fn new(backends: &[BackendAddress], health: &HealthConfig) -> Self {
        let rules = Rules { checks: health.checks, rise: health.rise, fall: health.fall };
        let member = |(id, backend): (usize, &BackendAddress)| Member {
            backend: Arc::new(Backend::new(id, backend.name.clone(), backend.address)),
            health: Health::new(rules),
        };
        let members: Vec<Member> = backends.iter().enumerate().map(member).collect();
        let cluster = Self {
            healthy: RwLock::default(),
            members: Mutex::default(),
            turn: AtomicUsize::new(0),
            rules,
            started: Instant::now(),
        };
        cluster.rebuild(&members);
        *cluster.members.lock() = members;
        cluster
    }

    /// The backend whose turn it is, with its in-flight count taken. `tried` are left out: this exchange has failed there.
    pub fn pick(&self, tried: &[usize], now: Instant) -> Option<InFlight> {
        let usable = |backend: &Backend| !tried.contains(&backend.id);
        let healthy = self.healthy.read();
        if !healthy.on_trial.is_empty() {
            let (now, next) = (self.clock(now), self.clock(now + NEXT_TRIAL));
            let mut due = healthy.on_trial.iter().filter(|backend| usable(backend));
            if let Some(backend) = due.find(|backend| backend.claim_trial(now, next)) {
                return Some(InFlight::new(backend));
            }
        }
        round_robin::pick(&healthy.up, &self.turn, usable).map(InFlight::new)
    }

    /// The same backend again, for a fresh connection after a dead one.
    pub fn again(&self, in_flight: &InFlight) -> InFlight {
        InFlight::new(in_flight.backend())
    }

    /// How many backends are up.
    pub fn up(&self) -> usize {
        self.healthy.read().up.len()
    }

    /// All backends and how they stand.
    pub fn standings(&self) -> Vec<Standing> {
        let members = self.members.lock();
        let standing = |member: &Member| Standing {
            backend: Arc::clone(&member.backend),
            is_up: member.health.is_up(),
            in_transition: member.health.in_transition(),
        };
        members.iter().map(standing).collect()
    }

    /// Takes in a check's result; `finding` says in words what was seen.
    pub fn checked(&self, backend: &Backend, passed: bool, finding: &str, now: Instant) {
        self.judge(backend, finding, |health, _| health.check(passed, now));
    }

    /// Takes in an attempt that was answered. Without a lock, unless attempts failed before.
    pub fn answered(&self, backend: &Backend, now: Instant) {
        if backend.is_suspect() {
            backend.set_suspect(false);
            self.judge(backend, "a request was answered", |health, is_last| health.attempt(Attempt::Answered, is_last, now));
        }
    }

    /// Takes in an attempt that failed; `finding` says in words how.
    pub fn failed(&self, backend: &Backend, attempt: Attempt, finding: &str, now: Instant) {
        backend.set_suspect(true);
        self.judge(backend, finding, |health, is_last| health.attempt(attempt, is_last, now));
    }

    /// Applies a judgement under the mutex, swaps the snapshot if it changed something, and logs the change afterwards.
    fn judge(&self, backend: &Backend, finding: &str, judgement: impl FnOnce(&mut Health, bool)) {
        let mut members = self.members.lock();
        let others_up = members.iter().filter(|member| member.backend.id != backend.id && member.health.is_up()).count();
        let Some(member) = members.iter_mut().find(|member| member.backend.id == backend.id) else {
            return;
        };
        let was_up = member.health.is_up();
        let was_ejected_until = member.health.ejected_until();
        let failures = member.health.failures() + 1;
        judgement(&mut member.health, others_up == 0);
        let is_up = member.health.is_up();
        let ejected_until = member.health.ejected_until();
        if let Some(until) = ejected_until.filter(|_| ejected_until != was_ejected_until) {
            member.backend.set_trial_at(self.clock(until));
        }
        if was_up != is_up {
            self.rebuild(&members);
        }
        drop(members);
        match (was_up, is_up) {
            (false, true) => log::info!("backend {} up: {finding}", backend.name),
            (true, false) => log::info!("backend {} down after {failures} failure(s): {finding}", backend.name),
            _ => log::debug!("backend {} stays {}: {finding}", backend.name, if is_up { "up" } else { "down" }),
        }
    }

    fn rebuild(&self, members: &[Member]) {
        let select = |wanted: &dyn Fn(&Health) -> bool| {
            let chosen = members.iter().filter(|member| wanted(&member.health));
            chosen.map(|member| Arc::clone(&member.backend)).collect()
        };
        let set = HealthySet {
            up: select(&Health::is_up),
            on_trial: if self.rules.checks { Vec::new() } else { select(&|health| !health.is_up()) },
        };
        *self.healthy.write() = Arc::new(set);
    }

    /// Milliseconds since the start, for atomics.
    fn clock(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.started).as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(count: u16, checks: bool) -> Cluster {
        let backend = |id: u16| BackendAddress { name: format!("b{id}"), address: ([127, 0, 0, 1], id + 1).into() };
        let backends: Vec<_> = (0..count).map(backend).collect();
        Cluster::new(&backends, &HealthConfig { checks, ..HealthConfig::default() })
    }

    fn picks(cluster: &Cluster, now: Instant) -> Vec<usize> {
        (0..3).filter_map(|_| cluster.pick(&[], now)).map(|picked| picked.backend().id).collect()
    }

    #[test]
    fn nobody_is_picked_before_a_check_has_passed() {
        let (cluster, now) = (cluster(2, true), Instant::now());
        assert!(cluster.pick(&[], now).is_none());
        let second = Arc::clone(&cluster.standings()[1].backend);
        cluster.checked(&second, true, "passed", now);
        assert_eq!(picks(&cluster, now), [1, 1, 1]);
    }

    #[test]
    fn what_was_tried_is_left_out() {
        let (cluster, now) = (cluster(2, false), Instant::now());
        assert_eq!(cluster.pick(&[0], now).unwrap().backend().id, 1);
        assert!(cluster.pick(&[0, 1], now).is_none());
    }

    #[test]
    fn a_backend_that_refuses_is_out_at_once_and_a_trial_brings_it_back() {
        let (cluster, now) = (cluster(2, false), Instant::now());
        let first = Arc::clone(&cluster.standings()[0].backend);
        for _ in 0..2 {
            cluster.failed(&first, Attempt::ConnectFailed, "connection refused", now);
        }
        assert_eq!(picks(&cluster, now), [1, 1, 1]);
        let later = now + Duration::from_secs(2);
        let trial = cluster.pick(&[], later).unwrap();
        assert_eq!(trial.backend().id, 0);
        assert_eq!(picks(&cluster, later), [1, 1, 1], "one trial at a time");
        cluster.answered(&first, later);
        assert_eq!(cluster.up(), 2);
    }

    #[test]
    fn the_last_backend_stays_however_often_it_fails() {
        let (cluster, now) = (cluster(2, false), Instant::now());
        for standing in cluster.standings() {
            for _ in 0..10 {
                cluster.failed(&standing.backend, Attempt::ConnectFailed, "connection refused", now);
            }
        }
        assert_eq!(cluster.up(), 1);
    }
}
