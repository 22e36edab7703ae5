//! One connection of an origin, on a thread of its own: reads, records, and runs the script.
//!
//! An operation that cannot go on returns the [`Ending`] of the connection, and `?` carries it to
//! the thread's end. Blocking reads and writes have no timeout: stopping the origin shuts the
//! socket down, which wakes them.

use std::convert::Infallible;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::super::wait::{Deadline, Gate, TEST_TIMEOUT};
use super::super::wire::{self, BodyReader, Head};
use super::Shared;
use super::record::{Ending, Received, RequestId};
use super::reply::Reply;
use super::script::{Handler, Health, Part, Script, Step};

/// How often a wait for another event checks whether the origin is stopped.
const LOOK: Duration = Duration::from_millis(5);

const HEALTH_CHECK: &[u8] = b"GET /health ";

pub(super) type Outcome<T> = Result<T, Ending>;

/// A connection and how far its script has come.
pub(super) struct Connection {
    stream: Arc<TcpStream>,
    shared: Arc<Shared>,
    /// Bytes that came and that no step has taken yet.
    inbox: Vec<u8>,
    /// Its number in the record, once it has turned out to be more than a health check.
    pub(super) index: Option<usize>,
    /// The request whose head was read last.
    request: Option<RequestId>,
    requests: usize,
}

impl Connection {
    pub(super) fn new(stream: Arc<TcpStream>, shared: Arc<Shared>) -> Self {
        Self { stream, shared, inbox: Vec::new(), index: None, request: None, requests: 0 }
    }

    /// Runs the script to the connection's end.
    pub(super) fn run(&mut self, script: &Script) -> Ending {
        let story = self.pass_health_checks(script).and_then(|index| match script.part(index) {
            Part::Steps(steps) => self.act(steps),
            Part::Serve { reads_body, handler } => loop {
                self.serve(reads_body, handler)?;
            },
        });
        match story {
            Err(_) if self.shared.stopping.is_open() => Ending::Stopped,
            Err(ending) => ending,
        }
    }

    /// Makes the socket ready to be dropped, so that the peer sees the ending that the script
    /// wanted.
    pub(super) fn prepare_close(&mut self, ending: &Ending) {
        match ending {
            Ending::Reset => {
                // Cannot fail on an open socket; if it did, the test would fail for want of its
                // reset.
                let _ =
                    rustix::net::sockopt::set_socket_linger(&*self.stream, Some(Duration::ZERO));
            }
            Ending::Closed => self.read_what_is_there(),
            _ => {}
        }
    }

    /// Responds to health checks until other bytes come, and counts the connection then.
    fn pass_health_checks(&mut self, script: &Script) -> Outcome<usize> {
        while self.shared.health() != Health::Scripted && !script.talks_first() {
            let length = self.inbox.len().min(HEALTH_CHECK.len());
            if self.inbox[..length] != HEALTH_CHECK[..length] {
                break;
            }
            match self.take_head()? {
                Some(head) if is_health_check(&head) => self.respond_to_health_check(&head)?,
                Some(_) => unreachable!("a head that starts like a health check is one"),
                None => self.fill()?,
            }
        }
        let index = self.shared.ledger().open(&self.inbox);
        self.index = Some(index);
        Ok(index)
    }

    fn respond_to_health_check(&mut self, head: &Head) -> Outcome<()> {
        self.shared.ledger().health_checks += 1;
        match self.shared.health() {
            Health::Healthy | Health::Scripted => self.send(&wire::ok("ok"))?,
            Health::Status(status) => self.send(&wire::response(status, &[], "scripted"))?,
            Health::Raw(bytes) => {
                self.send(&bytes)?;
                return Err(Ending::Closed);
            }
            Health::Close => return Err(Ending::Closed),
            Health::Hang => return self.discard_input(),
        }
        if wire::lists_token(&head.fields, "Connection", "close") {
            return Err(Ending::Closed);
        }
        Ok(())
    }

    fn act(&mut self, steps: &[Step]) -> Outcome<Infallible> {
        let reads_heads = |step: &Step| matches!(step, Step::ReadHead | Step::ReadRequest);
        let repeats = steps.iter().any(reads_heads);
        loop {
            for step in steps {
                self.step(step)?;
            }
            if !repeats {
                self.discard_input()?;
            }
        }
    }

    pub(super) fn step(&mut self, step: &Step) -> Outcome<()> {
        match step {
            Step::ReadHead => self.read_head().map(drop),
            Step::ReadBody => self.read_body(),
            Step::ReadRequest => self.read_request().map(drop),
            Step::ReadBytes(count) => self.read_bytes(*count).map(drop),
            Step::ReadToEnd => self.read_to_end(),
            Step::Send(bytes) => self.send(bytes),
            Step::SendSlowly { bytes, piece, pause } => self.send_slowly(bytes, *piece, *pause),
            Step::Pause(span) => self.pause(*span),
            Step::WaitFor(gate) => self.wait_for(gate),
            Step::Open(gate) => {
                gate.open();
                Ok(())
            }
            Step::ShutdownWrite => self.shutdown_write(),
            Step::Close => Err(Ending::Closed),
            Step::Reset => Err(Ending::Reset),
            Step::Hang => self.discard_input(),
            Step::Stall => self.stall(),
        }
    }

    fn serve(&mut self, reads_body: bool, handler: &Handler) -> Outcome<()> {
        let request = if reads_body { self.read_request()? } else { self.read_head()? };
        let mut reply = Reply::new(&request, self);
        handler(&request, &mut reply);
        reply.finish()?;
        self.read_body()
    }

    fn read_head(&mut self) -> Outcome<Received> {
        loop {
            match self.take_head()? {
                Some(head)
                    if is_health_check(&head) && self.shared.health() != Health::Scripted =>
                {
                    if let Some(index) = self.index {
                        let mut ledger = self.shared.ledger();
                        ledger.forget(index, head.raw.len(), self.inbox.len());
                    }
                    self.respond_to_health_check(&head)?;
                }
                Some(head) => return self.record(head),
                None => self.fill()?,
            }
        }
    }

    /// The request whose head was read last, as recorded so far.
    pub(super) fn current_request(&self) -> Received {
        let id = self.request.expect("a head was read before");
        self.shared.ledger().request(id)
    }

    fn take_head(&mut self) -> Outcome<Option<Head>> {
        Head::take(&mut self.inbox).map_err(Ending::Fault)
    }

    fn record(&mut self, head: Head) -> Outcome<Received> {
        let connection = self.index.expect("a connection with a request is counted");
        let request = Received::parse(head, connection, self.requests).map_err(Ending::Fault)?;
        self.requests += 1;
        self.request = Some(self.shared.ledger().request_came(request.clone()));
        Ok(request)
    }

    /// Reads the current request's body, or the rest of it: nothing, if it was read before.
    pub(super) fn read_body(&mut self) -> Outcome<()> {
        let Some(id) = self.request else {
            return Err(Ending::Fault("a body is read before any head".to_owned()));
        };
        let Some(framing) = self.shared.ledger().unread_body(id) else {
            return Ok(());
        };
        let mut reader = BodyReader::new(framing);
        loop {
            let took = reader.take(&mut self.inbox);
            let complete = matches!(took, Ok(true));
            self.shared.ledger().body_came(id, &mut reader, complete);
            if took.map_err(Ending::Fault)? {
                return Ok(());
            }
            self.fill()?;
        }
    }

    fn read_request(&mut self) -> Outcome<Received> {
        let request = self.read_head()?;
        if request.expects_continue() && !request.complete {
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        self.read_body()?;
        Ok(self.current_request())
    }

    pub(super) fn read_bytes(&mut self, count: usize) -> Outcome<Vec<u8>> {
        while self.inbox.len() < count {
            self.fill()?;
        }
        Ok(self.inbox.drain(..count).collect())
    }

    fn read_to_end(&mut self) -> Outcome<()> {
        loop {
            self.inbox.clear();
            match self.fill() {
                Ok(()) => {}
                Err(Ending::PeerClosed) => return Ok(()),
                Err(ending) => return Err(ending),
            }
        }
    }

    /// Reads until the peer closes, which is the connection's end.
    fn discard_input(&mut self) -> Outcome<()> {
        self.read_to_end()?;
        Err(Ending::PeerClosed)
    }

    /// Reads nothing until the peer's end is seen, which is the connection's end.
    fn stall(&mut self) -> Outcome<()> {
        let slice = Timespec::try_from(LOOK).expect("some milliseconds are a time");
        while !self.shared.stopping.is_open() {
            let mut fds = [PollFd::new(&*self.stream, PollFlags::RDHUP)];
            let events = match poll(&mut fds, Some(&slice)) {
                Ok(_) => fds[0].revents(),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(Ending::Fault(format!("poll: {error}"))),
            };
            if events.contains(PollFlags::ERR) {
                return Err(Ending::PeerReset);
            }
            if events.intersects(PollFlags::RDHUP | PollFlags::HUP) {
                return Err(Ending::PeerClosed);
            }
        }
        Err(Ending::Stopped)
    }

    fn fill(&mut self) -> Outcome<()> {
        let mut piece = [0; 64 * 1024];
        loop {
            match (&*self.stream).read(&mut piece) {
                Ok(0) => return Err(Ending::PeerClosed),
                Ok(count) => {
                    self.came(&piece[..count]);
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(ending_of(&error)),
            }
        }
    }

    fn came(&mut self, bytes: &[u8]) {
        self.inbox.extend_from_slice(bytes);
        if let Some(index) = self.index {
            self.shared.ledger().bytes_came(index, bytes);
        }
    }

    /// A close with unread bytes in the socket would be a reset.
    fn read_what_is_there(&mut self) {
        if self.stream.set_nonblocking(true).is_ok() {
            while self.fill().is_ok() {}
        }
    }

    pub(super) fn send(&mut self, bytes: &[u8]) -> Outcome<()> {
        (&*self.stream).write_all(bytes).map_err(|error| ending_of(&error))
    }

    fn send_slowly(&mut self, bytes: &[u8], piece: usize, pause: Duration) -> Outcome<()> {
        for (index, piece) in bytes.chunks(piece.max(1)).enumerate() {
            if index > 0 {
                self.pause(pause)?;
            }
            self.send(piece)?;
        }
        Ok(())
    }

    fn pause(&mut self, span: Duration) -> Outcome<()> {
        if self.shared.stopping.wait_for(span) {
            return Err(Ending::Stopped);
        }
        Ok(())
    }

    fn wait_for(&mut self, gate: &Gate) -> Outcome<()> {
        let deadline = Deadline::new();
        while !gate.wait_for(LOOK) {
            if self.shared.stopping.is_open() {
                return Err(Ending::Stopped);
            }
            if deadline.has_passed() {
                return Err(Ending::Fault(format!("no gate opened in {TEST_TIMEOUT:?}")));
            }
        }
        Ok(())
    }

    fn shutdown_write(&mut self) -> Outcome<()> {
        self.stream.shutdown(Shutdown::Write).map_err(|error| ending_of(&error))
    }
}

fn is_health_check(head: &Head) -> bool {
    head.raw.starts_with(HEALTH_CHECK)
}

fn ending_of(error: &io::Error) -> Ending {
    match error.kind() {
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::NotConnected => {
            Ending::PeerReset
        }
        _ => Ending::Fault(error.to_string()),
    }
}
