//! A client: sends its script, keeps its input, and checks it at the end.

use crate::requests::Requests;
use crate::responses::Response;
use crate::script::{Ending, Piece};
use lb_threads::wire::Version;
use rustix::net::sockopt;
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// A connection to the balancer. Never waits: [`Client::step`] drives it.
#[derive(Debug)]
pub struct Client {
    /// None when it is over.
    pub socket: Option<TcpStream>,
    script: VecDeque<Piece>,
    ending: Ending,
    reads_late: bool,
    /// The bytes sent.
    pub sent: Vec<u8>,
    received: Vec<u8>,
}

impl Client {
    /// Connects.
    pub fn connect(
        address: SocketAddr,
        script: Vec<Piece>,
        ending: Ending,
        reads_late: bool,
    ) -> Self {
        let socket = TcpStream::connect(address).expect("the balancer listens");
        socket
            .set_nodelay(true)
            .and_then(|()| socket.set_nonblocking(true))
            .expect("a socket takes it");
        let (sent, received) = (Vec::new(), Vec::new());
        Self { socket: Some(socket), script: script.into(), ending, reads_late, sent, received }
    }

    /// The event to wait for.
    pub fn readable(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().filter(|_| !self.reads_late).map(AsFd::as_fd)
    }

    /// Sends the next piece and reads what is there; whether there is more to send at once.
    pub fn step(&mut self, quiet: bool) -> bool {
        let Some(mut socket) = self.socket.as_ref() else { return false };
        if let Some(piece) = self.script.front_mut().filter(|piece| quiet || !piece.waits) {
            match socket.write(&piece.bytes) {
                Ok(count) => self.sent.extend(piece.bytes.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => self.script.clear(),
            }
            if self.script.front().is_some_and(|piece| piece.bytes.is_empty()) {
                self.script.pop_front();
            }
            self.end();
        } else if self.reads_late && self.script.is_empty() && quiet {
            self.reads_late = false;
        }
        if !self.reads_late {
            self.read();
        }
        self.socket.is_some() && self.script.front().is_some_and(|piece| !piece.waits)
    }

    /// The action once everything is sent.
    fn end(&mut self) {
        let Some(socket) = self.socket.as_ref().filter(|_| self.script.is_empty()) else { return };
        match self.ending {
            // An error means that the balancer was faster.
            Ending::Finish => drop(socket.shutdown(Shutdown::Write)),
            Ending::Stay => {}
            Ending::Leave => self.socket = None,
            Ending::Reset => {
                sockopt::set_socket_linger(socket, Some(Duration::ZERO))
                    .expect("a socket takes it");
                self.socket = None;
            }
        }
    }

    fn read(&mut self) {
        let mut buffer = [0; 64 * 1024];
        while let Some(mut socket) = self.socket.as_ref() {
            match socket.read(&mut buffer) {
                Ok(count @ 1..) => self.received.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                _ => self.socket = None,
            }
        }
    }

    /// Checks that the input is valid responses to the requests, in order, the last one perhaps
    /// truncated. Returns those of the origin.
    pub fn check(&self, asked: &Requests) -> Vec<Response> {
        let (mut rest, mut responded, mut forwarded) = (&self.received[..], 0, Vec::new());
        loop {
            let request = asked.all.get(responded);
            let is_rejection_of_head = request.is_none() && asked.pending.starts_with(b"HEAD ");
            let to_head =
                is_rejection_of_head || request.is_some_and(|request| request.method == "HEAD");
            let Some(response) = Response::take(&mut rest, to_head).expect("a valid response")
            else {
                return forwarded;
            };
            if response.is_interim() {
                let asker = request.expect("a 1xx belongs to a request");
                assert!(
                    asker.version == Version::Http11 && (response.status != 101 || asker.websocket),
                    "{asker:?}"
                );
                if response.status == 101 {
                    forwarded.push(response);
                    return forwarded;
                }
                continue;
            }
            responded += 1;
            assert!(responded <= asked.all.len() + 1, "more responses than requests");
            // Whether a rejected head counts as HEAD depends on how much of it had come.
            assert!(
                !response.closes || rest.is_empty() || is_rejection_of_head,
                "bytes follow the last response"
            );
            if response.is_own {
                assert!(
                    response.status != 400 || asked.is_malformed,
                    "a well-formed request is rejected"
                );
            } else {
                forwarded.push(response);
            }
            if is_rejection_of_head {
                return forwarded;
            }
        }
    }
}
