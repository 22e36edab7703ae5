//! One client connection's story, told as synchronous code that returns.
//!
//! Runs on the worker that owns the connection, owns what the connection needs (its socket, and during an exchange its buffers),
//! and must never wait: [`Session::step`] goes on until there is nothing to do *yet* and returns a [`Verdict`]. A session knows no
//! epoll, no thread, no channel and no other session; what it needs of its worker comes in a [`Context`].

mod answer;
mod attempt;
mod download;
mod ending;
mod exchange;
mod head;
mod outbound;
mod progress;
mod refusal;
mod seat;
mod splice;
mod trace;
mod tunnel;
mod upload;

use crate::config::{Config, Timeout};
use crate::error::Cause;
use crate::metrics::Counters;
use crate::net::{Buffers, Event, Pipes, SlotKey, Stream};
use crate::reason::Reason;
use crate::upstream::cluster::Cluster;
use crate::upstream::connections::Connections;
use crate::upstream::queue::Caller;
use crate::upstream::retry::Budget;
use exchange::Exchange;
use std::collections::VecDeque;
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

/// How many exchanges may end in one step.
const EXCHANGES_A_STEP: u32 = 16;

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

/// Why a session is stepped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    /// One of its sockets may be ready.
    Ready,
    /// Its deadline has passed, and nothing else has happened.
    Expired,
    /// It waits for a place at a backend, and one came free.
    Called,
}

/// What a worker lends a session for one step.
#[derive(Debug)]
pub struct Context<'w> {
    /// The time of this turn of the worker's loop.
    pub now: Instant,
    /// Why the session is stepped.
    pub hint: Hint,
    /// Whether the balancer is stopping: responses announce a close, idle connections end after a moment.
    pub draining: bool,
    /// The session's own key, by which its backend connection names it.
    pub key: SlotKey,
    /// How the session is called when a place at a backend comes free.
    pub caller: &'w Caller,
    /// Settings.
    pub config: &'w Config,
    /// The backends.
    pub cluster: &'w Cluster,
    /// The worker's connections to backends.
    pub connections: &'w mut Connections,
    /// The worker's buffers.
    pub buffers: &'w mut Buffers,
    /// The worker's pipes.
    pub pipes: &'w mut Pipes,
    /// The worker's counters.
    pub counters: &'w Counters,
    /// What may be sent again.
    pub budget: &'w Budget,
    /// The sessions of the worker that linger, in the order in which they began to.
    pub lingering: &'w mut VecDeque<SlotKey>,
    /// Randomness for request identifiers.
    pub rng: &'w mut fastrand::Rng,
    /// The value of a `Date` field.
    pub date: &'w str,
}

impl Context<'_> {
    /// Whether the session's deadline has passed. True for the state that set it, not for those that follow in the same step.
    fn has_expired(&self) -> bool {
        self.hint == Hint::Expired
    }

    fn deadline(&self, timeout: Timeout) -> Deadline {
        Deadline { timeout, at: self.now + self.config.timeouts.of(timeout) }
    }
}

/// The client's side of a session.
#[derive(Debug)]
struct Client {
    stream: Stream,
    peer: SocketAddr,
}

/// One client connection, from accept to close.
#[derive(Debug)]
pub struct Session {
    client: Client,
    exchange: Option<Box<Exchange>>,
    idle_until: Instant,
    refusal: Option<Cause>,
    /// Stands in the worker's line for its next step.
    is_in_line: bool,
    /// Empty lines that came since the last request; the limit holds however they are split.
    empty_lines: usize,
}

// An idle keep-alive client is this and its place in the deadline lists; everything else exists only during an exchange.
const _: () = assert!(size_of::<Session>() <= 192);

/// How a state ends.
#[derive(Debug)]
enum Flow {
    /// The next state is to be run at once.
    Goto(State),
    /// Back to the worker.
    Yield(Verdict),
    /// The exchange is over and the connection stays open.
    Done,
}

impl Flow {
    fn close(reason: Reason) -> Self {
        Self::Yield(Verdict::Close(reason))
    }

    fn wait(deadline: Deadline) -> Self {
        Self::Yield(Verdict::Wait(deadline))
    }
}

/// What an exchange is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Reading the request's head.
    Head,
    /// Choosing a backend and a connection to it.
    Dispatch,
    /// Taking in a whole chunked body, for a backend that knows no chunks.
    Collect,
    /// Waiting for a place at a backend.
    Queue,
    /// Waiting for a connect.
    Connect,
    /// Sending the request; an early answer is looked for.
    RequestBody,
    /// The request is sent; its answer is awaited.
    AwaitResponse,
    /// Passing the answer on.
    ResponseBody,
    /// Both ways, until both ends have closed.
    Tunnel,
    /// Sending an answer of our own.
    OwnAnswer,
    /// The last answer was sent; the client's bytes are dropped for a while, so that no reset destroys it.
    Linger,
}

impl Session {
    /// Takes over a socket. `refusal` is why it is not to be served, if it is one too many: that is what its
    /// first request is answered with.
    pub fn new(socket: TcpStream, peer: SocketAddr, refusal: Option<Cause>, idle_until: Instant) -> Self {
        Self {
            client: Client { stream: Stream::accepted(socket), peer },
            exchange: None,
            idle_until,
            refusal,
            is_in_line: false,
            empty_lines: 0,
        }
    }

    /// The socket, to be registered.
    pub fn stream(&self) -> &Stream {
        &self.client.stream
    }

    /// Notes an event on the client's socket.
    pub fn note(&mut self, event: Event) {
        self.client.stream.note(event);
    }

    /// Puts the session in line for a step; false if it stands there already: it has one place, however many events it has.
    pub fn stand_in_line(&mut self) -> bool {
        !std::mem::replace(&mut self.is_in_line, true)
    }

    /// It is its turn.
    pub fn leave_line(&mut self) {
        self.is_in_line = false;
    }

    /// Runs the session until there is nothing to do yet.
    pub fn step(&mut self, context: &mut Context<'_>) -> Verdict {
        if context.hint == Hint::Called && !self.exchange.as_mut().is_some_and(|exchange| exchange.take_call()) {
            // It found a place, or gave up, before the call came.
            context.cluster.call_next();
        }
        let is_lingering = self.exchange.as_ref().is_some_and(|exchange| exchange.state == State::Linger);
        if self.client.stream.is_broken() && !is_lingering {
            return Verdict::Close(Reason::ClientReset);
        }
        let mut ended = 0;
        loop {
            let Some(exchange) = &mut self.exchange else {
                match self.idle(context) {
                    Some(verdict) => return verdict,
                    None => continue,
                }
            };
            match exchange.step(&mut self.client, context) {
                Flow::Goto(state) => exchange.enter(state, &self.client, context),
                Flow::Yield(verdict) => return verdict,
                Flow::Done => {
                    self.end_exchange(context);
                    ended += 1;
                }
            }
            if ended == EXCHANGES_A_STEP {
                // A long pipeline that is answered at once must not keep the others waiting.
                return Verdict::Again;
            }
            context.hint = Hint::Ready;
        }
    }

    /// Whether it is worth a step because a backend was marked down.
    pub fn is_stranded(&self, context: &Context<'_>) -> bool {
        self.exchange.as_ref().is_some_and(|exchange| exchange.is_stranded(context))
    }

    /// Who the client is.
    pub fn peer(&self) -> SocketAddr {
        self.client.peer
    }

    /// What the session is doing, for the log.
    pub fn stage(&self) -> &'static str {
        self.exchange.as_ref().map_or("idle", |exchange| exchange.stage())
    }

    /// Gives back what the session holds. To be called once, when it is over for whatever reason.
    pub fn close(&mut self, context: &mut Context<'_>) {
        if let Some(mut exchange) = self.exchange.take() {
            if exchange.is_broken_off() {
                self.client.stream.reset_on_close();
            }
            exchange.log_summary(&self.client, context);
            exchange.abandon(context);
        }
    }

    /// Whether closing it now would cost somebody a response.
    pub fn is_busy(&self) -> bool {
        self.exchange.as_ref().is_some_and(|exchange| exchange.state != State::Linger)
    }

    /// Whether it is one too many.
    pub fn is_refused(&self) -> bool {
        self.refusal.is_some()
    }

    /// Nothing is going on: a request may begin, or the client may have closed.
    fn idle(&mut self, context: &mut Context<'_>) -> Option<Verdict> {
        if context.draining {
            // Not closed at once: a request may be on its way.
            self.idle_until = self.idle_until.min(context.deadline(Timeout::Grace).at);
        }
        if !self.client.stream.is_readable() {
            if !context.has_expired() {
                let timeout = match (self.is_refused(), context.draining) {
                    (true, _) => Timeout::Rejection,
                    (false, true) => Timeout::Grace,
                    (false, false) => Timeout::Idle,
                };
                return Some(Verdict::Wait(Deadline { timeout, at: self.idle_until }));
            }
            // A request may have come since the last events. One too many that says nothing is told unasked.
            if !self.is_refused() && self.client.stream.is_quiet() {
                return Some(Verdict::Close(if context.draining { Reason::Drained } else { Reason::IdleTimeout }));
            }
        }
        if self.client.stream.is_readable() {
            context.hint = Hint::Ready;
        }
        let mut exchange = Box::new(Exchange::new(context, self.refusal));
        exchange.empty_lines = self.empty_lines;
        self.exchange = Some(exchange);
        None
    }

    /// The next request, if the client has sent more; else the connection is idle.
    fn end_exchange(&mut self, context: &mut Context<'_>) {
        let exchange = self.exchange.take().expect("only a running exchange ends");
        let had_a_request = exchange.had_a_request();
        self.empty_lines = if had_a_request { 0 } else { exchange.empty_lines };
        if had_a_request {
            self.idle_until = context.deadline(Timeout::Idle).at;
        }
        if let Some(rest) = exchange.end(context) {
            self.exchange = Some(Box::new(Exchange::with_input(rest, context, self.refusal)));
        }
    }
}
