//! What passes between a session and its worker: what the session is lent for a step, and the verdict
//! that it returns.

use super::record::AccessRecord;
use crate::clock::Clock;
use crate::config::{Config, Deadline, Timeout};
use crate::metrics::Counters;
use crate::net::{Buffers, Pipes, Poller, Token};
use crate::reason::Reason;
use crate::upstream::cluster::Cluster;
use crate::upstream::connection_pool::ConnectionPool;
use crate::upstream::queue::Caller;
use crate::upstream::retry::Budget;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

/// What a session wants of its worker after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Step again when a socket is ready, or when the deadline has passed.
    Wait(Deadline),
    /// Step again after the other ready sessions.
    Again,
    /// The connection is over.
    Close(Reason),
}

/// What all workers share.
#[derive(Clone, Debug)]
pub struct Shared {
    /// Settings.
    pub config: Arc<Config>,
    /// The backends.
    pub cluster: Arc<Cluster>,
    /// What may be sent again.
    pub budget: Arc<Budget>,
}

/// What one worker owns and lends to one session after the other.
#[derive(Debug)]
pub struct Local {
    /// The time of this turn of the worker's loop.
    pub clock: Clock,
    /// Where sockets are registered.
    pub poller: Poller,
    /// Unused buffers.
    pub buffers: Buffers,
    /// Unused pipes.
    pub pipes: Pipes,
    /// What has happened.
    pub counters: Arc<Counters>,
    /// Sessions that linger, oldest first; also some that have ended since.
    pub lingering: VecDeque<Token>,
    /// Randomness for request identifiers.
    pub rng: fastrand::Rng,
}

impl Local {
    /// Nothing has happened yet.
    pub fn new(poller: Poller, pipes: Pipes, counters: Arc<Counters>) -> Self {
        Self {
            clock: Clock::new(),
            poller,
            buffers: Buffers::default(),
            pipes,
            counters,
            lingering: VecDeque::new(),
            rng: fastrand::Rng::new(),
        }
    }

    /// Takes in an exchange that is over.
    pub(super) fn record(&self, record: &AccessRecord<'_>) {
        log::info!("{record}");
    }
}

/// A session as others refer to it.
#[derive(Clone, Copy, Debug)]
pub struct SessionRef<'w> {
    /// Its key in its worker's table.
    pub token: Token,
    /// How it is called when a slot at a backend comes free.
    pub caller: &'w Caller,
}

/// What a session is lent for one step.
#[derive(Debug)]
pub struct Context<'w> {
    /// The time of this turn of the worker's loop.
    pub now: Instant,
    /// Whether the balancer is stopping: responses announce a close, idle connections end after a
    /// moment.
    pub draining: bool,
    /// The session itself.
    pub session: SessionRef<'w>,
    /// What all workers share.
    pub shared: &'w Shared,
    /// The worker's connections to backends. Apart from `local`, because a part often needs one of
    /// them and a buffer at the same time.
    pub connections: &'w mut ConnectionPool,
    /// What else the worker owns.
    pub local: &'w mut Local,
}

impl Context<'_> {
    pub(super) fn deadline(&self, timeout: Timeout) -> Deadline {
        Deadline { timeout, at: self.now + self.shared.config.timeouts.of(timeout) }
    }
}

/// What contexts are made from: everything that a worker lends.
#[derive(Debug)]
pub struct Resources {
    /// See [`Context::shared`].
    pub shared: Shared,
    /// How this worker's sessions are called.
    pub caller: Caller,
    /// See [`Context::connections`].
    pub connections: ConnectionPool,
    /// See [`Context::local`].
    pub local: Local,
    /// See [`Context::draining`].
    pub draining: bool,
}

impl Resources {
    /// Nothing is connected yet.
    pub fn new(shared: Shared, caller: Caller, local: Local) -> Self {
        Self { shared, caller, connections: ConnectionPool::default(), local, draining: false }
    }

    /// What the session with this token is lent.
    pub fn context(&mut self, token: Token) -> Context<'_> {
        Context {
            now: self.local.clock.now(),
            draining: self.draining,
            session: SessionRef { token, caller: &self.caller },
            shared: &self.shared,
            connections: &mut self.connections,
            local: &mut self.local,
        }
    }

    /// The time of this turn of the worker's loop.
    pub fn now(&self) -> Instant {
        self.local.clock.now()
    }
}
