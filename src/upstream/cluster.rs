//! The reading side of a pool of backends: picks one for each request.
//!
//! Shared by all workers, which read the snapshot behind a `parking_lot::RwLock<Arc<..>>`. The
//! registry publishes a new snapshot when something has changed; nothing here changes membership or
//! health, and no request takes a lock of the registry.

use super::backend::{Backend, BackendId, Slot, Waiters};
use super::balance::{Choice, Row};
use super::queue::{Mailbox, PendingQueue, Position};
use crate::net::{Token, Waker};
use fastrand::Rng;
use parking_lot::{Mutex, RwLock};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long the next probe of an ejected backend is put off when one is taken: its result decides,
/// unless there is none, because the client went away, or the request had to wait first.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a due probe waits for an idempotent request before another one is risked.
const NON_IDEMPOTENT_PROBE_DELAY: Duration = Duration::from_secs(5);

/// Which backends get requests, and how: immutable, replaced as a whole.
#[derive(Debug)]
pub(super) struct Snapshot {
    /// The backends that are up.
    pub(super) up: Vec<Arc<Backend>>,
    /// Ejected backends that only a probe request can bring back, because there are no checks.
    pub(super) probing: Vec<Arc<Backend>>,
    /// Backends that are out, but worth trying before a request fails that has failed everywhere
    /// else.
    pub(super) last_resort: Vec<Arc<Backend>>,
    /// How one of `up` is chosen.
    pub(super) algorithm: &'static Row,
    /// The algorithm's order of turns among `up`.
    pub(super) cycle: Box<[u32]>,
    /// Why no backend is up, if none is.
    pub(super) outage: Option<Box<str>>,
}

/// The backends as workers see them.
#[derive(Debug)]
pub struct Cluster {
    /// Protects the pointer to the snapshot; taken by every pick for reading, for a moment.
    snapshot: RwLock<Arc<Snapshot>>,
    queue: Arc<PendingQueue>,
    /// Goes up with each new snapshot.
    generation: AtomicU64,
    /// Protects the workers' wakers; taken when a worker is made, and at each transition.
    wakers: Mutex<Vec<Arc<Waker>>>,
    turn: AtomicUsize,
}

/// What a request wants of a backend.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'r> {
    /// The backends where it has failed, or that do not support it.
    pub tried: &'r [BackendId],
    /// Whether it may be sent again if it fails: then it is sooner risked on a probe.
    pub is_idempotent: bool,
    /// The client that sends it.
    pub client: IpAddr,
}

/// What came of looking for a backend.
#[derive(Debug)]
pub enum Picked {
    /// A slot at this one.
    Backend(Slot),
    /// Some are up, but each has as many requests as it may, or others wait for a slot.
    AllFull,
    /// None is up, or all that are were tried.
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
            snapshot: RwLock::new(Arc::new(snapshot)),
            queue,
            generation: AtomicU64::new(0),
            wakers: Mutex::default(),
            turn: AtomicUsize::new(0),
        }
    }

    /// Takes a slot at the backend that the algorithm chooses. A first attempt is the probe of an
    /// ejected backend if one is due. A request that has failed goes to backends that are up, and
    /// if there is none left, to a last resort.
    pub fn pick(&self, wanted: &Wanted<'_>, now: Instant, rng: &mut Rng) -> Picked {
        let snapshot = self.snapshot.read();
        if let Some(slot) = pick_probe(&snapshot, wanted, now) {
            return Picked::Backend(slot);
        }
        let any_untried = || snapshot.up.iter().any(|backend| wanted.is_untried(backend));
        // A newcomer does not overtake those that wait.
        if self.queue.has_waiters() && any_untried() {
            return Picked::AllFull;
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        // Another worker may take the slot between the choice and this.
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
        last_resort.find_map(Slot::take).map_or(Picked::NoneUp, Picked::Backend)
    }

    /// A slot at a backend that was picked before, if it still gets requests and has one.
    pub fn acquire(&self, backend: &Arc<Backend>) -> Option<Slot> {
        if backend.accepts_work() { Slot::take(backend) } else { None }
    }

    /// Whether a backend like this is up, among those that were not tried.
    pub fn any_untried(&self, tried: &[BackendId], is_wanted: impl Fn(&Backend) -> bool) -> bool {
        let snapshot = self.snapshot.read();
        snapshot.up.iter().any(|backend| !tried.contains(&backend.id) && is_wanted(backend))
    }

    /// Queues a request for a slot, at its position of before if it had one; none if the queue is
    /// full. Its worker receives a [`Grant`](super::queue::Grant).
    pub fn enqueue(
        &self,
        session: Token,
        mailbox: &Mailbox,
        tried: &[BackendId],
        earlier: Option<Position>,
    ) -> Option<Position> {
        let position = self.queue.enqueue(session, mailbox, tried, earlier)?;
        // Read after the request was queued: a slot that came free earlier is found here, and so is
        // a snapshot that was published earlier; all that comes later finds the request.
        let snapshot = Arc::clone(&self.snapshot.read());
        if snapshot.up.iter().any(|backend| !tried.contains(&backend.id)) {
            self.queue.serve(&snapshot.up);
        } else {
            self.queue.dismiss(position);
        }
        Some(position)
    }

    /// Takes a request out of the queue that wants no slot any more.
    pub fn cancel(&self, position: Position) {
        self.queue.cancel(position);
    }

    /// How many backends are up.
    pub fn up(&self) -> usize {
        self.snapshot.read().up.len()
    }

    /// Why no backend is up, if none is.
    pub fn outage(&self) -> Option<Box<str>> {
        self.snapshot.read().outage.clone()
    }

    /// Has a worker woken at each transition.
    pub fn wake_at_transitions(&self, worker: Arc<Waker>) {
        self.wakers.lock().push(worker);
    }

    /// A number that goes up with each new snapshot.
    pub fn generation(&self) -> u64 {
        // Pairs with the waker: either the worker sees the new generation before it sleeps, or it
        // is woken.
        self.generation.load(Ordering::SeqCst)
    }

    /// Replaces the snapshot. The registry calls this in the order of its changes.
    pub(super) fn publish(&self, snapshot: Snapshot) {
        let snapshot = Arc::new(snapshot);
        // The old one is freed after the lock.
        let _old = std::mem::replace(&mut *self.snapshot.write(), snapshot);
        self.generation.fetch_add(1, Ordering::SeqCst);
    }

    /// Has queued requests and workers look at the new snapshot: a request that waits for a backend
    /// that is out now may have another one to go to.
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

/// A slot at an ejected backend whose one probe request is due; for a request that is not
/// idempotent, has been due for a while.
fn pick_probe(snapshot: &Snapshot, wanted: &Wanted<'_>, now: Instant) -> Option<Slot> {
    if snapshot.probing.is_empty() || !wanted.tried.is_empty() {
        return None;
    }
    let delay = if wanted.is_idempotent { Duration::ZERO } else { NON_IDEMPOTENT_PROBE_DELAY };
    let due = now.checked_sub(delay)?;
    let probed = snapshot
        .probing
        .iter()
        .find(|backend| backend.has_capacity() && backend.claim_probe(due, now + PROBE_TIMEOUT));
    probed.and_then(Slot::take)
}

/// What the algorithm chooses among the usable backends, if there is any. A backend that may be
/// dropping SYNs is skipped while another has no stalled connects; if all have some, it is chosen
/// among those with the fewest, so that a black hole gets no more requests than the others.
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
            let usable_ones = up.iter().filter(|backend| usable(backend));
            let fewest = usable_ones.map(|backend| backend.connecting()).min()?;
            choose(&|backend| usable(backend) && backend.connecting() <= fewest)
        })
        .or_else(|| choose(&usable));
    chosen.map(|index| &up[index])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, BackendAddress, Config};
    use crate::net::{Poller, Slab};
    use crate::upstream::health::{CheckResult, Observation, Outcome};
    use crate::upstream::queue::Grant;
    use crate::upstream::registry::Registry;
    use crossbeam_channel::{Receiver, unbounded};

    fn config(count: u16, checks: bool) -> Config {
        let backend = |id: u16| BackendAddress {
            name: format!("b{id}"),
            address: ([127, 0, 0, 1], id + 1).into(),
        };
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
            Picked::Backend(slot) => Some(slot.backend().id.0),
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
        let seen = Observation::Attempt { outcome: Outcome::ConnectFailed, started: now };
        pool.observe(BackendId(id), seen, "connection refused", now);
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
    fn a_backend_that_refuses_is_ejected_at_once_and_a_probe_brings_it_back() {
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
    fn a_probe_is_not_taken_while_the_backend_is_full() {
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
    fn a_due_probe_waits_a_while_for_an_idempotent_request() {
        let (pool, now) = (pool(2, false), Instant::now());
        eject(&pool, 0, now);
        let picks_first = |after: Duration| pick_one(&pool, &[], false, now + after) == Some(0);
        let second = Duration::from_secs(1);
        assert!(!picks_first(2 * second), "a POST is not risked at once");
        assert!(picks_first(2 * second + NON_IDEMPOTENT_PROBE_DELAY), "but better than never");
    }

    #[test]
    fn a_probe_taken_to_the_moment_is_never_too_early_to_count() {
        let (pool, now) = (pool(2, false), Instant::now());
        let half = Duration::from_micros(500);
        eject(&pool, 0, now + half);
        // The first millisecond in which it is picked: its failure must count, or no further probe
        // would come for long.
        let mut tried_at = now;
        while pick(&pool, &[], tried_at) != Some(0) {
            tried_at += Duration::from_millis(1);
        }
        fail(&pool, 0, tried_at);
        let later = tried_at + Duration::from_secs(3);
        assert_eq!(
            pick(&pool, &[], later),
            Some(0),
            "out again for two seconds, and not for thirty"
        );
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
    fn if_failed_attempts_would_take_all_backends_all_serve() {
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
    fn the_last_backend_that_is_up_may_be_ejected_while_another_only_is_ejected() {
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
        assert_eq!(shares.len(), 3, "if all do, each has its turn: {shares:?}");
        let third = connecting(0);
        assert_eq!(picks(&pool, now), [1, 1, 1], "or the one with fewer");
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
    fn a_newcomer_does_not_overtake_a_queued_request() {
        let (pool, worker, now) = (limited(2, false), Worker::new(), Instant::now());
        let slots = [0, 1].map(|id| Slot::take(&backend(&pool, id)));
        worker.enqueue(&pool, &[]);
        // As if the slot had come free just before the request was queued.
        let cluster = pool.cluster();
        let [Some(slot), _kept] = slots else { panic!("both had capacity") };
        slot.free();
        assert_eq!(pick(&pool, &[], now), None);
        cluster.announce();
        assert_eq!(worker.granted(), Some(Some(0)));
        assert_eq!(pick(&pool, &[], now), Some(0), "now no request waits");
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
        let leave: [fn(&Registry, Instant); 3] = [
            |pool, _| assert!(pool.drain(BackendId(1))),
            |pool, _| assert!(pool.remove(BackendId(1))),
            |pool, now| (0..2).for_each(|_| check(pool, 1, CheckResult::Failed, now)),
        ];
        for leave in leave {
            let (pool, worker, now) = (limited(2, true), Worker::new(), Instant::now());
            (0..2).for_each(|id| check(&pool, id, CheckResult::Passed, now));
            let _slots = [0, 1].map(|id| Slot::take(&backend(&pool, id)));
            worker.enqueue(&pool, &[0]);
            worker.enqueue(&pool, &[]);
            leave(&pool, now);
            assert_eq!(worker.granted(), Some(None), "it has failed at the other one");
            assert_eq!(worker.granted(), None, "the second request waits for the other one");
            worker.enqueue(&pool, &[0]);
            assert_eq!(worker.granted(), Some(None), "the last one was gone before it was queued");
        }
    }

    #[test]
    fn a_due_probe_is_taken_although_requests_are_queued() {
        let (pool, worker, now) = (limited(2, false), Worker::new(), Instant::now());
        eject(&pool, 0, now);
        let _slot = Slot::take(&backend(&pool, 1));
        worker.enqueue(&pool, &[]);
        assert_eq!(pick(&pool, &[], now), None);
        assert_eq!(pick(&pool, &[], now + Duration::from_secs(2)), Some(0));
    }
}
