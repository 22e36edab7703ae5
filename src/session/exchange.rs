//! One request with its answer: what is kept about it while it lasts, and its states.

use super::answer::Answer;
use super::attempt::{Attempt, History};
use super::download::Download;
use super::ending::Ending;
use super::outbound::Outbound;
use super::seat::Seat;
use super::tunnel::TunnelEnds;
use super::upload::{Collected, Upload};
use super::{Client, Context, Deadline, Flow, State, Verdict};
use crate::config::Timeout;
use crate::error::Cause;
use crate::net::Buffer;
use crate::wire::head_end::HeadEnd;
use crate::wire::request::RequestHead;
use crate::wire::rewrite::RequestEnd;
use crate::wire::{Body, Version};
use std::time::Instant;

/// What the rest of the exchange needs to know about the request once its head is written anew.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) is_head: bool,
    pub(super) version: Version,
    pub(super) is_persistent: bool,
    pub(super) accepts_json: bool,
    pub(super) expects_continue: bool,
    pub(super) is_idempotent: bool,
    pub(super) is_chunked: bool,
    pub(super) has_host: bool,
    pub(super) websocket: bool,
    /// Method and target, if the log wants them.
    pub(super) label: Option<Box<str>>,
    pub(super) started: Instant,
}

impl Request {
    /// Before the head was understood: what is safe to assume.
    fn unknown(now: Instant) -> Self {
        Self {
            is_head: false,
            version: Version::Http11,
            is_persistent: false,
            accepts_json: false,
            expects_continue: false,
            is_idempotent: false,
            is_chunked: false,
            has_host: true,
            websocket: false,
            label: None,
            started: now,
        }
    }

    pub(super) fn from_head(head: &RequestHead<'_, '_>, now: Instant) -> Self {
        let label = || format!("{} {}", head.method, head.target.path).into_boxed_str();
        Self {
            is_head: head.method == "HEAD",
            version: head.version,
            is_persistent: head.is_persistent(),
            accepts_json: head.accepts_json,
            expects_continue: head.expects_continue,
            is_idempotent: head.is_idempotent(),
            is_chunked: head.body == Body::Chunked,
            has_host: head.host.is_some(),
            websocket: head.websocket,
            label: log::log_enabled!(log::Level::Info).then(label),
            started: now,
        }
    }
}

/// One request with its answer.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) state: State,
    /// Why the connection is not to be served, if it is one too many.
    pub(super) refusal: Option<Cause>,
    /// From the client, not used yet.
    pub(super) input: Buffer,
    /// For the client, not sent yet.
    pub(super) output: Buffer,
    pub(super) empty_lines: usize,
    pub(super) head_end: HeadEnd,
    pub(super) head_deadline: Option<Deadline>,
    pub(super) request: Request,
    pub(super) request_end: Option<RequestEnd>,
    pub(super) upload: Upload,
    pub(super) outbound: Outbound,
    pub(super) collected: Collected,
    pub(super) seat: Seat,
    pub(super) history: History,
    pub(super) attempt: Attempt,
    pub(super) answer: Answer,
    pub(super) download: Download,
    pub(super) tunnel_ends: TunnelEnds,
    pub(super) ending: Ending,
}

impl Exchange {
    pub(super) fn new(context: &mut Context<'_>, refusal: Option<Cause>) -> Self {
        let input = context.buffers.take();
        Self::with_input(input, context, refusal)
    }

    /// An exchange that begins with bytes that came behind the one before.
    pub(super) fn with_input(input: Buffer, context: &mut Context<'_>, refusal: Option<Cause>) -> Self {
        Self {
            state: State::Head,
            refusal,
            input,
            output: Buffer::default(),
            empty_lines: 0,
            head_end: HeadEnd::default(),
            head_deadline: None,
            request: Request::unknown(context.now),
            request_end: None,
            upload: Upload::new(Body::None, context),
            outbound: Outbound::default(),
            collected: Collected::default(),
            seat: Seat::default(),
            history: History::default(),
            attempt: Attempt::none(context),
            answer: Answer::default(),
            download: Download::nothing(context),
            tunnel_ends: TunnelEnds::default(),
            ending: Ending::unknown(context),
        }
    }

    /// Runs the state that the exchange is in. What waits gives back the buffers that it has nothing in.
    pub(super) fn step(&mut self, client: &mut Client, context: &mut Context<'_>) -> Flow {
        let flow = self.run(client, context);
        if let Flow::Yield(Verdict::Wait(_)) = flow {
            for buffer in [&mut self.input, &mut self.output, &mut self.answer.bytes] {
                context.buffers.reclaim(buffer);
            }
        }
        flow
    }

    fn run(&mut self, client: &mut Client, context: &mut Context<'_>) -> Flow {
        match self.state {
            State::Head => self.read_head(client, context),
            State::Dispatch => self.dispatch(client, context),
            State::Collect => self.collect_body(client, context),
            State::Queue => self.wait_for_place(client, context),
            State::Connect => self.connect(client, context),
            State::RequestBody => self.send_request(client, context),
            State::AwaitResponse => self.await_response(client, context),
            State::ResponseBody => self.forward_answer(client, context),
            State::Tunnel => self.tunnel(client, context),
            State::OwnAnswer => self.send_own_answer(client, context),
            State::Linger => self.linger(client, context),
        }
    }

    /// Moves on to a state and does what is done once on its way in.
    pub(super) fn enter(&mut self, state: State, client: &Client, context: &mut Context<'_>) {
        self.state = state;
        match state {
            State::Collect | State::RequestBody => self.upload.start_clock(context),
            State::Linger => self.start_linger(client, context),
            State::OwnAnswer => self.ending.deadline = context.deadline(Timeout::Body),
            State::Tunnel => {
                self.outbound.release();
                self.ending.deadline = context.deadline(Timeout::Tunnel);
            }
            _ => {}
        }
    }

    /// What the exchange is doing, for the log.
    pub(super) fn stage(&self) -> &'static str {
        match self.state {
            State::Head => "head",
            State::Dispatch => "dispatch",
            State::Collect | State::RequestBody => "request body",
            State::Queue => "queue",
            State::Connect => "connect",
            State::AwaitResponse => "await response",
            State::ResponseBody => "response body",
            State::Tunnel => "tunnel",
            State::OwnAnswer => "error answer",
            State::Linger => "linger",
        }
    }

    /// Whether a request was read, rather than nothing or a stray empty line.
    pub(super) fn had_a_request(&self) -> bool {
        self.answer.status != 0
    }

    /// Gives everything back; what the client has sent beyond this exchange is returned.
    pub(super) fn end(mut self: Box<Self>, context: &mut Context<'_>) -> Option<Buffer> {
        let input = std::mem::take(&mut self.input);
        self.abandon(context);
        if input.is_empty() {
            context.buffers.give(input);
            return None;
        }
        Some(input)
    }

    /// Gives everything back, and closes the backend connection if there is one in use.
    pub(super) fn abandon(mut self: Box<Self>, context: &mut Context<'_>) {
        self.leave_queue(context);
        self.drop_link(context);
        if let Some(pipe) = self.download.pipe.take() {
            context.pipes.give(pipe);
        }
        context.buffers.give(std::mem::take(&mut self.answer.bytes));
        context.buffers.give(std::mem::take(&mut self.output));
        context.buffers.give(std::mem::take(&mut self.input));
    }

    /// The backend that has served or failed this exchange last.
    pub(super) fn backend_name(&self) -> &str {
        self.attempt.in_flight.as_ref().map_or("-", |in_flight| in_flight.backend().name.as_str())
    }
}
