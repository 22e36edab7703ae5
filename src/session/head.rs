//! Reading a request's head: until it is whole, then judged once and written anew for the backend.

use super::exchange::{Exchange, Request};
use super::outbound::Outbound;
use super::upload::Upload;
use super::{Client, Context, Flow, State, trace};
use crate::config::{self, Timeout};
use crate::error::Cause;
use crate::net::Read;
use crate::reason::Reason;
use crate::wire::body::BodyWriter;
use crate::wire::rewrite::{self, ClientFacts};
use crate::wire::{Body, fields, request};

impl Exchange {
    /// State `Head`.
    pub(super) fn read_head(&mut self, client: &mut Client, context: &mut Context<'_>) -> Flow {
        if context.has_expired() {
            return self.refuse_head(self.refusal.unwrap_or(Cause::HeadTimeout), client, context);
        }
        loop {
            match self.find_head_end() {
                Err(cause) => return self.refuse_head(cause, client, context),
                Ok(Some(length)) => return self.begin(length, client, context),
                Ok(None) => {}
            }
            self.input.make_room();
            match client.stream.read(&mut self.input) {
                Ok(Read::Bytes(_)) => {}
                Ok(Read::Blocked) if self.input.is_empty() => return Flow::Done,
                Ok(Read::Blocked) => {
                    let timeout = if self.refusal.is_some() { Timeout::Rejection } else { Timeout::Head };
                    return Flow::wait(*self.head_deadline.get_or_insert_with(|| context.deadline(timeout)));
                }
                Ok(Read::End) if self.input.is_empty() => return Flow::close(Reason::ClientDone),
                Ok(Read::End) => return Flow::close(Reason::ClientAborted),
                Err(_) => return Flow::close(Reason::ClientReset),
            }
        }
    }

    /// The length of the head once it is whole. Every limit holds in the same way however the head was split.
    fn find_head_end(&mut self) -> Result<Option<usize>, Cause> {
        if self.head_end.is_at_start() {
            let empty_lines = request::leading_empty_lines(self.input.unread());
            self.input.consume(2 * empty_lines);
            self.empty_lines += empty_lines;
            if self.empty_lines > config::LEADING_EMPTY_LINES {
                return Err(Cause::BadRequestLine);
            }
            match self.input.unread() {
                [] | [b'\r'] => return Ok(None),
                // TLS and other garbage is refused, and not waited on until the head's time is up.
                [first, ..] if !fields::is_token(&[*first]) => return Err(Cause::BadRequestLine),
                _ => {}
            }
        }
        let knew_first_line = self.head_end.first_line(self.input.unread()).is_some();
        let end = self.head_end.find(self.input.unread());
        let first_line = self.head_end.first_line(self.input.unread());
        let found = match end {
            Ok(Some(length)) if length <= config::REQUEST_HEAD_BYTES => return Ok(Some(length)),
            Ok(None) if first_line.is_none() && request::has_too_long_target(self.input.unread()) => Err(Cause::TargetTooLong),
            Ok(None) if self.input.len() < config::REQUEST_HEAD_BYTES => Ok(None),
            Ok(_) => Err(Cause::HeadTooLarge),
            Err(cause) => Err(cause),
        };
        // Whoever begins with something else than HTTP/1.1 may wait for an answer, and send nothing more.
        if let (false, Some(line)) = (knew_first_line, first_line) {
            request::check_line(line)?;
        }
        found
    }

    /// Refuses a head that was not understood. What asks like HEAD, or for JSON, is answered like that, for all it is worth.
    fn refuse_head(&mut self, cause: Cause, client: &mut Client, context: &mut Context<'_>) -> Flow {
        let head = self.input.unread();
        self.request.is_head = head.starts_with(b"HEAD ");
        self.request.accepts_json = request::seems_to_accept_json(head);
        self.refuse(cause, client, context)
    }

    /// The head is whole: judges it, writes it anew and notes what the rest of the exchange needs to know.
    fn begin(&mut self, length: usize, client: &mut Client, context: &mut Context<'_>) -> Flow {
        let line = self.head_end.first_line(self.input.unread()).map_or(0, <[u8]>::len);
        request::lower_minor_version(&mut self.input.unread_mut()[..line]);
        let (bytes, rest) = self.input.unread().split_at(length);
        let mut room = fields::room();
        let head = match request::parse(bytes, &mut room) {
            Ok(head) => head,
            Err(cause) => {
                trace::head(client.peer, "→ received", bytes, Body::None, b"");
                return self.refuse_head(cause, client, context);
            }
        };
        trace::head(client.peer, "→ received", bytes, head.body, rest);
        self.request = Request::from_head(&head, context.now);
        self.upload = Upload::new(head.body, context);
        let too_large = matches!((head.body, context.config.body_bytes), (Body::Length(length), Some(limit)) if length > limit);
        let facts = ClientFacts {
            address: client.peer.ip(),
            trusted: context.config.trusts(client.peer.ip()),
            request_id: context.rng.u128(..),
        };
        let is_last = head.max_forwards == Some(0);
        let writer = if head.body == Body::Chunked { BodyWriter::Chunked } else { BodyWriter::Raw };
        self.outbound = Outbound::new(length, writer);
        rewrite::request(self.outbound.tail(), &head, facts);
        self.outbound.end_common_head();
        self.input.consume(length);
        context.buffers.reclaim(&mut self.input);
        if let Some(cause) = self.refusal {
            return self.refuse(cause, client, context);
        }
        context.counters.requests.add(1);
        if too_large {
            return self.refuse(Cause::BodyTooLarge, client, context);
        }
        if is_last {
            return self.respond_as_last(context);
        }
        Flow::Goto(State::Dispatch)
    }
}
