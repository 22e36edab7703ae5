//! The handle of a worker for other threads: messages to its inbox, and its load.
//!
//! Used by workers, to dispatch a connection to one that has fewer, and by the thread that starts
//! and stops the balancer. Must never wait for a worker that serves.

use crate::admission::{Permit, Permits};
use crate::config::Settings;
use crate::error::Cause;
use crate::metrics::Counters;
use crate::net::Waker;
use crossbeam_channel::{Receiver, Sender, TrySendError};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Instant;

/// A message to a worker from another thread.
#[derive(Debug)]
pub enum Message {
    /// A client connection, which the worker owns from now on.
    Connection {
        socket: TcpStream,
        /// Its permit.
        permit: Permit,
    },
    /// New settings, which apply from the next step on; deadlines that are set stay.
    Settings(Arc<Settings>),
    /// Accept connections from now on.
    StartAccepting,
    /// Accept no more, and drop the sender when the last accepted connection is dispatched.
    StopAccepting(Sender<()>),
    /// The start of a drain, which ends at this time, if there is one.
    Drain(Option<Instant>),
    /// Nothing to do but to turn once, as a sign of life.
    Turn,
}

/// The other threads' end of a worker.
#[derive(Debug)]
pub struct Handle {
    inbox: Sender<Message>,
    waker: Arc<Waker>,
    permits: Permits,
    counters: Arc<Counters>,
}

impl Handle {
    /// The handle of a worker that sleeps in the poller of `waker`, and its inbox, which holds
    /// at most `capacity` messages.
    pub fn new(
        capacity: usize,
        permits: Permits,
        waker: Arc<Waker>,
        counters: Arc<Counters>,
    ) -> (Self, Inbox) {
        let (inbox, receiver) = crossbeam_channel::bounded(capacity);
        (Self { inbox, waker, permits, counters }, Inbox(receiver))
    }

    /// Client connections that the worker has, those in its inbox included.
    pub fn load(&self) -> usize {
        self.permits.count()
    }

    /// Client connections that all workers have.
    pub fn load_of_all(&self) -> usize {
        self.permits.count_of_all()
    }

    /// The worker's counters.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// See [`Permits::admit`].
    pub fn admit(&self, peer: SocketAddr) -> Result<Permit, Cause> {
        self.permits.admit(peer)
    }

    /// Dispatches a connection to the worker. A full inbox, or that of a worker that has ended,
    /// gives it back.
    pub fn dispatch(
        &self,
        socket: TcpStream,
        mut permit: Permit,
    ) -> Result<(), (TcpStream, Permit)> {
        permit.move_to(&self.permits);
        match self.inbox.try_send(Message::Connection { socket, permit }) {
            Ok(()) => {
                self.waker.wake();
                Ok(())
            }
            Err(TrySendError::Full(message) | TrySendError::Disconnected(message)) => match message
            {
                Message::Connection { socket, permit } => Err((socket, permit)),
                _ => unreachable!("the message was a connection"),
            },
        }
    }

    /// Counts a connection that no inbox had room for as this worker's.
    pub fn take_back(&self, permit: &mut Permit) {
        permit.move_to(&self.permits);
    }

    /// Changes the worker's settings.
    pub fn apply(&self, settings: &Arc<Settings>) {
        self.send(Message::Settings(Arc::clone(settings)));
    }

    /// Lets the worker accept connections.
    pub fn start_accepting(&self) {
        self.send(Message::StartAccepting);
    }

    /// Lets the worker accept no more. It drops `stopped` when its last one is dispatched.
    pub fn stop_accepting(&self, stopped: Sender<()>) {
        self.send(Message::StopAccepting(stopped));
    }

    /// How many turns the worker's loop has made.
    pub fn turns(&self) -> u64 {
        self.counters.turns.get()
    }

    /// Makes the worker's loop turn even if it has nothing to do. Never waits: a worker with a full
    /// inbox has something to do.
    pub fn request_turn(&self) {
        let _ = self.inbox.try_send(Message::Turn);
        self.waker.wake();
    }

    /// Starts a drain, which ends at `deadline` if there is one.
    pub fn drain(&self, deadline: Option<Instant>) {
        self.send(Message::Drain(deadline));
    }

    fn send(&self, message: Message) {
        // Fails only if the worker has ended already.
        let _ = self.inbox.send(message);
        self.waker.wake();
    }
}

/// The worker's end of its inbox.
#[derive(Debug)]
pub struct Inbox(Receiver<Message>);

impl Inbox {
    /// The next message, if there is one. Never waits.
    pub fn next(&self) -> Option<Message> {
        // A receive from an empty channel has a memory fence, and a worker looks in each turn.
        if self.is_empty() { None } else { self.0.try_recv().ok() }
    }

    /// Whether there is no message.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Drop for Inbox {
    /// A bounded channel keeps its messages while a sender lives: the connections in the inbox of a
    /// worker that has ended would stay open.
    fn drop(&mut self) {
        while self.next().is_some() {}
    }
}
