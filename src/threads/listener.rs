//! A listener: the thread that accepts connections and hands each to the worker with the fewest.
//!
//! Blocks in `accept` and, when the machine has run out of something, in a short pause that
//! stopping ends at once. Owns the listening socket. Must never end because an accept has failed,
//! and never serve anybody itself; it rejects what is beyond the rejections that workers hold
//! ([`Shedding`]). Only [`Listener::stop`] runs on the thread that stops the balancer: it empties
//! the backlog.

use super::client_limit::ClientLimit;
use super::handle::Handle;
use super::shedding::{self, Shedding};
use crate::config::{self, Config};
use crate::error::Cause;
use crate::metrics::Counters;
use crate::net;
use crossbeam_channel::Receiver;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// The first pause after an accept error; it doubles up to the longest one.
const SHORTEST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);
/// How often errors and floods are logged at most.
const LOG_EVERY: Duration = Duration::from_secs(5);

/// What a listener counts.
#[derive(Debug, Default)]
pub struct ListenerCounters {
    /// Failed accepts.
    pub accept_errors: AtomicU64,
    /// ConnectionPool that it has ended itself, because there were far too many.
    turned_away: Counters,
    /// The same, for those that waited in the backlog at the end: another thread counts them.
    turned_away_at_stop: Counters,
}

impl ListenerCounters {
    /// All connections that were turned away, whoever has counted them.
    pub fn turned_away_in_all(&self) -> [&Counters; 2] {
        [&self.turned_away, &self.turned_away_at_stop]
    }
}

/// The thread's state.
#[derive(Debug)]
pub struct Listener {
    /// The listening socket.
    pub socket: TcpListener,
    /// The workers to choose from.
    pub workers: Vec<Handle>,
    /// Settings.
    pub config: Arc<Config>,
    /// The most connections of one client address, if limited.
    pub client_limit: Option<Arc<ClientLimit>>,
    /// Closed when the listener is to stop.
    pub stop: Receiver<()>,
    /// What it counts.
    pub counters: ListenerCounters,
}

impl Listener {
    /// Accepts until it is stopped.
    pub fn run(&self) {
        let (mut trouble, mut overload) =
            (Trouble::default(), Overload::new(&self.config, &self.counters.turned_away));
        let mut is_timed = false;
        loop {
            if overload.shedding.close_expired() != is_timed {
                is_timed = !is_timed;
                net::set_accept_timeout(&self.socket, is_timed.then_some(shedding::KEPT_FOR));
            }
            match self.socket.accept() {
                Ok((socket, peer)) => {
                    trouble.over();
                    self.hand(socket, peer, &mut overload);
                }
                Err(_) if self.is_stopped() => return,
                Err(error) if is_passing(&error) => {}
                // Nobody came, and those that were rejected are to be closed.
                Err(error) if is_timed && error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    self.counters.accept_errors.fetch_add(1, Relaxed);
                    let pause = trouble.note(&error);
                    // A message cannot come: this ends by time, or because the sender was dropped
                    // to stop us.
                    let _ = self.stop.recv_timeout(pause);
                    if self.is_stopped() {
                        return;
                    }
                }
            }
        }
    }

    /// Ends the listening; to be called once the sender of `stop` is gone. ConnectionPool that wait in
    /// the backlog are taken first, because the end of a listening socket resets them: lost is only
    /// what comes in the microsecond after the last look. The blocked accept of the listener's own
    /// thread goes on until that end.
    pub fn stop(&self) {
        let mut overload = Overload::new(&self.config, &self.counters.turned_away_at_stop);
        // Fails only if the socket is gone, and then nobody waits.
        let _ = self.socket.set_nonblocking(true);
        // No more than can have waited: a flood must not keep the balancer from stopping.
        for _ in 0..=config::BACKLOG {
            match self.socket.accept() {
                Ok((socket, peer)) => self.hand(socket, peer, &mut overload),
                Err(error) if is_passing(&error) => {}
                Err(_) => break,
            }
        }
        net::stop_listening(&self.socket);
    }

    fn is_stopped(&self) -> bool {
        matches!(self.stop.try_recv(), Err(crossbeam_channel::TryRecvError::Disconnected))
    }

    /// Hands a socket to the worker with the fewest sessions, or to any other that takes it.
    fn hand(&self, mut socket: TcpStream, peer: SocketAddr, overload: &mut Overload<'_>) {
        // On a listener for both families an IPv4 client comes as ::ffff:a.b.c.d: to everybody else
        // it is a.b.c.d.
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let loads: Vec<usize> = self.workers.iter().map(Handle::sessions).collect();
        // Counted by itself: a difference of two counts could let one too many in while one that
        // was refused is closing.
        let served = self.workers.iter().map(Handle::served).sum();
        let refused = loads.iter().sum::<usize>().saturating_sub(served);
        let refusal = self.refusal(served, peer.ip());
        if refusal.is_none() || refused < self.config.rejections {
            let least = (0..loads.len()).min_by_key(|index| loads[*index]).unwrap_or(0);
            let (before, after) = self.workers.split_at(least);
            for worker in after.iter().chain(before) {
                match worker.hand(socket, peer, refusal) {
                    Ok(()) => return,
                    Err(given_back) => socket = given_back,
                }
            }
        }
        overload.reject(socket, refusal.unwrap_or(Cause::Overload));
        if let (None, Some(limit)) = (refusal, &self.client_limit) {
            limit.leave(peer.ip());
        }
    }

    /// Why a connection is one too many, if it is, when so many are served. One that is not counts
    /// for its client.
    fn refusal(&self, served: usize, client: IpAddr) -> Option<Cause> {
        if served >= self.config.connections {
            return Some(Cause::Overload);
        }
        let is_within = self.client_limit.as_ref().is_none_or(|limit| limit.enter(client));
        if is_within { None } else { Some(Cause::ClientLimit) }
    }
}

/// ConnectionPool that nobody has room for.
#[derive(Debug)]
struct Overload<'a> {
    shedding: Shedding,
    said: Seldom,
    counters: &'a Counters,
}

impl<'a> Overload<'a> {
    fn new(config: &Config, counters: &'a Counters) -> Self {
        Self { shedding: Shedding::new(config.rejections), said: Seldom::default(), counters }
    }

    fn reject(&mut self, socket: TcpStream, cause: Cause) {
        if let Some(count) = self.said.note() {
            log::warn!("rejected {count} connection(s) at once: {}", cause.description());
        }
        self.shedding.reject(socket, cause, self.counters);
    }
}

/// Whether the next accept may do better at once: a client gave up while it waited in the backlog,
/// or a signal came.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted)
}

/// Something that may happen often, and is logged at most every few seconds.
#[derive(Debug, Default)]
struct Seldom {
    logged_at: Option<Instant>,
    since_logged: u64,
}

impl Seldom {
    /// It has happened; how often since it was logged last, if it is to be logged now.
    fn note(&mut self) -> Option<u64> {
        self.since_logged += 1;
        if self.logged_at.is_some_and(|at| at.elapsed() < LOG_EVERY) {
            return None;
        }
        self.logged_at = Some(Instant::now());
        Some(std::mem::take(&mut self.since_logged))
    }
}

/// Accept errors, and what was said about them: at most two lines every few seconds, however often
/// descriptors come and go.
#[derive(Debug, Default)]
struct Trouble {
    pause: Duration,
    said: Seldom,
    is_announced: bool,
}

impl Trouble {
    /// Takes in an error and returns how long to pause.
    fn note(&mut self, error: &io::Error) -> Duration {
        if let Some(count) = self.said.note() {
            log::warn!(
                "cannot accept connections ({count} time(s)): {error}; going on, more slowly"
            );
            self.is_announced = true;
        }
        self.pause = (self.pause * 2).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
        self.pause
    }

    fn over(&mut self) {
        self.pause = Duration::ZERO;
        if std::mem::take(&mut self.is_announced) {
            log::info!("accepting connections again");
        }
    }
}
