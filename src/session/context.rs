//! What passes between a session and its worker: what the session is lent for a step, and what it
//! wants afterwards.

use crate::clock::Clock;
use crate::config::{Config, Timeout};
use crate::metrics::Counters;
use crate::net::{Buffers, Pipes, SlotKey};
use crate::reason::Reason;
use crate::upstream::cluster::Cluster;
use crate::upstream::connections::Connections;
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

/// Until when something may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    /// Which stage it limits.
    pub timeout: Timeout,
    /// The moment.
    pub at: Instant,
}

impl Deadline {
    /// Whether the moment has come.
    pub(super) fn has_passed(self, now: Instant) -> bool {
        self.at <= now
    }
}

/// What a worker owns and lends to one session after the other.
#[derive(Debug)]
pub struct Local {
    /// The time of this turn of the worker's loop.
    pub clock: Clock,
    /// Unused buffers.
    pub buffers: Buffers,
    /// Unused pipes.
    pub pipes: Pipes,
    /// What has happened.
    pub counters: Arc<Counters>,
    /// Sessions that linger, oldest first; also some that have ended since.
    pub lingering: VecDeque<SlotKey>,
    /// Randomness for request identifiers.
    pub rng: fastrand::Rng,
}

/// What a session is lent for one step.
#[derive(Debug)]
pub struct Context<'w> {
    /// The time of this turn of the worker's loop.
    pub now: Instant,
    /// Whether the balancer is stopping: responses announce a close, idle connections end after a
    /// moment.
    pub draining: bool,
    /// The session's own key, by which its backend connection names it.
    pub key: SlotKey,
    /// How the session is called when a slot at a backend comes free.
    pub caller: &'w Caller,
    /// Settings.
    pub config: &'w Config,
    /// The backends.
    pub cluster: &'w Cluster,
    /// What may be sent again.
    pub budget: &'w Budget,
    /// The worker's connections to backends.
    pub connections: &'w mut Connections,
    /// What else the worker owns.
    pub local: &'w mut Local,
}

impl Context<'_> {
    pub(super) fn deadline(&self, timeout: Timeout) -> Deadline {
        Deadline { timeout, at: self.now + self.config.timeouts.of(timeout) }
    }
}
