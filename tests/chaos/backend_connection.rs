//! A backend's end of a connection: every wait also waits for the backend's death, and respects its
//! pause.

use super::faults::Fault;
use super::http::Inbox;
use super::ledger::Ledger;
use super::plan::Key;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, sockopt};
use std::cell::Cell;
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// A backend between its start and its death.
pub struct Life {
    /// A pipe's reading end: it becomes readable when the backend dies, because the other end is
    /// closed then.
    death: OwnedFd,
    is_over: AtomicBool,
    /// It ends because one backend after another is restarted.
    is_rolling: AtomicBool,
    pub pause: Arc<Pause>,
}

/// The connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// The backend was killed.
    Killed,
    /// The peer has closed or reset, or the script has.
    Closed,
}

impl Life {
    /// A life, and what ends it when it is dropped after [`Life::end`].
    pub fn begin(pause: Arc<Pause>) -> (Arc<Self>, OwnedFd) {
        let (death, cord) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("a pipe can be made");
        (
            Arc::new(Self {
                death,
                is_over: AtomicBool::new(false),
                is_rolling: AtomicBool::new(false),
                pause,
            }),
            cord,
        )
    }

    /// The end of the pipe wakes all waits; other code polls.
    pub fn end(&self, cord: OwnedFd, fault: Fault) {
        self.is_rolling.store(fault == Fault::Rolling, SeqCst);
        self.is_over.store(true, SeqCst);
        drop(cord);
        self.pause.wake();
    }

    /// Whether the backend is dead.
    pub fn is_over(&self) -> bool {
        self.is_over.load(SeqCst)
    }

    /// Waits for an event of this socket, or of nothing but death, for so long at most.
    pub fn wait(
        &self,
        socket: Option<(BorrowedFd<'_>, PollFlags)>,
        span: Option<Duration>,
    ) -> Result<(), Gone> {
        let death = PollFd::new(&self.death, PollFlags::IN);
        let mut fds = [
            death.clone(),
            socket.map_or(death, |(socket, events)| PollFd::from_borrowed_fd(socket, events)),
        ];
        let span = span.map(|span| Timespec::try_from(span).expect("a span of a few seconds"));
        match poll(&mut fds, span.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => panic!("poll: {error}"),
        }
        if self.is_over() { Err(Gone::Killed) } else { Ok(()) }
    }
}

/// Whether a backend is paused, like a process that was stopped by a signal.
#[derive(Default)]
pub struct Pause {
    is_on: AtomicBool,
    lock: Mutex<()>,
    changed: Condvar,
}

impl Pause {
    pub fn set(&self, is_on: bool) {
        self.is_on.store(is_on, SeqCst);
        self.wake();
    }

    fn wake(&self) {
        drop(self.lock.lock().expect("no holder of this lock panics"));
        self.changed.notify_all();
    }

    /// Waits until it is over, or the backend dies. Returns whether there was one.
    pub fn pass(&self, life: &Life) -> bool {
        if !self.is_on.load(SeqCst) {
            return false;
        }
        let guard = self.lock.lock().expect("no holder of this lock panics");
        let stands = |_: &mut ()| self.is_on.load(SeqCst) && !life.is_over();
        drop(self.changed.wait_while(guard, stands).expect("no holder of this lock panics"));
        true
    }
}

/// A connection from the balancer.
pub struct Connection {
    socket: TcpStream,
    life: Arc<Life>,
    ledger: Arc<Ledger>,
    pub inbox: Inbox,
    /// The request that is being served.
    key: Option<Key>,
    /// The backend was paused since the last request.
    stood_still: Cell<bool>,
}

impl Connection {
    pub fn new(socket: TcpStream, life: Arc<Life>, ledger: Arc<Ledger>) -> Self {
        socket.set_nodelay(true).expect("a socket takes TCP_NODELAY");
        Self {
            socket,
            life,
            ledger,
            inbox: Inbox::default(),
            key: None,
            stood_still: Cell::new(false),
        }
    }

    /// The request's head has come.
    pub fn begin(&mut self, key: Key) {
        self.key = Some(key);
        if self.stood_still.take() {
            self.meet(Fault::Pause);
        }
    }

    /// The response is sent.
    pub fn end(&mut self) {
        self.key = None;
        self.stood_still.set(false);
    }

    /// Receives at least a byte.
    pub fn receive(&mut self) -> Result<(), Gone> {
        loop {
            self.look()?;
            let socket = &self.socket;
            match self.inbox.receive(|room| {
                rustix::net::recv(socket, room, RecvFlags::DONTWAIT).map(|(count, _)| count)
            }) {
                Ok(0) => return Err(Gone::Closed),
                Ok(_) => return Ok(()),
                Err(Errno::AGAIN | Errno::INTR) => self.wait(PollFlags::IN)?,
                Err(_) => return Err(Gone::Closed),
            }
        }
    }

    /// Sends all of it.
    pub fn send(&mut self, mut bytes: &[u8]) -> Result<(), Gone> {
        while !bytes.is_empty() {
            self.look()?;
            match rustix::net::send(&self.socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
            {
                Ok(count) => bytes = &bytes[count..],
                Err(Errno::AGAIN | Errno::INTR) => self.wait(PollFlags::OUT)?,
                Err(_) => return Err(Gone::Closed),
            }
        }
        Ok(())
    }

    /// Does nothing for a while, except to die.
    pub fn rest(&mut self, span: Duration) -> Result<(), Gone> {
        let end = Instant::now() + span;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let waited = self.life.wait(None, Some(left));
            self.note_death(waited)?;
            self.look()?;
            if left.is_zero() {
                return Ok(());
            }
        }
    }

    /// This fault is done to the request that is being served.
    pub fn meet(&self, fault: Fault) {
        if let Some(key) = self.key {
            self.ledger.met(key, fault);
        }
    }

    /// The connection will end with a reset.
    pub fn reset(&self) -> Gone {
        sockopt::set_socket_linger(&self.socket, Some(Duration::ZERO))
            .expect("a socket takes SO_LINGER");
        Gone::Closed
    }

    /// Waits while the backend is paused, and ends when it dies.
    fn look(&self) -> Result<(), Gone> {
        if self.life.pause.pass(&self.life) {
            self.stood_still.set(true);
            self.meet(Fault::Pause);
        }
        self.note_death(if self.life.is_over() { Err(Gone::Killed) } else { Ok(()) })
    }

    fn wait(&self, events: PollFlags) -> Result<(), Gone> {
        let waited = self.life.wait(Some((self.socket.as_fd(), events)), None);
        self.note_death(waited)
    }

    /// A killed process resets its connections with unread bytes; here all are reset.
    fn note_death(&self, waited: Result<(), Gone>) -> Result<(), Gone> {
        if waited == Err(Gone::Killed) {
            self.meet(if self.life.is_rolling.load(SeqCst) { Fault::Rolling } else { Fault::Kill });
            self.reset();
        }
        waited
    }
}
