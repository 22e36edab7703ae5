//! The interface between a session and its worker: the context of a step, and the verdict that it
//! returns.

use super::record::AccessRecord;
use crate::clock::Clock;
use crate::config::{Deadline, Settings, Timeout};
use crate::metrics::Counters;
use crate::net::{Buffers, Pipes, Poller, Token};
use crate::reason::Reason;
use crate::upstream::cluster::Cluster;
use crate::upstream::connection_pool::ConnectionPool;
use crate::upstream::queue::Mailbox;
use crate::upstream::registry::Registry;
use crate::upstream::retry::Budget;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

/// A session's request to its worker after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Step again when a socket is ready, or when the deadline has passed.
    Wait(Deadline),
    /// Step again after the other ready sessions.
    Again,
    /// The connection is over.
    Close(Reason),
}

/// The state that all workers share.
#[derive(Clone, Debug)]
pub struct Shared {
    /// The settings of this step; another value may follow between two steps.
    pub settings: Arc<Settings>,
    /// The backends to pick from.
    pub cluster: Arc<Cluster>,
    /// Where attempts are reported to.
    pub registry: Arc<Registry>,
    /// The retry budget.
    pub budget: Arc<Budget>,
}

/// One worker's own state, used by one session after the other.
#[derive(Debug)]
pub struct Local {
    /// The time of this iteration of the worker's loop.
    pub clock: Clock,
    /// Where sockets are registered.
    pub poller: Poller,
    pub buffers: Buffers,
    pub pipes: Pipes,
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
    /// Where its worker receives slots at backends.
    pub mailbox: &'w Mailbox,
}

/// The context of one step of a session.
#[derive(Debug)]
pub struct Context<'w> {
    /// The time of this iteration of the worker's loop.
    pub now: Instant,
    /// Whether the balancer is stopping: responses announce a close, idle connections end after a
    /// moment.
    pub draining: bool,
    /// The session itself.
    pub session: SessionRef<'w>,
    /// The state that all workers share.
    pub shared: &'w Shared,
    /// The worker's connections to backends. Apart from `local`, because a part often needs one of
    /// them and a buffer at the same time.
    pub connections: &'w mut ConnectionPool,
    /// The worker's further state.
    pub local: &'w mut Local,
}

impl Context<'_> {
    pub(super) fn deadline(&self, timeout: Timeout) -> Deadline {
        Deadline { timeout, at: self.now + self.shared.settings.timeouts.of(timeout) }
    }
}

/// The source of contexts: the state of a worker.
#[derive(Debug)]
pub struct Resources {
    /// See [`Context::shared`].
    pub shared: Shared,
    /// Where this worker receives slots at backends.
    pub mailbox: Mailbox,
    /// See [`Context::connections`].
    pub connections: ConnectionPool,
    /// See [`Context::local`].
    pub local: Local,
    /// See [`Context::draining`].
    pub draining: bool,
}

impl Resources {
    /// Nothing is connected yet.
    pub fn new(shared: Shared, mailbox: Mailbox, local: Local) -> Self {
        Self { shared, mailbox, connections: ConnectionPool::default(), local, draining: false }
    }

    /// The context of the session with this token.
    pub fn context(&mut self, token: Token) -> Context<'_> {
        Context {
            now: self.local.clock.now(),
            draining: self.draining,
            session: SessionRef { token, mailbox: &self.mailbox },
            shared: &self.shared,
            connections: &mut self.connections,
            local: &mut self.local,
        }
    }

    /// The time of this iteration of the worker's loop.
    pub fn now(&self) -> Instant {
        self.local.clock.now()
    }
}
