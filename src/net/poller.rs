//! Readiness: one epoll per worker, edge-triggered, and the waker by which other threads end its
//! wait.
//!
//! A socket is registered once, for both directions, and stays registered until it is closed. The
//! worker's wait is the only place where it blocks.

use super::Token;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use std::io;
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Events taken from the kernel at once.
const BATCH: usize = 256;
/// The kind of a token, in its highest bits.
const CLIENT: u64 = 0;
const BACKEND: u64 = 1;
const WAKER: u64 = 2;
const LISTENER: u64 = 3;

/// The socket of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A client connection.
    Client(Token),
    /// A backend connection.
    Backend(Token),
    /// The waker: another thread has sent this worker a message.
    Waker,
    /// Connections are in the backlog of the worker's listening socket with this number.
    Listener(u32),
}

impl Source {
    fn to_data(self) -> EventData {
        EventData::new_u64(match self {
            Self::Client(token) => (CLIENT << 62) | token.to_bits(),
            Self::Backend(token) => (BACKEND << 62) | token.to_bits(),
            Self::Waker => WAKER << 62,
            Self::Listener(number) => (LISTENER << 62) | u64::from(number),
        })
    }

    fn from_data(data: EventData) -> Self {
        let bits = data.u64();
        match bits >> 62 {
            CLIENT => Self::Client(Token::from_bits(bits)),
            BACKEND => Self::Backend(Token::from_bits(bits)),
            LISTENER => Self::Listener(bits as u32),
            _ => Self::Waker,
        }
    }
}

/// The kernel's event for a socket. A hint: the state may have changed since.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// The socket.
    pub source: Source,
    pub(super) flags: EventFlags,
}

/// Ends a worker's wait from another thread.
#[derive(Debug)]
pub struct Waker {
    eventfd: OwnedFd,
    sleeping: AtomicBool,
}

impl Waker {
    /// Ends the wait, if there is one. To be called after the message was put into the worker's
    /// channel.
    pub fn wake(&self) {
        // Pairs with the store in `Poller::wait`: either we see that the worker sleeps, or it sees
        // the message.
        if self.sleeping.swap(false, Ordering::SeqCst) {
            // Edge-triggered, so each write is an event and the count is never read. It can fail
            // only by overflowing, after 2^64 wake-ups.
            let _ = rustix::io::write(&self.eventfd, &1_u64.to_ne_bytes());
        }
    }
}

/// The only wait of a worker.
#[derive(Debug)]
pub struct Poller {
    epoll: OwnedFd,
    waker: Arc<Waker>,
}

impl Poller {
    /// Opens the epoll and its waker.
    pub fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let waker = Arc::new(Waker {
            eventfd: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            sleeping: AtomicBool::new(false),
        });
        let flags = EventFlags::IN | EventFlags::ET;
        epoll::add(&epoll, &waker.eventfd, Source::Waker.to_data(), flags)?;
        Ok(Self { epoll, waker })
    }

    /// The handle by which other threads end the wait.
    pub fn waker(&self) -> Arc<Waker> {
        Arc::clone(&self.waker)
    }

    /// Registers a socket for both directions. Only closing the socket ends the registration.
    pub fn register(&self, socket: impl AsFd, source: Source) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        Ok(epoll::add(&self.epoll, socket, source.to_data(), flags)?)
    }

    /// Registers a listening socket, level-triggered: while its backlog holds a connection, each
    /// wait returns its event. A connection to a shared socket wakes one of the workers that have
    /// it.
    pub fn register_listener(
        &self,
        socket: &TcpListener,
        number: u32,
        is_shared: bool,
    ) -> io::Result<()> {
        let mut flags = EventFlags::IN;
        flags.set(EventFlags::EXCLUSIVE, is_shared);
        Ok(epoll::add(&self.epoll, socket, Source::Listener(number).to_data(), flags)?)
    }

    /// Ends the registration of a listening socket.
    pub fn deregister_listener(&self, socket: &TcpListener) {
        // Fails only if it is not registered, which is the purpose.
        let _ = epoll::delete(&self.epoll, socket);
    }

    /// Waits until a socket is ready, `timeout` has passed or the waker is used, and replaces
    /// `events` by the new ones. `nothing_pending` is called after the waker was armed, so that an
    /// earlier message ends the wait as well.
    pub fn wait(
        &mut self,
        events: &mut Vec<Event>,
        timeout: Option<Duration>,
        nothing_pending: impl Fn() -> bool,
    ) -> io::Result<()> {
        events.clear();
        let polls_only = timeout == Some(Duration::ZERO);
        if !polls_only {
            self.waker.sleeping.store(true, Ordering::SeqCst);
        }
        let timeout = if polls_only || nothing_pending() { timeout } else { Some(Duration::ZERO) };
        let timeout = timeout.map(|timeout| {
            Timespec::try_from(timeout).unwrap_or(Timespec { tv_sec: 3600, tv_nsec: 0 })
        });
        let mut batch = [const { MaybeUninit::uninit() }; BATCH];
        let waited = epoll::wait(&self.epoll, &mut batch[..], timeout.as_ref());
        if !polls_only {
            self.waker.sleeping.store(false, Ordering::SeqCst);
        }
        let batch = match waited {
            Ok((batch, _)) => batch,
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        };
        events.extend(
            batch
                .iter()
                .map(|event| Event { source: Source::from_data(event.data), flags: event.flags }),
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_came_before_the_wait_ends_it() {
        let mut poller = Poller::new().unwrap();
        let mut events = Vec::new();
        poller.wait(&mut events, None, || false).unwrap();
        assert!(events.is_empty());
    }

    #[test]
    fn a_wake_from_another_thread_ends_the_wait() {
        let mut poller = Poller::new().unwrap();
        let waker = poller.waker();
        let thread = std::thread::spawn(move || {
            while !waker.sleeping.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            waker.wake();
        });
        let mut events = Vec::new();
        while events.is_empty() {
            poller.wait(&mut events, None, || true).unwrap();
        }
        assert_eq!(events[0].source, Source::Waker);
        thread.join().unwrap();
    }
}
