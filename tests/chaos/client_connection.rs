//! A client's end of a connection: sends, and reads responses as strictly as it can.

use super::faults::{CLOSED, RESET};
use super::http::{Head, Inbox};
use super::plan::{Manner, Method, Pattern, Plan};
use rustix::io::Errno;
use rustix::net::{RecvFlags, sockopt};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

/// The longest wait for a byte: longer than every timeout of the balancer.
pub const TEST_TIMEOUT: Duration = Duration::from_secs(60);

/// A connection to the balancer.
pub struct Connection {
    stream: TcpStream,
    inbox: Inbox,
}

/// The outcome of a request.
#[derive(Debug)]
pub enum Reply {
    /// The whole and right response of a backend.
    Right { status: u16, announces_close: bool },
    /// An error of the balancer's own.
    OwnError { code: String, announces_close: bool },
    /// Some bytes of a response, then the end of the connection.
    Cut,
    /// The connection ended without a byte.
    Nothing(&'static str),
    /// An invalid response.
    Wrong(String),
    /// Neither bytes nor an end.
    Hang,
}

/// How an idle connection is.
#[derive(Debug, PartialEq, Eq)]
pub enum Idle {
    Open,
    Ended,
    /// Unrequested bytes came.
    Talks,
}

/// The content of a head, besides its body's framing.
struct Heading {
    status: u16,
    announces_close: bool,
    own_error: Option<String>,
}

impl Connection {
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, TEST_TIMEOUT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TEST_TIMEOUT))?;
        stream.set_write_timeout(Some(TEST_TIMEOUT))?;
        Ok(Self { stream, inbox: Inbox::default() })
    }

    /// Sends all of it, or as much as the balancer takes.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Checks a connection without a request.
    pub fn look(&self) -> Idle {
        let mut byte = [0];
        match rustix::net::recv(&self.stream, &mut byte[..], RecvFlags::DONTWAIT | RecvFlags::PEEK)
        {
            _ if !self.inbox.is_empty() => Idle::Talks,
            Err(Errno::AGAIN | Errno::INTR) => Idle::Open,
            Ok((1.., _)) => Idle::Talks,
            Ok(_) | Err(_) => Idle::Ended,
        }
    }

    /// Whether more was received than was read.
    pub fn has_surplus(&self) -> bool {
        !self.inbox.is_empty()
    }

    /// Ends the connection with a reset.
    pub fn reset(self) {
        sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO))
            .expect("a socket takes SO_LINGER");
    }

    /// Waits for a piece of a response and drops it.
    pub fn glance(&mut self) {
        // Whatever it brings: the connection is reset next.
        let _ = self.receive();
    }

    /// Reads the response to this request.
    pub fn read_response(&mut self, plan: &Plan) -> Reply {
        let reply = self.try_response(plan).unwrap_or_else(|reply| reply);
        if matches!(reply, Reply::Wrong(_)) {
            // The rest means nothing.
            self.inbox = Inbox::default();
        }
        reply
    }

    fn try_response(&mut self, plan: &Plan) -> Result<Reply, Reply> {
        let head_len = loop {
            match self.inbox.head_len() {
                Some(len) => break len,
                None => self.receive()?,
            }
        };
        let head = Head::parse(&self.inbox.bytes()[..head_len]).map_err(Reply::Wrong)?;
        let heading = check_head(&head, plan).map_err(Reply::Wrong)?;
        let body = head.body().map_err(Reply::Wrong)?;
        self.inbox.consume(head_len);
        let (is_own, pattern) = (heading.own_error.is_some(), Pattern::of_response(plan));
        if plan.method != Method::Head && heading.status != 101 {
            let mut body =
                body.ok_or_else(|| Reply::Wrong("a response without framing".to_owned()))?;
            let check = |at, bytes: &[u8]| is_own || pattern.matches(at, bytes);
            while !body.read(&mut self.inbox, check).map_err(Reply::Wrong)? {
                self.receive().map_err(|end| {
                    if matches!(end, Reply::Nothing(_)) { Reply::Cut } else { end }
                })?;
            }
            if !is_own && body.at != plan.size {
                return Err(Reply::Wrong(format!(
                    "a body of {} bytes instead of {}",
                    body.at, plan.size
                )));
            }
        }
        let Heading { status, announces_close, own_error } = heading;
        Ok(own_error.map_or(Reply::Right { status, announces_close }, |code| Reply::OwnError {
            code,
            announces_close,
        }))
    }

    /// Sends through the tunnel of an upgrade, reads the echo, and closes it.
    pub fn talk(&mut self, plan: &Plan) -> Result<(), Reply> {
        const ROUNDS: usize = 3;
        let mut words = Vec::new();
        Pattern::of_request(plan).append(&mut words, plan.size.min(4096) + ROUNDS);
        for piece in words.chunks(words.len().div_ceil(ROUNDS)) {
            if self.send(piece).is_err() {
                return Err(Reply::Cut);
            }
            while self.inbox.bytes().len() < piece.len() {
                self.receive()
                    .map_err(|end| if matches!(end, Reply::Hang) { end } else { Reply::Cut })?;
            }
            if self.inbox.bytes() != piece {
                return Err(Reply::Wrong("an echo of bytes that were not sent".to_owned()));
            }
            self.inbox.consume(piece.len());
        }
        // Fails only if the other side was quicker.
        let _ = self.stream.shutdown(Shutdown::Write);
        match self.receive() {
            Err(Reply::Nothing(_)) => Ok(()),
            Err(end) => Err(end),
            Ok(()) => Err(Reply::Wrong("more came through a tunnel than was sent".to_owned())),
        }
    }

    /// Receives at least a byte; the end of the connection is the outcome of the response.
    fn receive(&mut self) -> Result<(), Reply> {
        let has_begun = !self.inbox.is_empty();
        let stream = &mut self.stream;
        match self.inbox.receive(|room| stream.read(room)) {
            Ok(1..) => Ok(()),
            Ok(_) | Err(_) if has_begun => Err(Reply::Cut),
            Ok(_) => Err(Reply::Nothing(CLOSED)),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Err(Reply::Hang)
            }
            Err(_) => Err(Reply::Nothing(RESET)),
        }
    }
}

/// Whether this head is a backend's response to this very request, or an error of the balancer's
/// own.
fn check_head(head: &Head<'_>, plan: &Plan) -> Result<Heading, String> {
    let status = head
        .start_line
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3))
        .and_then(|code| code.parse().ok());
    let status: u16 = status.ok_or_else(|| format!("not a status line: {:?}", head.start_line))?;
    let (key, own_error) = (head.number("X-Key")?, head.field("X-LB-Error")?.map(str::to_owned));
    let is_right = match (key, &own_error) {
        (None, Some(_)) => status >= 400,
        (Some(key), None) if key == u64::from(plan.key) => {
            matches!(status, 200 | 404 | 413 | 500)
                || (status == 101 && plan.manner == Manner::Upgrade)
        }
        _ => false,
    };
    let promised = if own_error.is_none() { head.number("Content-Length")? } else { None };
    if !is_right || promised.is_some_and(|length| length != plan.size as u64) {
        return Err(format!(
            "{:?} with X-Key {key:?}, X-LB-Error {own_error:?}, length {promised:?}",
            head.start_line
        ));
    }
    Ok(Heading { status, announces_close: head.announces_close(), own_error })
}
