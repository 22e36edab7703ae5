//! The balancer's own responses as bytes: their common parts. Pure.

use super::rewrite::{self, ResponseFields};
use crate::error;
use std::io::Write;

/// The supported methods, as the value of `Allow`.
pub const ALLOW: &str = "GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS";

/// A response that the balancer makes.
#[derive(Clone, Copy, Debug)]
pub struct Reply<'a> {
    /// The status code.
    pub status: u16,
    /// Fields of this response alone.
    pub fields: &'a [(&'a str, &'a str)],
    /// The content and its type, if there is any.
    pub content: Option<(&'a str, &'a str)>,
}

/// Writes the whole response. In a response to HEAD the content is announced and omitted.
pub fn write(out: &mut Vec<u8>, reply: Reply<'_>, to_head: bool, fields: ResponseFields<'_>) {
    rewrite::status_line(out, reply.status, error::phrase(reply.status));
    rewrite::field(out, "Date", fields.date.as_bytes());
    rewrite::field(out, "Server", b"lb-threads");
    for (name, value) in reply.fields {
        rewrite::field(out, name, value.as_bytes());
    }
    rewrite::request_id(out, fields.request_id);
    if let Some((kind, _)) = reply.content {
        rewrite::field(out, "Content-Type", kind.as_bytes());
    }
    let body = reply.content.map_or("", |(_, body)| body);
    write!(out, "Content-Length: {}\r\n", body.len()).expect("a write to a vector succeeds");
    rewrite::connection_field(out, fields.connection);
    out.extend_from_slice(b"\r\n");
    if !to_head {
        out.extend_from_slice(body.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::request_id::RequestId;
    use crate::wire::rewrite::ConnectionHeader;

    #[test]
    fn a_response_without_content_has_a_length_of_0() {
        let request_id = &RequestId::Received("mine".into());
        let fields =
            ResponseFields { connection: ConnectionHeader::Omit, date: "today", request_id };
        let reply = Reply { status: 200, fields: &[("Allow", "GET")], content: None };
        let mut out = Vec::new();
        write(&mut out, reply, false, fields);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "HTTP/1.1 200 OK\r\nDate: today\r\nServer: lb-threads\r\nAllow: GET\r\n\
             X-Request-Id: mine\r\nContent-Length: 0\r\n\r\n"
        );
    }
}
