//! The thread that accepts connections for the control API, and starts a thread for each.
//!
//! Waits for its listening sockets alone. Owns the threads of the connections, which it joins at the
//! end, so that none outlives the balancer. Beyond the limit of a port, a new connection takes the
//! place of the one that has waited for its client the longest; if all are being served, or are as
//! new, it gets 503 and no thread. Must never wait for a client.

use super::access::Policy;
use super::connection::Client;
use super::control::Control;
use super::message::ReplyTo;
use super::open::{MIN_WAIT, Open};
use super::problem::Problem;
use crate::config;
use crate::logging::RateLimitedLog;
use crate::net;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

/// The time without an accept after one has failed, because no descriptor or thread was left.
const PAUSE: Duration = Duration::from_millis(100);

/// The most accepts of a socket before the other sockets have their turn.
const MAX_ACCEPTS: usize = 64;

/// The most pieces of 4 KiB of a client's bytes that are read before its shed socket is closed.
const MAX_PIECES: usize = 16;

/// Listening sockets with the same rules and one limit of connections.
#[derive(Debug)]
pub(super) struct Port {
    /// In non-blocking mode.
    pub(super) sockets: Vec<TcpListener>,
    pub(super) policy: Policy,
}

/// The sockets that are accepted from, and the operations for their connections.
#[derive(Debug)]
pub(super) struct Acceptor {
    pub(super) ports: Arc<[Port]>,
    pub(super) control: Control,
    pub(super) is_stopping: Arc<AtomicBool>,
    /// The most connections of each port.
    pub(super) limit: usize,
}

/// The connections of a port.
#[derive(Default)]
struct Connections {
    /// Open at the last look.
    open: Vec<Weak<Open>>,
    /// Shed last, oldest first: a request that comes a little later would meet a closed socket,
    /// and the reset that follows may overtake the response.
    shed: VecDeque<TcpStream>,
    /// The log of both: of connections that were shed or ended.
    log: RateLimitedLog,
}

impl Acceptor {
    /// Accepts until the end: until `is_stopping` is set and the sockets are shut down.
    pub(super) fn run(&self) {
        let sockets: Vec<&TcpListener> = self.ports.iter().flat_map(|port| &port.sockets).collect();
        let mut all: Vec<Connections> = self.ports.iter().map(|_| Connections::default()).collect();
        let mut failures = RateLimitedLog::default();
        thread::scope(|scope| {
            while !self.is_stopping.load(Ordering::SeqCst) {
                let accepted = net::wait_for_connections(&sockets).and_then(|()| {
                    let mut ports = self.ports.iter().zip(&mut all);
                    ports.try_for_each(|(port, connections)| self.accept(port, connections, scope))
                });
                if let Err(error) = accepted
                    && !self.is_stopping.load(Ordering::SeqCst)
                {
                    if failures.count(Instant::now()).is_some() {
                        log::warn!(
                            event = "limit";
                            "the control API cannot accept a connection: {error}"
                        );
                    }
                    thread::sleep(PAUSE);
                }
            }
            // Their threads see the end of their requests; one that is being served is finished.
            let open = all.iter().flat_map(|connections| &connections.open);
            open.filter_map(Weak::upgrade).for_each(|open| open.end_wait());
        });
    }

    /// Accepts waiting connections of a port.
    fn accept<'s>(
        &'s self,
        port: &'s Port,
        connections: &mut Connections,
        scope: &'s Scope<'s, '_>,
    ) -> io::Result<()> {
        for listener in &port.sockets {
            for _ in 0..MAX_ACCEPTS {
                match listener.accept() {
                    Ok((socket, peer)) if connections.make_room(self.limit, Instant::now()) => {
                        let open = Arc::new(Open::new(socket));
                        connections.open.push(Arc::downgrade(&open));
                        self.serve(port, (open, peer), scope)?;
                    }
                    Ok((socket, _)) => connections.shed(socket),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) if net::is_resource_exhaustion(&error) => return Err(error),
                    // The client has gone meanwhile, or the socket was shut down.
                    Err(_) => break,
                }
            }
        }
        Ok(())
    }

    fn serve<'s>(
        &'s self,
        port: &'s Port,
        (open, peer): (Arc<Open>, SocketAddr),
        scope: &'s Scope<'s, '_>,
    ) -> io::Result<()> {
        let (control, policy, is_stopping) = (&self.control, &port.policy, &*self.is_stopping);
        let serve = move || Client { control, policy, is_stopping, peer }.serve(&open);
        let thread = thread::Builder::new().name("control".to_owned());
        thread.spawn_scoped(scope, serve).map(drop)
    }
}

impl Connections {
    /// Whether there is room for one more: below the limit, or after the end of the connection that
    /// has waited for its client the longest.
    fn make_room(&mut self, limit: usize, now: Instant) -> bool {
        self.open.retain(|open| open.strong_count() > 0);
        if self.open.len() < limit {
            return true;
        }
        let open = self.open.iter().filter_map(Weak::upgrade);
        let waiting = open.filter_map(|open| Some((open.waited(now)?, open)));
        let longest = waiting.max_by_key(|(waited, _)| *waited);
        // The threads of ended connections are open for a moment.
        match longest.filter(|(waited, _)| *waited >= MIN_WAIT) {
            Some((_, open)) if self.open.len() < limit + config::MAX_CONTROL_ENDING => {
                open.end_wait();
                if let Some(count) = self.log.count(now) {
                    log::warn!(
                        event = "limit";
                        "the control API closed {count} idle or slow connection(s) for new ones"
                    );
                }
                true
            }
            _ => false,
        }
    }

    /// Responds 503, as far as that works without waiting.
    fn shed(&mut self, mut socket: TcpStream) {
        if let Some(count) = self.log.count(Instant::now()) {
            log::warn!(
                event = "limit";
                "the control API rejected {count} connection(s): too many at once"
            );
        }
        let error = "too many connections to the control API at once; close some, or try again";
        let problem = Problem::new(503, "overload", error).header("Retry-After", "1");
        let response = problem.response().bytes(&ReplyTo::unknown());
        let sent = socket.set_nonblocking(true).and_then(|()| socket.write_all(&response));
        if sent.and_then(|()| socket.shutdown(Shutdown::Write)).is_ok() {
            self.shed.push_back(socket);
        }
        if self.shed.len() > config::MAX_CONTROL_SHED
            && let Some(mut oldest) = self.shed.pop_front()
        {
            // A close over unread bytes would be a reset.
            let mut piece = [0; 4096];
            let _ = (0..MAX_PIECES).all(|_| matches!(oldest.read(&mut piece), Ok(1..)));
        }
    }
}
