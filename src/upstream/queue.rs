//! The queue of requests that wait for a slot, while every backend is at its limit.
//!
//! Runs on all workers. A slot that is released while requests are queued does not become free: it
//! travels, in a [`Grant`] through the worker's channel, to the first request that may use it. A
//! slot that is dropped on the way (the request has ended, the worker has ended) goes to the next
//! request, so no slot is lost and requests keep their order. Grants are sent outside the lock.

use super::backend::{Backend, BackendId, Slot, Waiters};
use crate::config;
use crate::net::{Token, Waker};
use crossbeam_channel::Sender;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// A message to the worker of a queued request.
#[derive(Debug)]
pub struct Grant {
    /// The session of the request.
    pub session: Token,
    /// The position of the request.
    pub position: Position,
    /// The slot; none if no backend that is up may serve the request, which must be dispatched again.
    pub slot: Option<Slot>,
}

/// The address of a worker for grants.
#[derive(Clone, Debug)]
pub struct Mailbox {
    grants: Sender<Grant>,
    waker: Arc<Waker>,
}

impl Mailbox {
    /// A mailbox that sends to `grants` and wakes the worker by `waker`.
    pub fn new(grants: Sender<Grant>, waker: Arc<Waker>) -> Self {
        Self { grants, waker }
    }
}

/// A request's position in the queue, in the order in which requests were first queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position(u64);

/// A queued request.
#[derive(Debug)]
struct Waiter {
    session: Token,
    mailbox: Mailbox,
    /// The backends whose slots it may not use.
    tried: Box<[BackendId]>,
}

impl Waiter {
    fn may_use(&self, backend: &Backend) -> bool {
        !self.tried.contains(&backend.id)
    }

    /// Takes a slot at the usable backend with the fewest requests.
    fn take(&self, free: &[&Arc<Backend>]) -> Option<Slot> {
        let mut usable: Vec<_> = free.iter().filter(|backend| self.may_use(backend)).collect();
        usable.sort_by_key(|backend| backend.in_flight());
        usable.into_iter().find_map(|backend| Slot::take(backend))
    }

    /// Sends a grant; returns the slot if the worker has ended.
    fn grant(self, position: Position, slot: Option<Slot>) -> Result<(), Option<Slot>> {
        let sent = self.mailbox.grants.send(Grant { session: self.session, position, slot });
        sent.map_err(|error| error.into_inner().slot)?;
        self.mailbox.waker.wake();
        Ok(())
    }
}

/// The queue: first in, first out among the requests that may use a slot.
#[derive(Debug, Default)]
pub struct PendingQueue {
    /// Protects the order; taken when a request is queued or cancelled, for each slot that is
    /// released while any is queued, and at each transition.
    waiting: Mutex<BTreeMap<Position, Waiter>>,
    next: AtomicU64,
    /// The length of `waiting`, so that a release takes no lock while no request is queued.
    length: AtomicUsize,
}

impl PendingQueue {
    /// Queues a request at the end or at its earlier position; none if the queue is full.
    /// [`PendingQueue::serve`] must follow, because a slot may have been freed just before.
    pub(super) fn enqueue(
        &self,
        session: Token,
        mailbox: &Mailbox,
        tried: &[BackendId],
        earlier: Option<Position>,
    ) -> Option<Position> {
        let waiter = Waiter { session, mailbox: mailbox.clone(), tried: tried.into() };
        let mut waiting = self.waiting.lock();
        if waiting.len() >= config::MAX_PENDING && earlier.is_none() {
            return None;
        }
        let position =
            earlier.unwrap_or_else(|| Position(self.next.fetch_add(1, Ordering::Relaxed)));
        waiting.insert(position, waiter);
        self.update_length(&waiting);
        Some(position)
    }

    /// Removes a request. A grant may be on its way to its worker already.
    pub fn cancel(&self, position: Position) {
        self.remove(position);
    }

    /// Gives the free slots of these backends to the requests that may use them, in their order.
    pub(super) fn serve(&self, up: &[Arc<Backend>]) {
        if !self.has_waiters() {
            return;
        }
        let mut granted = Vec::new();
        let mut waiting = self.waiting.lock();
        let mut free: Vec<&Arc<Backend>> = up.iter().collect();
        for (position, waiter) in waiting.iter() {
            free.retain(|backend| backend.accepts_work() && backend.has_capacity());
            if free.is_empty() {
                break;
            }
            granted.extend(waiter.take(&free).map(|slot| (*position, slot)));
        }
        let taken = |(position, slot)| Some((waiting.remove(&position)?, position, slot));
        let granted: Vec<(Waiter, Position, Slot)> =
            granted.into_iter().filter_map(taken).collect();
        self.update_length(&waiting);
        drop(waiting);
        for (waiter, position, slot) in granted {
            // The drop of a returned slot hands it to the next request.
            drop(waiter.grant(position, Some(slot)));
        }
    }

    /// Removes the requests that none of these backends may serve, with a grant without a slot.
    pub(super) fn dismiss_unservable(&self, up: &[Arc<Backend>]) {
        let is_unservable = |waiter: &Waiter| !up.iter().any(|backend| waiter.may_use(backend));
        let waiting = self.waiting.lock();
        let unservable = waiting.iter().filter(|(_, waiter)| is_unservable(waiter));
        let unservable: Vec<Position> = unservable.map(|(position, _)| *position).collect();
        drop(waiting);
        unservable.into_iter().for_each(|position| self.dismiss(position));
    }

    /// Removes a request, with a grant without a slot.
    pub(super) fn dismiss(&self, position: Position) {
        if let Some(waiter) = self.remove(position) {
            drop(waiter.grant(position, None));
        }
    }

    fn remove(&self, position: Position) -> Option<Waiter> {
        let mut waiting = self.waiting.lock();
        let waiter = waiting.remove(&position);
        self.update_length(&waiting);
        waiter
    }

    /// Removes the first request that may use this slot. Without one, frees the slot under the lock,
    /// so that a request that is queued later finds it free.
    fn take_first(&self, slot: Slot) -> Option<(Waiter, Position, Slot)> {
        let mut waiting = self.waiting.lock();
        let backend = slot.backend();
        let mut usable = waiting.iter().filter(|(_, waiter)| waiter.may_use(backend));
        let first = usable.next().map(|(position, _)| *position);
        let first = first.filter(|_| backend.accepts_work() && !backend.is_over_limit());
        let Some((position, waiter)) = first.and_then(|first| waiting.remove_entry(&first)) else {
            slot.free();
            return None;
        };
        self.update_length(&waiting);
        Some((waiter, position, slot))
    }

    /// The number of queued requests.
    pub(super) fn length(&self) -> usize {
        self.length.load(Ordering::Relaxed)
    }

    fn update_length(&self, waiting: &BTreeMap<Position, Waiter>) {
        self.length.store(waiting.len(), Ordering::SeqCst);
    }
}

impl Waiters for PendingQueue {
    fn has_waiters(&self) -> bool {
        self.length.load(Ordering::SeqCst) > 0
    }

    fn hand_over(&self, mut slot: Slot) {
        while let Some((waiter, position, taken)) = self.take_first(slot) {
            match waiter.grant(position, Some(taken)) {
                Err(Some(returned)) => slot = returned,
                Ok(()) | Err(None) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::BackendSpec;
    use crate::net::{Poller, Slab};
    use crate::upstream::backend::AdminState;
    use crossbeam_channel::Receiver;
    use fastrand::Rng;
    use std::collections::BTreeSet;
    use std::net::SocketAddr;

    /// A queue, backends with one slot each, and a worker's mailbox.
    struct Fixture {
        queue: Arc<PendingQueue>,
        backends: Vec<Arc<Backend>>,
        mailbox: Mailbox,
        grants: Option<Receiver<Grant>>,
        sessions: Vec<Token>,
        _poller: Poller,
    }

    impl Fixture {
        fn new(backends: u32) -> Self {
            let (sender, grants) = crossbeam_channel::unbounded();
            let (poller, queue, mut slab) =
                (Poller::new().unwrap(), Arc::<PendingQueue>::default(), Slab::default());
            let backend = |id| {
                let spec = BackendSpec::from(SocketAddr::from(([127, 0, 0, 1], 1)));
                let backend = Backend::new(BackendId(id), &spec, Arc::clone(&queue) as _);
                backend.set_limit(1);
                backend.set_serving(true);
                Arc::new(backend)
            };
            Self {
                backends: (0..backends).map(backend).collect(),
                queue,
                mailbox: Mailbox::new(sender, poller.waker()),
                grants: Some(grants),
                sessions: (0..3).map(|_| slab.insert(())).collect(),
                _poller: poller,
            }
        }

        fn take(&self, backend: usize) -> Slot {
            Slot::take(&self.backends[backend]).expect("it has capacity")
        }

        fn enqueue(&self, session: usize, tried: &[u32]) -> Position {
            self.enqueue_at(session, tried, None).expect("the queue is not full")
        }

        fn enqueue_all(&self, tried: &[u32]) {
            for session in 0..self.sessions.len() {
                self.enqueue(session, tried);
            }
        }

        fn enqueue_at(
            &self,
            session: usize,
            tried: &[u32],
            earlier: Option<Position>,
        ) -> Option<Position> {
            let tried: Vec<BackendId> = tried.iter().copied().map(BackendId).collect();
            self.queue.enqueue(self.sessions[session], &self.mailbox, &tried, earlier)
        }

        fn next_grant(&self) -> Option<Grant> {
            self.grants.as_ref()?.try_recv().ok()
        }

        /// The session of the next grant and the backend of its slot, which is released.
        fn granted(&self) -> Option<(usize, Option<u32>)> {
            let grant = self.next_grant()?;
            let session = self.sessions.iter().position(|session| *session == grant.session)?;
            Some((session, grant.slot.as_ref().map(|slot| slot.backend().id.0)))
        }

        fn in_flight(&self) -> Vec<usize> {
            self.backends.iter().map(|backend| backend.in_flight()).collect()
        }
    }

    #[test]
    fn a_released_slot_goes_to_the_queued_requests_in_their_order_and_is_free_after_the_last() {
        let fixture = Fixture::new(1);
        let slot = fixture.take(0);
        fixture.enqueue_all(&[]);
        drop(slot);
        assert_eq!(fixture.in_flight(), [1], "it is on its way");
        for session in 0..3 {
            assert_eq!(fixture.granted(), Some((session, Some(0))));
        }
        assert_eq!((fixture.granted(), fixture.in_flight()), (None, vec![0]));
    }

    #[test]
    fn a_slot_goes_to_the_first_request_that_may_use_it() {
        let fixture = Fixture::new(3);
        let slots = [0, 1, 2].map(|backend| fixture.take(backend));
        fixture.enqueue(0, &[0, 1]);
        fixture.enqueue(1, &[0]);
        fixture.enqueue(2, &[]);
        let [zero, one, two] = slots;
        drop(one);
        let first = fixture.next_grant().expect("the second request may use it");
        assert_eq!(first.session, fixture.sessions[1]);
        drop(zero);
        assert_eq!(fixture.granted(), Some((2, Some(0))));
        assert!(fixture.queue.has_waiters() && fixture.next_grant().is_none());
        drop(two);
        assert_eq!(fixture.granted(), Some((0, Some(2))));
        drop(first);
        assert_eq!(fixture.in_flight(), [0, 0, 0]);
    }

    #[test]
    fn a_cancelled_request_gets_nothing_and_a_grant_on_its_way_is_handed_on() {
        let fixture = Fixture::new(1);
        let slot = fixture.take(0);
        let positions = [0, 1, 2].map(|session| fixture.enqueue(session, &[]));
        fixture.queue.cancel(positions[0]);
        drop(slot);
        // The grant for the second request is on its way.
        fixture.queue.cancel(positions[1]);
        assert_eq!(fixture.granted(), Some((1, Some(0))));
        assert_eq!(fixture.granted(), Some((2, Some(0))));
        assert_eq!((fixture.granted(), fixture.in_flight()), (None, vec![0]));
    }

    #[test]
    fn serve_finds_a_slot_that_was_freed_before_the_request_was_queued() {
        let fixture = Fixture::new(2);
        fixture.enqueue_all(&[0]);
        fixture.queue.serve(&fixture.backends);
        let grant = fixture.next_grant().expect("the second backend has a free slot");
        assert_eq!((grant.session, fixture.in_flight()), (fixture.sessions[0], vec![0, 1]));
        fixture.queue.serve(&fixture.backends);
        assert!(fixture.next_grant().is_none(), "one slot, one grant");
    }

    #[test]
    fn a_slot_skips_the_requests_of_a_worker_that_has_ended() {
        let mut fixture = Fixture::new(1);
        let slot = fixture.take(0);
        fixture.enqueue_all(&[]);
        let (sender, other_worker) = crossbeam_channel::unbounded();
        let other = Mailbox::new(sender, Arc::clone(&fixture.mailbox.waker));
        fixture.queue.enqueue(fixture.sessions[0], &other, &[], None).unwrap();
        drop(slot);
        // The first grant was sent and is dropped with the channel; the next two cannot be sent.
        drop(fixture.grants.take());
        let grant = other_worker.try_recv().expect("the other worker's request is next");
        assert_eq!(fixture.in_flight(), [1]);
        drop(grant);
        assert_eq!((fixture.in_flight(), fixture.queue.has_waiters()), (vec![0], false));
    }

    #[test]
    fn slots_of_a_backend_that_accepts_no_work_are_not_granted() {
        let set: [fn(&Backend); 3] = [
            |backend| backend.set_serving(false),
            |backend| backend.set_admin_state(AdminState::Draining),
            |backend| backend.set_admin_state(AdminState::Removed),
        ];
        for stop in set {
            let fixture = Fixture::new(2);
            let slots = [fixture.take(0), fixture.take(1)];
            fixture.enqueue(0, &[]);
            stop(&fixture.backends[0]);
            let [stopped, other] = slots;
            drop(stopped);
            fixture.queue.serve(&fixture.backends);
            assert_eq!((fixture.granted(), fixture.in_flight()), (None, vec![0, 1]));
            drop(other);
            assert_eq!(fixture.granted(), Some((0, Some(1))));
        }
    }

    #[test]
    fn after_the_limit_is_lowered_slots_are_freed_until_the_count_is_within_it() {
        let fixture = Fixture::new(1);
        fixture.backends[0].set_limit(3);
        let mut slots = vec![fixture.take(0), fixture.take(0), fixture.take(0)];
        fixture.enqueue(0, &[]);
        fixture.backends[0].set_limit(1);
        slots.truncate(1);
        assert_eq!((fixture.granted(), fixture.in_flight()), (None, vec![1]));
        slots.clear();
        assert_eq!(fixture.granted(), Some((0, Some(0))));
    }

    #[test]
    fn a_request_that_no_backend_may_serve_gets_a_grant_without_a_slot() {
        let fixture = Fixture::new(2);
        let _slots = [fixture.take(0), fixture.take(1)];
        fixture.enqueue(0, &[0]);
        fixture.enqueue(1, &[]);
        fixture.queue.dismiss_unservable(&fixture.backends[..1]);
        assert_eq!((fixture.granted(), fixture.granted()), (Some((0, None)), None));
        fixture.queue.dismiss_unservable(&[]);
        assert_eq!(fixture.granted(), Some((1, None)));
        assert!(!fixture.queue.has_waiters());
    }

    #[test]
    fn a_request_that_is_queued_again_keeps_its_position_even_if_the_queue_is_full() {
        let fixture = Fixture::new(1);
        let first = fixture.enqueue(0, &[]);
        fixture.queue.dismiss(first);
        assert_eq!(fixture.granted(), Some((0, None)));
        for _ in 0..config::MAX_PENDING {
            assert!(fixture.enqueue_at(1, &[], None).is_some());
        }
        assert_eq!(fixture.enqueue_at(2, &[], None), None);
        assert_eq!(fixture.enqueue_at(0, &[], Some(first)), Some(first));
        fixture.queue.serve(&fixture.backends);
        assert_eq!(fixture.granted(), Some((0, Some(0))));
    }

    /// The queue as a plain list, without a lock, a channel or a count.
    #[derive(Default)]
    struct Model {
        waiting: Vec<(Position, Vec<u32>)>,
    }

    impl Model {
        fn next_for(&mut self, backend: u32) -> Option<Position> {
            let may_use = |(_, tried): &(Position, Vec<u32>)| !tried.contains(&backend);
            let first = self.waiting.iter().position(may_use)?;
            Some(self.waiting.remove(first).0)
        }
    }

    #[test]
    fn any_order_of_events_grants_as_a_plain_list_would() {
        let mut rng = Rng::with_seed(7);
        for _ in 0..50 {
            let (fixture, mut model) = (Fixture::new(3), Model::default());
            let mut held: Vec<Slot> = (0..3).map(|backend| fixture.take(backend)).collect();
            for _ in 0..200 {
                match rng.u32(0..4) {
                    0 | 1 => {
                        let tried: BTreeSet<u32> =
                            (0..rng.u32(0..3)).map(|_| rng.u32(0..3)).collect();
                        let tried: Vec<u32> = tried.into_iter().collect();
                        model.waiting.push((fixture.enqueue(0, &tried), tried));
                        fixture.queue.serve(&fixture.backends);
                    }
                    2 if !model.waiting.is_empty() => {
                        let (position, _) = model.waiting.remove(rng.usize(0..model.waiting.len()));
                        fixture.queue.cancel(position);
                    }
                    _ if !held.is_empty() => {
                        let slot = held.swap_remove(rng.usize(0..held.len()));
                        let expected = model.next_for(slot.backend().id.0);
                        drop(slot);
                        let grant = fixture.next_grant();
                        assert_eq!(grant.as_ref().map(|grant| grant.position), expected);
                        held.extend(grant.and_then(|grant| grant.slot));
                        continue;
                    }
                    _ => {}
                }
                while let Some(grant) = fixture.next_grant() {
                    let slot = grant.slot.expect("serve gives slots");
                    assert_eq!(model.next_for(slot.backend().id.0), Some(grant.position));
                    held.push(slot);
                }
                for backend in fixture.backends.iter().filter(|backend| backend.has_capacity()) {
                    let id = backend.id.0;
                    assert!(model.waiting.iter().all(|(_, tried)| tried.contains(&id)));
                }
            }
            drop(held);
            assert!(fixture.in_flight().iter().all(|count| *count <= 1));
        }
    }
}
