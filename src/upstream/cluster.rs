//! The set of backends: who is in it, who is up, and who is next.
//!
//! Workers read the healthy set, an immutable snapshot behind a `parking_lot::RwLock<Arc<..>>`.
//! Judging, the rule about the last backend and rebuilding the snapshot happen under one mutex,
//! taken by the health daemon and by workers that saw a failure.

use super::backend::{Backend, InFlight};
use super::balance::round_robin;
use super::health::{CheckResult, Health, Outcome, Rules};
use super::queue::Queue;
use crate::config::{self, BackendAddress, Config, Settings};
use crate::net::Waker;
use parking_lot::{Mutex, RwLock};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long the next trial of an ejected backend is put off when one is taken: its result decides,
/// unless it is never known, because the client went away, or the request had to wait first.
const NEXT_TRIAL: Duration = Duration::from_secs(5);
/// How long a trial waits for a request that may be sent again, before one is risked that may not.
const TRIAL_PATIENCE: Duration = Duration::from_secs(5);

/// Who gets work: immutable, replaced as a whole at each transition.
#[derive(Debug, Default)]
struct HealthySet {
    /// The backends that are up.
    up: Vec<Arc<Backend>>,
    /// Ejected backends that only a trial request can bring back, because there are no checks.
    on_trial: Vec<Arc<Backend>>,
    /// Backends that are out, but worth trying before a request fails that has failed everywhere
    /// else.
    last_resort: Vec<Arc<Backend>>,
}

#[derive(Debug)]
struct Member {
    backend: Arc<Backend>,
    health: Health,
    /// Why it is up or down, in words.
    why: String,
}

/// The backends and their judgement.
#[derive(Debug)]
pub struct Cluster {
    /// Protects the pointer to the snapshot; taken by every pick for reading, for a moment.
    healthy: RwLock<Arc<HealthySet>>,
    /// Protects membership and judgement; taken by the health daemon for each result, and by
    /// workers for failures, the first answer after one, and each request for which nobody is up.
    members: Mutex<Vec<Member>>,
    queue: Arc<Queue>,
    /// Goes up with each new snapshot.
    generation: AtomicU64,
    /// Protects the workers' wakers; taken when a worker is made, and at each transition.
    wakers: Mutex<Vec<Arc<Waker>>>,
    turn: AtomicUsize,
    started: Instant,
}

/// What came of looking for a backend.
#[derive(Debug)]
pub enum Picked {
    /// This one, with a place at it taken.
    Backend(InFlight),
    /// Some are up, but each has as many requests as it may.
    AllFull,
    /// None is up, or all that are were tried.
    NoneUp,
}

/// What the checker threads need to know about one backend.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Who it is.
    pub backend: Arc<Backend>,
    /// Whether it gets work.
    pub is_up: bool,
    /// Whether it gets work only because it is the last.
    pub is_spared: bool,
    /// Whether its state is about to change.
    pub in_transition: bool,
}

impl Cluster {
    /// A cluster of these backends: all down until checked, or all up if there are no checks.
    pub fn new(config: &Config) -> Self {
        let (settings, queue) = (&config.settings, Arc::<Queue>::default());
        let (limit, rules) = (limit(settings), rules(settings));
        let member = |(id, backend): (usize, &BackendAddress)| Member {
            backend: Arc::new(
                Backend::new(id, backend.name.clone(), backend.address).limited(limit, &queue),
            ),
            health: Health::new(rules),
            why: "it was not checked yet".to_owned(),
        };
        let members: Vec<Member> = config.backends.iter().enumerate().map(member).collect();
        let cluster = Self {
            healthy: RwLock::default(),
            members: Mutex::default(),
            queue,
            generation: AtomicU64::new(0),
            wakers: Mutex::default(),
            turn: AtomicUsize::new(0),
            started: Instant::now(),
        };
        cluster.rebuild(&members);
        *cluster.members.lock() = members;
        cluster
    }

    /// Uses these settings from now on: the limit for new requests, the rules for new results.
    pub fn apply(&self, settings: &Settings) {
        let mut members = self.members.lock();
        for member in members.iter_mut() {
            member.backend.set_limit(limit(settings));
            member.health.set_rules(rules(settings));
        }
        self.rebuild(&members);
        drop(members);
        self.announce();
    }

    /// The backend whose turn it is, with a place at it taken. `tried` are left out: this exchange
    /// has failed there. One that has many connects in progress may be swallowing them, so it is
    /// passed over while another will do. `may_repeat` says that the request may be sent again if
    /// it fails: such a one is sooner risked on a trial. A request that has failed goes to backends
    /// that are up, and if there is none left, to one that is a last resort.
    pub fn pick(&self, tried: &[usize], may_repeat: bool, now: Instant) -> Picked {
        let is_new = |backend: &Backend| !tried.contains(&backend.id);
        let healthy = self.healthy.read();
        if tried.is_empty()
            && let Some(trial) = self.pick_trial(&healthy, may_repeat, now)
        {
            return Picked::Backend(trial);
        }
        let is_prompt = |backend: &Backend| backend.connecting() < config::MAX_PENDING_CONNECTS;
        let mut any_full = false;
        let mut take = |backend: &Arc<Backend>| {
            let place = InFlight::take(backend);
            any_full |= place.is_none();
            place
        };
        let candidates =
            round_robin::order(&healthy.up, &self.turn).filter(|backend| is_new(backend));
        let prompt = candidates.clone().filter(|backend| is_prompt(backend)).find_map(&mut take);
        // If all have many, the one with the fewest: a swallower then gets no more than the others.
        let fewest = || candidates.clone().min_by_key(|backend| backend.connecting());
        let place = prompt.or_else(|| fewest().and_then(&mut take));
        match place.or_else(|| candidates.clone().find_map(&mut take)) {
            Some(place) => return Picked::Backend(place),
            None if any_full => return Picked::AllFull,
            None => {}
        }
        let mut last_resort =
            healthy.last_resort.iter().filter(|backend| !tried.is_empty() && is_new(backend));
        last_resort.find_map(InFlight::take).map_or(Picked::NoneUp, Picked::Backend)
    }

    /// A place at a backend that was picked before, if it is still up and has one.
    pub fn pick_again(&self, backend: &Arc<Backend>) -> Option<InFlight> {
        let is_up = self.healthy.read().up.iter().any(|other| Arc::ptr_eq(other, backend));
        if is_up { InFlight::take(backend) } else { None }
    }

    /// An ejected backend whose one trial request is due; for one that may not be repeated, has
    /// been due for a while.
    fn pick_trial(&self, healthy: &HealthySet, may_repeat: bool, now: Instant) -> Option<InFlight> {
        if healthy.on_trial.is_empty() {
            return None;
        }
        let patience = if may_repeat { Duration::ZERO } else { TRIAL_PATIENCE };
        let (due, next) = (self.clock(now.checked_sub(patience)?), self.clock(now + NEXT_TRIAL));
        let trial = healthy
            .on_trial
            .iter()
            .find(|backend| backend.has_place() && backend.claim_trial(due, next));
        trial.and_then(InFlight::take)
    }

    /// Whether a backend like this is up.
    pub fn any_up(&self, is_wanted: impl Fn(&Backend) -> bool) -> bool {
        self.healthy.read().up.iter().any(|backend| is_wanted(backend))
    }

    /// Has a worker woken at each transition.
    pub fn wake_at_transitions(&self, worker: Arc<Waker>) {
        self.wakers.lock().push(worker);
    }

    /// A number that goes up with each transition.
    pub fn generation(&self) -> u64 {
        // Pairs with the waker: either the worker sees the new generation before it sleeps, or it
        // is woken.
        self.generation.load(Ordering::SeqCst)
    }

    /// The queue for a place.
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Calls the first in the queue for whom there is a place now: for one that was told to nobody,
    /// or to somebody who did not want it any more.
    pub fn call_next(&self) {
        if self.queue.has_waiters() {
            let healthy = Arc::clone(&self.healthy.read());
            let is_use_to = |backend: &Backend, tried: &[usize]| {
                backend.has_place() && !tried.contains(&backend.id)
            };
            self.queue
                .call_first(|tried| healthy.up.iter().any(|backend| is_use_to(backend, tried)));
        }
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
            is_spared: member.health.is_spared(),
            in_transition: member.health.in_transition(),
        };
        members.iter().map(standing).collect()
    }

    /// Why no backend is up, if none is: what was found, each finding once.
    pub fn why_none_is_up(&self) -> Option<String> {
        let members = self.members.lock();
        let all_down = members.iter().all(|member| !member.health.is_up());
        let mut findings: Vec<&str> = members.iter().map(|member| member.why.as_str()).collect();
        findings.sort_unstable();
        findings.dedup();
        (all_down && !findings.is_empty()).then(|| findings.join("; "))
    }

    /// Takes in a check's result; `finding` says in words what was seen.
    pub fn checked(&self, backend: &Backend, result: CheckResult, finding: &str, now: Instant) {
        self.judge(backend, finding, |health, _| health.check(result, now));
    }

    /// Takes in an attempt that was answered, and when it was started. Without a lock, unless
    /// attempts failed before.
    pub fn answered(&self, backend: &Backend, started: Instant, now: Instant) {
        if backend.is_suspect() {
            self.judge(backend, "a request was answered", |health, is_last| {
                health.attempt(Outcome::Answered, is_last, started, now)
            });
        }
    }

    /// Takes in an attempt that failed; `finding` says in words how.
    pub fn failed(
        &self,
        backend: &Backend,
        outcome: Outcome,
        finding: &str,
        started: Instant,
        now: Instant,
    ) {
        self.judge(backend, finding, |health, is_last| {
            health.attempt(outcome, is_last, started, now)
        });
    }

    /// Applies a judgement under the mutex, swaps the snapshot if it changed something, and logs
    /// the change afterwards.
    fn judge(
        &self,
        backend: &Backend,
        finding: &str,
        judgement: impl FnOnce(&mut Health, bool) -> u32,
    ) {
        let mut members = self.members.lock();
        // Those that are only ejected would serve: if nobody else is left, `rebuild` takes them
        // back.
        let is_last = !members
            .iter()
            .any(|member| member.backend.id != backend.id && member.health.passes_checks());
        let Some(member) = members.iter_mut().find(|member| member.backend.id == backend.id) else {
            return;
        };
        let (was_up, was_known) = (member.health.is_up(), member.health.is_known());
        let (passed_checks, was_last_resort) =
            (member.health.passes_checks(), member.health.is_last_resort());
        let was_ejected_until = member.health.ejected_until();
        let in_a_row = judgement(&mut member.health, is_last);
        member.backend.set_suspect(member.health.is_suspect());
        let is_up = member.health.is_up();
        if was_up != is_up || !was_known {
            finding.clone_into(&mut member.why);
        }
        let ejected_until = member.health.ejected_until();
        if let Some(until) = ejected_until.filter(|_| ejected_until != was_ejected_until) {
            // Not a moment early: the trial's failure is judged by the exact time.
            member.backend.set_trial_at(self.clock(until) + 1);
        }
        let has_changed = was_up != is_up
            || passed_checks != member.health.passes_checks()
            || was_last_resort != member.health.is_last_resort();
        if has_changed {
            self.rebuild(&members);
        }
        drop(members);
        if has_changed {
            self.announce();
        }
        match (was_up, is_up) {
            (false, true) => log::info!("backend {} up: {finding}", backend.name),
            (false, false) if !was_known => log::info!("backend {} down: {finding}", backend.name),
            (true, false) => {
                log::info!("backend {} down after {in_a_row} failure(s): {finding}", backend.name);
            }
            _ => log::debug!(
                "backend {} stays {}: {finding}",
                backend.name,
                if is_up { "up" } else { "down" }
            ),
        }
    }

    /// Has everybody look again who waits for a backend, or in the queue for one.
    fn announce(&self) {
        self.queue.call_all();
        let workers = self.wakers.lock().clone();
        workers.iter().for_each(|worker| worker.wake());
    }

    fn rebuild(&self, members: &[Member]) {
        let select = |wanted: fn(&Health) -> bool| -> Vec<Arc<Backend>> {
            let chosen = members.iter().filter(|member| wanted(&member.health));
            chosen.map(|member| Arc::clone(&member.backend)).collect()
        };
        let mut set = HealthySet { up: select(Health::is_up), ..HealthySet::default() };
        if set.up.is_empty() {
            // Failed attempts never take the last backend, whichever way it became the last.
            set.up = select(Health::passes_checks);
        } else if members.iter().any(|member| !member.health.has_checks()) {
            set.on_trial = select(|health| !health.is_up());
        }
        let serves =
            |backend: &Arc<Backend>| set.up.iter().any(|other| Arc::ptr_eq(other, backend));
        set.last_resort = select(Health::is_last_resort);
        set.last_resort.retain(|backend| !serves(backend));
        for member in members {
            member.backend.set_serves(serves(&member.backend));
        }
        *self.healthy.write() = Arc::new(set);
        self.generation.fetch_add(1, Ordering::SeqCst);
    }

    /// Milliseconds since the start, for atomics.
    fn clock(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.started).as_millis()).unwrap_or(u64::MAX)
    }
}

fn limit(settings: &Settings) -> usize {
    settings.limits.max_requests_per_backend.unwrap_or(usize::MAX)
}

fn rules(settings: &Settings) -> Rules {
    let health = &settings.health;
    Rules { checks: health.checks, rise: health.rise, fall: health.fall }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(count: u16, checks: bool) -> Cluster {
        let backend = |id: u16| BackendAddress {
            name: format!("b{id}"),
            address: ([127, 0, 0, 1], id + 1).into(),
        };
        let mut config =
            Config { backends: (0..count).map(backend).collect(), ..Config::default() };
        config.settings.health.checks = checks;
        Cluster::new(&config)
    }

    fn pick(cluster: &Cluster, tried: &[usize], now: Instant) -> Option<usize> {
        match cluster.pick(tried, true, now) {
            Picked::Backend(picked) => Some(picked.backend().id),
            Picked::AllFull | Picked::NoneUp => None,
        }
    }

    fn picks(cluster: &Cluster, now: Instant) -> Vec<usize> {
        (0..3).filter_map(|_| pick(cluster, &[], now)).collect()
    }

    fn eject(cluster: &Cluster, backend: &Backend, now: Instant) {
        for _ in 0..2 {
            cluster.failed(backend, Outcome::ConnectFailed, "connection refused", now, now);
        }
    }

    #[test]
    fn nobody_is_picked_before_a_check_has_passed() {
        let (cluster, now) = (cluster(2, true), Instant::now());
        assert_eq!(pick(&cluster, &[], now), None);
        let second = Arc::clone(&cluster.standings()[1].backend);
        cluster.checked(&second, CheckResult::Passed, "passed", now);
        assert_eq!(picks(&cluster, now), [1, 1, 1]);
    }

    #[test]
    fn what_was_tried_is_left_out() {
        let (cluster, now) = (cluster(2, false), Instant::now());
        assert_eq!(pick(&cluster, &[0], now), Some(1));
        assert_eq!(pick(&cluster, &[0, 1], now), None);
    }

    #[test]
    fn a_backend_that_refuses_is_out_at_once_and_a_trial_brings_it_back() {
        let (cluster, now) = (cluster(2, false), Instant::now());
        let first = Arc::clone(&cluster.standings()[0].backend);
        eject(&cluster, &first, now);
        assert_eq!(picks(&cluster, now), [1, 1, 1]);
        let later = now + Duration::from_secs(2);
        assert_eq!(pick(&cluster, &[], later), Some(0));
        assert_eq!(picks(&cluster, later), [1, 1, 1], "one trial at a time");
        cluster.answered(&first, later, later);
        assert_eq!(cluster.up(), 2);
    }

    #[test]
    fn ejections_start_at_a_second_again_when_the_backend_has_answered_between() {
        let (cluster, mut now) = (cluster(2, false), Instant::now());
        let first = Arc::clone(&cluster.standings()[0].backend);
        for _ in 0..5 {
            eject(&cluster, &first, now);
            assert_eq!(
                pick(&cluster, &[1], now + Duration::from_millis(900)),
                Some(0),
                "as a last resort"
            );
            now += Duration::from_millis(1100);
            assert!(
                (0..2).any(|_| pick(&cluster, &[], now) == Some(0)),
                "its trial is due after a second"
            );
            for _ in 0..3 {
                cluster.answered(&first, now, now);
            }
            assert_eq!(cluster.up(), 2);
            now += Duration::from_secs(3600);
        }
    }

    #[test]
    fn a_trial_is_not_taken_while_the_backend_is_full() {
        let backend = |id: u16| BackendAddress {
            name: format!("b{id}"),
            address: ([127, 0, 0, 1], id + 1).into(),
        };
        let mut config = Config { backends: vec![backend(0), backend(1)], ..Config::default() };
        config.settings.limits.max_requests_per_backend = Some(1);
        config.settings.health.checks = false;
        let (cluster, now) = (Cluster::new(&config), Instant::now());
        let first = Arc::clone(&cluster.standings()[0].backend);
        let old_request = InFlight::take(&first);
        eject(&cluster, &first, now);
        let later = now + Duration::from_secs(2);
        assert_eq!(pick(&cluster, &[1], later), None);
        drop(old_request);
        assert_eq!(pick(&cluster, &[1], later), Some(0), "the trial was still there");
    }

    #[test]
    fn an_answer_to_an_earlier_request_does_not_end_an_ejection() {
        let (cluster, now) = (cluster(2, false), Instant::now());
        let first = Arc::clone(&cluster.standings()[0].backend);
        eject(&cluster, &first, now);
        cluster.answered(&first, now, now);
        assert_eq!(picks(&cluster, now), [1, 1, 1]);
        let later = now + Duration::from_secs(2);
        assert_eq!(pick(&cluster, &[], later), Some(0));
        cluster.answered(&first, later, later);
        assert_eq!(cluster.up(), 2, "the trial's answer does");
    }

    #[test]
    fn a_trial_waits_a_while_for_a_request_that_may_be_sent_again() {
        let (cluster, now) = (cluster(2, false), Instant::now());
        let first = Arc::clone(&cluster.standings()[0].backend);
        eject(&cluster, &first, now);
        let picks_first = |after: Duration| match cluster.pick(&[], false, now + after) {
            Picked::Backend(picked) => picked.backend().id == 0,
            Picked::AllFull | Picked::NoneUp => false,
        };
        let second = Duration::from_secs(1);
        assert!(!picks_first(2 * second), "a POST is not risked at once");
        assert!(picks_first(2 * second + TRIAL_PATIENCE), "but better than never");
    }

    #[test]
    fn a_trial_taken_to_the_moment_is_never_too_early_for_the_judge() {
        let (cluster, now) = (cluster(2, false), Instant::now());
        let first = Arc::clone(&cluster.standings()[0].backend);
        let half = Duration::from_micros(500);
        eject(&cluster, &first, now + half);
        // The first millisecond in which it is picked: its failure must count, or no further trial
        // would come for long.
        let mut tried_at = now;
        while pick(&cluster, &[], tried_at) != Some(0) {
            tried_at += Duration::from_millis(1);
        }
        cluster.failed(&first, Outcome::ConnectFailed, "connection refused", tried_at, tried_at);
        let later = tried_at + Duration::from_secs(3);
        assert_eq!(
            pick(&cluster, &[], later),
            Some(0),
            "out again for two seconds, and not for thirty"
        );
    }

    #[test]
    fn the_last_backend_stays_however_often_it_fails() {
        let (cluster, now) = (cluster(1, false), Instant::now());
        for standing in cluster.standings() {
            for _ in 0..10 {
                cluster.failed(
                    &standing.backend,
                    Outcome::ConnectFailed,
                    "connection refused",
                    now,
                    now,
                );
            }
        }
        assert_eq!(picks(&cluster, now), [0, 0, 0]);
    }

    #[test]
    fn if_failed_attempts_would_take_all_backends_all_serve() {
        let (cluster, now) = (cluster(2, false), Instant::now());
        for standing in cluster.standings() {
            for _ in 0..10 {
                cluster.failed(
                    &standing.backend,
                    Outcome::ConnectFailed,
                    "connection refused",
                    now,
                    now,
                );
            }
        }
        let mut shares = picks(&cluster, now);
        shares.sort_unstable();
        shares.dedup();
        assert_eq!(shares, [0, 1]);
    }

    #[test]
    fn the_last_one_that_serves_may_be_ejected_while_another_only_is() {
        let (cluster, now) = (cluster(2, true), Instant::now());
        let [one, two] = [0, 1].map(|id| Arc::clone(&cluster.standings()[id].backend));
        cluster.checked(&one, CheckResult::Passed, "passed", now);
        cluster.checked(&two, CheckResult::Passed, "passed", now);
        eject(&cluster, &one, now);
        assert_eq!(
            pick(&cluster, &[1], now),
            Some(0),
            "what has failed at the other is tried here"
        );
        eject(&cluster, &two, now);
        assert_eq!(pick(&cluster, &[1], now), Some(0), "both serve now");
        let soon = now + Duration::from_millis(1);
        cluster.answered(&one, soon, soon);
        assert_eq!(picks(&cluster, soon), [0, 0, 0], "the first that answers is back, and alone");
    }

    #[test]
    fn a_closed_port_is_tried_before_a_request_fails_and_an_unwell_backend_is_not() {
        for (result, picked) in [(CheckResult::Unreachable, Some(1)), (CheckResult::Failed, None)] {
            let (cluster, now) = (cluster(2, true), Instant::now());
            let [one, two] = [0, 1].map(|id| Arc::clone(&cluster.standings()[id].backend));
            cluster.checked(&one, CheckResult::Passed, "passed", now);
            cluster.checked(&two, result, "failed", now);
            assert_eq!(picks(&cluster, now), [0, 0, 0], "nobody goes there first");
            assert_eq!(pick(&cluster, &[0], now), picked, "{result:?}");
        }
    }

    #[test]
    fn only_the_first_attempt_is_a_trial() {
        let (cluster, now) = (cluster(4, false), Instant::now());
        for id in 0..3 {
            eject(&cluster, &Arc::clone(&cluster.standings()[id].backend), now);
        }
        let later = now + Duration::from_secs(2);
        let first = pick(&cluster, &[], later).unwrap();
        assert!(first < 3, "all three trials are due");
        assert_eq!(
            pick(&cluster, &[first], later),
            Some(3),
            "its failure goes to a backend that is up"
        );
    }

    #[test]
    fn one_that_may_be_swallowing_connects_is_passed_over_while_another_will_do() {
        use crate::upstream::backend::Connecting;
        let (cluster, now) = (cluster(2, false), Instant::now());
        let connecting = |id: usize| -> Vec<_> {
            let backend = Arc::clone(&cluster.standings()[id].backend);
            (0..config::MAX_PENDING_CONNECTS).map(|_| Connecting::new(&backend)).collect()
        };
        let first = connecting(0);
        assert_eq!(picks(&cluster, now), [1, 1, 1]);
        let _second = connecting(1);
        let mut shares = picks(&cluster, now);
        shares.dedup();
        assert_eq!(shares.len(), 3, "if all do, each has its turn: {shares:?}");
        let third = connecting(0);
        assert_eq!(picks(&cluster, now), [1, 1, 1], "or the one with fewer");
        drop((first, third));
        assert_eq!(picks(&cluster, now), [0, 0, 0]);
    }

    #[test]
    fn an_ejected_backend_serves_on_when_the_others_fail_their_checks() {
        let (cluster, now) = (cluster(2, true), Instant::now());
        let [one, two] = [0, 1].map(|id| Arc::clone(&cluster.standings()[id].backend));
        cluster.checked(&one, CheckResult::Passed, "passed", now);
        cluster.checked(&two, CheckResult::Passed, "passed", now);
        eject(&cluster, &one, now);
        assert_eq!(picks(&cluster, now), [1, 1, 1]);
        for _ in 0..2 {
            cluster.checked(&two, CheckResult::Failed, "failed", now);
        }
        assert_eq!(picks(&cluster, now), [0, 0, 0], "its checks pass: it is better than nobody");
        for _ in 0..2 {
            cluster.checked(&one, CheckResult::Failed, "failed", now);
        }
        assert_eq!(cluster.up(), 0);
    }
}
