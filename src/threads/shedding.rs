//! Load shedding: connections that are rejected without a session, because workers hold as many
//! rejected ones as they may.
//!
//! Runs on the thread that accepts, owns the sockets that were shed last, and must never wait. The
//! response is sent at once, before any request. The socket is kept for a moment, closed for
//! sending: a request that comes a little later would meet a closed socket, and the reset that
//! follows may overtake the response.

use crate::error::Cause;
use crate::logging::RateLimitedLog;
use crate::metrics::Counters;
use crate::reason::Reason;
use crate::wire::error_response::{self, ErrorFormat};
use crate::wire::request_id::RequestId;
use crate::wire::rewrite::{ConnectionHeader, ResponseFields};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// How long a shed socket is kept, unless its descriptor is needed for the next one.
const HOLD_TIME: Duration = Duration::from_secs(1);
/// How many pieces of 4 KiB of the client's bytes are read before the close.
const MAX_PIECES: usize = 16;

/// The connections that one thread has shed last, oldest first.
#[derive(Debug)]
pub struct Shedding {
    held: VecDeque<(Instant, TcpStream)>,
    max_held: usize,
    log: RateLimitedLog,
    counters: Arc<Counters>,
}

impl Shedding {
    /// Keeps at most `max_held` sockets. The counters belong to the calling thread.
    pub fn new(max_held: usize, counters: Arc<Counters>) -> Self {
        Self { held: VecDeque::new(), max_held, log: RateLimitedLog::default(), counters }
    }

    /// Rejects a connection, as far as that works without waiting, and closes it soon.
    pub fn shed(&mut self, mut socket: TcpStream, cause: Cause) {
        if let Some(count) = self.log.count(Instant::now()) {
            log::warn!(event = "limit"; "rejected {count} connection(s): {}", cause.description());
        }
        self.counters.connections.add(1);
        self.counters.rejected(cause);
        self.counters.failed(cause);
        self.counters.closed(Reason::Overload);
        let date = httpdate::fmt_http_date(SystemTime::now());
        let request_id = &RequestId::generate(fastrand::u128(..));
        let format = ErrorFormat { is_head: false, accepts_json: false };
        let fields =
            ResponseFields { connection: ConnectionHeader::Close, date: &date, request_id };
        let mut response = Vec::new();
        error_response::write(&mut response, cause, cause.description(), format, fields);
        // The buffer of a fresh socket has room for the whole response.
        let sent = socket.set_nonblocking(true).and_then(|()| socket.write_all(&response));
        if sent.and_then(|()| socket.shutdown(Shutdown::Write)).is_err() {
            return;
        }
        self.held.push_back((Instant::now(), socket));
        if self.held.len() > self.max_held {
            self.close_oldest();
        }
    }

    /// Closes the sockets whose time has passed.
    pub fn close_expired(&mut self, now: Instant) {
        while self.deadline().is_some_and(|at| at <= now) {
            self.close_oldest();
        }
    }

    /// When the next socket is to be closed.
    pub fn deadline(&self) -> Option<Instant> {
        self.held.front().map(|(since, _)| *since + HOLD_TIME)
    }

    /// The client's bytes are read first: closing over them would send a reset.
    fn close_oldest(&mut self) {
        if let Some((_, mut socket)) = self.held.pop_front() {
            let mut piece = [0; 4096];
            let _ = (0..MAX_PIECES).all(|_| matches!(socket.read(&mut piece), Ok(1..)));
        }
    }
}
