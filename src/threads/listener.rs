//! A listener: the thread that accepts connections and dispatches each to the least loaded worker.
//!
//! Blocks in `accept` and, when the machine has run out of something, in a short pause that
//! stopping ends at once. Owns the listening socket; [`Admission`](crate::admission::Admission)
//! decides which connection is over a limit, and [`Shedding`] rejects those that no worker takes.
//! Must never end because an accept has failed, and never handle a request. Only [`Listener::stop`]
//! runs on the thread that stops the balancer: it empties the backlog.

use super::handle::Handle;
use super::shedding::{self, Shedding};
use crate::config;
use crate::error::Cause;
use crate::logging::RateLimitedLog;
use crate::metrics::Counters;
use crate::net;
use crossbeam_channel::{Receiver, TryRecvError};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// The pause after the first failed accept; it doubles with each further one.
const MIN_BACKOFF: Duration = Duration::from_millis(5);
/// The longest pause.
const MAX_BACKOFF: Duration = Duration::from_millis(200);

/// The counters of a listener.
#[derive(Debug, Default)]
pub struct ListenerCounters {
    /// Failed accepts.
    pub accept_errors: AtomicU64,
    /// Connections that the listener has rejected by itself.
    shed: Counters,
    /// The same, for the backlog at the end: another thread counts these.
    shed_at_stop: Counters,
}

impl ListenerCounters {
    /// The counters of all connections that were shed.
    pub fn shed(&self) -> [&Counters; 2] {
        [&self.shed, &self.shed_at_stop]
    }
}

/// The thread's state.
#[derive(Debug)]
pub struct Listener {
    pub socket: TcpListener,
    /// The workers to choose from.
    pub workers: Vec<Arc<Handle>>,
    /// Connections that are kept for a moment after they were shed.
    pub max_held: usize,
    /// Closed when the listener is to stop.
    pub stop: Receiver<()>,
    /// Its counters.
    pub counters: ListenerCounters,
}

impl Listener {
    /// Accepts until it is stopped.
    pub fn run(&self) {
        let mut backoff = AcceptBackoff::default();
        let mut shedding = Shedding::new(self.max_held, &self.counters.shed);
        let mut is_timed = false;
        loop {
            if shedding.close_expired() != is_timed {
                is_timed = !is_timed;
                net::set_accept_timeout(&self.socket, is_timed.then_some(shedding::HOLD_TIME));
            }
            match self.socket.accept() {
                Ok((socket, peer)) => {
                    backoff.reset();
                    self.dispatch(socket, peer, &mut shedding);
                }
                Err(_) if self.is_stopped() => return,
                Err(error) if is_transient(&error) => {}
                // No connection came, and the shed ones are to be closed.
                Err(error) if is_timed && error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    self.counters.accept_errors.fetch_add(1, Relaxed);
                    let pause = backoff.next(&error);
                    // A message cannot come: this ends by time, or because the sender was dropped
                    // to stop the listener.
                    let _ = self.stop.recv_timeout(pause);
                    if self.is_stopped() {
                        return;
                    }
                }
            }
        }
    }

    /// Ends the listening; to be called once the sender of `stop` is gone. Connections in the
    /// backlog are accepted first, because the end of a listening socket resets them: lost is only
    /// what comes in the microsecond after the last accept. The blocked accept of the listener's
    /// own thread goes on until that end.
    pub fn stop(&self) {
        let mut shedding = Shedding::new(self.max_held, &self.counters.shed_at_stop);
        // Fails only if the socket is gone, and its backlog with it.
        let _ = self.socket.set_nonblocking(true);
        // No more than can have waited: a flood must not keep the balancer from stopping.
        for _ in 0..=config::BACKLOG {
            match self.socket.accept() {
                Ok((socket, peer)) => self.dispatch(socket, peer, &mut shedding),
                Err(error) if is_transient(&error) => {}
                Err(_) => break,
            }
        }
        net::shutdown_listener(&self.socket);
    }

    fn is_stopped(&self) -> bool {
        matches!(self.stop.try_recv(), Err(TryRecvError::Disconnected))
    }

    /// Dispatches a connection to the least loaded worker, or to any other whose inbox has room; it
    /// is shed if it gets no permit, or all inboxes are full.
    fn dispatch(&self, socket: TcpStream, peer: SocketAddr, shedding: &mut Shedding<'_>) {
        // On a listener for both families an IPv4 client comes as ::ffff:a.b.c.d: everywhere else
        // it is a.b.c.d.
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let least_loaded = (0..self.workers.len()).min_by_key(|index| self.workers[*index].load());
        let (before, rest) = self.workers.split_at(least_loaded.unwrap_or(0));
        let permit = match rest.first().map_or(Err(Cause::Overload), |worker| worker.admit(peer)) {
            Ok(permit) => permit,
            Err(cause) => return shedding.shed(socket, cause),
        };
        let mut undelivered = (socket, permit);
        for worker in rest.iter().chain(before) {
            match worker.dispatch(undelivered.0, undelivered.1) {
                Ok(()) => return,
                Err(given_back) => undelivered = given_back,
            }
        }
        let (socket, permit) = undelivered;
        shedding.shed(socket, permit.rejection().unwrap_or(Cause::Overload));
    }
}

/// Whether the next accept may succeed at once: a client gave up while it waited in the backlog, or
/// a signal came.
fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted)
}

/// The pauses after failed accepts, and their lines in the log: at most two every few seconds,
/// however often descriptors come and go.
#[derive(Debug, Default)]
struct AcceptBackoff {
    pause: Duration,
    log: RateLimitedLog,
    is_announced: bool,
}

impl AcceptBackoff {
    /// How long to pause after this error.
    fn next(&mut self, error: &io::Error) -> Duration {
        if let Some(count) = self.log.count(Instant::now()) {
            log::warn!(
                "cannot accept connections ({count} time(s)): {error}; going on, more slowly"
            );
            self.is_announced = true;
        }
        self.pause = (self.pause * 2).clamp(MIN_BACKOFF, MAX_BACKOFF);
        self.pause
    }

    /// An accept has succeeded.
    fn reset(&mut self) {
        self.pause = Duration::ZERO;
        if std::mem::take(&mut self.is_announced) {
            log::info!("accepting connections again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::handle::{Inbox, Message};
    use super::*;
    use crate::admission::{Admission, Limits, Permits};
    use crate::net::Poller;
    use std::io::Read;

    /// A listener in front of workers that take nothing out of their inboxes, which hold one
    /// message each.
    struct Scene {
        listener: Listener,
        admission: Arc<Admission>,
        inboxes: Vec<Inbox>,
        _stop: crossbeam_channel::Sender<()>,
    }

    fn scene(workers: usize, limits: Limits) -> Scene {
        let (stop, stopped) = crossbeam_channel::bounded(0);
        let admission = Arc::new(Admission::new(limits));
        let (mut handles, mut inboxes) = (Vec::new(), Vec::new());
        for _ in 0..workers {
            let permits = Permits::new(Arc::clone(&admission));
            let waker = Poller::new().unwrap().waker();
            let (handle, inbox) = Handle::new(1, permits, waker, Arc::default());
            handles.push(Arc::new(handle));
            inboxes.push(inbox);
        }
        let listener = Listener {
            socket: TcpListener::bind("127.0.0.1:0").unwrap(),
            workers: handles,
            max_held: 32,
            stop: stopped,
            counters: ListenerCounters::default(),
        };
        Scene { listener, admission, inboxes, _stop: stop }
    }

    impl Scene {
        /// A client whose connection was accepted and dispatched, or shed.
        fn connect(&self, shedding: &mut Shedding<'_>) -> TcpStream {
            let client = TcpStream::connect(self.listener.socket.local_addr().unwrap()).unwrap();
            let (socket, peer) = self.listener.socket.accept().unwrap();
            self.listener.dispatch(socket, peer, shedding);
            client
        }

        fn loads(&self) -> Vec<usize> {
            self.listener.workers.iter().map(|worker| worker.load()).collect()
        }
    }

    const LIMITS: Limits = Limits {
        max_connections: 10,
        max_connections_per_client: Some(10),
        max_graceful_rejections: 1,
    };

    fn status_of(mut client: TcpStream) -> String {
        let mut head = [0; 12];
        client.read_exact(&mut head).unwrap();
        String::from_utf8_lossy(&head[9..]).into_owned()
    }

    #[test]
    fn connections_go_to_the_least_loaded_worker() {
        let (scene, counters) = (scene(3, LIMITS), Counters::default());
        let mut shedding = Shedding::new(1, &counters);
        let _clients: Vec<TcpStream> = (0..3).map(|_| scene.connect(&mut shedding)).collect();
        assert_eq!((scene.loads(), scene.admission.open()), (vec![1, 1, 1], 3));
        drop(scene.inboxes[1].next().unwrap());
        assert_eq!((scene.loads(), scene.admission.open()), (vec![1, 0, 1], 2));
        let _client = scene.connect(&mut shedding);
        assert_eq!((scene.loads(), counters.connections.get()), (vec![1, 1, 1], 0));
    }

    #[test]
    fn a_connection_that_finds_all_inboxes_full_is_shed_and_counted_nowhere() {
        let (scene, counters) = (scene(2, LIMITS), Counters::default());
        let mut shedding = Shedding::new(1, &counters);
        let _clients = [scene.connect(&mut shedding), scene.connect(&mut shedding)];
        for number in 1..=3 {
            let client = scene.connect(&mut shedding);
            assert_eq!(counters.connections.get(), number);
            assert_eq!(status_of(client), "503");
            assert_eq!((scene.loads(), scene.admission.open()), (vec![1, 1], 2));
        }
    }

    #[test]
    fn a_worker_that_has_ended_takes_nothing_and_what_it_had_is_counted_nowhere() {
        let (mut scene, counters) = (scene(2, LIMITS), Counters::default());
        let mut shedding = Shedding::new(1, &counters);
        let _first = scene.connect(&mut shedding);
        drop(scene.inboxes.remove(0));
        assert_eq!((scene.loads(), scene.admission.open()), (vec![0, 0], 0));
        let _second = scene.connect(&mut shedding);
        assert_eq!((scene.loads(), scene.admission.open()), (vec![0, 1], 1));
    }

    #[test]
    fn a_connection_over_a_limit_goes_to_a_worker_while_that_is_allowed_and_is_shed_then() {
        let limits = Limits { max_connections_per_client: Some(1), ..LIMITS };
        let (scene, counters) = (scene(3, limits), Counters::default());
        let mut shedding = Shedding::new(1, &counters);
        let _clients = [scene.connect(&mut shedding), scene.connect(&mut shedding)];
        let is_rejected = |inbox: &Inbox| match inbox.next().unwrap() {
            Message::Connection { permit, .. } => permit.rejection(),
            Message::Settings(_) | Message::Drain(_) => unreachable!("only connections were sent"),
        };
        assert_eq!(status_of(scene.connect(&mut shedding)), "429");
        assert_eq!(is_rejected(&scene.inboxes[0]), None);
        assert_eq!(is_rejected(&scene.inboxes[1]), Some(Cause::ClientLimit));
        assert_eq!((scene.loads(), scene.admission.open()), (vec![0, 0, 0], 0));
    }

    #[test]
    fn the_pause_doubles_up_to_its_maximum_and_starts_again_after_an_accept() {
        let (mut backoff, error) = (AcceptBackoff::default(), io::Error::other("out of files"));
        let pauses: Vec<u128> = (0..8).map(|_| backoff.next(&error).as_millis()).collect();
        assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 200, 200]);
        backoff.reset();
        assert_eq!(backoff.next(&error), MIN_BACKOFF);
    }
}
