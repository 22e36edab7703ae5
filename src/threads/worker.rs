//! A worker: the thread that owns its connections from accept to close.
//!
//! Owns sessions, backend connections, buffers, deadlines and counters as plain data; blocks in one place, the poller's wait; and
//! must never make a call that waits anywhere else. This loop is the only place that matches on a [`Verdict`].

mod ending;

use super::client_limit::ClientLimit;
use super::clock::Clock;
use super::deadlines::Deadlines;
use super::handle::{Handle, Message};
use crate::config::{self, Config, Timeout};
use crate::error::Cause;
use crate::metrics::Counters;
use crate::net::{Buffers, Event, Pipes, Poller, SlotKey, Slots, Source};
use crate::reason::Reason;
use crate::session::{Context, Hint, Session, Verdict};
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
/// How many sessions that moved their share already get another turn before events are looked at: with many large bodies on the
/// way, small answers do not wait for all of them.
const AGAIN_A_TURN: usize = 8;
/// How often idle backend connections are looked through for expired ones.
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
    config: Arc<Config>,
    cluster: Arc<Cluster>,
    inbox: Receiver<Message>,
    /// Sessions that waited for a place at a backend and are called.
    calls: Receiver<SlotKey>,
    caller: Caller,
    client_limit: Option<Arc<ClientLimit>>,
    session_count: Arc<AtomicUsize>,
    served_count: Arc<AtomicUsize>,
    counters: Arc<Counters>,
    sessions: Slots<Session>,
    connections: Connections,
    deadlines: Deadlines,
    buffers: Buffers,
    pipes: Pipes,
    budget: Arc<Budget>,
    rng: fastrand::Rng,
    /// Sessions that have more to do, in line for their next step.
    again: VecDeque<SlotKey>,
    /// Sessions that linger, oldest first; also some that have ended since.
    lingering: VecDeque<SlotKey>,
    clock: Clock,
    sweep_at: Instant,
    is_draining: bool,
    drain_until: Option<Instant>,
    /// The generation of the healthy set for which sessions were last looked through.
    generation: u64,
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
        let worker = Self {
            config: shared.config,
            cluster: shared.cluster,
            inbox,
            calls,
            caller: Caller::new(calling, poller.waker()),
            client_limit: shared.client_limit,
            session_count: Arc::clone(&handle.sessions),
            served_count: Arc::clone(&handle.served),
            counters,
            sessions: Slots::default(),
            connections: Connections::new(poller),
            deadlines: Deadlines::default(),
            buffers: Buffers::default(),
            pipes,
            budget: shared.budget,
            rng: fastrand::Rng::new(),
            again: VecDeque::new(),
            lingering: VecDeque::new(),
            clock,
            sweep_at,
            is_draining: false,
            drain_until: None,
            generation: 0,
        };
        worker.cluster.wake_at_transitions(waker);
        Ok((worker, handle))
    }

    /// Serves until it is told to drain and everything has ended. Returns how many connections had to be cut.
    pub fn run(mut self) -> usize {
        let mut events: Vec<Event> = Vec::new();
        let mut ready: Vec<SlotKey> = Vec::new();
        loop {
            // Before the wait: what has happened to idle backend connections by the time a new client's request is read is then
            // in the same batch of events as the request, or was seen earlier.
            self.take_messages(&mut ready);
            if let Some(cut) = self.drained() {
                return cut;
            }
            let (timeout, inbox, calls) = (self.timeout(!ready.is_empty()), &self.inbox, &self.calls);
            let (cluster, generation) = (&self.cluster, self.generation);
            let nothing_pending = || inbox.is_empty() && calls.is_empty() && cluster.generation() == generation;
            if let Err(error) = self.connections.poller().wait(&mut events, timeout, nothing_pending) {
                // Cannot be, short of a bug; serving on with hints missed beats ending all connections.
                log::error!("waiting for events failed: {error}");
            }
            if self.clock.update() {
                self.budget.tick(self.clock.now());
            }
            // First all flags, then the steps: an idle connection that the backend has closed must not be checked out.
            self.note_events(&events, &mut ready);
            let in_line = self.again.len().min(AGAIN_A_TURN);
            ready.extend(self.again.drain(..in_line));
            for key in ready.drain(..) {
                if let Some(session) = self.sessions.get_mut(key) {
                    session.leave_line();
                    self.step(key, Hint::Ready);
                }
            }
            self.take_calls();
            self.move_stranded();
            while let Some(key) = self.deadlines.pop_expired(self.clock.now()) {
                self.step(key, Hint::Expired);
            }
            if self.clock.now() >= self.sweep_at {
                self.connections.expire(self.clock.now());
                self.sweep_at = self.clock.now() + SWEEP;
            }
        }
    }

    fn timeout(&self, has_ready: bool) -> Option<Duration> {
        if has_ready || !self.again.is_empty() {
            return Some(Duration::ZERO);
        }
        let sweep = (!self.connections.is_empty()).then_some(self.sweep_at);
        let next = [self.deadlines.next(), sweep, self.drain_until].into_iter().flatten().min()?;
        // Reading the clock again costs less than waking a moment too early.
        Some(next.saturating_duration_since(Instant::now()).max(Duration::from_micros(1)))
    }

    fn note_events(&mut self, events: &[Event], ready: &mut Vec<SlotKey>) {
        for event in events {
            let concerned = match event.source {
                Source::Client(key) => Some(key),
                Source::Backend(key) => self.connections.note(key, *event, self.clock.now()),
                Source::Waker => None,
            };
            let Some((key, session)) = concerned.and_then(|key| Some((key, self.sessions.get_mut(key)?))) else {
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
            if self.sessions.get_mut(key).is_some() {
                self.step(key, Hint::Called);
            } else {
                // It has ended meanwhile: the place is for the next one.
                self.cluster.call_next();
            }
        }
    }

    /// Steps the sessions whose backend was marked down while they wait for its first byte.
    fn move_stranded(&mut self) {
        let generation = self.cluster.generation();
        if std::mem::replace(&mut self.generation, generation) == generation {
            return;
        }
        for key in self.sessions.keys() {
            if self.with_session(key, Hint::Ready, |session, context| session.is_stranded(context)) == Some(true) {
                self.step(key, Hint::Ready);
            }
        }
    }

    /// Takes a connection over. Its first event comes at once, because it can be written to.
    fn admit(&mut self, socket: TcpStream, peer: SocketAddr, refusal: Option<Cause>) {
        self.counters.connections.add(1);
        let patience = if refusal.is_some() { Timeout::Rejection } else { Timeout::Idle };
        let idle_until = self.clock.now() + self.config.timeouts.of(patience);
        let key = self.sessions.insert(Session::new(socket, peer, refusal, idle_until));
        let session = self.sessions.get_mut(key).expect("it was inserted in the line above");
        if let Err(error) = self.connections.poller().register(session.stream(), Source::Client(key)) {
            log::warn!("cannot watch the connection of {peer}: {error}");
            self.close(key, Reason::Overload);
        }
    }

    /// Steps a session and does what it wants next. A panic inside costs this session and nothing else.
    fn step(&mut self, key: SlotKey, hint: Hint) {
        let Some(verdict) = self.with_session(key, hint, |session, context| {
            catch_unwind(AssertUnwindSafe(|| session.step(context))).unwrap_or(Verdict::Close(Reason::Panicked))
        }) else {
            return;
        };
        match verdict {
            Verdict::Wait(deadline) => self.deadlines.set(key, deadline),
            Verdict::Again => {
                self.deadlines.clear(key);
                if self.sessions.get_mut(key).is_some_and(Session::stand_in_line) {
                    self.again.push_back(key);
                }
            }
            Verdict::Close(reason) => self.close(key, reason),
        }
        if self.lingering.len() > config::LINGERING {
            self.limit_lingering();
        }
    }

    fn close(&mut self, key: SlotKey, reason: Reason) {
        self.with_session(key, Hint::Ready, |session, context| {
            // A refusal has said more than this already.
            let level = if reason.is_error() && reason != Reason::Refused { log::Level::Info } else { log::Level::Debug };
            let (peer, stage, word) = (session.peer(), session.stage(), reason.word());
            log::log!(level, "{peer} closed in stage {stage}: {word}: {}", reason.sentence());
            if catch_unwind(AssertUnwindSafe(|| session.close(context))).is_err() {
                log::error!("{} could not be closed properly: a bug in the balancer", session.peer());
            }
        });
        if let Some(session) = self.sessions.remove(key) {
            self.deadlines.clear(key);
            self.counters.closed(reason);
            self.session_count.fetch_sub(1, Ordering::Relaxed);
            if !session.is_refused() {
                self.served_count.fetch_sub(1, Ordering::Relaxed);
                if let Some(limit) = &self.client_limit {
                    limit.leave(session.peer().ip());
                }
            }
        }
    }

    /// Lends a session everything it needs.
    fn with_session<R>(&mut self, key: SlotKey, hint: Hint, run: impl FnOnce(&mut Session, &mut Context<'_>) -> R) -> Option<R> {
        let session = self.sessions.get_mut(key)?;
        let mut context = Context {
            now: self.clock.now(),
            hint,
            draining: self.is_draining,
            key,
            caller: &self.caller,
            config: &self.config,
            cluster: &self.cluster,
            connections: &mut self.connections,
            buffers: &mut self.buffers,
            pipes: &mut self.pipes,
            counters: &self.counters,
            budget: &self.budget,
            lingering: &mut self.lingering,
            rng: &mut self.rng,
            date: self.clock.date(),
        };
        Some(run(session, &mut context))
    }
}
