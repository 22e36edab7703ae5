//! A raw HTTP/1.1 client: sends exactly the bytes it is given, reads strictly, and never waits
//! longer than [`TEST_TIMEOUT`](super::TEST_TIMEOUT).
//!
//! An unexpected event panics at the test's line, with the bytes received so far. Tests that
//! *expect* the end of the connection call [`Client::comes_next`], [`Client::at_end`],
//! [`Client::try_response`].

mod reading;
mod response;

use std::io::{self, ErrorKind, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use rustix::net::sockopt;

pub use self::response::Response;
use super::address::tcp_socket;
use super::wait::{Gate, TEST_TIMEOUT};

/// The next event from a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// It sends these bytes, and perhaps more.
    Bytes(Vec<u8>),
    /// It closes its sending side, in order (FIN).
    End,
    /// It resets the connection (RST).
    Reset,
}

/// A connection to the balancer, or to anything else.
pub struct Client {
    stream: TcpStream,
    /// Received and not yet read by the test.
    inbox: Vec<u8>,
    /// The last bytes received, for messages.
    seen: Vec<u8>,
    seen_in_all: usize,
    /// The kernel reports a reset once, to a read or to a write; from then on it looks like an
    /// orderly end.
    was_reset: bool,
    /// Still sending what an exchange began to send.
    sender: Option<JoinHandle<io::Result<()>>>,
}

/// Connecting, sending and ending.
impl Client {
    /// Between two pieces of [`Client::send_in_pieces`]: long enough for an idle peer to read them
    /// one by one.
    const PIECE_PAUSE: Duration = Duration::from_micros(200);

    /// Connects.
    #[track_caller]
    pub fn connect(address: SocketAddr) -> Self {
        match TcpStream::connect_timeout(&address, TEST_TIMEOUT) {
            Ok(stream) => Self::of(stream),
            Err(error) => panic!("cannot connect to {address}: {error}"),
        }
    }

    /// Connects from this local address: on Linux any of 127.0.0.0/8 is one, so that a test can be
    /// several clients.
    #[track_caller]
    pub fn connect_from(local: IpAddr, address: SocketAddr) -> Self {
        let connect = || -> io::Result<TcpStream> {
            let socket = tcp_socket(address)?;
            rustix::net::bind(&socket, &SocketAddr::new(local, 0))?;
            rustix::net::connect(&socket, &address)?;
            Ok(TcpStream::from(socket))
        };
        match connect() {
            Ok(stream) => Self::of(stream),
            Err(error) => panic!("cannot connect from {local} to {address}: {error}"),
        }
    }

    fn of(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("a socket takes TCP_NODELAY");
        stream.set_write_timeout(Some(TEST_TIMEOUT)).expect("a socket takes a timeout");
        Self {
            stream,
            inbox: Vec::new(),
            seen: Vec::new(),
            seen_in_all: 0,
            was_reset: false,
            sender: None,
        }
    }

    /// The client's own address, as the balancer should name it.
    #[track_caller]
    pub fn local_address(&self) -> SocketAddr {
        self.stream.local_addr().expect("a connected socket has it")
    }

    /// Another handle of its socket, for a thread that reads without parsing.
    #[track_caller]
    pub fn stream(&self) -> TcpStream {
        self.stream.try_clone().expect("a socket can be cloned")
    }

    /// Sends all these bytes.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        if let Err(error) = self.try_send(bytes) {
            panic!("cannot send: {error}; {}", self.seen());
        }
    }

    /// Sends all these bytes, or returns the error: for a peer that may have closed.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.finish_sending();
        let sent = self.stream.write_all(bytes.as_ref());
        self.was_reset |= is_reset(&sent);
        sent
    }

    /// Sends the bytes in pieces of these sizes, and what is left over in one last piece.
    ///
    /// The peer reads the pieces one by one if it is quick; a busy one may see some joined.
    #[track_caller]
    pub fn send_in_pieces(
        &mut self,
        bytes: impl AsRef<[u8]>,
        sizes: impl IntoIterator<Item = usize>,
    ) {
        let mut rest = bytes.as_ref();
        for size in sizes {
            if rest.is_empty() {
                return;
            }
            let (piece, remaining) = rest.split_at(size.clamp(1, rest.len()));
            self.send(piece);
            Gate::new().wait_for(Self::PIECE_PAUSE);
            rest = remaining;
        }
        self.send(rest);
    }

    /// Sends a GET on this connection, kept alive, and reads its response.
    #[track_caller]
    pub fn get(&mut self, target: &str) -> Response {
        self.send(format!("GET {target} HTTP/1.1\r\nHost: example.com\r\n\r\n"));
        self.read_response()
    }

    /// Sends a request while it reads the response, so that large bodies both ways do not wait for
    /// each other. A peer that responds and closes before it has read all is no failure.
    #[track_caller]
    pub fn exchange(&mut self, request: impl AsRef<[u8]>) -> Response {
        let request = request.as_ref();
        let method = request.split(|&byte| byte == b' ').next();
        let method = String::from_utf8_lossy(method.unwrap_or_default()).into_owned();
        self.send_in_background(request).read_response_to(&method)
    }

    /// Closes the sending side only (FIN).
    #[track_caller]
    pub fn shutdown_write(&mut self) {
        self.finish_sending();
        if let Err(error) = self.stream.shutdown(Shutdown::Write) {
            panic!("cannot close the sending side: {error}; {}", self.seen());
        }
    }

    /// Resets the connection (RST).
    pub fn reset(self) {
        sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO))
            .expect("a socket takes SO_LINGER");
    }

    /// Whether the peer has neither closed nor reset the connection as yet. Reads nothing.
    pub fn is_open(&self) -> bool {
        !self.events().intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR)
    }

    /// Sends from a thread of its own, until all is sent or the peer wants no more.
    fn send_in_background(&mut self, bytes: &[u8]) -> &mut Self {
        self.finish_sending();
        let mut stream = self.stream.try_clone().expect("a socket can be cloned");
        let bytes = bytes.to_vec();
        self.sender = Some(thread::spawn(move || stream.write_all(&bytes)));
        self
    }

    /// Waits for the sender. A peer may respond and close before it has read all: the bytes read
    /// show a failure.
    fn finish_sending(&mut self) {
        if let Some(sender) = self.sender.take() {
            let sent = sender.join().expect("a sender does not panic");
            self.was_reset |= is_reset(&sent);
        }
    }

    /// The state of the connection, from one poll that does not wait.
    fn events(&self) -> PollFlags {
        let mut fds = [PollFd::new(&self.stream, PollFlags::RDHUP)];
        retry_on_intr(|| poll(&mut fds, Some(&Timespec::default())))
            .expect("a socket can be polled");
        fds[0].revents()
    }
}

fn is_reset(outcome: &io::Result<()>) -> bool {
    matches!(outcome, Err(error) if error.kind() == ErrorKind::ConnectionReset)
}

impl Drop for Client {
    fn drop(&mut self) {
        let Some(sender) = self.sender.take() else {
            return;
        };
        if !sender.is_finished() {
            // Wakes it. Fails only on a connection that is gone, where it needs no waking.
            let _ = self.stream.shutdown(Shutdown::Both);
        }
        // Its socket must be gone when ours is, or the connection would stay open.
        let _ = sender.join();
    }
}

/// GETs this target on a connection of its own, which the request asks to close.
#[track_caller]
pub fn get(address: SocketAddr, target: &str) -> Response {
    exchange(
        address,
        format!("GET {target} HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n"),
    )
}

/// Sends this request on a connection of its own and reads the response. See [`Client::exchange`].
#[track_caller]
pub fn exchange(address: SocketAddr, request: impl AsRef<[u8]>) -> Response {
    Client::connect(address).exchange(request)
}

/// Sends these bytes on a connection of its own and reads all until the peer closes, which must not
/// be a reset.
#[track_caller]
pub fn raw_exchange(address: SocketAddr, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    Client::connect(address).send_in_background(bytes.as_ref()).read_to_end()
}
