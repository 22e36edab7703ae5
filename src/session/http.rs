//! Reading a request's head: until it is whole, then judged once and written anew for the backend.

use super::exchange::{Exchange, Request};
use super::outbound::Outbound;
use super::upload::Upload;
use super::{Client, Context, Flow, State, trace};
use crate::config::{self, Timeout};
use crate::error::Cause;
use crate::net::Read;
use crate::reason::Reason;
use crate::wire::rewrite::{self, ClientFacts};
use crate::wire::{Body, fields, request};

impl Exchange {
    /// State `Head`.
    pub(super) fn read_head(&mut self, client: &mut Client, context: &mut Context<'_>) -> Flow {
        if context.has_expired() {
            return self.refuse(Cause::HeadTimeout, client, context);
        }
        loop {
            match self.find_head_end() {
                Err(cause) => return self.refuse(cause, client, context),
                Ok(Some(length)) => return self.begin(length, client, context),
                Ok(None) => {}
            }
            match client.stream.read(&mut self.input) {
                Ok(Read::Bytes(_)) => {}
                Ok(Read::Blocked) if self.input.is_empty() => return Flow::Done,
                Ok(Read::Blocked) => {
                    let deadline = *self.head_deadline.get_or_insert_with(|| context.deadline(Timeout::Head));
                    return Flow::wait(deadline);
                }
                Ok(Read::End) if self.input.is_empty() => return Flow::close(Reason::ClientDone),
                Ok(Read::End) => return Flow::close(Reason::ClientAborted),
                Err(_) => return Flow::close(Reason::ClientReset),
            }
        }
    }

    /// The length of the head once it is whole; the limits hold however it was split.
    fn find_head_end(&mut self) -> Result<Option<usize>, Cause> {
        if self.head_end.in_first_line() {
            let skipped = request::leading_empty_lines(self.input.unread());
            if skipped > 0 {
                self.input.consume(skipped);
                self.head_end = Default::default();
            }
        }
        match self.head_end.find(self.input.unread())? {
            Some(length) if length <= config::REQUEST_HEAD_BYTES => Ok(Some(length)),
            None if self.head_end.in_first_line() && self.input.len() > config::TARGET_BYTES + 64 => Err(Cause::TargetTooLong),
            None if self.input.len() < config::REQUEST_HEAD_BYTES => Ok(None),
            _ => Err(Cause::HeadTooLarge),
        }
    }

    /// The head is whole: judges it, writes it anew and notes what the rest of the exchange needs to know.
    fn begin(&mut self, length: usize, client: &mut Client, context: &mut Context<'_>) -> Flow {
        let (bytes, rest) = self.input.unread().split_at(length);
        trace::head(client.peer, "→ received", bytes, rest);
        let mut room = fields::room();
        let head = match request::parse(bytes, &mut room) {
            Ok(head) => head,
            Err(cause) => {
                self.request.accepts_json = false;
                return self.refuse(cause, client, context);
            }
        };
        context.counters.requests.add(1);
        context.budget.earn();
        self.request = Request::from_head(&head, context.now);
        self.upload = Upload::new(head.body, context);
        let too_large = matches!((head.body, context.config.body_bytes), (Body::Length(length), Some(limit)) if length > limit);
        let facts = ClientFacts {
            address: client.peer.ip(),
            trusted: context.config.trusts(client.peer.ip()),
            request_id: context.rng.u128(..),
        };
        self.outbound = Outbound::new(context.buffers);
        rewrite::request(self.outbound.tail(), &head, facts);
        self.outbound.end_common_head();
        self.input.consume(length);
        context.buffers.reclaim(&mut self.input);
        if let Some(cause) = self.refusal {
            return self.refuse(cause, client, context);
        }
        if too_large {
            return self.refuse(Cause::BodyTooLarge, client, context);
        }
        Flow::Goto(State::Dispatch)
    }
}
