//! HTTP of one connection of the control API: a request in, a response out.
//!
//! Runs on the connection's thread, which may wait here: a head, a body and a response have 5 s in
//! total each, not per byte, as has an idle connection. Owns the bytes that were received. As strict
//! as the data port, by the same parsers (`wire`); must never look into a request.

use super::message::{ReplyTo, Request, Response};
use super::problem::Problem;
use crate::config;
use crate::error::Cause;
use crate::wire::Body;
use crate::wire::body::{BodyReader, BodyWriter};
use crate::wire::fields::field_storage;
use crate::wire::head_end::HeadEnd;
use crate::wire::request;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

/// The bytes that one read may return.
const PIECE_BYTES: usize = 8 * 1024;
/// The time and the bytes for which the client may still send after the last response.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 1024 * 1024;

/// Why there is no request.
#[derive(Debug)]
pub(super) enum NoRequest {
    /// The client has closed the connection, or was idle for too long.
    Closed,
    /// The bytes are no valid request, or came too slowly.
    Rejected(Problem),
}

/// A connection.
#[derive(Debug)]
pub(super) struct Connection<'s> {
    socket: &'s TcpStream,
    received: Vec<u8>,
}

impl From<Cause> for NoRequest {
    fn from(cause: Cause) -> Self {
        Self::Rejected(cause.into())
    }
}

impl From<Problem> for NoRequest {
    fn from(problem: Problem) -> Self {
        Self::Rejected(problem)
    }
}

impl<'s> Connection<'s> {
    /// A connection that was just accepted.
    pub(super) fn new(socket: &'s TcpStream) -> Self {
        Self { socket, received: Vec::new() }
    }

    /// Reads the next request.
    pub(super) fn next_request(&mut self) -> Result<Request, NoRequest> {
        let length = self.read_head()?;
        let mut head: Vec<u8> = self.received.drain(..length).collect();
        let first_line = memchr::memchr(b'\r', &head).unwrap_or_default();
        request::lower_minor_version(&mut head[..first_line]);
        let mut storage = field_storage();
        let head = request::parse(&head, &mut storage)?;
        let mut request = Request::from(&head);
        if matches!(head.body, Body::Length(length) if length > config::MAX_CONTROL_BODY_BYTES as u64)
        {
            return Err(body_too_large().into());
        }
        if head.expects_continue && self.received.is_empty() {
            let until = Instant::now() + config::CONTROL_TIMEOUT;
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n", until).map_err(|_| NoRequest::Closed)?;
        }
        request.body = self.read_body(head.body)?;
        Ok(request)
    }

    /// Reads until the head is complete, and returns its length.
    fn read_head(&mut self) -> Result<usize, NoRequest> {
        let (mut end, mut empty_lines) = (HeadEnd::default(), 0);
        let mut until = Instant::now() + config::CONTROL_TIMEOUT;
        let mut has_begun = false;
        loop {
            if !self.received.is_empty() && !std::mem::replace(&mut has_begun, true) {
                until = Instant::now() + config::CONTROL_TIMEOUT;
            }
            let found = request::find_end(&self.received, &mut end, &mut empty_lines)?;
            self.received.drain(..found.skipped);
            if let Some(length) = found.length {
                return Ok(length);
            }
            match self.receive(until) {
                Ok(1..) => {}
                Err(error) if is_timeout(&error) && has_begun => {
                    return Err(late("head").into());
                }
                Ok(_) | Err(_) => return Err(NoRequest::Closed),
            }
        }
    }

    fn read_body(&mut self, body: Body) -> Result<Vec<u8>, NoRequest> {
        let (mut reader, mut whole) = (BodyReader::from(body), Vec::new());
        let until = Instant::now() + config::CONTROL_TIMEOUT;
        while !reader.is_done() {
            let room = config::MAX_CONTROL_BODY_BYTES + 1 - whole.len();
            let moved = reader.transfer(BodyWriter::Raw, &self.received, room, &mut whole);
            let moved = moved.map_err(|_| Cause::BadChunk)?;
            self.received.drain(..moved.consumed);
            let announced = whole.len() as u64 + reader.announced();
            if announced > config::MAX_CONTROL_BODY_BYTES as u64 {
                return Err(body_too_large().into());
            }
            if moved.consumed == 0 && !reader.is_done() {
                match self.receive(until) {
                    Ok(1..) => {}
                    Err(error) if is_timeout(&error) => return Err(late("body").into()),
                    Ok(_) | Err(_) => return Err(NoRequest::Closed),
                }
            }
        }
        Ok(whole)
    }

    /// Receives once, at most until then.
    fn receive(&mut self, until: Instant) -> io::Result<usize> {
        self.socket.set_read_timeout(Some(time_left(until)?))?;
        let mut piece = [0; PIECE_BYTES];
        loop {
            match { self.socket }.read(&mut piece) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(count) => {
                    self.received.extend_from_slice(&piece[..count]);
                    return Ok(count);
                }
            }
        }
    }

    /// Sends a response.
    pub(super) fn respond(&mut self, response: &Response, to: &ReplyTo) -> io::Result<()> {
        self.send(&response.bytes(to), Instant::now() + config::CONTROL_TIMEOUT)
    }

    fn send(&mut self, mut bytes: &[u8], until: Instant) -> io::Result<()> {
        while !bytes.is_empty() {
            self.socket.set_write_timeout(Some(time_left(until)?))?;
            match { self.socket }.write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads and discards what the client still sends after the last response: a close over unread
    /// bytes is a reset, which may destroy that response.
    pub(super) fn linger(mut self) {
        let (until, mut count) = (Instant::now() + LINGER_TIMEOUT, 0);
        if self.socket.shutdown(Shutdown::Write).is_err() {
            return;
        }
        while count < LINGER_BYTES
            && let Ok(received @ 1..) = self.receive(until)
        {
            self.received.clear();
            count += received;
        }
    }
}

fn time_left(until: Instant) -> io::Result<Duration> {
    match until.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
        left => Ok(left),
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
}

fn late(part: &str) -> Problem {
    let seconds = config::CONTROL_TIMEOUT.as_secs();
    let error = format!("the request {part} did not arrive within {seconds} s; send it at once");
    Problem::new(408, "request_timeout", error)
}

fn body_too_large() -> Problem {
    let limit = config::MAX_CONTROL_BODY_BYTES / 1024;
    Problem::new(413, "body_too_large", format!("the body is larger than {limit} KiB"))
        .expected("a small JSON object")
}
