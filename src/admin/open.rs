//! An open connection of the control API, as the acceptor and the connection's thread share it.
//!
//! The thread marks when it waits for its client. A connection that has waited for some time may be
//! ended in favour of a new one, so that slow and idle clients keep no operator out.

use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The time for which a connection may wait before a new one may take its place. A client that sends
/// at once needs less, and a flood of connections ends few of them.
pub(super) const MIN_WAIT: Duration = Duration::from_millis(250);

/// The mark of a connection that does not wait: a request is being served, or it was ended.
const NOT_WAITING: u64 = u64::MAX;

/// An open connection.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) socket: TcpStream,
    accepted: Instant,
    /// Since when it waits for its client, in milliseconds after the accept; or [`NOT_WAITING`].
    waits_since: AtomicU64,
}

impl Open {
    /// A connection that was just accepted, and waits for its first request.
    pub(super) fn new(socket: TcpStream) -> Self {
        Self { socket, accepted: Instant::now(), waits_since: AtomicU64::new(0) }
    }

    /// Marks that a request is being served, until its response is sent.
    pub(super) fn begin_serving(&self) {
        self.waits_since.store(NOT_WAITING, Ordering::SeqCst);
    }

    /// Marks that it waits for its client again.
    pub(super) fn end_serving(&self) {
        let now = self.accepted.elapsed().as_millis();
        self.waits_since.store(u64::try_from(now).unwrap_or(NOT_WAITING - 1), Ordering::SeqCst);
    }

    /// How long it has waited for its client; none while a request is being served, or
    /// after [`Open::end_wait`].
    pub(super) fn waited(&self, now: Instant) -> Option<Duration> {
        let since =
            Some(self.waits_since.load(Ordering::SeqCst)).filter(|one| *one != NOT_WAITING)?;
        let age = now.saturating_duration_since(self.accepted);
        Some(age.saturating_sub(Duration::from_millis(since)))
    }

    /// Ends the wait for its client: the thread reads the end of its requests. A request that is
    /// being served is finished.
    pub(super) fn end_wait(&self) {
        self.waits_since.store(NOT_WAITING, Ordering::SeqCst);
        // Fails only if the client has closed it.
        let _ = self.socket.shutdown(Shutdown::Read);
    }
}
