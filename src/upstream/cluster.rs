//! The reading side of a pool of backends: picks a backend for each request.
//!
//! Runs on workers, which read the snapshot behind a `parking_lot::RwLock<Arc<..>>`. The registry
//! publishes a new snapshot after each change. Owns the snapshot and the queue; must never change
//! membership or health, nor take a lock of the registry.

use super::backend::{Backend, BackendId, Slot, Waiters};
use super::balance::{Choice, Functions};
use super::queue::{Mailbox, PendingQueue, Position};
use super::response_time::{Measured, Moment};
use crate::net::{Token, Waker};
use fastrand::Rng;
use parking_lot::{Mutex, RwLock};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The time until the next probe of an ejected backend once one is claimed. The result of that one
/// decides earlier, unless the request ends without a result.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// The time for which a due probe waits for an idempotent request before any request is used.
const NON_IDEMPOTENT_PROBE_DELAY: Duration = Duration::from_secs(5);

/// The backends that get requests, and the algorithm: immutable, replaced as a whole.
#[derive(Debug)]
pub(super) struct Snapshot {
    /// The backends that are up.
    pub(super) up: Vec<Arc<Backend>>,
    /// Ejected backends that only a probe request can bring back, because there are no checks.
    pub(super) probing: Vec<Arc<Backend>>,
    /// Backends that are not up, but are tried before a request fails that has failed at all others.
    pub(super) last_resort: Vec<Arc<Backend>>,
    /// The algorithm that chooses one of `up`.
    pub(super) algorithm: &'static Functions,
    /// The algorithm's precomputed order of `up`.
    pub(super) cycle: Box<[u32]>,
    /// Why no backend is up, as a message to clients; none if one is up.
    pub(super) outage: Option<Box<str>>,
    /// The number of backends that were removed so far.
    pub(super) removals: u64,
}

/// The backends as workers see them.
#[derive(Debug)]
pub struct Cluster {
    /// Protects the pointer to the snapshot; taken for reading by every pick, for writing by a
    /// transition.
    snapshot: RwLock<Arc<Snapshot>>,
    queue: Arc<PendingQueue>,
    /// The number of snapshots published.
    generation: AtomicU64,
    /// Protects the workers' wakers; taken when a worker is created, and at each transition.
    wakers: Mutex<Vec<Arc<Waker>>>,
    /// The number of picks, for algorithms that take backends in turn.
    turn: AtomicUsize,
    /// The number of backends that are up, as the snapshot has it.
    up_count: AtomicUsize,
}

/// The requirements of a request.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'r> {
    /// The backends at which it has failed, or that do not support its framing.
    pub tried: &'r [BackendId],
    /// Whether its method is idempotent: such a request is preferred for a probe.
    pub is_idempotent: bool,
    /// The client's address.
    pub client: IpAddr,
}

/// The result of a pick.
#[derive(Debug)]
pub enum Picked {
    /// A slot at the chosen backend, which is up.
    Backend(Slot),
    /// A slot at a backend that is not up, for a probe or as the last resort.
    Unhealthy(Slot),
    /// Every untried backend is at its limit, or other requests are queued.
    AllFull,
    /// No backend is up, or the request has tried all that are.
    NoneUp,
}

impl Wanted<'_> {
    fn is_untried(&self, backend: &Backend) -> bool {
        !self.tried.contains(&backend.id)
    }
}

impl Cluster {
    pub(super) fn new(queue: Arc<PendingQueue>, snapshot: Snapshot) -> Self {
        Self {
            up_count: AtomicUsize::new(snapshot.up.len()),
            snapshot: RwLock::new(Arc::new(snapshot)),
            queue,
            generation: AtomicU64::new(0),
            wakers: Mutex::default(),
            turn: AtomicUsize::new(0),
        }
    }

    /// Takes a slot at the backend that the algorithm chooses. A first attempt becomes the probe of
    /// an ejected backend if one is due. A request that has failed goes to untried backends that are
    /// up, and after those to a last resort.
    pub fn pick(&self, wanted: &Wanted<'_>, now: Instant, rng: &mut Rng) -> Picked {
        let snapshot = self.snapshot.read();
        if let Some(slot) = pick_probe(&snapshot, wanted, now) {
            return Picked::Unhealthy(slot);
        }
        let any_untried = || snapshot.up.iter().any(|backend| wanted.is_untried(backend));
        // A new request does not overtake queued ones.
        if self.queue.has_waiters() && any_untried() {
            return Picked::AllFull;
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        // Another worker may take the slot between the choice and the take.
        while let Some(chosen) = choose(&snapshot, wanted, turn, rng) {
            if let Some(slot) = Slot::take(chosen) {
                return Picked::Backend(slot);
            }
        }
        if any_untried() {
            return Picked::AllFull;
        }
        let mut last_resort = snapshot
            .last_resort
            .iter()
            .filter(|backend| !wanted.tried.is_empty() && wanted.is_untried(backend));
        last_resort.find_map(Slot::take).map_or(Picked::NoneUp, Picked::Unhealthy)
    }

    /// A slot at this backend, if it accepts work and has capacity.
    pub fn acquire(&self, backend: &Arc<Backend>) -> Option<Slot> {
        if backend.accepts_work() { Slot::take(backend) } else { None }
    }

    /// Whether any untried backend that is up satisfies the condition.
    pub fn any_untried(&self, tried: &[BackendId], is_wanted: impl Fn(&Backend) -> bool) -> bool {
        let snapshot = self.snapshot.read();
        snapshot.up.iter().any(|backend| !tried.contains(&backend.id) && is_wanted(backend))
    }

    /// Records how long an attempt took, for the algorithm.
    pub fn record_response_time(&self, backend: &Backend, measured: Measured) {
        let pick = self.turn.load(Ordering::Relaxed) as u32;
        let backends = self.up_count.load(Ordering::Relaxed) as u32;
        backend.response_time.record(measured, Moment { pick, backends });
    }

    /// Queues a request for a slot, at its earlier position if it had one; none if the queue is
    /// full. Its worker will receive a [`Grant`](super::queue::Grant).
    pub fn enqueue(
        &self,
        session: Token,
        mailbox: &Mailbox,
        tried: &[BackendId],
        earlier: Option<Position>,
    ) -> Option<Position> {
        let position = self.queue.enqueue(session, mailbox, tried, earlier)?;
        // Read after the request was queued: an earlier release or snapshot is found here, a later
        // one finds the request.
        let snapshot = Arc::clone(&self.snapshot.read());
        if snapshot.up.iter().any(|backend| !tried.contains(&backend.id)) {
            self.queue.serve(&snapshot.up);
        } else {
            self.queue.dismiss(position);
        }
        Some(position)
    }

    /// The number of queued requests.
    pub fn queue_length(&self) -> usize {
        self.queue.length()
    }

    /// Removes a request from the queue.
    pub fn cancel(&self, position: Position) {
        self.queue.cancel(position);
    }

    /// The number of backends that are up.
    pub fn up(&self) -> usize {
        self.snapshot.read().up.len()
    }

    /// Why no backend is up, as a message to clients; none if one is up.
    pub fn outage(&self) -> Option<Box<str>> {
        self.snapshot.read().outage.clone()
    }

    /// The number of backends that were removed so far.
    pub fn removals(&self) -> u64 {
        self.snapshot.read().removals
    }

    /// Registers a worker to be woken at each transition.
    pub fn wake_at_transitions(&self, worker: Arc<Waker>) {
        self.wakers.lock().push(worker);
    }

    /// A number that increases with each new snapshot.
    pub fn generation(&self) -> u64 {
        // Pairs with the waker: a worker either sees the new generation before it sleeps, or is woken.
        self.generation.load(Ordering::SeqCst)
    }

    /// Replaces the snapshot. The registry calls this in the order of its changes.
    pub(super) fn publish(&self, snapshot: Snapshot) {
        let snapshot = Arc::new(snapshot);
        self.up_count.store(snapshot.up.len(), Ordering::Relaxed);
        // The old snapshot is freed after the lock is released.
        let _old = std::mem::replace(&mut *self.snapshot.write(), snapshot);
        self.generation.fetch_add(1, Ordering::SeqCst);
    }

    /// Applies a new snapshot to queued requests and wakes the workers: a request that waits for a
    /// backend that is down now may be moved to another one.
    pub(super) fn announce(&self) {
        if self.queue.has_waiters() {
            let snapshot = Arc::clone(&self.snapshot.read());
            self.queue.serve(&snapshot.up);
            self.queue.dismiss_unservable(&snapshot.up);
        }
        let workers = self.wakers.lock().clone();
        workers.iter().for_each(|worker| worker.wake());
    }
}

/// A slot at an ejected backend whose probe is due: for a request that is not idempotent, due for
/// some time.
fn pick_probe(snapshot: &Snapshot, wanted: &Wanted<'_>, now: Instant) -> Option<Slot> {
    if snapshot.probing.is_empty() || !wanted.tried.is_empty() {
        return None;
    }
    let delay = if wanted.is_idempotent { Duration::ZERO } else { NON_IDEMPOTENT_PROBE_DELAY };
    let due = now.checked_sub(delay)?;
    let mut candidates = snapshot.probing.iter().filter(|backend| backend.has_capacity());
    candidates.find_map(|backend| backend.claim_probe(due, now + PROBE_TIMEOUT))
}

/// The algorithm's choice among the usable backends. A backend with stalled connects, which may be
/// dropping SYNs, is skipped while another has none. If all have some, the choice is among those
/// with the fewest, so that a black hole gets no more requests than other backends.
fn choose<'s>(
    snapshot: &'s Snapshot,
    wanted: &Wanted<'_>,
    turn: usize,
    rng: &mut Rng,
) -> Option<&'s Arc<Backend>> {
    let Snapshot { up, cycle, algorithm, .. } = snapshot;
    let usable = |backend: &Backend| wanted.is_untried(backend) && backend.has_capacity();
    let mut choose = |usable: &dyn Fn(&Backend) -> bool| {
        let choice = Choice { up, cycle, turn, client: wanted.client, usable };
        (algorithm.choose)(&choice, rng)
    };
    let chosen = choose(&|backend| usable(backend) && !backend.has_stalled_connects())
        .or_else(|| {
            let candidates = up.iter().filter(|backend| usable(backend));
            let fewest = candidates.map(|backend| backend.connecting()).min()?;
            choose(&|backend| usable(backend) && backend.connecting() <= fewest)
        })
        .or_else(|| choose(&usable));
    chosen.map(|index| &up[index])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Config};
    use crate::net::{Poller, Slab};
    use crate::upstream::health::{CheckResult, Observation, Outcome};
    use crate::upstream::queue::Grant;
    use crate::upstream::registry::Registry;
    use crossbeam_channel::{Receiver, unbounded};
    use std::net::SocketAddr;

    fn config(count: u16, checks: bool) -> Config {
        let backend = |id: u16| SocketAddr::from(([127, 0, 0, 1], id + 1)).into();
        let mut config =
            Config { backends: (0..count).map(backend).collect(), ..Config::default() };
        config.settings.health.checks = checks;
        config
    }

    fn pool(count: u16, checks: bool) -> Registry {
        Registry::new(&config(count, checks))
    }

    fn pick(pool: &Registry, tried: &[u32], now: Instant) -> Option<u32> {
        pick_one(pool, tried, true, now)
    }

    fn pick_one(pool: &Registry, tried: &[u32], is_idempotent: bool, now: Instant) -> Option<u32> {
        let tried: Vec<BackendId> = tried.iter().copied().map(BackendId).collect();
        let wanted = Wanted { tried: &tried, is_idempotent, client: [127, 0, 0, 1].into() };
        match pool.cluster().pick(&wanted, now, &mut Rng::new()) {
            Picked::Backend(slot) | Picked::Unhealthy(slot) => Some(slot.backend().id.0),
            Picked::AllFull | Picked::NoneUp => None,
        }
    }

    fn picks(pool: &Registry, now: Instant) -> Vec<u32> {
        (0..3).filter_map(|_| pick(pool, &[], now)).collect()
    }

    fn backend(pool: &Registry, id: usize) -> Arc<Backend> {
        Arc::clone(&pool.statuses()[id].backend)
    }

    fn check(pool: &Registry, id: u32, result: CheckResult, now: Instant) {
        pool.observe(BackendId(id), Observation::Check(result), "checked", now);
    }

    fn fail(pool: &Registry, id: u32, now: Instant) {
        let observation = Observation::Attempt { outcome: Outcome::ConnectFailed, started: now };
        pool.observe(BackendId(id), observation, "connection refused", now);
    }

    fn eject(pool: &Registry, id: u32, now: Instant) {
        (0..2).for_each(|_| fail(pool, id, now));
    }

    fn respond(pool: &Registry, id: usize, started: Instant) {
        pool.observe_response(&backend(pool, id), started, started);
    }

    #[test]
    fn no_backend_is_picked_before_a_check_has_passed() {
        let (pool, now) = (pool(2, true), Instant::now());
        assert_eq!(pick(&pool, &[], now), None);
        check(&pool, 1, CheckResult::Passed, now);
        assert_eq!(picks(&pool, now), [1, 1, 1]);
    }

    #[test]
    fn tried_backends_are_left_out() {
        let (pool, now) = (pool(2, false), Instant::now());
        assert_eq!(pick(&pool, &[0], now), Some(1));
        assert_eq!(pick(&pool, &[0, 1], now), None);
    }

    #[test]
    fn a_probe_and_a_last_resort_are_picked_as_unhealthy() {
        let (pool, now) = (pool(2, false), Instant::now());
        eject(&pool, 0, now);
        let later = now + Duration::from_secs(2);
        let picked = |tried: &[BackendId], at| {
            let wanted = Wanted { tried, is_idempotent: true, client: [127, 0, 0, 1].into() };
            pool.cluster().pick(&wanted, at, &mut Rng::new())
        };
        assert!(matches!(picked(&[], now), Picked::Backend(_)));
        assert!(matches!(picked(&[BackendId(1)], now), Picked::Unhealthy(_)), "the last resort");
        assert!(matches!(picked(&[], later), Picked::Unhealthy(_)), "the probe");
    }

    #[test]
    fn a_backend_that_refuses_connections_is_ejected_and_a_probe_brings_it_back() {
        let (pool, now) = (pool(2, false), Instant::now());
        eject(&pool, 0, now);
        assert_eq!(picks(&pool, now), [1, 1, 1]);
        let later = now + Duration::from_secs(2);
        assert_eq!(pick(&pool, &[], later), Some(0));
        assert_eq!(picks(&pool, later), [1, 1, 1], "one probe at a time");
        respond(&pool, 0, later);
        assert_eq!(pool.cluster().up(), 2);
    }

    #[test]
    fn ejections_start_at_a_second_again_after_a_response_between() {
        let (pool, mut now) = (pool(2, false), Instant::now());
        for _ in 0..5 {
            eject(&pool, 0, now);
            assert_eq!(
                pick(&pool, &[1], now + Duration::from_millis(900)),
                Some(0),
                "as a last resort"
            );
            now += Duration::from_millis(1100);
            assert!(
                (0..2).any(|_| pick(&pool, &[], now) == Some(0)),
                "its probe is due after a second"
            );
            for _ in 0..3 {
                respond(&pool, 0, now);
            }
            assert_eq!(pool.cluster().up(), 2);
            now += Duration::from_secs(3600);
        }
    }

    #[test]
    fn a_probe_is_not_claimed_while_the_backend_is_full() {
        let mut config = config(2, false);
        config.settings.limits.max_requests_per_backend = Some(1);
        let (pool, now) = (Registry::new(&config), Instant::now());
        let old_request = Slot::take(&backend(&pool, 0));
        eject(&pool, 0, now);
        let later = now + Duration::from_secs(2);
        assert_eq!(pick(&pool, &[1], later), None);
        drop(old_request);
        assert_eq!(pick(&pool, &[1], later), Some(0), "the probe was still due");
    }

    #[test]
    fn a_response_to_an_earlier_request_does_not_end_an_ejection() {
        let (pool, now) = (pool(2, false), Instant::now());
        eject(&pool, 0, now);
        respond(&pool, 0, now);
        assert_eq!(picks(&pool, now), [1, 1, 1]);
        let later = now + Duration::from_secs(2);
        assert_eq!(pick(&pool, &[], later), Some(0));
        respond(&pool, 0, later);
        assert_eq!(pool.cluster().up(), 2, "the probe's response does");
    }

    #[test]
    fn a_due_probe_waits_for_an_idempotent_request_before_it_uses_any() {
        let (pool, now) = (pool(2, false), Instant::now());
        eject(&pool, 0, now);
        let picks_first = |after: Duration| pick_one(&pool, &[], false, now + after) == Some(0);
        let second = Duration::from_secs(1);
        assert!(!picks_first(2 * second), "a POST is not risked at once");
        assert!(picks_first(2 * second + NON_IDEMPOTENT_PROBE_DELAY), "but after the delay it is");
    }

    #[test]
    fn a_probe_that_is_claimed_as_early_as_possible_counts() {
        let (pool, now) = (pool(2, false), Instant::now());
        let half = Duration::from_micros(500);
        eject(&pool, 0, now + half);
        // The first millisecond in which the probe is claimed: its failure must count, or the next
        // probe would come much later.
        let mut tried_at = now;
        while pick(&pool, &[], tried_at) != Some(0) {
            tried_at += Duration::from_millis(1);
        }
        fail(&pool, 0, tried_at);
        let later = tried_at + Duration::from_secs(3);
        assert_eq!(pick(&pool, &[], later), Some(0), "ejected for two seconds, not for thirty");
    }

    #[test]
    fn the_last_backend_stays_however_often_it_fails() {
        let (pool, now) = (pool(1, false), Instant::now());
        for status in pool.statuses() {
            (0..10).for_each(|_| fail(&pool, status.backend.id.0, now));
        }
        assert_eq!(picks(&pool, now), [0, 0, 0]);
    }

    #[test]
    fn if_failed_attempts_would_eject_all_backends_all_serve() {
        let (pool, now) = (pool(2, false), Instant::now());
        for status in pool.statuses() {
            (0..10).for_each(|_| fail(&pool, status.backend.id.0, now));
        }
        let mut shares = picks(&pool, now);
        shares.sort_unstable();
        shares.dedup();
        assert_eq!(shares, [0, 1]);
    }

    #[test]
    fn if_the_last_backend_that_is_up_is_ejected_all_ejected_backends_serve() {
        let (pool, now) = (pool(2, true), Instant::now());
        check(&pool, 0, CheckResult::Passed, now);
        check(&pool, 1, CheckResult::Passed, now);
        eject(&pool, 0, now);
        assert_eq!(
            pick(&pool, &[1], now),
            Some(0),
            "a request that has failed at the other is tried here"
        );
        eject(&pool, 1, now);
        assert_eq!(pick(&pool, &[1], now), Some(0), "both serve now");
        let soon = now + Duration::from_millis(1);
        respond(&pool, 0, soon);
        assert_eq!(picks(&pool, soon), [0, 0, 0], "the first to respond is back, and alone");
    }

    #[test]
    fn a_closed_port_is_tried_before_a_request_fails_and_an_unhealthy_backend_is_not() {
        for (result, picked) in [(CheckResult::Unreachable, Some(1)), (CheckResult::Failed, None)] {
            let (pool, now) = (pool(2, true), Instant::now());
            check(&pool, 0, CheckResult::Passed, now);
            check(&pool, 1, result, now);
            assert_eq!(picks(&pool, now), [0, 0, 0], "no first attempt goes there");
            assert_eq!(pick(&pool, &[0], now), picked, "{result:?}");
        }
    }

    #[test]
    fn only_a_first_attempt_is_a_probe() {
        let (pool, now) = (pool(4, false), Instant::now());
        for id in 0..3 {
            eject(&pool, id, now);
        }
        let later = now + Duration::from_secs(2);
        let first = pick(&pool, &[], later).unwrap();
        assert!(first < 3, "all three probes are due");
        assert_eq!(
            pick(&pool, &[first], later),
            Some(3),
            "its failure goes to a backend that is up"
        );
    }

    #[test]
    fn a_backend_with_stalled_connects_is_skipped_while_another_has_fewer() {
        use crate::upstream::backend::Connecting;
        let (pool, now) = (pool(2, false), Instant::now());
        let connecting = |id: usize| -> Vec<_> {
            let backend = backend(&pool, id);
            (0..config::MAX_PENDING_CONNECTS).map(|_| Connecting::new(&backend)).collect()
        };
        let first = connecting(0);
        assert_eq!(picks(&pool, now), [1, 1, 1]);
        let _second = connecting(1);
        let mut shares = picks(&pool, now);
        shares.dedup();
        assert_eq!(shares.len(), 3, "if all have some, they take turns: {shares:?}");
        let third = connecting(0);
        assert_eq!(picks(&pool, now), [1, 1, 1], "or only the one with the fewest");
        drop((first, third));
        assert_eq!(picks(&pool, now), [0, 0, 0]);
    }

    #[test]
    fn an_ejected_backend_serves_on_when_the_others_fail_their_checks() {
        let (pool, now) = (pool(2, true), Instant::now());
        check(&pool, 0, CheckResult::Passed, now);
        check(&pool, 1, CheckResult::Passed, now);
        eject(&pool, 0, now);
        assert_eq!(picks(&pool, now), [1, 1, 1]);
        for _ in 0..2 {
            check(&pool, 1, CheckResult::Failed, now);
        }
        assert_eq!(picks(&pool, now), [0, 0, 0], "its checks pass: it is better than none");
        for _ in 0..2 {
            check(&pool, 0, CheckResult::Failed, now);
        }
        assert_eq!(pool.cluster().up(), 0);
    }

    /// A worker's mailbox.
    struct Worker {
        mailbox: Mailbox,
        grants: Receiver<Grant>,
        session: Token,
        _poller: Poller,
    }

    impl Worker {
        fn new() -> Self {
            let (poller, (sender, grants)) = (Poller::new().unwrap(), unbounded());
            let mailbox = Mailbox::new(sender, poller.waker());
            Self { mailbox, grants, session: Slab::default().insert(()), _poller: poller }
        }

        fn enqueue(&self, pool: &Registry, tried: &[u32]) {
            let tried: Vec<BackendId> = tried.iter().copied().map(BackendId).collect();
            pool.cluster().enqueue(self.session, &self.mailbox, &tried, None).unwrap();
        }

        /// The backend of the next slot that was granted, if there is a grant and a slot in it.
        fn granted(&self) -> Option<Option<u32>> {
            let grant = self.grants.try_recv().ok()?;
            Some(grant.slot.map(|slot| slot.backend().id.0))
        }
    }

    fn limited(count: u16, checks: bool) -> Registry {
        let mut config = config(count, checks);
        config.settings.limits.max_requests_per_backend = Some(1);
        Registry::new(&config)
    }

    #[test]
    fn a_new_request_does_not_overtake_a_queued_one() {
        let (pool, worker, now) = (limited(2, false), Worker::new(), Instant::now());
        let slots = [0, 1].map(|id| Slot::take(&backend(&pool, id)));
        worker.enqueue(&pool, &[]);
        // As if the slot had been released just before the request was queued.
        let cluster = pool.cluster();
        let [Some(slot), _kept] = slots else { panic!("both had capacity") };
        slot.free();
        assert_eq!(pick(&pool, &[], now), None);
        cluster.announce();
        assert_eq!(worker.granted(), Some(Some(0)));
        assert_eq!(pick(&pool, &[], now), Some(0), "no request is queued any more");
    }

    #[test]
    fn queued_requests_get_the_slots_of_a_backend_that_comes_up_or_is_added() {
        let (pool, worker, now) = (limited(2, true), Worker::new(), Instant::now());
        check(&pool, 0, CheckResult::Passed, now);
        let _slot = Slot::take(&backend(&pool, 0));
        (0..2).for_each(|_| worker.enqueue(&pool, &[]));
        assert_eq!(worker.granted(), None);
        check(&pool, 1, CheckResult::Passed, now);
        assert_eq!(worker.granted(), Some(Some(1)));
        assert_eq!(worker.granted(), Some(Some(1)), "from one request to the next");
    }

    #[test]
    fn queued_requests_get_slots_when_the_limit_is_raised_or_a_drain_ends() {
        let (pool, worker) = (limited(2, false), Worker::new());
        let _slot = Slot::take(&backend(&pool, 0));
        pool.drain(BackendId(1));
        worker.enqueue(&pool, &[]);
        assert_eq!(worker.granted(), None);
        pool.resume(BackendId(1));
        assert_eq!(worker.granted(), Some(Some(1)));
        pool.drain(BackendId(1));
        worker.enqueue(&pool, &[]);
        pool.set_limit(None);
        assert_eq!(worker.granted(), Some(Some(0)));
    }

    #[test]
    fn a_queued_request_is_sent_back_when_the_last_backend_it_may_use_is_gone() {
        let leaves: [fn(&Registry, Instant); 3] = [
            |pool, _| assert!(pool.drain(BackendId(1))),
            |pool, _| assert!(pool.remove(BackendId(1))),
            |pool, now| (0..2).for_each(|_| check(pool, 1, CheckResult::Failed, now)),
        ];
        for leave in leaves {
            let (pool, worker, now) = (limited(2, true), Worker::new(), Instant::now());
            (0..2).for_each(|id| check(&pool, id, CheckResult::Passed, now));
            let _slots = [0, 1].map(|id| Slot::take(&backend(&pool, id)));
            worker.enqueue(&pool, &[0]);
            worker.enqueue(&pool, &[]);
            leave(&pool, now);
            assert_eq!(worker.granted(), Some(None), "it has failed at the other one");
            assert_eq!(worker.granted(), None, "the second request waits for the other one");
            worker.enqueue(&pool, &[0]);
            assert_eq!(
                worker.granted(),
                Some(None),
                "the last usable backend was gone before the request was queued"
            );
        }
    }

    #[test]
    fn a_due_probe_is_claimed_although_requests_are_queued() {
        let (pool, worker, now) = (limited(2, false), Worker::new(), Instant::now());
        eject(&pool, 0, now);
        let _slot = Slot::take(&backend(&pool, 1));
        worker.enqueue(&pool, &[]);
        assert_eq!(pick(&pool, &[], now), None);
        assert_eq!(pick(&pool, &[], now + Duration::from_secs(2)), Some(0));
    }
}
