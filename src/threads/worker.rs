//! A worker: the thread that owns its connections from accept to close.
//!
//! Owns sessions, backend connections, buffers, deadlines and counters as plain data; blocks in one
//! place, the poller's wait; and must never make a call that waits anywhere else. This loop is the
//! only place that matches on a [`Verdict`].

mod ending;

use super::acceptor::{Accepted, Acceptor};
use super::handle::{Handle, Inbox, Message};
use crate::admission::{Admission, Permit, Permits};
use crate::config::{self, Settings, Timeout};
use crate::metrics::Counters;
use crate::net::{Event, Pipes, Poller, Slab, Source, Timers, Token};
use crate::reason::Reason;
use crate::session::{Local, Resources, Session, Shared, Verdict};
use crate::stats::Recorder;
use crate::upstream::queue::{Grant, Mailbox};
use crossbeam_channel::Receiver;
use std::collections::VecDeque;
use std::io;
use std::net::TcpStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Sockets and messages that may wait for one worker.
const INBOX: usize = 4096;
/// Sessions of the run queue that are stepped between two looks at events: small responses do not
/// wait for all large bodies.
const RUN_QUEUE_BATCH: usize = 8;
/// Connections that are accepted in one turn: open ones must not wait for a burst of new ones.
const ACCEPT_BATCH: usize = 8;
/// The time between two sweeps, which close expired idle backend connections, free idle buffers and
/// move stranded sessions.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// The thread's state.
#[derive(Debug)]
pub struct Worker {
    inbox: Inbox,
    /// Slots at backends for queued requests.
    grants: Receiver<Grant>,
    /// The sessions. A marked one is scheduled: in the run queue, or to be stepped next.
    sessions: Slab<Session>,
    timers: Timers,
    resources: Resources,
    /// Sessions that have more to do, in the order of their next steps.
    run_queue: VecDeque<Token>,
    sweep_at: Instant,
    drain_until: Option<Instant>,
    /// The generation of the snapshot at the last search for stranded sessions.
    generation: u64,
    /// The number of removals at the last search for tunnels to removed backends.
    removals: u64,
    /// Whether stranded sessions found no backend with capacity: each sweep looks again.
    has_stranded: bool,
}

impl Worker {
    /// A worker and the handle to it.
    pub fn new(
        shared: Shared,
        admission: Arc<Admission>,
        max_pipes: usize,
        counters: Arc<Counters>,
        recorder: Recorder,
    ) -> io::Result<(Self, Handle)> {
        let poller = Poller::new()?;
        let (granting, grants) = crossbeam_channel::unbounded();
        let (handle, inbox) =
            Handle::new(INBOX, Permits::new(admission), poller.waker(), Arc::clone(&counters));
        shared.cluster.wake_at_transitions(poller.waker());
        let mailbox = Mailbox::new(granting, poller.waker());
        let local = Local::new(poller, Pipes::new(max_pipes), counters, recorder);
        let resources = Resources::new(shared, mailbox, local);
        let worker = Self {
            inbox,
            grants,
            sessions: Slab::default(),
            timers: Timers::default(),
            sweep_at: resources.now() + SWEEP_INTERVAL,
            resources,
            run_queue: VecDeque::new(),
            drain_until: None,
            generation: 0,
            removals: 0,
            has_stranded: false,
        };
        Ok((worker, handle))
    }

    /// Serves until the end of a drain. Returns the number of aborted connections.
    pub fn run(mut self, mut acceptor: Acceptor) -> usize {
        let mut events: Vec<Event> = Vec::new();
        let mut ready: Vec<Token> = Vec::new();
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        self.resources.local.counters.thread.add(u64::from(thread.unsigned_abs()));
        loop {
            self.resources.local.counters.turns.add(1);
            // Before the wait: what has happened to idle backend connections by the time a new
            // client's request is read is then in the same batch of events as the request, or was
            // seen earlier.
            self.take_messages(&mut acceptor, &mut ready);
            if let Some(aborted) = self.drained() {
                return aborted;
            }
            let timeout = self.timeout(!ready.is_empty(), acceptor.deadline());
            let (inbox, grants) = (&self.inbox, &self.grants);
            let (cluster, generation) = (&self.resources.shared.cluster, self.generation);
            let nothing_pending =
                || inbox.is_empty() && grants.is_empty() && cluster.generation() == generation;
            if let Err(error) =
                self.resources.local.poller.wait(&mut events, timeout, nothing_pending)
            {
                // Only a bug can cause this. Events may be missed, which is better than an end of all
                // connections.
                log::error!("waiting for events failed: {error}");
            }
            if self.resources.local.clock.update() {
                self.resources.shared.budget.tick(self.resources.now());
            }
            // First all flags, then the steps: an idle connection that the backend has closed must
            // not be checked out.
            self.note_events(&events, &mut acceptor, &mut ready);
            // Before the steps, so that a grant that has arrived in time wins over the timeout.
            self.take_grants();
            let batch = self.run_queue.len().min(RUN_QUEUE_BATCH);
            ready.extend(self.run_queue.drain(..batch));
            for token in ready.drain(..) {
                if self.sessions.unmark(token) {
                    self.step(token);
                }
            }
            self.note_transition();
            while let Some(token) = self.timers.pop_expired(self.resources.now()) {
                self.step(token);
            }
            self.accept(&mut acceptor);
            if self.resources.now() >= self.sweep_at {
                self.sweep();
            }
        }
    }

    fn sweep(&mut self) {
        let now = self.resources.now();
        self.resources.connections.expire(now);
        self.resources.local.buffers.sweep();
        if self.has_stranded {
            self.move_stranded();
        }
        self.sweep_at = now + SWEEP_INTERVAL;
    }

    fn timeout(&self, has_ready: bool, accept_at: Option<Instant>) -> Option<Duration> {
        if has_ready || !self.run_queue.is_empty() {
            return Some(Duration::ZERO);
        }
        // A stranded session has a backend connection, too.
        let has_idle =
            !self.resources.connections.is_empty() || !self.resources.local.buffers.is_empty();
        let sweep = has_idle.then_some(self.sweep_at);
        let next =
            [self.timers.next(), sweep, accept_at, self.drain_until].into_iter().flatten().min()?;
        // From the beginning of this iteration on: the wait ends late by the length of the iteration
        // at most, and never early.
        Some(next.saturating_duration_since(self.resources.now()).max(Duration::from_micros(1)))
    }

    fn note_events(&mut self, events: &[Event], acceptor: &mut Acceptor, ready: &mut Vec<Token>) {
        for event in events {
            let concerned = match event.source {
                Source::Client(token) => Some(token),
                Source::Backend(token) => {
                    self.resources.connections.note(token, *event, self.resources.now())
                }
                Source::Waker => None,
                Source::Listener(number) => {
                    acceptor.note(number);
                    None
                }
            };
            let Some((token, (session, is_new))) =
                concerned.and_then(|token| Some((token, self.sessions.mark(token)?)))
            else {
                continue;
            };
            if event.source == Source::Client(token) {
                session.note(*event);
            }
            if is_new {
                ready.push(token);
            }
        }
    }

    /// Marks a session as scheduled; false if it is marked already, or has ended.
    fn schedule(&mut self, token: Token) -> bool {
        self.sessions.mark(token).is_some_and(|(_, is_new)| is_new)
    }

    fn take_messages(&mut self, acceptor: &mut Acceptor, ready: &mut Vec<Token>) {
        while let Some(message) = self.inbox.next() {
            match message {
                Message::Connection { socket, permit } => self.add_session(socket, permit),
                Message::Settings(settings) => self.apply(settings),
                Message::StartAccepting => {
                    acceptor.start(&self.resources.local.poller, self.resources.now());
                }
                Message::StopAccepting(_stopped) => acceptor.stop(&self.resources.local.poller),
                Message::Drain(until) => self.begin_drain(until, ready),
                Message::Turn => {}
            }
        }
    }

    /// Swaps the settings between two steps.
    fn apply(&mut self, settings: Arc<Settings>) {
        let shared = &mut self.resources.shared;
        let old = std::mem::replace(&mut shared.settings, settings);
        let (old, new) = (&old.timeouts, &shared.settings.timeouts);
        let has_tunnel_drain_changed = old.tunnel_drain != new.tunnel_drain;
        if old != new {
            self.timers.change_durations();
        }
        if has_tunnel_drain_changed {
            self.limit_tunnels();
        }
    }

    /// Steps the sessions whose queued requests have a grant. If a session has ended, its grant is
    /// dropped, and the slot goes to the next request.
    fn take_grants(&mut self) {
        // Grants that arrive meanwhile are for the next iteration.
        for _ in 0..self.grants.len() {
            let Ok(grant) = self.grants.try_recv() else {
                return;
            };
            let token = grant.session;
            if self.sessions.get_mut(token).is_some_and(|session| session.grant(grant)) {
                self.step(token);
            }
        }
    }

    /// Closes idle connections and moves sessions after a transition.
    fn note_transition(&mut self) {
        let generation = self.resources.shared.cluster.generation();
        if std::mem::replace(&mut self.generation, generation) == generation {
            return;
        }
        // A backend that has left the pool keeps no idle connection.
        let now = self.resources.now();
        self.resources.connections.expire(now);
        let removals = self.resources.shared.cluster.removals();
        if std::mem::replace(&mut self.removals, removals) != removals {
            self.limit_tunnels();
        }
        self.move_stranded();
    }

    /// Steps the sessions whose backend was marked down while they wait for its first byte. A
    /// session stays stranded while the other backends are full.
    fn move_stranded(&mut self) {
        self.has_stranded = false;
        for token in self.sessions.tokens() {
            if self.is_stranded(token) {
                self.step(token);
                self.has_stranded |= self.is_stranded(token);
            }
        }
    }

    fn is_stranded(&mut self, token: Token) -> bool {
        self.sessions.get_mut(token).is_some_and(|session| session.is_stranded())
    }

    /// Accepts new connections. Their first events come after the next wait: what has happened to
    /// idle backend connections by then is in the same batch.
    fn accept(&mut self, acceptor: &mut Acceptor) {
        for _ in 0..ACCEPT_BATCH {
            match acceptor.accept(&self.resources.local.poller, self.resources.now()) {
                Some(Accepted::Ours(socket, permit)) => self.add_session(socket, permit),
                Some(Accepted::Gone) => {}
                None => break,
            }
        }
        acceptor.end_turn(&self.resources.local.poller, self.resources.now());
    }

    /// Adds a connection. Its first event follows at once, because the socket is writable.
    fn add_session(&mut self, socket: TcpStream, permit: Permit) {
        self.resources.local.counters.connections.add(1);
        if let Some(cause) = permit.rejection() {
            self.resources.local.counters.rejected(cause);
        }
        let timeout = if permit.rejection().is_some() { Timeout::Rejection } else { Timeout::Idle };
        let idle_until = self.resources.now() + self.resources.shared.settings.timeouts.of(timeout);
        let token = self.sessions.insert(Session::new(socket, permit, idle_until));
        let session = self.sessions.get_mut(token).expect("it was inserted in the line above");
        if let Err(error) =
            self.resources.local.poller.register(session.stream(), Source::Client(token))
        {
            log::warn!(
                event = "limit";
                "cannot watch the connection of {}: {error}", session.peer()
            );
            self.close(token, Reason::Overload);
        }
    }

    /// Steps a session and applies its verdict. A panic ends this session only.
    fn step(&mut self, token: Token) {
        let Some(session) = self.sessions.get_mut(token) else {
            return;
        };
        let mut context = self.resources.context(token);
        let stepped = catch_unwind(AssertUnwindSafe(|| session.step(&mut context)));
        let verdict = stepped.unwrap_or(Verdict::Close(Reason::Panicked));
        match verdict {
            Verdict::Wait(deadline) => {
                debug_assert!(
                    deadline.at > self.resources.now(),
                    "a session waits for a deadline that has passed: {deadline:?}"
                );
                self.timers.set(token, deadline);
            }
            Verdict::Again => {
                self.timers.clear(token);
                if self.schedule(token) {
                    self.run_queue.push_back(token);
                }
            }
            Verdict::Close(reason) => self.close(token, reason),
        }
        if self.resources.local.lingering.len() > config::MAX_LINGERING {
            self.limit_lingering();
        }
    }

    fn close(&mut self, token: Token, reason: Reason) {
        let Some(session) = self.sessions.remove(token) else {
            return;
        };
        self.timers.clear(token);
        self.resources.local.counters.closed(reason);
        // A request has one line at level info: its access record.
        let level = if reason.is_error() && !session.has_record() {
            log::Level::Info
        } else {
            log::Level::Debug
        };
        let (peer, stage, code) = (session.peer(), session.stage(), reason.code());
        let mut context = self.resources.context(token);
        let closed = catch_unwind(AssertUnwindSafe(|| {
            log::log!(level, "{peer} closed in stage {stage}: {code}: {}", reason.description());
            session.close(reason, &mut context);
        }));
        if closed.is_err() {
            log::error!("{peer} could not be closed properly: a bug in the balancer");
        }
    }
}
