//! The origin: two backends that follow the script, and check that all requests are well-formed.

use crate::requests::{Next, Request, Requests};
use crate::script::{Response, Then};
use rustix::net::sockopt;
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// The response after the end of the script.
pub const PLAIN: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Both backends and their connections. Never waits: [`Origin::step`] drives it.
#[derive(Debug)]
pub struct Origin {
    listeners: [TcpListener; 2],
    connections: Vec<Connection>,
    responses: VecDeque<Response>,
    /// Requests of connections that are closed already.
    seen: Vec<Request>,
}

#[derive(Debug)]
struct Connection {
    socket: TcpStream,
    requests: Requests,
    /// The bytes still to send.
    out: VecDeque<Vec<u8>>,
    then: Then,
    has_response: bool,
    is_tunnel: bool,
    is_over: bool,
}

impl Origin {
    /// Listens.
    pub fn start() -> Self {
        let listen = || {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
            listener.set_nonblocking(true).expect("a socket takes it");
            listener
        };
        Self {
            listeners: [listen(), listen()],
            connections: Vec::new(),
            responses: VecDeque::new(),
            seen: Vec::new(),
        }
    }

    /// The addresses of the backends.
    pub fn addresses(&self) -> [SocketAddr; 2] {
        self.listeners.each_ref().map(|listener| listener.local_addr().expect("it is bound"))
    }

    /// Sets the responses from now on; after the last one a plain 200.
    pub fn play(&mut self, responses: Vec<Response>) {
        self.responses = responses.into();
    }

    /// The event to wait for.
    pub fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let listeners = self.listeners.iter().map(AsFd::as_fd);
        listeners.chain(self.connections.iter().map(|connection| connection.socket.as_fd()))
    }

    /// Runs without waiting; returns whether there is more to send.
    pub fn step(&mut self) -> bool {
        for listener in &self.listeners {
            while let Ok((socket, _)) = listener.accept() {
                self.connections.push(Connection::of(socket));
            }
        }
        for connection in &mut self.connections {
            connection.step(&mut self.responses);
        }
        let (over, open) = std::mem::take(&mut self.connections)
            .into_iter()
            .partition(|connection| connection.is_over);
        self.connections = open;
        self.seen.extend(
            Vec::into_iter(over).flat_map(|connection: Connection| connection.requests.all),
        );
        self.connections.iter().any(|connection| !connection.out.is_empty())
    }

    /// Closes everything and returns all requests that came.
    pub fn stop(&mut self) -> Vec<Request> {
        self.step();
        let rest = std::mem::take(&mut self.connections);
        self.seen.extend(rest.into_iter().flat_map(|connection| connection.requests.all));
        std::mem::take(&mut self.seen)
    }
}

impl Connection {
    fn of(socket: TcpStream) -> Self {
        socket
            .set_nonblocking(true)
            .and_then(|()| socket.set_nodelay(true))
            .expect("a socket takes it");
        let (requests, out) = (Requests::default(), VecDeque::new());
        Self {
            socket,
            requests,
            out,
            then: Then::Stay,
            has_response: false,
            is_tunnel: false,
            is_over: false,
        }
    }

    fn step(&mut self, responses: &mut VecDeque<Response>) {
        let mut buffer = [0; 64 * 1024];
        loop {
            match self.socket.read(&mut buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Ok(0) | Err(_) => break self.is_over = true,
                Ok(_) if self.is_tunnel => {}
                Ok(count) => self.requests.pending.extend_from_slice(&buffer[..count]),
            }
        }
        while !self.is_tunnel && self.take_request(responses) {}
        self.send_next();
    }

    /// Whether there was another head or end of a request.
    fn take_request(&mut self, responses: &mut VecDeque<Response>) -> bool {
        let found = self.requests.next();
        let found = found.unwrap_or_else(|wrong| {
            panic!("a backend is sent something malformed: {wrong}: {:?}", self.requests)
        });
        match found {
            Next::More => return false,
            Next::Head => {
                self.has_response = responses.front().is_some_and(|response| response.early)
            }
            Next::End if self.has_response => return true,
            Next::End => {}
        }
        if found == Next::End || self.has_response {
            let response = responses.pop_front();
            let response = response.unwrap_or_else(|| Response {
                pieces: vec![PLAIN.to_vec()],
                early: false,
                then: Then::Stay,
            });
            let switches = response.pieces.concat().windows(4).any(|window| window == b" 101");
            self.is_tunnel =
                switches && self.requests.all.last().is_some_and(|request| request.websocket);
            self.out.extend(response.pieces);
            self.then = response.then;
        }
        !self.is_tunnel
    }

    /// One piece per step.
    fn send_next(&mut self) {
        if let Some(piece) = self.out.front_mut() {
            match self.socket.write(piece) {
                Ok(count) => drop(piece.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => self.is_over = true,
            }
            if piece.is_empty() {
                self.out.pop_front();
            }
        }
        if self.out.is_empty() && self.then != Then::Stay {
            if self.then == Then::Reset {
                sockopt::set_socket_linger(&self.socket, Some(Duration::ZERO))
                    .expect("a socket takes it");
            }
            self.is_over = true;
        }
    }
}
