//! Responses that are made here, as bytes: what they have in common, whatever they say.

use super::rewrite::{self, ConnectionLine};
use crate::error;
use std::io::Write;

/// The methods that are served, as the value of `Allow`.
pub const ALLOW: &str = "GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS";

/// A response of our own.
#[derive(Clone, Copy, Debug)]
pub struct Reply<'a> {
    /// The status code.
    pub status: u16,
    /// Fields of this response alone.
    pub fields: &'a [(&'a str, &'a str)],
    /// The content and its type, if there is any.
    pub content: Option<(&'a str, &'a str)>,
}

/// What shapes a response, besides what it says.
#[derive(Clone, Copy, Debug)]
pub struct Manner<'a> {
    /// It responds to a HEAD request: the body is announced, and left out.
    pub to_head: bool,
    /// What it says about the client's connection.
    pub connection: ConnectionLine,
    /// The value of `Date`.
    pub date: &'a str,
}

/// Writes the whole response.
pub fn write(out: &mut Vec<u8>, reply: Reply<'_>, manner: Manner<'_>) {
    rewrite::status_line(out, reply.status, error::phrase(reply.status));
    rewrite::field(out, "Date", manner.date.as_bytes());
    rewrite::field(out, "Server", b"lb-threads");
    for (name, value) in reply.fields {
        rewrite::field(out, name, value.as_bytes());
    }
    if let Some((kind, _)) = reply.content {
        rewrite::field(out, "Content-Type", kind.as_bytes());
    }
    let body = reply.content.map_or("", |(_, body)| body);
    write!(out, "Content-Length: {}\r\n", body.len()).expect("a vector takes every write");
    rewrite::connection_line(out, manner.connection);
    out.extend_from_slice(b"\r\n");
    if !manner.to_head {
        out.extend_from_slice(body.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_without_content_says_so() {
        let mut out = Vec::new();
        let reply = Reply { status: 200, fields: &[("Allow", "GET")], content: None };
        write(
            &mut out,
            reply,
            Manner { to_head: false, connection: ConnectionLine::Silent, date: "today" },
        );
        let text = String::from_utf8(out).unwrap();
        assert_eq!(
            text,
            "HTTP/1.1 200 OK\r\nDate: today\r\nServer: lb-threads\r\nAllow: GET\r\nContent-Length: 0\r\n\r\n"
        );
    }
}
