//! A response as the client received it.

use std::fmt;

use super::super::wire::{self, Field, Framing, Head};

/// A response: its head, and as much of its body as was read.
#[derive(Clone)]
pub struct Response {
    /// `HTTP/1.1`
    pub version: String,
    /// `200`
    pub status: u16,
    /// `OK`, or empty.
    pub reason: String,
    /// All fields in order: names as received, values trimmed.
    pub headers: Vec<Field>,
    /// The head exactly as received, with its last CRLFCRLF.
    pub raw_head: Vec<u8>,
    /// The framing of the body by the header fields. The method (HEAD) is considered when the body
    /// is read.
    pub framing: Framing,
    /// The body, decoded.
    pub body: Vec<u8>,
    /// The body as it came: with chunk sizes and trailers.
    pub raw_body: Vec<u8>,
    /// The fields after the last chunk.
    pub trailers: Vec<Field>,
    /// The connection ended before the end of the framed body. A body without framing is whole if
    /// the end is orderly.
    pub truncated: bool,
    /// The 1xx responses that came before, but for 101, which is a final one.
    pub interim: Vec<Response>,
}

impl Response {
    pub(super) fn parse(head: Head) -> Result<Self, String> {
        let malformed = || format!("not a status line: {:?}", head.start_line);

        let mut words = head.start_line.splitn(3, ' ');
        let (Some(version), Some(status), Some(reason)) =
            (words.next(), words.next(), words.next())
        else {
            return Err(malformed());
        };
        let is_status = status.len() == 3 && status.bytes().all(|byte| byte.is_ascii_digit());
        if !matches!(version, "HTTP/1.0" | "HTTP/1.1") || !is_status {
            return Err(malformed());
        }
        let status: u16 = status.parse().map_err(|_| malformed())?;
        if !(100..=599).contains(&status) {
            return Err(malformed());
        }
        Ok(Self {
            version: version.to_owned(),
            status,
            reason: reason.to_owned(),
            framing: Framing::of_response("GET", status, &head.fields)?,
            headers: head.fields,
            raw_head: head.raw,
            body: Vec::new(),
            raw_body: Vec::new(),
            trailers: Vec::new(),
            truncated: false,
            interim: Vec::new(),
        })
    }

    /// The value of the first header field of this name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        wire::first_named(&self.headers, name)
    }

    /// The values of all header fields of this name, in any case, in order.
    pub fn headers_named(&self, name: &str) -> Vec<&str> {
        wire::all_named(&self.headers, name)
    }

    /// The decoded body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Whether the response announces that its connection will close.
    pub fn announces_close(&self) -> bool {
        wire::lists_token(&self.headers, "Connection", "close")
    }

    /// Panics, showing the whole response, if it has another status.
    #[track_caller]
    pub fn expect_status(&self, status: u16) -> &Self {
        assert_eq!(self.status, status, "status of {self:?}");
        self
    }

    /// Whether another response to the same request follows. A 101 is the last one: a tunnel
    /// follows it.
    pub(super) fn is_interim(&self) -> bool {
        matches!(self.status, 100 | 102..=199)
    }

    /// The framing of the body in a response to this method.
    pub(super) fn framing_for(&self, method: &str) -> Framing {
        match method {
            "HEAD" => Framing::Empty,
            _ => self.framing,
        }
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for interim in &self.interim {
            write!(f, "interim {}, then ", wire::escaped(&interim.raw_head))?;
        }
        write!(
            f,
            "head {} body {}{}",
            wire::escaped(&self.raw_head),
            wire::escaped(&self.raw_body),
            if self.truncated { " (truncated)" } else { "" }
        )
    }
}
