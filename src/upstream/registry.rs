//! The writing side of a pool of backends: membership, administrative state, health, settings.
//!
//! The only writer of all these. Runs on the health daemon, on workers that report attempts, and on
//! threads that change membership or settings. Each change is published as a snapshot to the
//! [`Cluster`] under the same mutex, so the two never differ; queued requests and workers are
//! notified afterwards. No request takes that mutex unless an attempt has failed.

use super::backend::{AdminState, Backend, BackendId};
use super::cluster::Cluster;
use super::health::{Change, CheckResult, NameState, Observation, Outcome, Rules, State};
use super::health_counts::HealthCounts;
pub use super::pool::{Added, Diff};
use super::pool::{Member, Pool};
pub use super::resolution::Resolution;
use super::subscriber::Subscriber;
use crate::config::{Algorithm, BackendSpec, Config, HostPort, Settings};
use crossbeam_channel::Receiver;
use parking_lot::{Condvar, Mutex};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A pool of backends.
#[derive(Debug)]
pub struct Registry {
    cluster: Arc<Cluster>,
    /// Protects membership and health; taken by the health daemon for each result and for statuses,
    /// by workers for failed attempts and the first response after one, and for each change of
    /// membership or settings.
    pool: Mutex<Pool>,
    /// Notified after each change of the pool, for threads that wait for a first check.
    changed: Condvar,
    /// The way to the health daemon.
    health_daemon: Subscriber,
    /// The way to the resolver.
    resolver: Subscriber,
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
    /// The time of the last change of its administrative state.
    pub admin_since: Instant,
    /// Whether it is up only as the last backend.
    pub is_spared: bool,
    /// Whether its state may be about to change.
    pub in_transition: bool,
    /// The state of its name.
    pub name: NameState,
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
        let (health_daemon, resolver) = (Subscriber::new(), Subscriber::new());
        let (pool, changed) = (Mutex::new(pool), Condvar::new());
        Self { cluster, pool, changed, health_daemon, resolver }
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
            self.changed.notify_all();
            self.cluster.announce();
        }
        changed
    }

    /// Applies an observation of a backend; `detail` describes it for the log. An observation of a
    /// removed backend is ignored.
    pub fn observe(&self, id: BackendId, observation: Observation, detail: &str, now: Instant) {
        let mut observed = None;
        self.update(|pool| {
            let was_spared = pool.member_mut(id)?.health.is_spared();
            let change = pool.observe(id, observation, detail, now)?;
            let Member { backend, health, .. } = pool.member_mut(id)?;
            let is_news = change.is_transition() || health.is_spared() && !was_spared;
            observed = Some((Arc::clone(backend), change, is_news));
            change.is_transition().then_some(())
        });
        if let Some((backend, change, is_news)) = observed {
            log_change(&backend.name, change, detail);
            // The health daemon reports its own results.
            if is_news && matches!(observation, Observation::Attempt { .. }) {
                self.health_daemon.notify();
            }
            // Another program may have the address by now, so any failed check counts.
            if is_failure(observation) && backend.addresses.suspect() {
                self.resolver.notify();
            }
        }
    }

    /// Applies the resolution of a backend's name; that of a removed backend is ignored. Without any
    /// address, a backend is down until it has one.
    pub fn resolve(&self, id: BackendId, resolution: &Resolution, now: Instant) {
        if let Some(resolved) = self.update(|pool| pool.resolve(id, resolution, now)) {
            resolved.log();
            self.warn_of_twins();
            self.health_daemon.notify();
        }
    }

    /// Warns once of each pair of backends that have an address in common.
    fn warn_of_twins(&self) {
        let twins = self.pool.lock().take_twins();
        for (one, other, address) in twins {
            log::warn!(
                event = "state";
                "backends {one} and {other} have the same address {address}: it gets the requests of \
                 both, and limits count for each of them"
            );
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
        self.change_members(|_| specs.to_vec())
    }

    /// Replaces the members of the pool by those that `change` returns for the present ones, as
    /// [`Registry::apply`] does; no other change comes in between.
    pub fn change_members(&self, change: impl FnOnce(&[BackendSpec]) -> Vec<BackendSpec>) -> Diff {
        let diff = self.update(|pool| {
            let present = pool.specs();
            let specs = change(&present);
            (specs != present).then(|| pool.apply(&specs, Instant::now()))
        });
        let diff = diff.unwrap_or_default();
        if !diff.added.is_empty() {
            self.notify_added();
        }
        let (added, removed) = (diff.added.len(), diff.removed.len());
        if added + removed > 0 {
            log::debug!("backends: {added} added, {removed} removed, {} kept", diff.kept.len());
        }
        diff
    }

    /// Adds a backend. A member with the same host and port is put back in service instead.
    pub fn add(&self, spec: &BackendSpec) -> Added {
        let added = self.update(|pool| Some(pool.add(spec, Instant::now())));
        let added = added.expect("an addition always returns a backend");
        if let Added::New(_) = added {
            self.notify_added();
            log::info!(event = "admin"; "backend {} added", spec.authority);
        }
        added
    }

    /// Adds a backend that is no member yet; none if there is one with the same host and port.
    pub fn add_new(&self, spec: &BackendSpec) -> Option<BackendId> {
        let added = self.update(|pool| pool.add_new(spec, Instant::now()))?;
        self.notify_added();
        log::info!(event = "admin"; "backend {} added", spec.authority);
        Some(added)
    }

    /// Waits until the first check of a backend has ended or the backend was removed: until `until`
    /// at most, or until `is_cancelled` is set and [`Registry::notify_waiting`] is called.
    pub fn wait_until_checked(&self, id: BackendId, until: Instant, is_cancelled: &AtomicBool) {
        let mut pool = self.pool.lock();
        let is_unchecked = |pool: &mut Pool| {
            pool.member_mut(id).is_some_and(|member| member.health.state() == State::Unknown)
        };
        while is_unchecked(&mut pool) && !is_cancelled.load(Ordering::SeqCst) {
            if self.changed.wait_until(&mut pool, until).timed_out() {
                return;
            }
        }
    }

    /// Waits until a backend is up other than these, until `until` at most. If none of these is up
    /// either, their removal changes nothing for requests, and there is no wait.
    pub fn wait_for_successors(&self, leaving: &[BackendSpec], until: Instant) {
        let leaving: HashSet<&HostPort> = leaving.iter().map(|spec| &spec.authority).collect();
        let mut pool = self.pool.lock();
        while pool.depends_on(&leaving) {
            if self.changed.wait_until(&mut pool, until).timed_out() {
                return;
            }
        }
    }

    /// Lets all threads that wait for a first check look at their conditions.
    pub fn notify_waiting(&self) {
        // A thread that has not seen the condition yet waits once the lock is released.
        drop(self.pool.lock());
        self.changed.notify_all();
    }

    /// Changes the weight of a backend for later picks. False if there is no such backend.
    pub fn set_weight(&self, id: BackendId, weight: u32) -> bool {
        let changed = self.update(|pool| {
            let backend = &pool.member_mut(id)?.backend;
            backend.set_weight(weight);
            Some(Arc::clone(backend))
        });
        if let Some(backend) = &changed {
            log::info!(event = "admin"; "backend {} has weight {weight}", backend.name);
        }
        changed.is_some()
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
        let drained =
            self.update(|pool| pool.set_admin_state(id, AdminState::Draining, Instant::now()));
        log_admin_change(drained.as_ref(), "draining")
    }

    /// Ends a drain. False if there is no such backend.
    pub fn resume(&self, id: BackendId) -> bool {
        let resumed =
            self.update(|pool| pool.set_admin_state(id, AdminState::Active, Instant::now()));
        log_admin_change(resumed.as_ref(), "active again")
    }

    /// The algorithm of picks.
    pub fn algorithm(&self) -> Algorithm {
        self.pool.lock().algorithm
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
            log::info!(event = "admin"; "algorithm {}, was {}", algorithm.name(), earlier.name());
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

    /// A channel that holds a message after backends were added or got other addresses, and after
    /// attempts have taken one or have failed at the last: checks may be due then. It ends the channel of an earlier daemon.
    pub fn checks_due(&self) -> Receiver<()> {
        self.health_daemon.subscribe()
    }

    /// A channel that holds a message after backends were added, or after a failure that may mean
    /// other addresses: names are due to be resolved then. It ends the channel of an earlier resolver.
    pub fn names_due(&self) -> Receiver<()> {
        self.resolver.subscribe()
    }

    fn notify_added(&self) {
        self.health_daemon.notify();
        self.resolver.notify();
        self.warn_of_twins();
    }
}

fn status(member: &Member) -> BackendStatus {
    BackendStatus {
        backend: Arc::clone(&member.backend),
        state: member.health.state(),
        admin_state: member.backend.admin_state(),
        since: member.since,
        detail: member.detail.clone(),
        admin_since: member.admin_since,
        is_spared: member.health.is_spared(),
        in_transition: member.health.in_transition(),
        name: member.health.name(),
        counts: member.counts.clone(),
    }
}

fn is_failure(observation: Observation) -> bool {
    match observation {
        Observation::Check(result) => result != CheckResult::Passed,
        Observation::Attempt { outcome, .. } => outcome == Outcome::ConnectFailed,
    }
}

fn log_change(name: &str, change: Change, detail: &str) {
    match (change.from, change.to.is_up()) {
        (State::Up, true) => log::debug!("backend {name} stays up: {detail}"),
        (_, true) => log::info!(event = "state", backend = name; "backend {name} up: {detail}"),
        (State::Unknown, false) => {
            log::info!(event = "state", backend = name; "backend {name} down: {detail}");
        }
        (State::Up, false) => {
            log::info!(
                event = "state", backend = name;
                "backend {name} down after {} failure(s): {detail}", change.streak
            );
        }
        (_, false) => log::debug!("backend {name} stays down: {detail}"),
    }
}

/// Logs a change of administrative state; false if there was no such backend.
fn log_admin_change(backend: Option<&Arc<Backend>>, what: &str) -> bool {
    if let Some(backend) = backend {
        log::info!(
            event = "admin";
            "backend {} {what}: {} request(s) in flight", backend.name, backend.in_flight()
        );
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
        let ended = pool.checks_due();
        let additions = pool.checks_due();
        pool.add(&spec(1));
        pool.apply(&specs(&[1]));
        assert!(additions.try_recv().is_err());
        pool.add(&spec(2));
        pool.add(&spec(3));
        assert!(ended.try_recv().is_err(), "an earlier daemon takes none");
        assert!(additions.try_recv().is_ok() && additions.try_recv().is_err(), "once for both");
    }

    #[test]
    fn the_health_daemon_is_notified_when_attempts_take_a_backend_or_fail_at_the_last() {
        let pool = pool(&[1, 2]);
        let due = pool.checks_due();
        let failed =
            Observation::Attempt { outcome: Outcome::ConnectFailed, started: Instant::now() };
        for (port, what) in [(1, "it is ejected"), (2, "it is the last")] {
            let id = id(&pool, port);
            let fail = || pool.observe(id, failed, "connection refused", Instant::now());
            fail();
            assert!(due.try_recv().is_err());
            fail();
            assert!(due.try_recv().is_ok(), "{what}");
            fail();
            assert!(due.try_recv().is_err(), "nothing has changed");
        }
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
    fn a_backend_is_added_once_and_waited_for_until_its_first_check() {
        let mut settings = Settings::default();
        settings.health.checks = true;
        let pool = Registry::new(&Config { settings, ..Config::default() });
        let id = pool.add_new(&spec(1)).expect("it is no member yet");
        assert_eq!(pool.add_new(&spec(1)), None);
        let (far, cancelled) = (Instant::now() + Duration::from_secs(60), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| pool.wait_until_checked(id, far, &cancelled));
            let observation = Observation::Check(CheckResult::Failed);
            pool.observe(id, observation, "GET /health returned 500", Instant::now());
            waits.join().unwrap();
        });
        assert_eq!(pool.statuses()[0].state, State::Down);
        let other = pool.add_new(&spec(2)).unwrap();
        pool.wait_until_checked(other, Instant::now(), &cancelled);
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| pool.wait_until_checked(other, far, &cancelled));
            cancelled.store(true, Ordering::SeqCst);
            pool.notify_waiting();
            waits.join().unwrap();
        });
        cancelled.store(false, Ordering::SeqCst);
        pool.remove(other);
        pool.wait_until_checked(other, far, &cancelled);
    }

    #[test]
    fn a_drain_has_the_time_of_its_first_request_and_a_weight_applies_to_the_next_snapshot() {
        let pool = pool(&[1, 2]);
        let start = pool.statuses()[0].admin_since;
        pool.drain(id(&pool, 1));
        let drained = pool.statuses()[0].admin_since;
        assert!(drained > start);
        pool.drain(id(&pool, 1));
        assert_eq!(pool.statuses()[0].admin_since, drained, "no change");
        let before = pool.cluster().generation();
        assert!(pool.set_weight(id(&pool, 2), 7) && !pool.set_weight(BackendId(99), 7));
        assert_eq!(
            (pool.statuses()[1].backend.weight(), pool.cluster().generation()),
            (7, before + 1)
        );
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
