//! The reply of a script's closure: all steps, and the responses of a correct server.

use super::super::wire::{self, Field};
use super::connection::{Connection, Outcome};
use super::record::{Ending, Received};
use super::script::Step;

/// The reply of a script's closure. When the connection has ended, all further calls do nothing.
pub struct Reply<'a> {
    connection: &'a mut Connection,
    is_head: bool,
    wants_close: bool,
    ending: Option<Ending>,
}

impl<'a> Reply<'a> {
    pub(super) fn new(request: &Received, connection: &'a mut Connection) -> Self {
        Self {
            connection,
            is_head: request.method == "HEAD",
            wants_close: request.wants_close(),
            ending: None,
        }
    }

    pub(super) fn finish(self) -> Outcome<()> {
        self.ending.map_or(Ok(()), Err)
    }

    /// Does any step.
    pub fn step(&mut self, step: &Step) {
        self.attempt(|connection| connection.step(step));
    }

    /// Sends these bytes, exactly.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.attempt(|connection| connection.send(bytes.as_ref()));
    }

    /// Responds 200 with this body, as [`Reply::respond`] does.
    pub fn ok(&mut self, body: impl AsRef<[u8]>) {
        self.respond(200, &[], body);
    }

    /// Responds with a `Content-Length`, as a correct server does: no body to HEAD, and closed if
    /// the request wants it.
    pub fn respond(&mut self, status: u16, fields: &[(&str, &str)], body: impl AsRef<[u8]>) {
        let mut fields = fields.to_vec();
        if self.wants_close {
            fields.push(("Connection", "close"));
        }
        let body = body.as_ref();
        let mut bytes = wire::response(status, &fields, body);
        if self.is_head {
            bytes.truncate(bytes.len() - body.len());
        }
        self.send(bytes);
        self.close_if_wanted();
    }

    /// Responds 200 with this body in one chunk and these trailers, otherwise as
    /// [`Reply::respond`].
    pub fn respond_chunked(&mut self, body: impl AsRef<[u8]>, trailers: &[Field]) {
        let close = if self.wants_close { "Connection: close\r\n" } else { "" };
        let head = format!("HTTP/1.1 200 Scripted\r\n{close}Transfer-Encoding: chunked\r\n\r\n");
        self.send(head);
        if !self.is_head {
            self.send(wire::chunked_with_trailers(&[body.as_ref()], trailers));
        }
        self.close_if_wanted();
    }

    /// Reads the request's body, and returns the request as recorded, with as much of the body as
    /// came.
    pub fn read_body(&mut self) -> Received {
        self.attempt(Connection::read_body);
        self.connection.current_request()
    }

    /// Reads this many further bytes, whatever they are: the bytes of a tunnel, for example. `None`
    /// if the connection ended before.
    pub fn read_bytes(&mut self, count: usize) -> Option<Vec<u8>> {
        self.attempt(|connection| connection.read_bytes(count))
    }

    /// Whether the connection has ended, by a step or by the peer.
    pub fn has_ended(&self) -> bool {
        self.ending.is_some()
    }

    fn close_if_wanted(&mut self) {
        if self.wants_close {
            self.step(&Step::Close);
        }
    }

    fn attempt<T>(&mut self, act: impl FnOnce(&mut Connection) -> Outcome<T>) -> Option<T> {
        if self.has_ended() {
            return None;
        }
        act(self.connection).map_err(|ending| self.ending = Some(ending)).ok()
    }
}
