//! The requests and responses of the control API. Plain values.

use crate::wire::Version;
use crate::wire::fields::Field;
use crate::wire::reply::{self, Reply};
use crate::wire::request::RequestHead;
use crate::wire::request_id::RequestId;
use crate::wire::rewrite::{ConnectionHeader, ResponseFields};
use serde::Serialize;
use std::time::SystemTime;

/// A request.
#[derive(Debug)]
pub(super) struct Request {
    /// The method.
    pub(super) method: String,
    /// The path, without percent-decoding or any other change.
    pub(super) path: String,
    /// The part after the question mark.
    pub(super) query: String,
    /// The host: `name[:port]`.
    pub(super) host: Option<String>,
    /// All fields, with their names in lower case.
    pub(super) fields: Vec<(String, Vec<u8>)>,
    /// The whole body.
    pub(super) body: Vec<u8>,
    reply_to: ReplyTo,
}

/// The parts of a request that the head of its response depends on.
#[derive(Clone, Debug)]
pub(super) struct ReplyTo {
    is_head: bool,
    version: Version,
    request_id: RequestId,
    keeps_open: bool,
}

/// A response.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) content_type: &'static str,
    pub(super) body: String,
    /// Further fields of the head.
    pub(super) fields: Vec<(&'static str, String)>,
}

impl Request {
    /// The values of all fields of this name, which is in lower case.
    pub(super) fn values(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.fields.iter().filter(move |(other, _)| other == name).map(|(_, value)| &value[..])
    }

    /// The parts that its response depends on.
    pub(super) fn reply_to(&self) -> &ReplyTo {
        &self.reply_to
    }
}

impl ReplyTo {
    /// A request that could not be read: the connection closes.
    pub(super) fn unknown() -> Self {
        let request_id = RequestId::generate(fastrand::u128(..));
        Self { is_head: false, version: Version::Http11, request_id, keeps_open: false }
    }

    /// The same, and the connection closes after the response.
    pub(super) fn and_close(&self) -> Self {
        Self { keeps_open: false, ..self.clone() }
    }

    /// The identifier of the request.
    pub(super) fn request_id(&self) -> &RequestId {
        &self.request_id
    }

    /// Whether the connection stays open after the response.
    pub(super) fn keeps_open(&self) -> bool {
        self.keeps_open
    }
}

impl Response {
    /// A response with a JSON value.
    pub(super) fn json(status: u16, value: &impl Serialize) -> Self {
        let text = serde_json::to_string(value).expect("these values have string keys only");
        let content_type = "application/json";
        Self { status, content_type, body: text + "\n", fields: Vec::new() }
    }

    /// A response with plain text.
    pub(super) fn text(status: u16, body: String) -> Self {
        let content_type = "text/plain; charset=utf-8";
        Self { status, content_type, body, fields: Vec::new() }
    }

    /// The bytes of the response.
    pub(super) fn bytes(&self, to: &ReplyTo) -> Vec<u8> {
        let mut fields = vec![("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff")];
        fields.extend(self.fields.iter().map(|(name, value)| (*name, value.as_str())));
        let content = Some((self.content_type, self.body.as_str()));
        let reply = Reply { status: self.status, fields: &fields, content };
        let added = ResponseFields {
            connection: ConnectionHeader::after_response(to.keeps_open, to.version),
            date: &httpdate::fmt_http_date(SystemTime::now()),
            request_id: &to.request_id,
        };
        let mut bytes = Vec::new();
        reply::write(&mut bytes, reply, to.is_head, added);
        bytes
    }
}

impl From<&RequestHead<'_, '_>> for Request {
    fn from(head: &RequestHead<'_, '_>) -> Self {
        let (path, query) = head.target.path.split_once('?').unwrap_or((head.target.path, ""));
        let field = |field: &Field<'_>| (field.name.to_ascii_lowercase(), field.value.to_vec());
        let generate = || RequestId::generate(fastrand::u128(..));
        Self {
            method: head.method.to_owned(),
            path: if path.is_empty() { "/" } else { path }.to_owned(),
            query: query.to_owned(),
            host: head.host.map(str::to_owned),
            fields: head.fields.iter().map(field).collect(),
            body: Vec::new(),
            reply_to: ReplyTo {
                is_head: head.method == "HEAD",
                version: head.version,
                request_id: head
                    .request_id
                    .map_or_else(generate, |id| RequestId::Received(id.into())),
                keeps_open: head.is_persistent(),
            },
        }
    }
}
