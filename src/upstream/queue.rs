//! The queue for a place at a backend, when every backend has as many requests as it may.
//!
//! Shared by all workers. A session that finds no place joins the queue; whoever gives a place back calls the first one, through
//! its worker's channel. The one called looks for a place like anybody else, and joins again at the front of its patience, not of
//! the queue: its deadline stays.

use crate::config;
use crate::net::{SlotKey, Waker};
use crossbeam_channel::Sender;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How a worker's sessions are called.
#[derive(Clone, Debug)]
pub struct Caller {
    calls: Sender<SlotKey>,
    waker: Arc<Waker>,
}

impl Caller {
    /// Calls go into `calls`, and `waker` makes the worker look.
    pub fn new(calls: Sender<SlotKey>, waker: Arc<Waker>) -> Self {
        Self { calls, waker }
    }

    fn call(&self, session: SlotKey) {
        // Fails only if the worker has ended, and its sessions with it.
        let _ = self.calls.send(session);
        self.waker.wake();
    }

    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.waker, &other.waker)
    }
}

/// Sessions that wait for a place, first come, first called.
#[derive(Debug, Default)]
pub struct Queue {
    /// Protects the order; taken by sessions that join or leave, and by whoever gives a place back while somebody waits.
    waiting: Mutex<VecDeque<(SlotKey, Caller)>>,
    /// How many wait, so that giving a place back costs nothing while nobody does.
    length: AtomicUsize,
}

impl Queue {
    /// Joins at the end; false if the queue is full. The session must look for a place once more after it has joined: one that
    /// came free between its last look and now was not told to it.
    pub fn join(&self, session: SlotKey, caller: &Caller) -> bool {
        let mut waiting = self.waiting.lock();
        if waiting.len() >= config::QUEUE {
            return false;
        }
        waiting.push_back((session, caller.clone()));
        self.length.store(waiting.len(), Ordering::SeqCst);
        true
    }

    /// Leaves without having been served. A call that was already on its way goes to the next one.
    pub fn leave(&self, session: SlotKey, caller: &Caller) {
        let mut waiting = self.waiting.lock();
        let place = waiting.iter().position(|(key, theirs)| *key == session && theirs.is(caller));
        if let Some(place) = place {
            waiting.remove(place);
            self.length.store(waiting.len(), Ordering::SeqCst);
            return;
        }
        drop(waiting);
        self.call_next();
    }

    /// A place came free: calls the first one.
    pub fn call_next(&self) {
        if self.length.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut waiting = self.waiting.lock();
        let first = waiting.pop_front();
        self.length.store(waiting.len(), Ordering::SeqCst);
        drop(waiting);
        if let Some((session, caller)) = first {
            caller.call(session);
        }
    }

    /// Everything may have changed: calls all.
    pub fn call_all(&self) {
        let all = std::mem::take(&mut *self.waiting.lock());
        self.length.store(0, Ordering::SeqCst);
        for (session, caller) in all {
            caller.call(session);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{Poller, Slots};
    use crossbeam_channel::Receiver;

    struct Fixture {
        queue: Queue,
        caller: Caller,
        calls: Receiver<SlotKey>,
        keys: Vec<SlotKey>,
        _poller: Poller,
    }

    fn fixture() -> Fixture {
        let poller = Poller::new().unwrap();
        let (sender, calls) = crossbeam_channel::unbounded();
        let mut slots = Slots::default();
        Fixture {
            queue: Queue::default(),
            caller: Caller::new(sender, poller.waker()),
            calls,
            keys: (0..3).map(|_| slots.insert(())).collect(),
            _poller: poller,
        }
    }

    #[test]
    fn first_come_is_first_called() {
        let fixture = fixture();
        for key in &fixture.keys {
            assert!(fixture.queue.join(*key, &fixture.caller));
        }
        fixture.queue.call_next();
        fixture.queue.call_next();
        assert_eq!(fixture.calls.try_iter().collect::<Vec<_>>(), fixture.keys[..2]);
    }

    #[test]
    fn one_that_leaves_after_its_call_passes_it_on() {
        let fixture = fixture();
        for key in &fixture.keys {
            fixture.queue.join(*key, &fixture.caller);
        }
        fixture.queue.call_next();
        fixture.queue.leave(fixture.keys[0], &fixture.caller);
        fixture.queue.leave(fixture.keys[2], &fixture.caller);
        fixture.queue.call_next();
        assert_eq!(fixture.calls.try_iter().collect::<Vec<_>>(), fixture.keys[..2], "the third left before it was called");
    }

    #[test]
    fn a_full_queue_takes_nobody() {
        let fixture = fixture();
        for _ in 0..config::QUEUE {
            assert!(fixture.queue.join(fixture.keys[0], &fixture.caller));
        }
        assert!(!fixture.queue.join(fixture.keys[1], &fixture.caller));
        fixture.queue.call_all();
        assert!(fixture.queue.join(fixture.keys[1], &fixture.caller));
    }
}
