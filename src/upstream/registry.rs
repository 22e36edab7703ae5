//! The writing side of a pool of backends: membership, administrative state, health, settings.
//!
//! The only writer of all these. Runs on the health daemon, on workers that report attempts, and on
//! threads that change membership or settings. Each change is published as a snapshot to the
//! [`Cluster`] under the same mutex, so the two never differ; queued requests and workers are
//! notified afterwards. No request takes that mutex unless an attempt has failed.

use super::backend::{AdminState, Backend, BackendId};
use super::cluster::Cluster;
use super::health::{Change, CheckResult, Observation, Outcome, Rules, State};
use super::health_counts::HealthCounts;
pub use super::pool::{Added, Diff};
use super::pool::{Member, Pool};
use crate::config::{BackendSpec, Config, Settings};
use crossbeam_channel::{Receiver, Sender};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A pool of backends.
#[derive(Debug)]
pub struct Registry {
    cluster: Arc<Cluster>,
    /// Protects membership and health; taken by the health daemon for each result and for statuses,
    /// by workers for failed attempts and the first response after one, and for each change of
    /// membership or settings.
    pool: Mutex<Pool>,
    /// Protects the channel that notifies the health daemon of new members; taken for each addition,
    /// and when a daemon starts.
    added: Mutex<Sender<()>>,
}

/// The status of one backend, for operators and the health daemon.
#[derive(Clone, Debug)]
pub struct BackendStatus {
    /// The backend, with its counters.
    pub backend: Arc<Backend>,
    /// The state of its health.
    pub state: State,
    /// Its administrative state.
    pub admin_state: AdminState,
    /// The time of the last change of its state.
    pub since: Instant,
    /// The reason for its state.
    pub detail: String,
    /// Whether it is up only as the last backend.
    pub is_spared: bool,
    /// Whether its state may be about to change.
    pub in_transition: bool,
    /// Its checks and transitions since it was added.
    pub counts: HealthCounts,
}

impl Registry {
    /// A pool of the configured backends: down until their checks pass, or up if there are no checks.
    pub fn new(config: &Config) -> Self {
        let (rules, limit) = (rules(&config.settings), limit(&config.settings));
        let queue = Arc::default();
        let mut pool = Pool::new(config.settings.algorithm, rules, limit, Arc::clone(&queue));
        pool.apply(&config.backends, Instant::now());
        let cluster = Arc::new(Cluster::new(queue, pool.snapshot()));
        // No daemon reads it yet.
        let (added, _) = crossbeam_channel::bounded(1);
        Self { cluster, pool: Mutex::new(pool), added: Mutex::new(added) }
    }

    /// The reading side.
    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// Makes a change and, if it returns a result, publishes a snapshot.
    fn update<R>(&self, change: impl FnOnce(&mut Pool) -> Option<R>) -> Option<R> {
        let mut pool = self.pool.lock();
        let changed = change(&mut pool);
        if changed.is_some() {
            self.cluster.publish(pool.snapshot());
        }
        drop(pool);
        if changed.is_some() {
            self.cluster.announce();
        }
        changed
    }

    /// Applies an observation of a backend; `detail` describes it for the log. An observation of a
    /// removed backend is ignored.
    pub fn observe(&self, id: BackendId, observation: Observation, detail: &str, now: Instant) {
        let mut observed = None;
        self.update(|pool| {
            let change = pool.observe(id, observation, detail, now)?;
            observed = Some((Arc::clone(&pool.member_mut(id)?.backend), change));
            change.is_transition().then_some(())
        });
        if let Some((backend, change)) = observed {
            log_change(&backend.name, change, detail);
        }
    }

    /// Counts a health check, which took this long, and applies its result.
    pub fn observe_check(
        &self,
        id: BackendId,
        (result, took): (CheckResult, Duration),
        detail: &str,
        now: Instant,
    ) {
        if let Some(member) = self.pool.lock().member_mut(id) {
            member.counts.count_check(result, took);
        }
        self.observe(id, Observation::Check(result), detail, now);
    }

    /// Applies a response to an attempt. Takes no lock unless attempts have failed before.
    pub fn observe_response(&self, backend: &Backend, started: Instant, now: Instant) {
        if backend.has_recent_failures() {
            let response = Observation::Attempt { outcome: Outcome::Responded, started };
            self.observe(backend.id, response, "a request got a response", now);
        }
    }

    /// Replaces the members of the pool. Backends with the same host and port as before keep their
    /// state and counters.
    pub fn apply(&self, specs: &[BackendSpec]) -> Diff {
        let diff = self.update(|pool| Some(pool.apply(specs, Instant::now()))).unwrap_or_default();
        if !diff.added.is_empty() {
            self.notify_added();
        }
        let (added, removed) = (diff.added.len(), diff.removed.len());
        if added + removed > 0 {
            log::info!("backends: {added} added, {removed} removed, {} kept", diff.kept.len());
        }
        diff
    }

    /// Adds a backend. A member with the same host and port is put back in service instead.
    pub fn add(&self, spec: &BackendSpec) -> Added {
        let added = self.update(|pool| Some(pool.add(spec, Instant::now())));
        let added = added.expect("an addition always returns a backend");
        if let Added::New(_) = added {
            self.notify_added();
            log::info!("backend {} added", spec.authority);
        }
        added
    }

    /// Removes a backend: requests in flight finish, tunnels within `--tunnel-drain`, and its idle
    /// connections close. False if there is no such backend.
    pub fn remove(&self, id: BackendId) -> bool {
        let removed = self.update(|pool| pool.remove(id, Instant::now()));
        log_admin_change(removed.as_ref(), "removed")
    }

    /// Stops new requests to a backend; requests in flight finish, and health checks go on. False if
    /// there is no such backend.
    pub fn drain(&self, id: BackendId) -> bool {
        let drained = self.update(|pool| pool.set_admin_state(id, AdminState::Draining));
        log_admin_change(drained.as_ref(), "draining")
    }

    /// Ends a drain. False if there is no such backend.
    pub fn resume(&self, id: BackendId) -> bool {
        let resumed = self.update(|pool| pool.set_admin_state(id, AdminState::Active));
        log_admin_change(resumed.as_ref(), "active again")
    }

    /// Applies the algorithm to later picks, the health rules to later observations, and the limit
    /// to new requests.
    pub fn apply_settings(&self, settings: &Settings) {
        let (algorithm, detail) = (settings.algorithm, "health checks are switched off");
        let mut earlier = algorithm;
        let changes = self.update(|pool| {
            earlier = std::mem::replace(&mut pool.algorithm, algorithm);
            pool.set_limit(limit(settings));
            Some(pool.set_rules(rules(settings), detail, Instant::now()))
        });
        if earlier != algorithm {
            log::info!("algorithm {}, was {}", algorithm.name(), earlier.name());
        }
        for (backend, change) in changes.iter().flatten() {
            log_change(&backend.name, *change, detail);
        }
    }

    /// Changes the limit of requests per backend, for a pool without checks.
    #[cfg(test)]
    pub(super) fn set_limit(&self, limit: Option<usize>) {
        let mut settings = Settings::default();
        settings.health.checks = false;
        settings.limits.max_requests_per_backend = limit;
        self.apply_settings(&settings);
    }

    /// The statuses of all members.
    pub fn statuses(&self) -> Vec<BackendStatus> {
        self.pool.lock().members.iter().map(status).collect()
    }

    /// A channel that holds a message after backends were added, whose first checks are due then.
    /// It ends the channel of an earlier daemon, which would else take messages of this one.
    pub fn additions(&self) -> Receiver<()> {
        let (added, additions) = crossbeam_channel::bounded(1);
        // The end of the earlier channel wakes its daemon, after the lock is released.
        let _earlier = std::mem::replace(&mut *self.added.lock(), added);
        additions
    }

    fn notify_added(&self) {
        // A clone, because the message wakes the daemon: the lock is released before.
        let added = self.added.lock().clone();
        // Fails only if the daemon has not read the last notification yet, or there is none.
        let _ = added.try_send(());
    }
}

fn status(member: &Member) -> BackendStatus {
    BackendStatus {
        backend: Arc::clone(&member.backend),
        state: member.health.state(),
        admin_state: member.backend.admin_state(),
        since: member.since,
        detail: member.detail.clone(),
        is_spared: member.health.is_spared(),
        in_transition: member.health.in_transition(),
        counts: member.counts.clone(),
    }
}

fn log_change(name: &str, change: Change, detail: &str) {
    match (change.from, change.to.is_up()) {
        (State::Up, true) => log::debug!("backend {name} stays up: {detail}"),
        (_, true) => log::info!("backend {name} up: {detail}"),
        (State::Unknown, false) => log::info!("backend {name} down: {detail}"),
        (State::Up, false) => {
            log::info!("backend {name} down after {} failure(s): {detail}", change.streak);
        }
        (_, false) => log::debug!("backend {name} stays down: {detail}"),
    }
}

/// Logs a change of administrative state; false if there was no such backend.
fn log_admin_change(backend: Option<&Arc<Backend>>, what: &str) -> bool {
    if let Some(backend) = backend {
        log::info!("backend {} {what}: {} request(s) in flight", backend.name, backend.in_flight());
    }
    backend.is_some()
}

fn rules(settings: &Settings) -> Rules {
    let health = &settings.health;
    Rules { checks: health.checks, rise: health.rise, fall: health.fall }
}

fn limit(settings: &Settings) -> usize {
    settings.limits.max_requests_per_backend.unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Algorithm;
    use crate::upstream::backend::Slot;
    use crate::upstream::cluster::{Picked, Wanted};
    use crate::upstream::health::CheckResult;
    use std::net::SocketAddr;

    fn spec(port: u16) -> BackendSpec {
        BackendSpec::from(SocketAddr::from(([127, 0, 0, 1], port)))
    }

    fn specs(ports: &[u16]) -> Vec<BackendSpec> {
        ports.iter().copied().map(spec).collect()
    }

    /// A pool of backends at these ports, without checks.
    fn pool(ports: &[u16]) -> Registry {
        let mut config = Config::default();
        config.settings.health.checks = false;
        let pool = Registry::new(&config);
        pool.apply(&specs(ports));
        pool
    }

    fn picked(pool: &Registry, tried: &[BackendId]) -> Picked {
        let wanted = Wanted { tried, is_idempotent: true, client: [127, 0, 0, 1].into() };
        pool.cluster().pick(&wanted, Instant::now(), &mut fastrand::Rng::new())
    }

    /// The ports of the backends that the next requests are sent to, each once.
    fn ports(pool: &Registry) -> Vec<u16> {
        let mut ports: Vec<u16> = (0..10)
            .filter_map(|_| match picked(pool, &[]) {
                Picked::Backend(slot) | Picked::Unhealthy(slot) => {
                    Some(slot.backend().authority.port())
                }
                Picked::AllFull | Picked::NoneUp => None,
            })
            .collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    fn id(pool: &Registry, port: u16) -> BackendId {
        let statuses = pool.statuses();
        let found = statuses.iter().find(|status| status.backend.authority.port() == port);
        found.expect("it is a member").backend.id
    }

    fn fail(pool: &Registry, id: BackendId) {
        let observation =
            Observation::Attempt { outcome: Outcome::ConnectFailed, started: Instant::now() };
        (0..2).for_each(|_| pool.observe(id, observation, "connection refused", Instant::now()));
    }

    #[test]
    fn a_list_replaces_the_members_and_kept_backends_keep_state_and_counters() {
        let pool = pool(&[1, 2, 3]);
        let ids = [1, 2, 3].map(|port| id(&pool, port));
        fail(&pool, ids[1]);
        let slot = Slot::take(&pool.statuses()[1].backend);
        let mut list = specs(&[4, 2, 1]);
        list[1].weight = 5;
        let diff = pool.apply(&list);
        let new = id(&pool, 4);
        assert_eq!(
            diff,
            Diff { added: vec![new], removed: vec![ids[2]], kept: vec![ids[1], ids[0]] }
        );
        assert!(!ids.contains(&new), "a number is never reused");
        let statuses = pool.statuses();
        let kept = &statuses[1];
        assert!(matches!(kept.state, State::Ejected { .. }));
        assert_eq!((kept.backend.in_flight(), kept.backend.weight()), (1, 5));
        assert_eq!(ports(&pool), [1, 4]);
        drop(slot);
    }

    #[test]
    fn a_draining_backend_gets_no_new_request_and_its_health_is_still_observed() {
        let pool = pool(&[1, 2]);
        let Picked::Backend(slot) = picked(&pool, &[]) else { panic!("both are up") };
        let draining = Arc::clone(slot.backend());
        assert!(pool.drain(draining.id));
        let other = 3 - draining.authority.port();
        assert_eq!(ports(&pool), [other]);
        assert!(draining.is_serving() && !draining.accepts_work());
        assert_eq!(draining.in_flight(), 1);
        let other = id(&pool, other);
        assert!(matches!(picked(&pool, &[other]), Picked::NoneUp), "it is no last resort either");
        fail(&pool, draining.id);
        let status = pool.statuses().into_iter().find(|status| status.backend.id == draining.id);
        let status = status.expect("it is still a member");
        assert_eq!(status.admin_state, AdminState::Draining);
        assert!(matches!(status.state, State::Ejected { .. }));
        assert!(pool.resume(draining.id));
        let observation =
            Observation::Attempt { outcome: Outcome::Responded, started: Instant::now() };
        pool.observe(draining.id, observation, "responded", Instant::now());
        assert_eq!(ports(&pool), [1, 2]);
    }

    #[test]
    fn an_ejected_backend_that_drains_gets_no_probe() {
        let pool = pool(&[1, 2]);
        fail(&pool, id(&pool, 1));
        pool.drain(id(&pool, 1));
        let later = Instant::now() + Duration::from_secs(60);
        let wanted = Wanted { tried: &[], is_idempotent: true, client: [127, 0, 0, 1].into() };
        for _ in 0..5 {
            let picked = pool.cluster().pick(&wanted, later, &mut fastrand::Rng::new());
            assert!(
                matches!(picked, Picked::Backend(slot) if slot.backend().authority.port() == 2)
            );
        }
    }

    #[test]
    fn the_last_active_backend_is_spared_while_others_drain() {
        let pool = pool(&[1, 2]);
        pool.drain(id(&pool, 2));
        fail(&pool, id(&pool, 1));
        assert_eq!(ports(&pool), [1]);
        assert!(pool.statuses()[0].is_spared);
    }

    #[test]
    fn a_late_result_for_a_removed_backend_is_ignored() {
        let pool = pool(&[1, 2]);
        let removed = id(&pool, 1);
        assert!(pool.remove(removed));
        fail(&pool, removed);
        assert_eq!((pool.statuses().len(), ports(&pool)), (1, vec![2]));
        assert!(!pool.remove(removed) && !pool.drain(removed) && !pool.resume(removed));
    }

    #[test]
    fn an_address_that_is_added_again_resumes_its_draining_backend_or_is_a_new_one() {
        let pool = pool(&[1, 2]);
        let first = id(&pool, 1);
        pool.drain(first);
        assert_eq!(pool.add(&spec(1)), Added::Kept(first));
        assert_eq!(ports(&pool), [1, 2], "its drain has ended");
        pool.remove(first);
        let Added::New(second) = pool.add(&spec(1)) else { panic!("it was removed") };
        assert_ne!(first, second);
        fail(&pool, first);
        assert_eq!(
            ports(&pool),
            [1, 2],
            "failures of the old backend do not count for the new one"
        );
    }

    #[test]
    fn removals_are_counted_and_no_other_change_is() {
        let pool = pool(&[1, 2, 3, 4]);
        let removals = || pool.cluster().removals();
        pool.drain(id(&pool, 1));
        pool.add(&spec(5));
        fail(&pool, id(&pool, 2));
        assert_eq!(removals(), 0);
        let one = id(&pool, 1);
        pool.remove(one);
        pool.remove(one);
        assert_eq!(removals(), 1);
        pool.apply(&specs(&[3, 6]));
        assert_eq!(removals(), 4);
    }

    #[test]
    fn an_outage_lists_each_reason_once_and_ends_when_a_backend_is_up() {
        let config = Config::default();
        let pool = Registry::new(&config);
        let outage = || pool.cluster().outage().unwrap_or_default().into_string();
        assert_eq!(outage(), "no backends yet: POST /_control/add");
        pool.apply(&specs(&[1, 2, 3]));
        assert_eq!(outage(), "no backend is healthy: not checked yet");
        let now = Instant::now();
        let check = |port, result, detail| {
            pool.observe(id(&pool, port), Observation::Check(result), detail, now);
        };
        check(1, CheckResult::Failed, "GET /health returned 500");
        check(2, CheckResult::Failed, "GET /health returned 500");
        pool.drain(id(&pool, 3));
        assert_eq!(outage(), "no backend is healthy: GET /health returned 500; draining");
        check(2, CheckResult::Passed, "passed");
        assert_eq!(pool.cluster().outage(), None);
        pool.apply(&[]);
        assert_eq!(outage(), "no backends yet: POST /_control/add", "all were removed");
    }

    #[test]
    fn limits_and_rules_change_while_the_pool_serves() {
        let pool = pool(&[1]);
        let Picked::Backend(slot) = picked(&pool, &[]) else { panic!("it is up") };
        let mut settings = Settings::default();
        settings.health.checks = false;
        settings.limits.max_requests_per_backend = Some(1);
        pool.apply_settings(&settings);
        assert!(matches!(picked(&pool, &[]), Picked::AllFull));
        settings.limits.max_requests_per_backend = None;
        pool.apply_settings(&settings);
        assert!(matches!(picked(&pool, &[]), Picked::Backend(_)));
        drop(slot);
        (settings.health.checks, settings.health.fall) = (true, 1);
        pool.apply_settings(&settings);
        pool.add(&spec(2));
        assert_eq!(ports(&pool), [1], "a new backend waits for its first check now");
        let observation = Observation::Check(CheckResult::Failed);
        pool.observe(id(&pool, 1), observation, "failed", Instant::now());
        assert_eq!(ports(&pool), [0_u16; 0]);
    }

    #[test]
    fn the_health_daemon_is_notified_of_new_backends_and_not_of_kept_ones() {
        let pool = pool(&[1]);
        let ended = pool.additions();
        let additions = pool.additions();
        pool.add(&spec(1));
        pool.apply(&specs(&[1]));
        assert!(additions.try_recv().is_err());
        pool.add(&spec(2));
        pool.add(&spec(3));
        assert!(ended.try_recv().is_err(), "an earlier daemon takes none");
        assert!(additions.try_recv().is_ok() && additions.try_recv().is_err(), "once for both");
    }

    #[test]
    fn a_backend_that_is_listed_twice_is_one_member_with_the_last_weight() {
        let pool = pool(&[]);
        let mut list = specs(&[2, 1, 2]);
        list[2].weight = 7;
        let diff = pool.apply(&list);
        assert_eq!((diff.added.len(), diff.kept.len()), (2, 0));
        assert_eq!(pool.statuses().iter().map(|one| one.backend.weight()).sum::<u32>(), 7 + 1);
        let ids = [2, 1].map(|port| id(&pool, port));
        let diff = pool.apply(&specs(&[1, 1, 3, 3]));
        let kept_and_removed = (diff.kept, diff.removed, diff.added.len());
        assert_eq!(kept_and_removed, (vec![ids[1]], vec![ids[0]], 1));
        assert_eq!(pool.statuses().len(), 2);
    }

    #[test]
    fn a_status_has_the_time_and_the_reason_of_the_last_transition() {
        let mut settings = Settings::default();
        (settings.health.checks, settings.health.rise) = (true, 2);
        let pool = Registry::new(&Config { settings, ..Config::default() });
        pool.apply(&specs(&[1]));
        let start = Instant::now();
        let check = |seconds, result, detail| {
            let now = start + Duration::from_secs(seconds);
            pool.observe(id(&pool, 1), Observation::Check(result), detail, now);
            let status = pool.statuses().remove(0);
            (status.state, status.since.duration_since(start).as_secs(), status.detail)
        };
        let down = (State::Down, 10, "GET /health returned 500".to_owned());
        assert_eq!(check(10, CheckResult::Failed, "GET /health returned 500"), down);
        assert_eq!(check(20, CheckResult::Failed, "GET /health returned 501"), down);
        assert_eq!(check(30, CheckResult::Passed, "passed"), down, "one of two");
        let up = (State::Up, 40, "passed".to_owned());
        assert_eq!(check(40, CheckResult::Passed, "passed"), up);
        assert_eq!(check(50, CheckResult::Passed, "passed again"), up);
    }

    #[test]
    fn the_end_of_checks_is_a_transition_of_a_backend_that_they_had_marked_down() {
        let mut settings = Settings::default();
        settings.health.checks = true;
        let pool = Registry::new(&Config { settings: settings.clone(), ..Config::default() });
        pool.apply(&specs(&[1, 2]));
        let start = Instant::now();
        for (port, result) in [(1, CheckResult::Failed), (2, CheckResult::Passed)] {
            pool.observe(id(&pool, port), Observation::Check(result), "checked", start);
        }
        settings.health.checks = false;
        pool.apply_settings(&settings);
        let [was_down, was_up] = &pool.statuses()[..] else { panic!("there are two") };
        assert_eq!((was_down.state, was_up.state), (State::Up, State::Up));
        assert_eq!(was_down.detail, "health checks are switched off");
        assert!(was_down.since > start);
        assert_eq!((was_up.detail.as_str(), was_up.since), ("checked", start), "no transition");
    }

    #[test]
    fn two_pools_are_independent() {
        let (one, two) = (pool(&[1]), pool(&[1]));
        one.drain(id(&one, 1));
        assert_eq!((ports(&one), ports(&two)), (vec![], vec![1]));
    }

    #[test]
    fn a_change_of_the_algorithm_publishes_a_snapshot() {
        let pool = pool(&[1, 2]);
        let before = pool.cluster().generation();
        pool.apply_settings(&Settings { algorithm: Algorithm::P2c, ..Settings::default() });
        assert_eq!((pool.cluster().generation(), ports(&pool)), (before + 1, vec![1, 2]));
    }
}
