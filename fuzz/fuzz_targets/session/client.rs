//! A client: sends what the script says, keeps what it gets, and judges it at the end.

use crate::answers::Answer;
use crate::requests::Requests;
use crate::script::{Ending, Piece};
use lb_threads::wire::Version;
use rustix::net::sockopt;
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// A connection to the balancer. Never waits: it is driven by [`Client::turn`].
#[derive(Debug)]
pub struct Client {
    /// None when it is over.
    pub socket: Option<TcpStream>,
    script: VecDeque<Piece>,
    ending: Ending,
    reads_late: bool,
    /// What the balancer's side took.
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

    /// What can be waited for.
    pub fn readable(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().filter(|_| !self.reads_late).map(AsFd::as_fd)
    }

    /// Sends the next piece and reads what is there; whether there is more to send at once.
    pub fn turn(&mut self, quiet: bool) -> bool {
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

    /// What is done once everything is sent.
    fn end(&mut self) {
        let Some(socket) = self.socket.as_ref().filter(|_| self.script.is_empty()) else { return };
        match self.ending {
            // An error says that the balancer was faster.
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

    /// Checks that what came is valid answers to what was asked, in this order, the last one maybe
    /// cut short. Returns those that are the origin's.
    pub fn judge(&self, asked: &Requests) -> Vec<Answer> {
        let (mut rest, mut answered, mut forwarded) = (&self.received[..], 0, Vec::new());
        loop {
            let request = asked.all.get(answered);
            let is_refusal_of_head = request.is_none() && asked.pending.starts_with(b"HEAD ");
            let to_head =
                is_refusal_of_head || request.is_some_and(|request| request.method == "HEAD");
            let Some(answer) = Answer::take(&mut rest, to_head).expect("it is a valid answer")
            else {
                return forwarded;
            };
            if answer.is_interim() {
                let asker = request.expect("a 1xx answers a request");
                assert!(
                    asker.version == Version::Http11 && (answer.status != 101 || asker.websocket),
                    "{asker:?}"
                );
                if answer.status == 101 {
                    forwarded.push(answer);
                    return forwarded;
                }
                continue;
            }
            answered += 1;
            assert!(answered <= asked.all.len() + 1, "more answers than requests");
            // Whether a head that was refused asked like HEAD depends on how much of it had come.
            assert!(
                !answer.closes || rest.is_empty() || is_refusal_of_head,
                "something follows the last answer"
            );
            if answer.is_own {
                assert!(
                    answer.status != 400 || asked.is_malformed,
                    "what is well-formed is refused"
                );
            } else {
                forwarded.push(answer);
            }
            if is_refusal_of_head {
                return forwarded;
            }
        }
    }
}
