//! One request with its response: the states, in the order of a request.
//!
//! Every transition is in this file. Its parts ([`Upload`], [`Dispatcher`], [`Response`], ...) own
//! their data and move the bytes. A state that fails returns a [`Stop`], which [`Exchange::stop`]
//! handles.

use super::client::Client;
use super::closing::Closing;
use super::context::Context;
use super::dispatch::{Dispatcher, Outgoing};
use super::flow::{Flow, State, StateResult};
use super::progress::Blocked;
use super::record::{AccessRecord, ExchangeData};
use super::request::{ReplyOptions, Request};
use super::response::{Forwarded, ForwardedHead, HeadKind, Response, ResponseReader};
use super::stop::{AttemptError, Stop};
use super::tunnel::Tunnel;
use super::upload::{Upload, Uploaded};
use crate::config::{Deadline, Timeout};
use crate::error::{Cause, Side};
use crate::reason::Reason;
use crate::upstream::queue::Grant;
use crate::wire::Version;
use std::time::Instant;

const HAS_RESPONSE: &str = "a response is forwarded once its head has come";

/// One request with its response.
#[derive(Debug)]
pub(super) struct Exchange {
    state: State,
    /// The time up to which the record has the times of the states.
    counted: Instant,
    request: Request,
    data: ExchangeData,
    upload: Upload,
    dispatcher: Dispatcher,
    reader: ResponseReader,
    response: Option<Response>,
    /// Whether a part of a backend's response was forwarded: the request is not retried then.
    is_forwarded: bool,
    /// The deadline of the first byte of a response, which all attempts share.
    first_byte_deadline: Option<Deadline>,
}

impl Exchange {
    /// The exchange of a valid request.
    pub(super) fn new(request: Request, upload: Upload, data: ExchangeData) -> Self {
        Self {
            state: State::Admit,
            counted: data.started,
            request,
            data,
            upload,
            dispatcher: Dispatcher::default(),
            reader: ResponseReader::default(),
            response: None,
            is_forwarded: false,
            first_byte_deadline: None,
        }
    }

    /// Runs states until one of them must wait or the exchange is over.
    pub(super) fn step(&mut self, client: &mut Client, cx: &mut Context<'_>) -> Flow {
        loop {
            let ran = match self.state {
                State::Admit => self.admit(client, cx),
                State::Dispatch => self.dispatch(client, cx),
                State::Queued => self.wait_for_slot(cx),
                State::BufferBody => self.buffer_body(client, cx),
                State::Connecting => self.connect(cx),
                State::SendRequest => self.send_request(client, cx),
                State::AwaitResponse => self.await_response(client, cx),
                State::ForwardResponse => self.forward_response(client, cx),
            };
            match ran.unwrap_or_else(|stop| self.stop(stop, client, cx)) {
                Flow::Goto(state) => self.enter(state, cx),
                flow => {
                    // A waiting exchange holds as little as possible.
                    self.upload.shrink();
                    self.dispatcher.recycle(cx);
                    return flow;
                }
            }
        }
    }

    fn enter(&mut self, state: State, cx: &Context<'_>) {
        self.count_time(cx.now);
        self.state = state;
        if state == State::SendRequest {
            self.reader = ResponseReader::default();
        }
        if matches!(state, State::BufferBody | State::SendRequest) {
            self.upload.start_clock(cx.now);
        }
    }

    /// Adds the time since the last call to that of the state, if the record has one.
    fn count_time(&mut self, now: Instant) {
        let spent = || now.saturating_duration_since(self.counted);
        match self.state {
            State::Queued => self.data.queued += spent(),
            State::Connecting => self.data.connecting += spent(),
            _ => {}
        }
        self.counted = now;
    }

    /// Rejects the request, responds to it, or admits it to the backends.
    fn admit(&mut self, client: &mut Client, cx: &mut Context<'_>) -> StateResult {
        match client.rejection() {
            Some(cause) => Err(cause.into()),
            None if self.upload.is_too_large() => Err(Cause::BodyTooLarge.into()),
            None if self.request.is_final_recipient => {
                Ok(self.respond_as_final_recipient(client, cx))
            }
            None => Ok(Flow::Goto(State::Dispatch)),
        }
    }

    /// Starts an attempt at an untried backend.
    fn dispatch(&mut self, client: &Client, cx: &mut Context<'_>) -> StateResult {
        let outgoing = Outgoing { client, request: &self.request, upload: &mut self.upload };
        Ok(Flow::Goto(self.dispatcher.dispatch(outgoing, self.data.queued, cx)?))
    }

    /// Responds to a request that must not be forwarded.
    fn respond_as_final_recipient(&mut self, client: &mut Client, cx: &mut Context<'_>) -> Flow {
        self.data.record_response(200, cx.now);
        let keeps_open = self.may_keep_client(self.upload.is_received(), cx.draining);
        let options = self.reply_options(keeps_open);
        Closing::respond_as_final_recipient(options, client, cx).into()
    }

    /// Accepts the queue's grant. False if this exchange does not wait for it.
    pub(super) fn grant(&mut self, grant: Grant) -> bool {
        self.dispatcher.grant(grant)
    }

    /// Waits in the queue for a slot at a backend.
    fn wait_for_slot(&mut self, cx: &Context<'_>) -> StateResult {
        let waiting = self.dispatcher.wait(cx)?;
        Ok(waiting.map_or(Flow::Goto(State::Dispatch), Flow::Wait))
    }

    /// Buffers the whole body, to be sent with its length.
    fn buffer_body(&mut self, client: &mut Client, cx: &mut Context<'_>) -> StateResult {
        if self.upload.awaits_continue() && client.input.is_empty() {
            self.upload.send_continue(client, cx.local);
        }
        client.flush(&cx.local.counters)?;
        match self.upload.buffer(client, cx.local)? {
            Uploaded::All => Ok(Flow::Goto(State::Dispatch)),
            Uploaded::BudgetUsed => Ok(Flow::BudgetUsed),
            Uploaded::Blocked(_) | Uploaded::BackendGone => Ok(Flow::Wait(
                self.upload.deadline(cx).unless_passed(cx.now, Cause::RequestBodyTimeout)?,
            )),
        }
    }

    /// Waits for a fresh connection.
    fn connect(&mut self, cx: &mut Context<'_>) -> StateResult {
        let connecting = self.dispatcher.attempt_mut().poll_connect(cx)?;
        Ok(connecting.map_or(Flow::Goto(State::SendRequest), Flow::Wait))
    }

    /// Sends the head and the body, which is decoded and framed for the backend.
    fn send_request(&mut self, client: &mut Client, cx: &mut Context<'_>) -> StateResult {
        let uploaded = self.upload.send(client, self.dispatcher.attempt(), cx)?;
        if uploaded == Uploaded::All {
            self.dispatcher.attempt_mut().await_response(cx.now);
        }
        if matches!(uploaded, Uploaded::All | Uploaded::BackendGone) {
            return Ok(Flow::Goto(State::AwaitResponse));
        }
        // The backend may respond before it has the whole request: a 1xx, or an early response.
        if let Some(flow) = self.read_response_head(client, cx)? {
            return Ok(flow);
        }
        let Uploaded::Blocked(blocked) = uploaded else {
            return Ok(Flow::BudgetUsed);
        };
        let backend = self.dispatcher.attempt_mut().backend();
        if blocked == Blocked::OnClient && backend.is_http10_only() && self.upload.awaits_continue()
        {
            self.upload.send_continue(client, cx.local);
        }
        client.flush(&cx.local.counters)?;
        Ok(Flow::Wait(self.upload.wait(blocked, cx)?))
    }

    /// Awaits the response to a request that was sent. A stranded request goes to another backend.
    fn await_response(&mut self, client: &mut Client, cx: &mut Context<'_>) -> StateResult {
        if let Some(flow) = self.read_response_head(client, cx)? {
            return Ok(flow);
        }
        if self.is_stranded() && self.dispatcher.can_move(cx) {
            // The next backend gets the full time.
            self.first_byte_deadline = None;
            return Err(AttemptError::marked_down().into());
        }
        client.flush(&cx.local.counters)?;
        let deadline =
            *self.first_byte_deadline.get_or_insert_with(|| cx.deadline(Timeout::FirstByte));
        // A slow response is no evidence that the backend is unhealthy: only the request fails.
        Ok(Flow::Wait(deadline.unless_passed(cx.now, Cause::FirstByteTimeout)?))
    }

    /// Whether the request is retryable and awaits the first byte of a backend that was marked down
    /// meanwhile: a step moves it to another backend that has capacity, at most once per request.
    pub(super) fn is_stranded(&self) -> bool {
        self.state == State::AwaitResponse
            && self.request.is_idempotent
            && self.is_replayable()
            && self.dispatcher.is_stranded()
    }

    fn is_replayable(&self) -> bool {
        self.upload.is_replayable() && !self.is_forwarded
    }

    /// Reads the backend's response up to the end of its final head; none if more is to come.
    fn read_response_head(
        &mut self,
        client: &mut Client,
        cx: &mut Context<'_>,
    ) -> Result<Option<Flow>, Stop> {
        loop {
            let Some(backend) = self.dispatcher.attempt().connection(cx.connections) else {
                return Ok(None);
            };
            let options = ReplyOptions {
                request: &self.request,
                request_id: &self.data.request_id,
                keeps_open: self.may_keep_client(self.upload.is_sent(), cx.draining),
            };
            let read = self.reader.read((backend, client), options, cx.local).map_err(|error| {
                error.into_attempt_error(self.dispatcher.attempt(), self.upload.was_written())
            });
            let Some(head) = read? else {
                return Ok(None);
            };
            if head.kind == HeadKind::Interim {
                self.note_interim(client, cx)?;
                continue;
            }
            self.data.record_response(head.status, cx.now);
            self.dispatcher.attempt_mut().record_response(head.status, head.is_http10, cx);
            let is_final = head.kind == HeadKind::Final;
            return Ok(Some(if is_final { self.begin(&head, client, cx) } else { Flow::Upgraded }));
        }
    }

    fn note_interim(&mut self, client: &mut Client, cx: &mut Context<'_>) -> Result<(), Reason> {
        // HTTP/1.0 has no 1xx.
        if self.request.version == Version::Http11 {
            self.is_forwarded = true;
            self.upload.note_interim(cx.now);
        }
        client.flush(&cx.local.counters).map(drop)
    }

    /// Begins to forward the final response, whose head is in the client's output.
    fn begin(&mut self, head: &ForwardedHead, client: &Client, cx: &mut Context<'_>) -> Flow {
        let is_sent = self.upload.is_sent();
        if is_sent {
            self.upload.release();
        }
        self.response = Some(Response::new(head, is_sent, client, cx));
        Flow::Goto(State::ForwardResponse)
    }

    /// Forwards the body.
    fn forward_response(&mut self, client: &mut Client, cx: &mut Context<'_>) -> StateResult {
        let response = self.response.as_mut().expect(HAS_RESPONSE);
        let attempt = self.dispatcher.attempt_mut();
        Ok(match response.forward(attempt, &mut self.upload, client, cx)? {
            Forwarded::All => self.finish(client, cx),
            Forwarded::BudgetUsed => Flow::BudgetUsed,
            Forwarded::Wait(deadline) => Flow::Wait(deadline),
        })
    }

    /// Ends the exchange: the client has the whole response.
    fn finish(&mut self, client: &mut Client, cx: &mut Context<'_>) -> Flow {
        let response = self.response.as_mut().expect(HAS_RESPONSE);
        let is_usable = response.download.finish_client(client, &mut cx.local.pipes);
        if response.keeps_client && is_usable {
            return Flow::Done;
        }
        let is_early = !self.upload.is_received();
        let reason = match (is_early, cx.draining && self.request.is_persistent) {
            (true, _) => Reason::EarlyResponse,
            (false, true) => Reason::Drained,
            (false, false) => Reason::ClosedAfterResponse,
        };
        // A close over unread bytes sends a reset, which may destroy the response. A persistent
        // client may have sent its next request before it saw the announcement of the close.
        if is_early
            || self.request.is_persistent
            || !client.input.is_empty()
            || client.stream.is_readable()
        {
            return Closing::linger(reason, client, cx).into();
        }
        Flow::Close(reason)
    }

    /// Handles the failure of a state: the next attempt, an error response, or the end of the
    /// connection.
    fn stop(&mut self, stop: Stop, client: &mut Client, cx: &mut Context<'_>) -> Flow {
        match stop {
            Stop::Close(reason) => Flow::Close(reason),
            Stop::Reject(cause) => self.reject(cause, client, cx),
            Stop::AttemptFailed(error) => {
                let is_replayable = self.is_replayable();
                let outgoing =
                    Outgoing { client, request: &self.request, upload: &mut self.upload };
                match self.dispatcher.next_attempt(&error, is_replayable, outgoing, cx) {
                    Ok(state) => Flow::Goto(state),
                    Err(stop) => self.stop(stop, client, cx),
                }
            }
        }
    }

    /// Sends an error response. The client's connection stays open if its request was valid and was
    /// received completely.
    fn reject(&mut self, cause: Cause, client: &mut Client, cx: &mut Context<'_>) -> Flow {
        cx.local.counters.failed(cause);
        self.data.record_rejection(cause);
        self.release(cx);
        let is_valid = cause.side() != Side::Client && client.rejection().is_none();
        let keeps_open = is_valid && self.may_keep_client(self.upload.is_received(), cx.draining);
        Closing::reject(cause, self.reply_options(keeps_open), client, cx).into()
    }

    /// Whether the client's connection may stay open once the request `is_complete`.
    fn may_keep_client(&self, is_complete: bool, draining: bool) -> bool {
        is_complete && self.request.is_persistent && !draining
    }

    fn reply_options(&self, keeps_open: bool) -> ReplyOptions<'_> {
        ReplyOptions { request: &self.request, request_id: &self.data.request_id, keeps_open }
    }

    /// The stage of the exchange, for the log.
    pub(super) fn stage(&self) -> &'static str {
        self.state.stage()
    }

    /// Whether the connection must close with a reset: a truncated response must not look whole.
    pub(super) fn must_close_with_reset(&self, client: &Client) -> bool {
        let response = self.response.as_ref();
        response.is_some_and(|response| response.download.looks_complete_but_is_truncated(client))
    }

    /// Records the exchange, which is over; `end` is why the connection has ended with it, if it has.
    pub(super) fn record(&mut self, end: Option<Reason>, client: &Client, cx: &mut Context<'_>) {
        self.count_time(cx.now);
        self.upload.record(&mut self.data);
        cx.record(&self.access_record(end, client, cx.now));
    }

    pub(super) fn access_record(
        &self,
        reason: Option<Reason>,
        client: &Client,
        now: Instant,
    ) -> AccessRecord<'_> {
        // The output is still sent, unless the connection has ended.
        let pending = if reason.is_none() { client.output.len() } else { 0 };
        AccessRecord {
            data: &self.data,
            stage: self.state.stage(),
            reason: reason.filter(|reason| reason.is_error()),
            backend: self.dispatcher.backend(),
            is_reused: self.dispatcher.is_reused(),
            attempts: self.dispatcher.attempts(),
            bytes_out: client.sent + pending as u64,
            ended: now,
        }
    }

    /// Releases the attempt, the queue position and the pipe, in any state.
    pub(super) fn release(&mut self, cx: &mut Context<'_>) {
        self.dispatcher.release(cx);
        if let Some(response) = &mut self.response {
            response.download.drop_pipe(&mut cx.local.pipes);
        }
    }

    /// The tunnel of the new protocol, over the connection of the attempt.
    pub(super) fn into_tunnel(mut self, cx: &Context<'_>) -> Tunnel {
        self.upload.record(&mut self.data);
        let attempts = self.dispatcher.attempts();
        Tunnel::new(self.dispatcher.into_attempt(), attempts, self.data, cx)
    }
}
