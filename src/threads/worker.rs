//! A worker: the thread that owns its connections from accept to close.
//!
//! Owns sessions, backend connections, buffers, deadlines and counters as plain data; blocks in one
//! place, the poller's wait; and must never make a call that waits anywhere else. This loop is the
//! only place that matches on a [`Verdict`].

mod ending;

use super::client_limit::ClientLimit;
use super::deadlines::Deadlines;
use super::handle::{Handle, Message};
use crate::clock::Clock;
use crate::config::{self, Config, Timeout};
use crate::error::Cause;
use crate::metrics::Counters;
use crate::net::{Buffers, Event, Pipes, Poller, SlotKey, Slots, Source};
use crate::reason::Reason;
use crate::session::{Context, Local, Session, Verdict};
use crate::upstream::cluster::Cluster;
use crate::upstream::connections::Connections;
use crate::upstream::queue::Caller;
use crate::upstream::retry::Budget;
use crossbeam_channel::Receiver;
use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Sockets and messages that may wait for one worker.
const INBOX: usize = 4096;
/// How many sessions that moved their share already get another turn before events are looked at:
/// with many large bodies on the way, small answers do not wait for all of them.
const AGAIN_A_TURN: usize = 8;
/// How often idle backend connections are looked through for expired ones, and idle buffers for
/// those to free.
const SWEEP: Duration = Duration::from_secs(1);

/// What all workers share.
#[derive(Clone, Debug)]
pub struct Shared {
    /// Settings.
    pub config: Arc<Config>,
    /// The backends.
    pub cluster: Arc<Cluster>,
    /// Connections by client address, if limited.
    pub client_limit: Option<Arc<ClientLimit>>,
    /// What may be sent again.
    pub budget: Arc<Budget>,
}

/// The thread's state.
#[derive(Debug)]
pub struct Worker {
    inbox: Receiver<Message>,
    /// Sessions that waited for a slot at a backend and are called.
    calls: Receiver<SlotKey>,
    client_limit: Option<Arc<ClientLimit>>,
    session_count: Arc<AtomicUsize>,
    served_count: Arc<AtomicUsize>,
    sessions: Slots<Session>,
    deadlines: Deadlines,
    lent: Lent,
    /// Sessions that have more to do, in line for their next step.
    again: VecDeque<SlotKey>,
    sweep_at: Instant,
    drain_until: Option<Instant>,
    /// The generation of the healthy set for which sessions were last looked through.
    generation: u64,
}

/// What sessions are lent, one after the other.
#[derive(Debug)]
struct Lent {
    config: Arc<Config>,
    cluster: Arc<Cluster>,
    budget: Arc<Budget>,
    caller: Caller,
    connections: Connections,
    local: Local,
    is_draining: bool,
}

impl Lent {
    fn context(&mut self, key: SlotKey) -> Context<'_> {
        Context {
            now: self.local.clock.now(),
            draining: self.is_draining,
            key,
            caller: &self.caller,
            config: &self.config,
            cluster: &self.cluster,
            budget: &self.budget,
            connections: &mut self.connections,
            local: &mut self.local,
        }
    }

    fn now(&self) -> Instant {
        self.local.clock.now()
    }
}

impl Worker {
    /// A worker and the handle to it.
    pub fn new(shared: Shared, counters: Arc<Counters>) -> io::Result<(Self, Handle)> {
        let poller = Poller::new()?;
        let (sender, inbox) = crossbeam_channel::bounded(INBOX);
        let (calling, calls) = crossbeam_channel::unbounded();
        let handle = Handle {
            inbox: sender,
            waker: poller.waker(),
            sessions: Arc::default(),
            served: Arc::default(),
            counters: Arc::clone(&counters),
        };
        let clock = Clock::new();
        let sweep_at = clock.now() + SWEEP;
        let pipes = Pipes::new(shared.config.pipes_a_worker);
        let waker = poller.waker();
        shared.cluster.wake_at_transitions(waker);
        let local = Local {
            clock,
            buffers: Buffers::default(),
            pipes,
            counters,
            lingering: VecDeque::new(),
            rng: fastrand::Rng::new(),
        };
        let lent = Lent {
            config: shared.config,
            cluster: shared.cluster,
            budget: shared.budget,
            caller: Caller::new(calling, poller.waker()),
            connections: Connections::new(poller),
            local,
            is_draining: false,
        };
        let worker = Self {
            inbox,
            calls,
            client_limit: shared.client_limit,
            session_count: Arc::clone(&handle.sessions),
            served_count: Arc::clone(&handle.served),
            sessions: Slots::default(),
            deadlines: Deadlines::default(),
            lent,
            again: VecDeque::new(),
            sweep_at,
            drain_until: None,
            generation: 0,
        };
        Ok((worker, handle))
    }

    /// Serves until it is told to drain and everything has ended. Returns how many connections had
    /// to be cut.
    pub fn run(mut self) -> usize {
        let mut events: Vec<Event> = Vec::new();
        let mut ready: Vec<SlotKey> = Vec::new();
        loop {
            // Before the wait: what has happened to idle backend connections by the time a new
            // client's request is read is then in the same batch of events as the request, or was
            // seen earlier.
            self.take_messages(&mut ready);
            if let Some(cut) = self.drained() {
                return cut;
            }
            let (timeout, inbox, calls) =
                (self.timeout(!ready.is_empty()), &self.inbox, &self.calls);
            let (cluster, generation) = (&self.lent.cluster, self.generation);
            let nothing_pending =
                || inbox.is_empty() && calls.is_empty() && cluster.generation() == generation;
            if let Err(error) =
                self.lent.connections.poller().wait(&mut events, timeout, nothing_pending)
            {
                // Cannot be, short of a bug; serving on with hints missed beats ending all
                // connections.
                log::error!("waiting for events failed: {error}");
            }
            if self.lent.local.clock.update() {
                self.lent.budget.tick(self.lent.now());
            }
            // First all flags, then the steps: an idle connection that the backend has closed must
            // not be checked out.
            self.note_events(&events, &mut ready);
            // Before the steps: a slot that has come free in time must not be lost to the clock.
            self.take_calls();
            let in_line = self.again.len().min(AGAIN_A_TURN);
            ready.extend(self.again.drain(..in_line));
            for key in ready.drain(..) {
                if let Some(session) = self.sessions.get_mut(key) {
                    session.leave_line();
                    self.step(key);
                }
            }
            self.move_stranded();
            while let Some(key) = self.deadlines.pop_expired(self.lent.now()) {
                self.step(key);
            }
            if self.lent.now() >= self.sweep_at {
                let now = self.lent.now();
                self.lent.connections.expire(now);
                self.lent.local.buffers.sweep();
                self.sweep_at = self.lent.now() + SWEEP;
            }
        }
    }

    fn timeout(&self, has_ready: bool) -> Option<Duration> {
        if has_ready || !self.again.is_empty() {
            return Some(Duration::ZERO);
        }
        let has_idle = !self.lent.connections.is_empty() || !self.lent.local.buffers.is_empty();
        let sweep = has_idle.then_some(self.sweep_at);
        let next = [self.deadlines.next(), sweep, self.drain_until].into_iter().flatten().min()?;
        // Reading the clock again costs less than waking a moment too early.
        Some(next.saturating_duration_since(Instant::now()).max(Duration::from_micros(1)))
    }

    fn note_events(&mut self, events: &[Event], ready: &mut Vec<SlotKey>) {
        for event in events {
            let concerned = match event.source {
                Source::Client(key) => Some(key),
                Source::Backend(key) => self.lent.connections.note(key, *event, self.lent.now()),
                Source::Waker => None,
            };
            let Some((key, session)) =
                concerned.and_then(|key| Some((key, self.sessions.get_mut(key)?)))
            else {
                continue;
            };
            if event.source == Source::Client(key) {
                session.note(*event);
            }
            if session.stand_in_line() {
                ready.push(key);
            }
        }
    }

    fn take_messages(&mut self, ready: &mut Vec<SlotKey>) {
        while let Ok(message) = self.inbox.try_recv() {
            match message {
                Message::Socket { socket, peer, refusal } => self.admit(socket, peer, refusal),
                Message::Drain(until) => self.begin_drain(until, ready),
            }
        }
    }

    /// Steps the sessions for which a place at a backend came free.
    fn take_calls(&mut self) {
        // Those that come meanwhile have their turn in the next round of the loop.
        for key in self.calls.try_iter().take(self.calls.len()).collect::<Vec<_>>() {
            if self.sessions.get_mut(key).is_some_and(Session::take_call) {
                self.step(key);
            } else {
                // It has ended or given up meanwhile: the slot is for the next one.
                self.lent.cluster.call_next();
            }
        }
    }

    /// Steps the sessions whose backend was marked down while they wait for its first byte.
    fn move_stranded(&mut self) {
        let generation = self.lent.cluster.generation();
        if std::mem::replace(&mut self.generation, generation) == generation {
            return;
        }
        for key in self.sessions.keys() {
            let context = self.lent.context(key);
            if self.sessions.get_mut(key).is_some_and(|session| session.is_stranded(&context)) {
                self.step(key);
            }
        }
    }

    /// Takes a connection over. Its first event comes at once, because it can be written to.
    fn admit(&mut self, socket: TcpStream, peer: SocketAddr, refusal: Option<Cause>) {
        self.lent.local.counters.connections.add(1);
        let patience = if refusal.is_some() { Timeout::Rejection } else { Timeout::Idle };
        let idle_until = self.lent.now() + self.lent.config.timeouts.of(patience);
        let key = self.sessions.insert(Session::new(socket, peer, refusal, idle_until));
        let session = self.sessions.get_mut(key).expect("it was inserted in the line above");
        if let Err(error) =
            self.lent.connections.poller().register(session.stream(), Source::Client(key))
        {
            log::warn!("cannot watch the connection of {peer}: {error}");
            self.close(key, Reason::Overload);
        }
    }

    /// Steps a session and does what it wants next. A panic inside costs this session and nothing
    /// else.
    fn step(&mut self, key: SlotKey) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let mut context = self.lent.context(key);
        let stepped = catch_unwind(AssertUnwindSafe(|| session.step(&mut context)));
        let verdict = stepped.unwrap_or(Verdict::Close(Reason::Panicked));
        match verdict {
            Verdict::Wait(deadline) => {
                debug_assert!(
                    deadline.at > self.lent.now(),
                    "a session waits for what has passed: {deadline:?}"
                );
                self.deadlines.set(key, deadline);
            }
            Verdict::Again => {
                self.deadlines.clear(key);
                if self.sessions.get_mut(key).is_some_and(Session::stand_in_line) {
                    self.again.push_back(key);
                }
            }
            Verdict::Close(reason) => self.close(key, reason),
        }
        if self.lent.local.lingering.len() > config::LINGERING {
            self.limit_lingering();
        }
    }

    fn close(&mut self, key: SlotKey, reason: Reason) {
        let Some(session) = self.sessions.remove(key) else {
            return;
        };
        self.deadlines.clear(key);
        self.lent.local.counters.closed(reason);
        self.session_count.fetch_sub(1, Ordering::Relaxed);
        if !session.is_refused() {
            self.served_count.fetch_sub(1, Ordering::Relaxed);
            if let Some(limit) = &self.client_limit {
                limit.leave(session.peer().ip());
            }
        }
        // A rejection has said more than this already.
        let level = if reason.is_error() && reason != Reason::Refused {
            log::Level::Info
        } else {
            log::Level::Debug
        };
        let (peer, stage, word) = (session.peer(), session.stage(), reason.word());
        let mut context = self.lent.context(key);
        let closed = catch_unwind(AssertUnwindSafe(|| {
            log::log!(level, "{peer} closed in stage {stage}: {word}: {}", reason.sentence());
            session.close(&mut context);
        }));
        if closed.is_err() {
            log::error!("{peer} could not be closed properly: a bug in the balancer");
        }
    }
}
