//! A request whose head is valid: re-serialised for the backends, and reduced to the properties
//! that later states need.

use super::client::Client;
use super::context::Context;
use super::head::HeadReader;
use super::record::ExchangeData;
use super::request_text::RequestText;
use super::trace;
use super::upload::Upload;
use crate::clock::Clock;
use crate::error::Cause;
use crate::wire::request::{self, RequestHead};
use crate::wire::request_id::RequestId;
use crate::wire::rewrite::{self, ConnectionHeader, ForwardingInfo, ResponseFields};
use crate::wire::{Body, Version, fields, forwarded_for};
use std::net::IpAddr;

/// The properties of a request that later states need.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) is_head: bool,
    pub(super) version: Version,
    pub(super) is_persistent: bool,
    pub(super) accepts_json: bool,
    pub(super) is_idempotent: bool,
    pub(super) has_host: bool,
    pub(super) websocket: bool,
    /// The balancer is the final recipient: `Max-Forwards` is 0 (RFC 9110 section 7.6.2).
    pub(super) is_final_recipient: bool,
    /// The client's address: the peer's, or behind trusted proxies the one that they have recorded.
    pub(super) client: IpAddr,
    /// The control threads serve it, and no other backend.
    pub(super) is_for_control: bool,
}

impl Request {
    fn new(head: &RequestHead<'_, '_>, client: IpAddr, has_control: bool) -> Self {
        Self {
            client,
            is_head: head.method == "HEAD",
            version: head.version,
            is_persistent: head.is_persistent(),
            accepts_json: head.accepts_json,
            is_idempotent: head.is_idempotent(),
            has_host: head.host.is_some(),
            websocket: head.websocket,
            is_final_recipient: head.max_forwards == Some(0),
            is_for_control: has_control && head.target.is_control(),
        }
    }

    /// The properties of a rejected head, for its error response. HEAD and JSON are respected as
    /// far as they can be recognised.
    pub(super) fn rejected(head: &[u8], peer: IpAddr) -> Self {
        Self {
            client: peer,
            is_head: head.starts_with(b"HEAD "),
            version: Version::Http11,
            is_persistent: false,
            accepts_json: request::seems_to_accept_json(head),
            is_idempotent: false,
            has_host: true,
            websocket: false,
            is_final_recipient: false,
            is_for_control: false,
        }
    }

    /// Consumes a complete head from the client's input and validates it.
    pub(super) fn accept(
        client: &mut Client,
        reader: &HeadReader,
        length: usize,
        cx: &mut Context<'_>,
    ) -> Result<(Self, Upload, ExchangeData), Cause> {
        let peer = client.peer();
        let line = reader.first_line(client.input.unread()).len();
        request::lower_minor_version(&mut client.input.unread_mut()[..line]);
        let (bytes, following) = client.input.unread().split_at(length);
        let mut storage = fields::field_storage();
        let parsed = request::parse(bytes, &mut storage);
        let body = parsed.as_ref().map_or(Body::None, |head| head.body);
        trace::head(
            client,
            "→ received",
            bytes,
            body,
            if parsed.is_ok() { following } else { b"" },
        );
        let head = parsed?;
        let request_id = match head.request_id {
            Some(id) => RequestId::Received(id.into()),
            None => RequestId::generate(cx.local.rng.u128(..)),
        };
        let settings = &cx.shared.settings;
        let trusted = settings.trusts(peer.ip());
        let info = ForwardingInfo { address: peer.ip(), trusted, request_id: &request_id };
        let recorded = || forwarded_for::client(head.fields, |address| settings.trusts(address));
        let client_address = trusted.then(recorded).flatten().unwrap_or(peer.ip());
        let mut upload = Upload::new(&head, length, cx);
        rewrite::request(upload.head_mut(), &head, info);
        upload.mark_common_end();
        let request = Self::new(&head, client_address, cx.shared.control.is_some());
        let data = ExchangeData::new(peer, request_id, cx.now).with_head(
            length,
            client_address,
            cx.shared.has_access_lines().then(|| RequestText::of(&head, settings.log_format)),
        );
        client.input.consume(length);
        cx.local.buffers.recycle(&mut client.input);
        Ok((request, upload, data))
    }
}

/// The properties of a response besides its content, forwarded or our own.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReplyOptions<'e> {
    pub(super) request: &'e Request,
    pub(super) request_id: &'e RequestId,
    /// Whether the client's connection may stay open.
    pub(super) keeps_open: bool,
}

impl<'e> ReplyOptions<'e> {
    /// The fields to add to a final response.
    pub(super) fn fields(self, clock: &'e Clock) -> ResponseFields<'e> {
        ResponseFields {
            connection: ConnectionHeader::after_response(self.keeps_open, self.request.version),
            date: clock.date(),
            request_id: self.request_id,
        }
    }
}
