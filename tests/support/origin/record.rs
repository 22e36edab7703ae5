//! The record of an origin: the requests, the bytes of each connection, and how each connection
//! ended.
//!
//! One record per origin, behind one lock that is never held across a read or a write of a socket.

use std::fmt;
use std::mem;

use super::super::wire::{self, BodyReader, Field, Framing, Head};

/// A request as it arrived. It is recorded when its head is whole; the body grows while it is read.
#[derive(Clone)]
pub struct Received {
    /// `GET`
    pub method: String,
    /// `/path?query`, or another form, as received.
    pub target: String,
    /// `HTTP/1.1`
    pub version: String,
    /// All fields in order: names as received, values trimmed.
    pub headers: Vec<Field>,
    /// The head exactly as received, with its last CRLFCRLF.
    pub raw_head: Vec<u8>,
    /// The framing of the request's body.
    pub framing: Framing,
    /// The body read so far, decoded.
    pub body: Vec<u8>,
    /// The body read so far, as it came: with chunk sizes and trailers.
    pub raw_body: Vec<u8>,
    /// The fields after the last chunk.
    pub trailers: Vec<Field>,
    /// Whether the whole request was read, its body included.
    pub complete: bool,
    /// The number of its connection at the origin, from 0.
    pub connection: usize,
    /// Its number on its connection, from 0.
    pub index: usize,
}

impl Received {
    pub(super) fn parse(head: Head, connection: usize, index: usize) -> Result<Self, String> {
        let mut words = head.start_line.split(' ');
        let (Some(method), Some(target), Some(version), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(format!("not a request line: {:?}", head.start_line));
        };
        if method.is_empty() || target.is_empty() || !version.starts_with("HTTP/1.") {
            return Err(format!("not a request line: {:?}", head.start_line));
        }
        let framing = Framing::of_request(&head.fields)?;
        Ok(Self {
            method: method.to_owned(),
            target: target.to_owned(),
            version: version.to_owned(),
            framing,
            body: Vec::new(),
            raw_body: Vec::new(),
            trailers: Vec::new(),
            complete: framing == Framing::Empty,
            connection,
            index,
            headers: head.fields,
            raw_head: head.raw,
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

    /// Whether a server must close the connection after its response.
    pub(super) fn wants_close(&self) -> bool {
        let listed = |token| wire::lists_token(&self.headers, "Connection", token);
        listed("close") || (self.version == "HTTP/1.0" && !listed("keep-alive"))
    }

    /// Whether the client waits for a `100 Continue` before it sends the body.
    pub(super) fn expects_continue(&self) -> bool {
        wire::lists_token(&self.headers, "Expect", "100-continue")
    }
}

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "request {} of connection {} ({}): head {} body {}",
            self.index,
            self.connection,
            if self.complete { "whole" } else { "not whole" },
            wire::escaped(&self.raw_head),
            wire::escaped(&self.raw_body),
        )
    }
}

/// Why a connection of an origin ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The peer closed its side, and the script wanted to read.
    PeerClosed,
    /// The peer reset the connection, or it was gone when the script sent.
    PeerReset,
    /// The script closed it.
    Closed,
    /// The script reset it.
    Reset,
    /// The origin was stopped.
    Stopped,
    /// The script could not go on: malformed bytes from the peer, a gate that was never opened, a
    /// panic.
    Fault(String),
}

/// The number of a recorded request, for adding its body later.
#[derive(Clone, Copy)]
pub(super) struct RequestId(usize);

/// Everything recorded.
#[derive(Default)]
pub(super) struct Ledger {
    pub(super) accepted: usize,
    pub(super) health_checks: usize,
    pub(super) requests: Vec<Received>,
    pub(super) panics: Vec<String>,
    connections: Vec<Line>,
}

/// The record of one connection.
#[derive(Default)]
struct Line {
    bytes: Vec<u8>,
    ending: Option<Ending>,
}

impl Ledger {
    /// Counts a connection and returns its number. `bytes` came before it was known to count.
    pub(super) fn open(&mut self, bytes: &[u8]) -> usize {
        self.connections.push(Line { bytes: bytes.to_vec(), ending: None });
        self.connections.len() - 1
    }

    pub(super) fn bytes_came(&mut self, connection: usize, bytes: &[u8]) {
        self.connections[connection].bytes.extend_from_slice(bytes);
    }

    /// Forgets `length` bytes that stand `before_end` bytes before the connection's last one: a
    /// health check.
    pub(super) fn forget(&mut self, connection: usize, length: usize, before_end: usize) {
        let bytes = &mut self.connections[connection].bytes;
        let end = bytes.len() - before_end;
        bytes.drain(end - length..end);
    }

    pub(super) fn request_came(&mut self, request: Received) -> RequestId {
        self.requests.push(request);
        RequestId(self.requests.len() - 1)
    }

    /// Moves what the reader has to the request. `complete`: whether that was all.
    pub(super) fn body_came(&mut self, id: RequestId, reader: &mut BodyReader, complete: bool) {
        let request = &mut self.requests[id.0];
        let (mut content, mut raw) = reader.take_progress();
        request.body.append(&mut content);
        request.raw_body.append(&mut raw);
        request.complete = complete;
        if complete {
            request.trailers = mem::take(&mut reader.trailers);
        }
    }

    pub(super) fn request(&self, id: RequestId) -> Received {
        self.requests[id.0].clone()
    }

    /// The framing of a request whose body is not read yet.
    pub(super) fn unread_body(&self, id: RequestId) -> Option<Framing> {
        let request = &self.requests[id.0];
        (!request.complete).then_some(request.framing)
    }

    pub(super) fn ended(&mut self, connection: usize, ending: Ending) {
        self.connections[connection].ending = Some(ending);
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.len()
    }

    pub(super) fn open_connections(&self) -> usize {
        let is_open = |line: &&Line| line.ending.is_none();
        self.connections.iter().filter(is_open).count()
    }

    pub(super) fn bytes(&self) -> Vec<Vec<u8>> {
        let bytes = |line: &Line| line.bytes.clone();
        self.connections.iter().map(bytes).collect()
    }

    pub(super) fn ending(&self, connection: usize) -> Option<Ending> {
        self.connections.get(connection)?.ending.clone()
    }

    /// The history so far, for the message of a test that fails.
    pub(super) fn story(&self) -> String {
        let mut story = format!(
            "{} requests and {} health checks on {} counted connections, {} accepted",
            self.requests.len(),
            self.health_checks,
            self.connections.len(),
            self.accepted
        );
        for (index, line) in self.connections.iter().enumerate() {
            let ending = match &line.ending {
                Some(ending) => format!("ended: {ending:?}"),
                None => "open".to_owned(),
            };
            let bytes = wire::escaped(&line.bytes);
            story.push_str(&format!("\n  connection {index}, {ending}, received {bytes}"));
        }
        story
    }
}
