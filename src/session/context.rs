//! The interface between a session and its worker: the context of a step, and its verdict.
//!
//! [`Resources`] is a worker's state; a [`Context`] borrows it for one step of one session.

use super::access_log;
use super::record::AccessRecord;
use crate::clock::Clock;
use crate::config::{AccessLog, Deadline, Settings, Timeout};
use crate::logging::{LogWriter, Stamp};
use crate::metrics::Counters;
use crate::net::{Buffers, Pipes, Poller, Token};
use crate::reason::Reason;
use crate::stats::Recorder;
use crate::upstream::backend::Backend;
use crate::upstream::cluster::Cluster;
use crate::upstream::connection_pool::ConnectionPool;
use crate::upstream::queue::Mailbox;
use crate::upstream::registry::Registry;
use crate::upstream::retry::Budget;
use log::LevelFilter;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

/// The result of a step: when the worker runs the session again.
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
    /// The settings. A new value may replace them between two steps.
    pub settings: Arc<Settings>,
    /// The backends to pick from.
    pub cluster: Arc<Cluster>,
    /// The registry, which records the results of attempts.
    pub registry: Arc<Registry>,
    /// The retry budget.
    pub budget: Arc<Budget>,
    /// The control threads, if requests to the control API are forwarded to them.
    pub control: Option<Arc<Backend>>,
    /// The log thread; without one, access lines go to the logger of the program.
    pub log: Option<LogWriter>,
}

impl Shared {
    /// Whether there are access lines.
    pub(super) fn has_access_lines(&self) -> bool {
        self.settings.access_log != AccessLog::Off && log::max_level() >= LevelFilter::Info
    }
}

/// The worker's own state that its sessions share.
#[derive(Debug)]
pub struct Local {
    /// The time of this iteration of the worker's loop.
    pub clock: Clock,
    /// The epoll in which sockets are registered.
    pub poller: Poller,
    pub buffers: Buffers,
    pub pipes: Pipes,
    pub counters: Arc<Counters>,
    /// The statistics of this worker.
    pub recorder: Recorder,
    /// Lingering sessions, oldest first, and some that have ended since.
    pub lingering: VecDeque<Token>,
    /// Randomness for request identifiers.
    pub rng: fastrand::Rng,
    /// The times of access lines.
    pub stamp: Stamp,
}

impl Local {
    /// The state of a worker without sessions.
    pub fn new(poller: Poller, pipes: Pipes, counters: Arc<Counters>, recorder: Recorder) -> Self {
        Self {
            clock: Clock::new(),
            poller,
            buffers: Buffers::default(),
            pipes,
            counters,
            recorder,
            lingering: VecDeque::new(),
            rng: fastrand::Rng::new(),
            stamp: Stamp::default(),
        }
    }
}

/// A reference to a session, for the queue and the connection pool.
#[derive(Clone, Copy, Debug)]
pub struct SessionRef<'w> {
    /// The session's key in its worker's table.
    pub token: Token,
    /// The mailbox in which its worker receives slots at backends.
    pub mailbox: &'w Mailbox,
}

/// The context of one step of a session.
#[derive(Debug)]
pub struct Context<'w> {
    /// The time of this iteration of the worker's loop.
    pub now: Instant,
    /// Whether the balancer is stopping: responses announce a close, and idle connections end after
    /// a grace period.
    pub draining: bool,
    /// The session itself.
    pub session: SessionRef<'w>,
    /// The state that all workers share.
    pub shared: &'w Shared,
    /// The worker's connections to backends. Separate from `local`, because callers often borrow a
    /// connection and a buffer at the same time.
    pub connections: &'w mut ConnectionPool,
    /// The worker's other state.
    pub local: &'w mut Local,
}

impl Context<'_> {
    /// The deadline of a timeout that starts now.
    pub(super) fn deadline(&self, timeout: Timeout) -> Deadline {
        Deadline { timeout, at: self.now + self.shared.settings.timeouts.of(timeout) }
    }

    /// Counts an exchange that is over, and writes its access line.
    pub(super) fn record(&mut self, record: &AccessRecord<'_>) {
        self.local.recorder.record(record.backend, &record.sample());
        if self.shared.has_access_lines() {
            let log = self.shared.log.as_ref();
            access_log::write(record, &self.shared.settings, log, &mut self.local.stamp);
        }
    }
}

/// The state of a worker that its sessions use.
#[derive(Debug)]
pub struct Resources {
    /// See [`Context::shared`].
    pub shared: Shared,
    /// The mailbox in which this worker receives slots at backends.
    pub mailbox: Mailbox,
    /// See [`Context::connections`].
    pub connections: ConnectionPool,
    /// See [`Context::local`].
    pub local: Local,
    /// See [`Context::draining`].
    pub draining: bool,
}

impl Resources {
    /// The resources of a worker without backend connections.
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
