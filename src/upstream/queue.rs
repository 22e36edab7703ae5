//! The queue for a place at a backend, when every backend has as many requests as it may.
//!
//! Shared by all workers. A session that finds no place joins the queue; whoever gives a place back
//! calls the first one, through its worker's channel: the first one that has not failed at that
//! backend already. Who comes new does not look for a place while others wait. A call to a session
//! that does not wait any more is passed on by its worker.

use super::backend::{BackendId, Waiters};
use crate::config;
use crate::net::{Token, Waker};
use crossbeam_channel::Sender;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// How a worker's sessions are called.
#[derive(Clone, Debug)]
pub struct Caller {
    calls: Sender<Token>,
    waker: Arc<Waker>,
}

impl Caller {
    /// Calls go into `calls`, and `waker` makes the worker look.
    pub fn new(calls: Sender<Token>, waker: Arc<Waker>) -> Self {
        Self { calls, waker }
    }

    fn call(&self, session: Token) {
        // Fails only if the worker has ended, and its sessions with it.
        let _ = self.calls.send(session);
        self.waker.wake();
    }

    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.waker, &other.waker)
    }
}

/// A session that waits for a place.
#[derive(Debug)]
struct Waiter {
    ticket: Ticket,
    session: Token,
    caller: Caller,
    /// The backends that are no use to it, because it has failed there.
    tried: Vec<BackendId>,
}

/// When a session came to the queue first; who comes back keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// Sessions that wait for a place, first come, first called.
#[derive(Debug, Default)]
pub struct Queue {
    /// Protects the order; taken by sessions that join or leave, by whoever gives a place back
    /// while somebody waits, and at each change of health.
    waiting: Mutex<VecDeque<Waiter>>,
    tickets: AtomicU64,
    /// How many wait, so that giving a place back costs nothing while nobody does.
    length: AtomicUsize,
}

impl Queue {
    /// Whether anybody waits.
    pub fn has_waiters(&self) -> bool {
        self.length.load(Ordering::SeqCst) > 0
    }

    /// Joins at the end, or with the ticket of an earlier time in the place that it gives; none if
    /// the queue is full. Then somebody must look whether there is a place (`Cluster::call_next`):
    /// one that came free between the last look and now was told to nobody.
    pub fn join(
        &self,
        session: Token,
        caller: &Caller,
        tried: &[BackendId],
        earlier: Option<Ticket>,
    ) -> Option<Ticket> {
        let mut waiting = self.waiting.lock();
        if waiting.len() >= config::MAX_PENDING && earlier.is_none() {
            return None;
        }
        let ticket =
            earlier.unwrap_or_else(|| Ticket(self.tickets.fetch_add(1, Ordering::Relaxed)));
        let place = waiting.partition_point(|waiter| waiter.ticket < ticket);
        waiting.insert(
            place,
            Waiter { ticket, session, caller: caller.clone(), tried: tried.to_vec() },
        );
        self.length.store(waiting.len(), Ordering::SeqCst);
        Some(ticket)
    }

    /// Leaves without having been served, unless the call is on its way already.
    pub fn leave(&self, session: Token, caller: &Caller) {
        let mut waiting = self.waiting.lock();
        waiting.retain(|waiter| waiter.session != session || !waiter.caller.is(caller));
        self.length.store(waiting.len(), Ordering::SeqCst);
    }

    /// A place came free: calls the first one that can use it, told by the backends that it has
    /// tried.
    pub fn call_first(&self, can_use: impl Fn(&[BackendId]) -> bool) {
        if !self.has_waiters() {
            return;
        }
        let mut waiting = self.waiting.lock();
        let first = waiting
            .iter()
            .position(|waiter| can_use(&waiter.tried))
            .and_then(|place| waiting.remove(place));
        self.length.store(waiting.len(), Ordering::SeqCst);
        drop(waiting);
        if let Some(waiter) = first {
            waiter.caller.call(waiter.session);
        }
    }

    /// Everything may have changed: calls all.
    pub fn call_all(&self) {
        let mut waiting = self.waiting.lock();
        let all = std::mem::take(&mut *waiting);
        self.length.store(0, Ordering::SeqCst);
        drop(waiting);
        for waiter in all {
            waiter.caller.call(waiter.session);
        }
    }
}

impl Waiters for Queue {
    fn notify_one(&self, backend: BackendId) {
        self.call_first(|tried| !tried.contains(&backend));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{Poller, Slab};
    use crossbeam_channel::Receiver;

    struct Fixture {
        queue: Queue,
        caller: Caller,
        calls: Receiver<Token>,
        tokens: Vec<Token>,
        _poller: Poller,
    }

    fn fixture() -> Fixture {
        let poller = Poller::new().unwrap();
        let (sender, calls) = crossbeam_channel::unbounded();
        let mut slab = Slab::default();
        Fixture {
            queue: Queue::default(),
            caller: Caller::new(sender, poller.waker()),
            calls,
            tokens: (0..3).map(|_| slab.insert(())).collect(),
            _poller: poller,
        }
    }

    impl Fixture {
        fn join(&self, place: usize, earlier: Option<Ticket>) -> Option<Ticket> {
            self.queue.join(self.tokens[place], &self.caller, &[], earlier)
        }

        fn all_join(&self) {
            assert!((0..3).all(|place| self.join(place, None).is_some()));
        }

        fn called(&self) -> Vec<Token> {
            self.calls.try_iter().collect()
        }
    }

    #[test]
    fn first_come_is_first_called() {
        let fixture = fixture();
        fixture.all_join();
        fixture.queue.call_first(|_| true);
        fixture.queue.call_first(|_| true);
        assert_eq!(fixture.called(), fixture.tokens[..2]);
    }

    #[test]
    fn who_was_called_and_found_nothing_has_the_place_of_before() {
        let fixture = fixture();
        let tickets: Vec<_> = (0..3).map(|place| fixture.join(place, None)).collect();
        fixture.queue.call_all();
        assert_eq!(fixture.called(), fixture.tokens);
        for place in [1, 0, 2] {
            assert_eq!(fixture.join(place, tickets[place]), tickets[place]);
        }
        (0..3).for_each(|_| fixture.queue.call_first(|_| true));
        assert_eq!(fixture.called(), fixture.tokens);
    }

    #[test]
    fn a_place_goes_to_the_first_who_can_use_it() {
        let fixture = fixture();
        for (token, tried) in
            fixture.tokens.iter().zip([&[BackendId(7), BackendId(8)][..], &[BackendId(7)], &[]])
        {
            fixture.queue.join(*token, &fixture.caller, tried, None);
        }
        for backend in [8, 7, 7, 9].map(BackendId) {
            fixture.queue.call_first(|tried| !tried.contains(&backend));
        }
        assert_eq!(fixture.called(), [fixture.tokens[1], fixture.tokens[2], fixture.tokens[0]]);
    }

    #[test]
    fn who_left_is_not_called() {
        let fixture = fixture();
        fixture.all_join();
        fixture.queue.leave(fixture.tokens[0], &fixture.caller);
        fixture.queue.call_first(|_| true);
        assert_eq!(fixture.called(), [fixture.tokens[1]]);
        fixture.queue.leave(fixture.tokens[2], &fixture.caller);
        assert!(!fixture.queue.has_waiters());
    }

    #[test]
    fn a_full_queue_takes_nobody_but_those_who_were_in_it() {
        let fixture = fixture();
        let first = fixture.join(0, None);
        fixture.queue.call_first(|_| true);
        for _ in 0..config::MAX_PENDING {
            assert!(fixture.join(0, None).is_some());
        }
        assert!(fixture.join(1, None).is_none());
        assert_eq!(fixture.join(1, first), first);
        fixture.queue.call_all();
        assert!(fixture.join(1, None).is_some());
    }
}
