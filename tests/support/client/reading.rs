//! How the client reads: responses by their framing, strictly, or bytes as they come.

use std::io::{ErrorKind, Read};
use std::mem;

use rustix::event::PollFlags;

use super::super::wait::{Deadline, TEST_TIMEOUT};
use super::super::wire::{self, BodyReader, Framing, Head};
use super::{Client, Next, Response};

/// Reading responses.
impl Client {
    /// Reads the response to a request that was not HEAD, with its interim responses.
    #[track_caller]
    pub fn read_response(&mut self) -> Response {
        self.read_response_to("GET")
    }

    /// Reads the response to a request of this method, with its interim responses.
    #[track_caller]
    pub fn read_response_to(&mut self, method: &str) -> Response {
        let mut interim = Vec::new();
        loop {
            let mut response = self.read_head();
            if response.is_interim() {
                interim.push(response);
                continue;
            }
            response.interim = interim;
            self.read_body_to(method, &mut response);
            return response;
        }
    }

    /// Reads the response, or gives nothing if the connection ends (in order or not) before its
    /// first byte.
    #[track_caller]
    pub fn try_response(&mut self) -> Option<Response> {
        match self.peek() {
            Next::Bytes(_) => Some(self.read_response()),
            Next::End | Next::Reset => None,
        }
    }

    /// Reads one interim (1xx) response, and panics if the next response is a final one.
    #[track_caller]
    pub fn read_interim(&mut self) -> Response {
        let response = self.read_head();
        assert!(response.is_interim(), "no interim response: {response:?}");
        response
    }

    /// Reads the head of the next response, interim or not, and leaves its body to come.
    #[track_caller]
    pub fn read_head(&mut self) -> Response {
        let deadline = Deadline::new();
        loop {
            let parsed = match Head::take(&mut self.inbox) {
                Ok(Some(head)) => Response::parse(head),
                Ok(None) => {
                    self.need_more("a response's head", deadline);
                    continue;
                }
                Err(error) => Err(error),
            };
            match parsed {
                Ok(response) => return response,
                Err(error) => panic!("{error}; {}", self.seen()),
            }
        }
    }

    /// Reads the body that belongs to a head, as the response to a request of this method.
    #[track_caller]
    pub fn read_body_to(&mut self, method: &str, response: &mut Response) {
        let deadline = Deadline::new();
        let framing = response.framing_for(method);
        let mut reader = BodyReader::new(framing);
        loop {
            match reader.take(&mut self.inbox) {
                Ok(true) => break,
                Ok(false) => {}
                Err(error) => panic!("{error}; {}", self.seen()),
            }
            if let Err(end) = self.fill(deadline) {
                response.truncated = framing != Framing::ToEnd || end == Next::Reset;
                break;
            }
        }
        response.body = reader.content;
        response.raw_body = reader.raw;
        response.trailers = reader.trailers;
    }
}

/// Reading bytes.
impl Client {
    /// Waits for the next event from the peer, and takes the bytes if it sends some.
    #[track_caller]
    pub fn comes_next(&mut self) -> Next {
        let next = self.peek();
        self.inbox.clear();
        next
    }

    /// Waits for the next event from the peer. True if it closes in order; false if it sends a byte
    /// or resets.
    #[track_caller]
    pub fn at_end(&mut self) -> bool {
        self.peek() == Next::End
    }

    /// Reads all until the peer closes in order, and panics if it resets instead.
    #[track_caller]
    pub fn read_to_end(&mut self) -> Vec<u8> {
        match self.read_until_closed() {
            (bytes, Next::End) => bytes,
            _ => panic!("the connection was reset; {}", self.seen()),
        }
    }

    /// Reads all until the peer closes or resets, and returns which of the two.
    #[track_caller]
    pub fn read_until_closed(&mut self) -> (Vec<u8>, Next) {
        let deadline = Deadline::new();
        loop {
            if let Err(end) = self.fill(deadline) {
                return (mem::take(&mut self.inbox), end);
            }
        }
    }

    /// Reads exactly this many bytes.
    #[track_caller]
    pub fn read_exactly(&mut self, count: usize) -> Vec<u8> {
        let deadline = Deadline::new();
        while self.inbox.len() < count {
            self.need_more(&format!("{count} bytes"), deadline);
        }
        self.inbox.drain(..count).collect()
    }

    /// Reads up to and including these bytes.
    #[track_caller]
    pub fn read_until(&mut self, mark: impl AsRef<[u8]>) -> Vec<u8> {
        let (mark, deadline) = (mark.as_ref(), Deadline::new());
        loop {
            if let Some(start) = self.inbox.windows(mark.len()).position(|bytes| bytes == mark) {
                return self.inbox.drain(..start + mark.len()).collect();
            }
            self.need_more(&wire::escaped(mark), deadline);
        }
    }

    /// The next event, without consuming its bytes.
    #[track_caller]
    fn peek(&mut self) -> Next {
        if self.inbox.is_empty()
            && let Err(end) = self.fill(Deadline::new())
        {
            return end;
        }
        Next::Bytes(self.inbox.clone())
    }

    #[track_caller]
    fn need_more(&mut self, wanted: &str, deadline: Deadline) {
        if let Err(end) = self.fill(deadline) {
            panic!("{end:?} instead of {wanted}; {}", self.seen());
        }
    }

    /// Reads once into the inbox, or gives the connection's end. Panics at the timeout.
    #[track_caller]
    fn fill(&mut self, deadline: Deadline) -> Result<(), Next> {
        let mut piece = [0; 64 * 1024];
        loop {
            self.stream
                .set_read_timeout(Some(deadline.remaining()))
                .expect("a socket takes a timeout");
            match self.stream.read(&mut piece) {
                Ok(0) => return Err(self.end()),
                Ok(count) => {
                    self.inbox.extend_from_slice(&piece[..count]);
                    self.remember(&piece[..count]);
                    return Ok(());
                }
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => {}
                    ErrorKind::ConnectionReset => self.was_reset = true,
                    ErrorKind::WouldBlock if !deadline.has_passed() => {}
                    ErrorKind::WouldBlock => panic!("nothing in {TEST_TIMEOUT:?}; {}", self.seen()),
                    _ => panic!("cannot read: {error}; {}", self.seen()),
                },
            }
        }
    }

    /// Which end it is that a read of nothing shows.
    fn end(&mut self) -> Next {
        if self.events().contains(PollFlags::HUP) {
            // The connection has ended, so the sender has too. The kernel may have reported a reset
            // to the sender.
            self.finish_sending();
        }
        match self.was_reset {
            true => Next::Reset,
            false => Next::End,
        }
    }

    fn remember(&mut self, bytes: &[u8]) {
        const KEPT: usize = 4096;

        self.seen_in_all += bytes.len();
        self.seen.extend_from_slice(bytes);
        let surplus = self.seen.len().saturating_sub(KEPT);
        self.seen.drain(..surplus);
    }

    pub(super) fn seen(&self) -> String {
        let (all, last) = (self.seen_in_all, self.seen.len());
        let bytes = wire::escaped(&self.seen);
        format!("received {all} bytes, the last {last}: {bytes}")
    }
}
