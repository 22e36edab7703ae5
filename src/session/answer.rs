//! The head of the backend's answer: awaited, judged, written anew for the client; 1xx on the way are passed on.

use super::download::Download;
use super::exchange::Exchange;
use super::{Client, Context, Flow, State, trace};
use crate::config::{self, Timeout};
use crate::error::Cause;
use crate::net::{Buffer, Read};
use crate::upstream::health::Outcome;
use crate::upstream::retry::Failed;
use crate::wire::head_end::HeadEnd;
use crate::wire::response::{self, ResponseHead};
use crate::wire::rewrite::{self, ConnectionLine, Delivery};
use crate::wire::{Body, Version, fields};
use std::fmt::Display;
use std::time::Duration;

/// What the backend has said, up to the end of its final head.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// From the backend, not used yet.
    pub(super) bytes: Buffer,
    pub(super) head_end: HeadEnd,
    /// How many 1xx came.
    pub(super) interims: u32,
    /// A 1xx went to the client, from the backend or ours.
    pub(super) interim_sent: bool,
    /// The client was sent a byte of what the backend has said: the request is not sent again.
    pub(super) is_forwarded: bool,
    pub(super) keeps_backend: bool,
    pub(super) backend_idle: Duration,
    /// What the client was told, 0 before; ours or the backend's.
    pub(super) status: u16,
    /// How long after the request's head the answer's came.
    pub(super) after: Duration,
}

/// Why the head of a response is no good.
struct BadHead(&'static str);

impl Answer {
    /// Forgets what a backend has said: another is asked.
    pub(super) fn restart(&mut self) {
        self.bytes.clear();
        self.head_end = HeadEnd::default();
        self.interims = 0;
    }
}

impl Exchange {
    /// State `AwaitResponse`.
    pub(super) fn await_response(&mut self, client: &mut Client, context: &mut Context<'_>) -> Flow {
        if let Some(flow) = self.look_for_answer(client, context) {
            return flow;
        }
        if self.is_stranded(context) {
            return self.leave_backend(client, context);
        }
        if context.has_expired() {
            // Slowness is no proof of illness: it never counts against the backend's health.
            return self.refuse(Cause::FirstByteTimeout, client, context);
        }
        if let Err(reason) = self.flush_output(client, context) {
            return Flow::close(reason);
        }
        Flow::wait(*self.history.first_byte_deadline.get_or_insert_with(|| context.deadline(Timeout::FirstByte)))
    }

    /// Reads what the backend says until the head of its final answer is there. None: not yet.
    pub(super) fn look_for_answer(&mut self, client: &mut Client, context: &mut Context<'_>) -> Option<Flow> {
        loop {
            match self.answer.head_end.find(self.answer.bytes.unread()) {
                Ok(Some(length)) if length <= config::ANSWER_HEAD_BYTES => match self.begin_answer(length, client, context) {
                    Ok(Some(flow)) => return Some(flow),
                    Ok(None) => continue,
                    Err(BadHead(finding)) => return Some(self.fail_head(finding, client, context)),
                },
                Ok(None) if self.answer.bytes.len() < config::ANSWER_HEAD_BYTES => {}
                _ => {
                    let finding = "its head is too large or has a line that does not end in CR LF";
                    return Some(self.fail_head(finding, client, context));
                }
            }
            if !self.link_is_readable(context) {
                return None;
            }
            context.buffers.lend(&mut self.answer.bytes);
            if self.answer.bytes.room() == 0 {
                self.answer.bytes.grow_to(config::ANSWER_HEAD_BYTES);
            }
            let backend = self.attempt.stream(context.connections)?;
            let finding: &dyn Display = match backend.read(&mut self.answer.bytes) {
                Ok(Read::Bytes(_)) => continue,
                Ok(Read::Blocked) => return None,
                Ok(Read::End) => &"closed the connection before it answered",
                Err(error) => &error.to_string(),
            };
            if !self.answer.bytes.is_empty() {
                return Some(self.fail_head("it ended inside its head", client, context));
            }
            let written = self.outbound.was_written();
            let failed = if self.attempt.is_reused { Failed::Reused { written } } else { Failed::Fresh { written } };
            return Some(self.fail_attempt(failed, Cause::BackendClosed, finding, client, context));
        }
    }

    /// The head of an answer is whole. A 1xx is passed on and None returned: the final one is still to come.
    fn begin_answer(&mut self, length: usize, client: &mut Client, context: &mut Context<'_>) -> Result<Option<Flow>, BadHead> {
        context.buffers.lend(&mut self.output);
        let mut bytes = std::mem::take(&mut self.answer.bytes);
        response::lower_minor_version(bytes.unread_mut());
        let (head, behind) = bytes.unread().split_at(length);
        let (mut room, mut more_room) = (fields::room(), fields::more_room(self.answer.head_end.lines()));
        let room = if more_room.is_empty() { &mut room[..] } else { &mut more_room[..] };
        let parsed = response::parse(head, room, self.request.is_head);
        let body = parsed.as_ref().map_or(Body::None, |head| head.body);
        trace::head(client.peer, "← received", head, body, behind);
        let flow = match parsed {
            Ok(head) if head.status == 101 => self.switch_protocols(&head, context).map(Some),
            Ok(head) if head.is_interim() => self.pass_interim(&head, client, context),
            Ok(head) => Ok(Some(self.begin_final_answer(&head, context))),
            Err(_) => Err(BadHead("its head is not valid HTTP/1.1")),
        };
        bytes.consume(length);
        self.answer.bytes = bytes;
        flow
    }

    fn switch_protocols(&mut self, head: &ResponseHead<'_, '_>, context: &mut Context<'_>) -> Result<Flow, BadHead> {
        if !(self.request.websocket && head.websocket) {
            return Err(BadHead("it switches to a protocol that nobody asked for"));
        }
        rewrite::response(self.output.tail(), head, Delivery::Plain, ConnectionLine::WebSocket, context.date);
        self.note_answer(head, context);
        Ok(Flow::Goto(State::Tunnel))
    }

    fn pass_interim(
        &mut self,
        head: &ResponseHead<'_, '_>,
        client: &mut Client,
        context: &mut Context<'_>,
    ) -> Result<Option<Flow>, BadHead> {
        self.answer.head_end = HeadEnd::default();
        self.answer.interims += 1;
        if self.answer.interims > config::INTERIM_ANSWERS {
            return Err(BadHead("it sends 1xx without end"));
        }
        if self.request.version == Version::Http11 {
            rewrite::response(self.output.tail(), head, Delivery::Plain, ConnectionLine::Silent, context.date);
            (self.answer.interim_sent, self.answer.is_forwarded) = (true, true);
        }
        if !self.upload.is_done() {
            // The client may have waited for this: its time for the body begins now.
            self.upload.start_clock(context);
        }
        Ok(self.flush_output(client, context).err().map(Flow::close))
    }

    fn begin_final_answer(&mut self, head: &ResponseHead<'_, '_>, context: &mut Context<'_>) -> Flow {
        let is_sent = self.upload.is_done() && self.outbound.unsent().is_empty();
        let delivery = rewrite::delivery(head.body, self.request.version);
        self.ending.keeps_client = self.request.is_persistent && is_sent && !context.draining && delivery != Delivery::UntilClose;
        self.answer.keeps_backend = is_sent && head.is_persistent();
        self.answer.backend_idle = idle_time(head.keep_alive, context.config.timeouts.backend_idle);
        let (line, starts_at) = (self.connection_line(), self.output.len());
        rewrite::response(self.output.tail(), head, delivery, line, context.date);
        self.download = Download::new(head.body, delivery, starts_at, context);
        self.note_answer(head, context);
        if is_sent {
            self.outbound.release();
        }
        Flow::Goto(State::ResponseBody)
    }

    fn note_answer(&mut self, head: &ResponseHead<'_, '_>, context: &mut Context<'_>) {
        self.answer.status = head.status;
        self.answer.after = context.now.saturating_duration_since(self.request.started);
        if let Some(in_flight) = &self.attempt.in_flight {
            in_flight.backend().note_version(head.version == Version::Http10);
            context.cluster.answered(in_flight.backend(), self.attempt.started, context.now);
        }
    }

    /// The head of the response is invalid or broke off. Nothing of it was forwarded, so another backend may be asked.
    fn fail_head(&mut self, finding: &'static str, client: &mut Client, context: &mut Context<'_>) -> Flow {
        log::info!("bad answer from backend {}: {finding}", self.backend_name());
        self.fail_attempt(Failed::BadResponse, Cause::BadAnswer, &finding, client, context)
    }

    /// The body of the response is invalid, and the client has seen nothing of it yet.
    pub(super) fn refuse_answer(&mut self, finding: &dyn Display, client: &mut Client, context: &mut Context<'_>) -> Flow {
        if let Some(in_flight) = &self.attempt.in_flight {
            log::info!("bad answer from backend {}: {finding}", in_flight.backend().name);
            context.cluster.failed(
                in_flight.backend(),
                Outcome::SendFailed,
                &finding.to_string(),
                self.attempt.started,
                context.now,
            );
        }
        self.refuse(Cause::BadAnswer, client, context)
    }
}

/// How long the backend connection is kept: a second less than the backend announces, within limits, or our own default.
fn idle_time(announced: Option<Duration>, default: Duration) -> Duration {
    let margin = Duration::from_secs(1);
    announced.map_or(default, |announced| announced.saturating_sub(margin).min(config::LONGEST_BACKEND_IDLE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_says_how_long_its_connection_is_kept_within_limits() {
        let seconds = Duration::from_secs;
        for (announced, kept) in [(None, 4), (Some(10), 9), (Some(0), 0), (Some(u32::MAX), 60)] {
            let announced = announced.map(|announced| seconds(announced.into()));
            assert_eq!(idle_time(announced, seconds(4)), seconds(kept), "{announced:?}");
        }
    }
}
