//! A stress test of the queue: threads whose requests finish, panic or are cancelled, and which end
//! early.
//!
//! Each thread is a worker with a mailbox of its own. A run is bounded by its number of requests,
//! and every wait for a grant by [`GRANT_TIMEOUT`].

use super::backend::{Backend, BackendId, Slot};
use super::cluster::{Picked, Wanted};
use super::queue::{Grant, Mailbox, Position};
use super::registry::Registry;
use crate::config::Config;
use crate::net::{Poller, Slab, Token};
use crossbeam_channel::Receiver;
use fastrand::Rng;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const GRANT_TIMEOUT: Duration = Duration::from_secs(10);
const BACKENDS: usize = 3;
const LIMIT: usize = 2;
const WORKERS: u64 = 8;
const REQUESTS: usize = 2_000;
/// Queued requests of one worker: over all workers, far more than there are slots.
const CONCURRENT: usize = 4;

struct Pool {
    registry: Registry,
    /// Requests at each backend, counted independently of the product's counts.
    at_backend: [AtomicUsize; BACKENDS],
}

impl Pool {
    fn new() -> Self {
        let backend = |id: u16| SocketAddr::from(([127, 0, 0, 1], id + 1)).into();
        let mut config =
            Config { backends: (0..BACKENDS as u16).map(backend).collect(), ..Config::default() };
        config.settings.health.checks = false;
        config.settings.limits.max_requests_per_backend = Some(LIMIT);
        Self { registry: Registry::new(&config), at_backend: Default::default() }
    }

    fn backends(&self) -> Vec<Arc<Backend>> {
        self.registry.statuses().into_iter().map(|status| status.backend).collect()
    }

    /// Serves a request in this slot; some panic.
    fn serve(&self, slot: &Slot, rng: &mut Rng) {
        let at_backend = &self.at_backend[slot.backend().id.0 as usize];
        let count = at_backend.fetch_add(1, Ordering::SeqCst) + 1;
        assert!(count <= LIMIT, "{count} requests at one backend");
        thread::yield_now();
        at_backend.fetch_sub(1, Ordering::SeqCst);
        if rng.u32(0..16) == 0 {
            resume_unwind(Box::new("a request panics"));
        }
    }

    /// No request is in flight, and each backend has all its slots.
    fn assert_all_slots_free(&self) {
        for backend in self.backends() {
            assert_eq!(backend.in_flight(), 0, "a slot of backend {} is lost", backend.id);
            let slots: Vec<Slot> = (0..LIMIT).filter_map(|_| Slot::take(&backend)).collect();
            assert_eq!((slots.len(), Slot::take(&backend).is_none()), (LIMIT, true));
        }
    }
}

/// A queued request.
struct Queued {
    session: Token,
    position: Position,
    tried: Vec<BackendId>,
}

/// A worker: a mailbox, and requests of its own.
struct Worker<'p> {
    pool: &'p Pool,
    mailbox: Mailbox,
    grants: Receiver<Grant>,
    sessions: Slab<()>,
    queued: Vec<Queued>,
    rng: Rng,
    _poller: Poller,
}

impl<'p> Worker<'p> {
    fn new(pool: &'p Pool, seed: u64) -> Self {
        let poller = Poller::new().unwrap();
        let (sender, grants) = crossbeam_channel::unbounded();
        let mailbox = Mailbox::new(sender, poller.waker());
        let rng = Rng::with_seed(seed);
        let (sessions, queued) = (Slab::default(), Vec::new());
        Self { pool, mailbox, grants, sessions, queued, rng, _poller: poller }
    }

    /// Serves a request at once or queues it. Some requests have failed at a backend before.
    fn add_request(&mut self) {
        let has_failed = self.rng.u32(0..4) == 0;
        let tried: Vec<BackendId> =
            has_failed.then(|| BackendId(self.rng.u32(0..BACKENDS as u32))).into_iter().collect();
        let client = [127, 0, 0, 1].into();
        let wanted = Wanted { tried: &tried, is_idempotent: true, client };
        match self.pool.registry.cluster().pick(&wanted, Instant::now(), &mut self.rng) {
            Picked::Backend(slot) | Picked::Unhealthy(slot) => self.serve(slot),
            Picked::AllFull => {
                let (session, cluster) = (self.sessions.insert(()), self.pool.registry.cluster());
                let position = cluster.enqueue(session, &self.mailbox, &tried, None);
                let position = position.expect("the queue is not full");
                self.queued.push(Queued { session, position, tried });
            }
            Picked::NoneUp => panic!("all are up"),
        }
    }

    fn serve(&mut self, mut slot: Slot) {
        let released_early = self.rng.bool();
        // The slot is dropped by the panic, dropped at the end, or released before.
        let _ = catch_unwind(AssertUnwindSafe(|| {
            self.pool.serve(&slot, &mut self.rng);
            if released_early {
                slot.release();
            }
            drop(slot);
        }))
        .map_err(|panic| assert!(panic.downcast_ref() == Some(&"a request panics"), "{panic:?}"));
    }

    fn take_grant(&mut self, grant: Grant) {
        let Some(index) = self.queued.iter().position(|queued| queued.session == grant.session)
        else {
            // The request was cancelled: the drop hands its slot to the next one.
            return;
        };
        let queued = self.queued.swap_remove(index);
        assert_eq!(queued.position, grant.position);
        self.sessions.remove(queued.session);
        let slot = grant.slot.expect("all backends stay up");
        assert!(!queued.tried.contains(&slot.backend().id));
        self.serve(slot);
    }

    /// Ends a queued request: it is cancelled, or its session is gone and stays in the queue.
    fn end_queued(&mut self) {
        if self.queued.is_empty() {
            return;
        }
        let queued = self.queued.swap_remove(self.rng.usize(0..self.queued.len()));
        self.sessions.remove(queued.session);
        if self.rng.bool() {
            self.pool.registry.cluster().cancel(queued.position);
        }
    }

    /// Serves `count` requests. A worker that ends at once leaves its requests in the queue.
    fn run(mut self, count: usize, ends_at_once: bool) {
        for _ in 0..count {
            self.add_request();
            if self.rng.u32(0..8) == 0 {
                self.end_queued();
            }
            while self.queued.len() > CONCURRENT {
                self.wait();
            }
            while let Ok(grant) = self.grants.try_recv() {
                self.take_grant(grant);
            }
        }
        while !ends_at_once && !self.queued.is_empty() {
            self.wait();
        }
    }

    fn wait(&mut self) {
        let grant = self.grants.recv_timeout(GRANT_TIMEOUT);
        self.take_grant(grant.expect("a queued request gets a slot"));
    }
}

/// Runs workers of which some end early, and returns the pool when all have ended.
fn run(seed: u64) -> Pool {
    let pool = Pool::new();
    thread::scope(|scope| {
        for number in 0..WORKERS {
            let pool = &pool;
            scope.spawn(move || {
                let ends_early = number % 4 == 3;
                let count = if ends_early { REQUESTS / 4 } else { REQUESTS };
                Worker::new(pool, seed + number).run(count, ends_early);
            });
        }
    });
    pool
}

#[test]
fn no_slot_is_lost_and_no_request_starves_while_requests_panic_or_end_and_workers_end() {
    for seed in 0..3 {
        let pool = run(100 * seed);
        pool.assert_all_slots_free();
    }
}

#[test]
fn requests_are_served_while_backends_drain_come_back_and_limits_change() {
    let pool = Pool::new();
    let (registry, is_over) = (&pool.registry, &AtomicUsize::new(0));
    thread::scope(|scope| {
        for number in 0..WORKERS {
            let pool = &pool;
            scope.spawn(move || {
                Worker::new(pool, number).run(REQUESTS / 2, false);
                is_over.fetch_add(1, Ordering::SeqCst);
            });
        }
        // The second and the third backend stay: a request has failed at one of them at most.
        let mut rng = Rng::with_seed(7);
        while is_over.load(Ordering::SeqCst) < WORKERS as usize {
            registry.drain(BackendId(0));
            registry.set_limit(Some(1));
            thread::yield_now();
            registry.resume(BackendId(0));
            registry.set_limit(Some(rng.usize(1..=LIMIT)));
            thread::yield_now();
        }
        registry.set_limit(Some(LIMIT));
    });
    pool.assert_all_slots_free();
}

#[test]
fn a_slot_that_is_released_while_a_request_is_queued_reaches_it() {
    let pool = Pool::new();
    pool.registry.drain(BackendId(1));
    pool.registry.drain(BackendId(2));
    pool.registry.set_limit(Some(1));
    let (cluster, backend) = (pool.registry.cluster(), &pool.backends()[0]);
    let (taken, both) = crossbeam_channel::bounded(0);
    thread::scope(|scope| {
        scope.spawn(move || {
            for slot in both {
                drop::<Slot>(slot);
            }
        });
        let mut worker = Worker::new(&pool, 7);
        let session = worker.sessions.insert(());
        for _ in 0..20_000 {
            taken.send(Slot::take(backend).expect("it is free")).unwrap();
            // The other thread releases it at the same time.
            cluster.enqueue(session, &worker.mailbox, &[], None).expect("the queue is empty");
            let grant = worker.grants.recv_timeout(GRANT_TIMEOUT).expect("the slot arrives");
            assert!(grant.slot.is_some());
        }
        drop(taken);
    });
    assert_eq!(backend.in_flight(), 0);
}
