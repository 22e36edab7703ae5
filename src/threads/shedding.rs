//! Load shedding: connections that the listener rejects by itself, because the workers hold as many
//! rejected ones as they may.
//!
//! Runs on the listener's thread, owns the sockets that it rejected last, and must never wait. A
//! client is told at once, asked or not. Its socket is kept for a moment, closed for sending: a
//! request that comes a little later would meet a closed socket, and the reset that it then gets
//! may overtake the response.

use crate::config;
use crate::error::Cause;
use crate::metrics::Counters;
use crate::reason::Reason;
use crate::wire::error_response::{self, Asked};
use crate::wire::request_id::RequestId;
use crate::wire::rewrite::{ConnectionLine, ResponseFields};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant, SystemTime};

/// How long a rejected socket is kept, unless its descriptor is needed for the next one.
pub const KEPT_FOR: Duration = Duration::from_secs(1);
/// What is read of the client's bytes before the close, in pieces of 4 KiB.
const PIECES: usize = 16;

/// The connections that were rejected last, oldest first.
#[derive(Debug)]
pub struct Shedding {
    kept: VecDeque<(Instant, TcpStream)>,
    room: usize,
}

impl Shedding {
    /// Keeps at most `room` sockets, and not more than [`config::SHED`].
    pub fn new(room: usize) -> Self {
        Self { kept: VecDeque::new(), room: room.min(config::SHED) }
    }

    /// Tells the client, as far as that works without waiting, and closes soon.
    pub fn reject(&mut self, mut socket: TcpStream, cause: Cause, counters: &Counters) {
        counters.connections.add(1);
        counters.failed(cause);
        counters.closed(Reason::Overload);
        let date = httpdate::fmt_http_date(SystemTime::now());
        let request_id = &RequestId::generate(fastrand::u128(..));
        let asked = Asked { is_head: false, accepts_json: false };
        let fields = ResponseFields { connection: ConnectionLine::Close, date: &date, request_id };
        let mut response = Vec::new();
        error_response::write(&mut response, cause, cause.sentence(), asked, fields);
        // A fresh socket has room for this; whether the client reads it is its own affair.
        let told = socket.set_nonblocking(true).and_then(|()| socket.write_all(&response));
        if told.and_then(|()| socket.shutdown(Shutdown::Write)).is_err() {
            return;
        }
        self.kept.push_back((Instant::now(), socket));
        if self.kept.len() > self.room {
            self.close_oldest();
        }
    }

    /// Closes those whose time has passed; whether any are left.
    pub fn close_expired(&mut self) -> bool {
        while self.kept.front().is_some_and(|(since, _)| since.elapsed() >= KEPT_FOR) {
            self.close_oldest();
        }
        !self.kept.is_empty()
    }

    /// What the client has sent is read first: closing over it would send a reset.
    fn close_oldest(&mut self) {
        if let Some((_, mut socket)) = self.kept.pop_front() {
            let mut piece = [0; 4096];
            let _ = (0..PIECES).all(|_| matches!(socket.read(&mut piece), Ok(1..)));
        }
    }
}
