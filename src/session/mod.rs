//! One client connection as synchronous code that returns.
//!
//! Runs on the worker that owns the connection, owns the connection's state, and must never wait:
//! [`Session::step`] runs until there is nothing to do *yet* and returns a [`Verdict`]. A session
//! uses no epoll, thread, channel or other session; the worker's state comes in a [`Context`]. This
//! file has the order of the phases; each phase has a file of its own.

mod access_log;
mod attempt;
mod client;
mod closing;
mod context;
mod dispatch;
mod download;
mod exchange;
mod flow;
mod head;
mod progress;
mod record;
mod replay;
mod request;
mod request_text;
mod response;
mod splice;
mod stop;
#[cfg(test)]
mod tests;
mod trace;
mod tunnel;
mod upload;

pub use context::{Context, Local, Resources, Shared, Verdict};
pub use record::AccessRecord;

use crate::admission::Permit;
use crate::error::Cause;
use crate::net::{Event, Stream};
use crate::reason::Reason;
use crate::upstream::queue::Grant;
use crate::wire::request_id::RequestId;
use client::Client;
use closing::{Closed, Closing};
use exchange::Exchange;
use flow::Flow;
use head::{Head, HeadReader};
use record::ExchangeData;
use request::{ReplyOptions, Request};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;
use stop::Stop;
use tunnel::{Tunnel, Tunneled};

/// The maximum number of exchanges that end in one step.
const EXCHANGES_PER_STEP: u32 = 16;

/// One client connection, from accept to close.
#[derive(Debug)]
pub struct Session {
    client: Client,
    phase: Phase,
}

/// The phase of a connection.
#[derive(Debug)]
enum Phase {
    /// The connection is idle, or the head of a request is being received.
    Head(HeadReader),
    /// A valid request is being served.
    Exchange(Box<Exchange>),
    /// The connection was upgraded to another protocol.
    Tunnel(Box<Tunnel>),
    /// A response of our own is being sent, or the connection lingers before its close.
    Closing(Box<Closing>),
}

// An idle keep-alive client takes 144 bytes: its session, 8 further bytes of the entry in the slab,
// and the 32 of its timer. All else exists only during an exchange. (Unit tests have larger
// streams.)
const _: () = assert!(cfg!(test) || size_of::<Session>() <= 104);

/// The result of a phase.
enum Next {
    /// Another phase, which runs at once.
    Phase(Phase),
    /// The end of the step.
    Yield(Verdict),
}

impl Session {
    /// A session on this socket. A connection over a limit ([`Permit::rejection`]) gets an error
    /// response with that cause to its first request.
    pub fn new(socket: TcpStream, permit: Permit, idle_until: Instant) -> Self {
        Self {
            client: Client::new(socket, permit),
            phase: Phase::Head(HeadReader::first(idle_until)),
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

    /// The client's address.
    pub fn peer(&self) -> SocketAddr {
        self.client.peer()
    }

    /// Whether the client would lose a response, or a tunnel, if the connection closed now.
    pub fn is_busy(&self) -> bool {
        match &self.phase {
            Phase::Head(_) => !self.client.input.is_empty(),
            Phase::Exchange(_) | Phase::Tunnel(_) => true,
            Phase::Closing(closing) => !closing.is_lingering(),
        }
    }

    /// Ends a lingering close at the next step, because there are too many of them.
    pub fn shorten_linger(&mut self, cx: &Context<'_>) {
        if let Phase::Closing(closing) = &mut self.phase {
            closing.cut_short(cx);
        }
    }

    /// Passes the queue's grant to the queued request. False if the request does not wait for it
    /// any more: the slot then goes to the next one.
    pub fn grant(&mut self, grant: Grant) -> bool {
        match &mut self.phase {
            Phase::Exchange(exchange) if !self.client.stream.is_broken() => exchange.grant(grant),
            _ => false,
        }
    }

    /// Whether the backend of the request was marked down: a step moves the request to another one
    /// that has capacity.
    pub fn is_stranded(&self) -> bool {
        matches!(&self.phase, Phase::Exchange(exchange) if exchange.is_stranded())
    }

    /// Whether it is a tunnel to a backend that was removed: a step sets its last deadline.
    pub fn note_removal(&mut self) -> bool {
        match &mut self.phase {
            Phase::Tunnel(tunnel) => tunnel.note_removal(),
            _ => false,
        }
    }

    /// Runs the session until there is nothing to do yet.
    pub fn step(&mut self, cx: &mut Context<'_>) -> Verdict {
        let is_lingering = matches!(&self.phase, Phase::Closing(closing) if closing.is_lingering());
        if self.client.stream.is_broken() && !is_lingering {
            return Verdict::Close(Reason::ClientReset);
        }
        let mut ended = 0;
        loop {
            let next = match &mut self.phase {
                Phase::Head(_) => self.read_head(cx),
                Phase::Exchange(_) => self.serve(cx),
                Phase::Tunnel(tunnel) => match tunnel.step(&mut self.client, cx) {
                    Ok(Tunneled::Wait(deadline)) => Next::Yield(Verdict::Wait(deadline)),
                    Ok(Tunneled::BudgetUsed) => Next::Yield(Verdict::Again),
                    Err(reason) => Next::Yield(Verdict::Close(reason)),
                },
                Phase::Closing(closing) => match closing.step(&mut self.client, cx) {
                    Closed::Wait(deadline) => Next::Yield(Verdict::Wait(deadline)),
                    Closed::BudgetUsed => Next::Yield(Verdict::Again),
                    Closed::StaysOpen => Next::Phase(Phase::Head(HeadReader::next(cx))),
                    Closed::Over(reason) => Next::Yield(Verdict::Close(reason)),
                },
            };
            match next {
                Next::Yield(verdict) => {
                    self.client.recycle(&mut cx.local.buffers);
                    return verdict;
                }
                Next::Phase(phase) => {
                    ended += u32::from(matches!(phase, Phase::Head(_)));
                    self.phase = phase;
                }
            }
            if ended == EXCHANGES_PER_STEP {
                // A long pipeline with immediate responses must not starve other sessions.
                return Verdict::Again;
            }
        }
    }

    /// Phase `Head`.
    fn read_head(&mut self, cx: &mut Context<'_>) -> Next {
        let Phase::Head(reader) = &mut self.phase else {
            unreachable!("a head is read in its phase");
        };
        let cause = match reader.read(&mut self.client, cx) {
            Ok(Head::Wait(deadline)) => return Next::Yield(Verdict::Wait(deadline)),
            Ok(Head::Complete(length)) => {
                match Request::accept(&mut self.client, reader, length, cx) {
                    Ok((request, upload, data)) => {
                        self.client.sent = 0;
                        let is_served = u64::from(self.client.rejection().is_none());
                        cx.local.counters.requests.add(is_served);
                        return Next::Phase(Phase::Exchange(Box::new(Exchange::new(
                            request, upload, data,
                        ))));
                    }
                    Err(cause) => cause,
                }
            }
            Err(Stop::Reject(cause)) => cause,
            Err(Stop::Close(reason)) => return Next::Yield(Verdict::Close(reason)),
            Err(Stop::AttemptFailed(_)) => {
                unreachable!("no attempt is made before there is a request")
            }
        };
        self.reject_head(cause, cx)
    }

    /// Responds to an invalid head with an error and records it.
    fn reject_head(&mut self, cause: Cause, cx: &mut Context<'_>) -> Next {
        cx.local.counters.failed(cause);
        self.client.sent = 0;
        let request_id = RequestId::generate(cx.local.rng.u128(..));
        let mut data = ExchangeData::new(self.client.peer(), request_id, cx.now);
        data.record_rejection(cause);
        let request = &Request::rejected(self.client.input.unread(), self.client.peer().ip());
        let options = ReplyOptions { request, request_id: &data.request_id, keeps_open: false };
        let closing = Closing::reject(cause, options, &mut self.client, cx);
        cx.record(&AccessRecord {
            data: &data,
            stage: "head",
            reason: None,
            backend: None,
            is_reused: false,
            attempts: 0,
            bytes_out: self.client.output.len() as u64,
            ended: cx.now,
        });
        Next::Phase(Phase::Closing(Box::new(closing)))
    }

    /// Phase `Exchange`.
    fn serve(&mut self, cx: &mut Context<'_>) -> Next {
        let Phase::Exchange(exchange) = &mut self.phase else {
            unreachable!("a request is served in its phase");
        };
        let flow = exchange.step(&mut self.client, cx);
        if matches!(flow, Flow::Done | Flow::Closing(_)) {
            exchange.record(None, &self.client, cx);
        }
        match flow {
            Flow::Wait(deadline) => Next::Yield(Verdict::Wait(deadline)),
            Flow::BudgetUsed => Next::Yield(Verdict::Again),
            Flow::Goto(_) => unreachable!("an exchange runs its states by itself"),
            Flow::Close(reason) => Next::Yield(Verdict::Close(reason)),
            Flow::Closing(closing) => Next::Phase(Phase::Closing(closing)),
            Flow::Done => Next::Phase(Phase::Head(HeadReader::next(cx))),
            Flow::Upgraded => {
                let idle = Phase::Head(HeadReader::next(cx));
                let Phase::Exchange(exchange) = std::mem::replace(&mut self.phase, idle) else {
                    unreachable!("the phase was an exchange");
                };
                cx.local.counters.tunnels_opened.add(1);
                Next::Phase(Phase::Tunnel(Box::new(exchange.into_tunnel(cx))))
            }
        }
    }

    /// The stage of the session, for the log.
    pub fn stage(&self) -> &'static str {
        match &self.phase {
            Phase::Head(_) if self.client.input.is_empty() => "idle",
            Phase::Head(_) => "head",
            Phase::Exchange(exchange) => exchange.stage(),
            Phase::Tunnel(_) => "tunnel",
            Phase::Closing(closing) if closing.is_lingering() => "linger",
            Phase::Closing(_) => "error response",
        }
    }

    /// Whether the last request has an access record, or gets one from [`Session::close`].
    pub fn has_record(&self) -> bool {
        !matches!(self.phase, Phase::Head(_))
    }

    /// Ends the session and releases its resources; `reason` is why the connection closes.
    pub fn close(mut self, reason: Reason, cx: &mut Context<'_>) {
        match self.phase {
            Phase::Exchange(mut exchange) => {
                if exchange.must_close_with_reset(&self.client) {
                    self.client.stream.reset_on_close();
                }
                // Released first, so that a panic in the record cannot leave anything in use.
                exchange.release(cx);
                exchange.record(Some(reason), &self.client, cx);
            }
            Phase::Tunnel(tunnel) => {
                cx.local.counters.tunnels_closed.add(1);
                tunnel.close(reason, &self.client, cx);
            }
            Phase::Head(_) | Phase::Closing(_) => {}
        }
        self.client.input.clear();
        self.client.output.clear();
        self.client.recycle(&mut cx.local.buffers);
    }
}
