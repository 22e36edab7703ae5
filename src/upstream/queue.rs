//! The queue for a slot at a backend, when every backend has as many requests as it may.
//!
//! Shared by all workers. A slot that is released while requests are queued does not become free:
//! it travels, in a [`Grant`] through the worker's channel, to the first request that may use it.
//! Dropping it anywhere on the way (the request is gone, the worker has ended) hands it to the next
//! one. So the order is kept and no slot is lost. Grants are sent outside the lock.

use super::backend::{Backend, BackendId, Slot, Waiters};
use crate::config;
use crate::net::{Token, Waker};
use crossbeam_channel::Sender;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// What a queued request gets.
#[derive(Debug)]
pub struct Grant {
    /// The session that has queued it.
    pub session: Token,
    /// The position under which it was queued.
    pub position: Position,
    /// The slot; none if no backend that is up can serve the request: it must look again.
    pub slot: Option<Slot>,
}

/// Where a worker receives grants.
#[derive(Clone, Debug)]
pub struct Mailbox {
    grants: Sender<Grant>,
    waker: Arc<Waker>,
}

impl Mailbox {
    /// Grants go into `grants`, and `waker` wakes the worker.
    pub fn new(grants: Sender<Grant>, waker: Arc<Waker>) -> Self {
        Self { grants, waker }
    }
}

/// A request's position in the queue, by the time when it was first queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position(u64);

#[derive(Debug)]
struct Waiter {
    session: Token,
    mailbox: Mailbox,
    /// The backends of which it wants no slot.
    tried: Box<[BackendId]>,
}

impl Waiter {
    fn may_use(&self, backend: &Backend) -> bool {
        !self.tried.contains(&backend.id)
    }

    /// A slot at one of these, rather at one with few requests.
    fn take(&self, free: &[&Arc<Backend>]) -> Option<Slot> {
        let mut usable: Vec<_> = free.iter().filter(|backend| self.may_use(backend)).collect();
        usable.sort_by_key(|backend| backend.in_flight());
        usable.into_iter().find_map(|backend| Slot::take(backend))
    }

    /// Sends the grant, or returns the slot: the worker has ended.
    fn grant(self, position: Position, slot: Option<Slot>) -> Result<(), Option<Slot>> {
        let sent = self.mailbox.grants.send(Grant { session: self.session, position, slot });
        sent.map_err(|error| error.into_inner().slot)?;
        self.mailbox.waker.wake();
        Ok(())
    }
}

/// The requests that wait for a slot, first come, first served.
#[derive(Debug, Default)]
pub struct PendingQueue {
    /// Protects the order; taken by requests that are queued or give up, by each slot that comes
    /// free while any is queued, and at each transition.
    waiting: Mutex<BTreeMap<Position, Waiter>>,
    next: AtomicU64,
    /// How many wait, so that a slot that comes free costs nothing while none does.
    length: AtomicUsize,
}

impl PendingQueue {
    /// Queues a request at the end, or at its position of before; none if the queue is full. Then
    /// [`PendingQueue::serve`] must follow: a slot that came free just before was handed to none.
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
        self.note_length(&waiting);
        Some(position)
    }

    /// Takes a request out that wants no slot any more. A grant may be on its way to it already.
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
        self.note_length(&waiting);
        drop(waiting);
        for (waiter, position, slot) in granted {
            // A slot that is returned is handed on by its drop.
            drop(waiter.grant(position, Some(slot)));
        }
    }

    /// Sends back the requests that none of these backends may serve, without a slot.
    pub(super) fn dismiss_unservable(&self, up: &[Arc<Backend>]) {
        let is_unservable = |waiter: &Waiter| !up.iter().any(|backend| waiter.may_use(backend));
        let waiting = self.waiting.lock();
        let unservable = waiting.iter().filter(|(_, waiter)| is_unservable(waiter));
        let unservable: Vec<Position> = unservable.map(|(position, _)| *position).collect();
        drop(waiting);
        unservable.into_iter().for_each(|position| self.dismiss(position));
    }

    /// Sends a request back without a slot.
    pub(super) fn dismiss(&self, position: Position) {
        if let Some(waiter) = self.remove(position) {
            drop(waiter.grant(position, None));
        }
    }

    fn remove(&self, position: Position) -> Option<Waiter> {
        let mut waiting = self.waiting.lock();
        let waiter = waiting.remove(&position);
        self.note_length(&waiting);
        waiter
    }

    /// Takes out the first request that may use this slot. If there is none, the slot is free from
    /// now on: under the lock, so that a request that is queued later finds it so.
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
        self.note_length(&waiting);
        Some((waiter, position, slot))
    }

    fn note_length(&self, waiting: &BTreeMap<Position, Waiter>) {
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
    use crate::net::{Poller, Slab};
    use crate::upstream::backend::{AdminState, BackendSpec};
    use crossbeam_channel::Receiver;
    use fastrand::Rng;
    use std::collections::BTreeSet;

    /// A queue, backends that take one request each, and a worker's mailbox.
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
                let (name, address) = (format!("b{id}"), ([127, 0, 0, 1], 1).into());
                let spec = BackendSpec { name, address, weight: 1 };
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

        fn queued(&self, session: usize, tried: &[u32]) {
            self.enqueue(session, tried);
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

        /// The session that has got a slot, and the backend of the slot, which it gives back.
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
    fn a_released_slot_goes_from_request_to_request_in_their_order_and_is_free_after_the_last() {
        let fixture = Fixture::new(1);
        let slot = fixture.take(0);
        (0..3).for_each(|session| fixture.queued(session, &[]));
        drop(slot);
        assert_eq!(fixture.in_flight(), [1], "it travels");
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
        // The grant for the second one is on its way.
        fixture.queue.cancel(positions[1]);
        assert_eq!(fixture.granted(), Some((1, Some(0))));
        assert_eq!(fixture.granted(), Some((2, Some(0))));
        assert_eq!((fixture.granted(), fixture.in_flight()), (None, vec![0]));
    }

    #[test]
    fn a_slot_that_came_free_before_the_request_was_queued_is_found_by_serve() {
        let fixture = Fixture::new(2);
        (0..3).for_each(|session| fixture.queued(session, &[0]));
        fixture.queue.serve(&fixture.backends);
        let grant = fixture.next_grant().expect("the second backend has a free slot");
        assert_eq!((grant.session, fixture.in_flight()), (fixture.sessions[0], vec![0, 1]));
        fixture.queue.serve(&fixture.backends);
        assert!(fixture.next_grant().is_none(), "one slot, one grant");
    }

    #[test]
    fn slots_are_handed_past_a_worker_that_has_ended() {
        let mut fixture = Fixture::new(1);
        let slot = fixture.take(0);
        (0..3).for_each(|session| fixture.queued(session, &[]));
        let (sender, other_worker) = crossbeam_channel::unbounded();
        let other = Mailbox::new(sender, Arc::clone(&fixture.mailbox.waker));
        fixture.queue.enqueue(fixture.sessions[0], &other, &[], None).unwrap();
        drop(slot);
        // The first grant has arrived, and is lost with the worker; two are still to be sent.
        drop(fixture.grants.take());
        let grant = other_worker.try_recv().expect("the other worker's request is next");
        assert_eq!(fixture.in_flight(), [1]);
        drop(grant);
        assert_eq!((fixture.in_flight(), fixture.queue.has_waiters()), (vec![0], false));
    }

    #[test]
    fn a_backend_that_gets_no_new_requests_hands_its_slots_to_none() {
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
    fn after_the_limit_was_lowered_slots_are_freed_until_it_is_kept() {
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
    fn a_request_for_which_no_backend_is_left_is_sent_back_without_a_slot() {
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
    fn a_request_that_comes_back_has_its_position_of_before_even_if_the_queue_is_full() {
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

    /// The queue as a list: what it must do, without a lock, a channel or a count.
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
