//! Accepting: new connections out of the backlogs of a worker's own listening sockets.
//!
//! Runs on the worker, in each turn of its loop in which a backlog holds a connection. The kernel
//! spreads connections over the workers' sockets without regard to their load, so a worker keeps
//! what it accepts only up to its share, and dispatches what is beyond it to the least loaded one.
//! [`Admission`](crate::admission::Admission) decides which connection is over a limit, and
//! [`Shedding`] rejects connections without a permit. Must never wait, and never end because an
//! accept has failed.

use super::listeners::{self, Listeners};
use super::shedding::Shedding;
use crate::admission::Permit;
use crate::metrics::Counters;
use crate::net::Poller;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The pause after the first failed accept; it doubles with each further one.
const MIN_BACKOFF: Duration = Duration::from_millis(5);
/// The longest pause.
const MAX_BACKOFF: Duration = Duration::from_millis(200);
/// A worker's share is the mean of all workers' loads and this fraction of it: the less it is, the
/// more connections pass through inboxes, which costs a wake-up each.
const TOLERANCE: usize = 8;

/// The outcome of an accept.
#[derive(Debug)]
pub enum Accepted {
    /// A connection for this worker.
    Ours(TcpStream, Permit),
    /// The connection went to another worker, or was shed.
    Gone,
}

/// Accepts for one worker.
#[derive(Debug)]
pub struct Acceptor {
    listeners: Arc<Listeners>,
    /// The worker's number.
    worker: usize,
    /// Listening sockets whose backlogs hold connections, by their numbers.
    ready: Vec<u32>,
    backoff: Backoff,
    /// The end of the pause after a failed accept.
    resume_at: Option<Instant>,
    shedding: Shedding,
}

impl Acceptor {
    /// Accepts nothing until it is started. The counters are those of the worker with this number.
    pub fn new(listeners: Arc<Listeners>, worker: usize, counters: Arc<Counters>) -> Self {
        let shedding = listeners.shedding(counters);
        Self {
            listeners,
            worker,
            ready: Vec::new(),
            backoff: Backoff::default(),
            resume_at: None,
            shedding,
        }
    }

    /// Starts accepting, or goes on after a pause.
    pub fn start(&mut self, poller: &Poller, now: Instant) {
        self.resume_at = None;
        let is_shared = self.listeners.are_inherited();
        for (number, socket) in (0..).zip(self.listeners.sockets(self.worker)) {
            if let Err(error) = poller.register_listener(socket, number, is_shared) {
                self.listeners.note_error(&error);
                return self.pause(poller, now);
            }
        }
    }

    /// Accepts no more.
    pub fn stop(&mut self, poller: &Poller) {
        self.resume_at = None;
        self.deregister(poller);
    }

    /// Notes that a backlog holds a connection.
    pub fn note(&mut self, listener: u32) {
        self.ready.push(listener);
    }

    /// Accepts a connection; none if no backlog is known to hold one.
    pub fn accept(&mut self, poller: &Poller, now: Instant) -> Option<Accepted> {
        while let Some(&number) = self.ready.last() {
            match listeners::accept(&self.listeners.sockets(self.worker)[number as usize]) {
                Ok((socket, peer)) => {
                    if self.backoff.reset() {
                        self.listeners.note_recovery();
                    }
                    return Some(self.place(socket, peer));
                }
                Err(error) if listeners::is_transient(&error) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => drop(self.ready.pop()),
                Err(error) => {
                    self.listeners.note_error(&error);
                    self.pause(poller, now);
                }
            }
        }
        None
    }

    /// Ends the accepting in this turn, and does what is due. Connections that are left in a
    /// backlog have an event in the next turn.
    pub fn end_turn(&mut self, poller: &Poller, now: Instant) {
        self.ready.clear();
        if self.resume_at.is_some_and(|at| at <= now) {
            self.start(poller, now);
        }
        self.shedding.close_expired(now);
    }

    /// When the next turn has something to do, whatever events come.
    pub fn deadline(&self) -> Option<Instant> {
        self.resume_at.into_iter().chain(self.shedding.deadline()).min()
    }

    /// Finds a worker for a connection. Without room in any inbox it stays here.
    fn place(&mut self, socket: TcpStream, peer: SocketAddr) -> Accepted {
        let workers = self.listeners.workers();
        let worker = &workers[self.worker];
        let permit = match worker.admit(peer) {
            Ok(permit) => permit,
            Err(cause) => {
                self.shedding.shed(socket, cause);
                return Accepted::Gone;
            }
        };
        if is_within_share(worker.load(), worker.load_of_all(), workers.len()) {
            return Accepted::Ours(socket, permit);
        }
        match self.listeners.dispatch_to(self.listeners.least_loaded(), socket, permit) {
            Ok(()) => Accepted::Gone,
            Err((socket, mut permit)) => {
                worker.take_back(&mut permit);
                Accepted::Ours(socket, permit)
            }
        }
    }

    /// Accepts nothing for a while. A registration would end each wait meanwhile.
    fn pause(&mut self, poller: &Poller, now: Instant) {
        self.deregister(poller);
        self.resume_at = Some(now + self.backoff.next());
    }

    fn deregister(&mut self, poller: &Poller) {
        self.ready.clear();
        let sockets = self.listeners.sockets(self.worker);
        sockets.iter().for_each(|socket| poller.deregister_listener(socket));
    }
}

impl Drop for Acceptor {
    /// New connections must not wait in the backlog of a worker that has ended: the kernel spreads
    /// them over the other sockets.
    fn drop(&mut self) {
        self.listeners.shut_down(self.worker);
    }
}

/// Whether a worker with this load keeps a new connection, which is counted in it. A worker without
/// another connection always does.
fn is_within_share(load: usize, load_of_all: usize, workers: usize) -> bool {
    load <= 1 || load * workers <= load_of_all + load_of_all / TOLERANCE
}

/// The pauses after failed accepts.
#[derive(Debug, Default)]
struct Backoff {
    pause: Duration,
}

impl Backoff {
    /// How long to pause now.
    fn next(&mut self) -> Duration {
        self.pause = (self.pause * 2).clamp(MIN_BACKOFF, MAX_BACKOFF);
        self.pause
    }

    /// Notes an accept that has succeeded; whether the one before it had failed.
    fn reset(&mut self) -> bool {
        !std::mem::take(&mut self.pause).is_zero()
    }
}

#[cfg(test)]
mod tests {
    use super::super::handle::{Handle, Inbox, Message};
    use super::*;
    use crate::admission::{Admission, Limits, Permits};
    use crate::net::{self, Event, Source, WorkerSockets};
    use std::io::Read;
    use std::net::TcpListener;

    /// Workers with a socket each; only the first one accepts. The others take nothing out of their
    /// inboxes, which hold two messages each.
    struct Scene {
        listeners: Arc<Listeners>,
        poller: Poller,
        acceptor: Acceptor,
        counters: Arc<Counters>,
        inboxes: Vec<Inbox>,
    }

    fn scene(max_connections: usize) -> Scene {
        scene_of(2, max_connections)
    }

    fn scene_of(workers: usize, max_connections: usize) -> Scene {
        let admission = Arc::new(Admission::new(Limits {
            max_connections,
            max_connections_per_client: None,
            max_graceful_rejections: 0,
        }));
        let (mut handles, mut inboxes) = (Vec::new(), Vec::new());
        for _ in 0..workers {
            let permits = Permits::new(Arc::clone(&admission));
            let (handle, inbox) =
                Handle::new(2, permits, Poller::new().unwrap().waker(), Arc::default());
            handles.push(Arc::new(handle));
            inboxes.push(inbox);
        }
        // An address each, so that a client chooses the worker.
        let listen = || net::listen_on_all(&["127.0.0.1:0".parse().unwrap()]).unwrap();
        let sockets = WorkerSockets::new((0..workers).map(|_| listen()).collect());
        let listeners = Arc::new(Listeners::new(sockets, handles, 1));
        let counters = Arc::<Counters>::default();
        let mut acceptor = Acceptor::new(Arc::clone(&listeners), 0, Arc::clone(&counters));
        let poller = Poller::new().unwrap();
        acceptor.start(&poller, Instant::now());
        Scene { listeners, poller, acceptor, counters, inboxes }
    }

    impl Scene {
        fn socket(&self) -> &TcpListener {
            &self.listeners.sockets(0)[0]
        }

        fn connect(&self) -> TcpStream {
            TcpStream::connect(self.socket().local_addr().unwrap()).unwrap()
        }

        /// The listening sockets that the poller has an event for.
        fn events(&mut self) -> Vec<u32> {
            let mut events: Vec<Event> = Vec::new();
            self.poller.wait(&mut events, Some(Duration::ZERO), || true).unwrap();
            let listener = |event: &Event| match event.source {
                Source::Listener(number) => Some(number),
                _ => None,
            };
            events.iter().filter_map(listener).collect()
        }

        /// One turn of a worker's loop, at this time.
        fn turn(&mut self, now: Instant) -> Vec<Accepted> {
            self.events().into_iter().for_each(|number| self.acceptor.note(number));
            let accepted = std::iter::from_fn(|| self.acceptor.accept(&self.poller, now)).collect();
            self.acceptor.end_turn(&self.poller, now);
            accepted
        }

        fn loads(&self) -> Vec<usize> {
            self.listeners.workers().iter().map(|worker| worker.load()).collect()
        }
    }

    #[test]
    fn a_worker_keeps_its_share_and_dispatches_the_rest_to_the_least_loaded_one() {
        let mut scene = scene(100);
        let _clients: Vec<TcpStream> = (0..4).map(|_| scene.connect()).collect();
        let kept = scene.turn(Instant::now());
        assert_eq!(kept.iter().filter(|one| matches!(one, Accepted::Ours(..))).count(), 2);
        assert_eq!(scene.loads(), [2, 2]);
        assert!(matches!(scene.inboxes[1].next(), Some(Message::Connection { .. })));
        assert_eq!(scene.loads(), [2, 1], "the inbox of the other worker holds one");
    }

    #[test]
    fn a_worker_keeps_connections_beyond_its_share_when_no_inbox_has_room() {
        let mut scene = scene(100);
        // The first inbox is the worker's own: it is full too.
        for worker in scene.listeners.workers() {
            (0..2).for_each(|_| worker.start_accepting());
        }
        let _clients: Vec<TcpStream> = (0..5).map(|_| scene.connect()).collect();
        let kept = scene.turn(Instant::now());
        assert!(kept.iter().all(|one| matches!(one, Accepted::Ours(..))) && kept.len() == 5);
        assert_eq!((scene.loads(), scene.counters.connections.get()), (vec![5, 0], 0));
    }

    #[test]
    fn a_connection_that_no_inbox_had_room_for_counts_for_the_worker_that_keeps_it() {
        let mut scene = scene_of(3, 100);
        let workers = scene.listeners.workers();
        for worker in workers {
            (0..2).for_each(|_| worker.start_accepting());
        }
        // The least loaded worker is the third, so the inbox of the second is tried last.
        let _permit = workers[1].admit("192.0.2.1:1".parse().unwrap());
        let _clients = [scene.connect(), scene.connect()];
        let kept = scene.turn(Instant::now());
        assert!(matches!(kept[..], [Accepted::Ours(..), Accepted::Ours(..)]));
        assert_eq!(scene.loads(), [2, 1, 0]);
    }

    #[test]
    fn shares_bound_what_one_worker_has_above_the_mean() {
        for workers in [2, 4, 16] {
            let mut loads = vec![0; workers];
            // The worst case: one worker accepts all.
            for load_of_all in 1..=1000 {
                let kept = is_within_share(loads[0] + 1, load_of_all, workers);
                let least = (0..workers).min_by_key(|worker| loads[*worker]).unwrap();
                loads[if kept { 0 } else { least }] += 1;
            }
            let max = *loads.iter().max().unwrap();
            assert!(max * workers * 10 <= 1000 * 12, "{loads:?} is at most 1.2 times the mean");
        }
        assert!(is_within_share(1, 1, 64), "one connection alone wakes no other worker");
        assert!(is_within_share(1000, 1000, 1), "a single worker keeps all");
    }

    #[test]
    fn a_connection_without_a_permit_is_shed_and_its_socket_is_closed_later() {
        let mut scene = scene(1);
        let start = Instant::now();
        let _served = scene.connect();
        let mut shed = scene.connect();
        let kept = scene.turn(start);
        assert!(matches!(kept[..], [Accepted::Ours(..), Accepted::Gone]));
        let mut head = [0; 12];
        shed.read_exact(&mut head).unwrap();
        assert_eq!(&head, b"HTTP/1.1 503");
        assert_eq!(scene.counters.connections.get(), 1, "the shed one");
        let close_at = scene.acceptor.deadline().expect("the socket is held");
        scene.turn(close_at);
        assert_eq!(scene.acceptor.deadline(), None);
    }

    #[test]
    fn a_failed_accept_ends_in_a_pause_without_events_and_accepting_goes_on_after_it() {
        let mut scene = scene(100);
        let start = Instant::now();
        // A socket that does not listen: accepting fails, as it does without a free descriptor.
        net::shutdown_listener(scene.socket());
        scene.acceptor.note(0);
        assert!(scene.turn(start).is_empty());
        assert_eq!(scene.listeners.accept_errors(), 1);
        assert_eq!(scene.acceptor.deadline(), Some(start + MIN_BACKOFF));
        rustix::net::listen(scene.socket(), 16).unwrap();
        let _client = scene.connect();
        assert!(scene.turn(start).is_empty() && scene.events().is_empty(), "it pauses");
        scene.turn(start + MIN_BACKOFF);
        assert_eq!(scene.turn(start + MIN_BACKOFF).len(), 1);
        assert_eq!(
            (scene.acceptor.deadline(), scene.acceptor.backoff.pause),
            (None, Duration::ZERO)
        );
    }

    #[test]
    fn a_worker_that_does_not_accept_any_more_leaves_its_backlog_alone() {
        let mut scene = scene(100);
        let _client = scene.connect();
        scene.acceptor.stop(&scene.poller);
        assert!(scene.turn(Instant::now()).is_empty());
        assert!(listeners::accept(scene.socket()).is_ok(), "it is still there");
    }

    #[test]
    fn a_worker_that_has_ended_gets_no_connection() {
        let scene = scene(100);
        let address = scene.socket().local_addr().unwrap();
        drop(scene.acceptor);
        assert!(TcpStream::connect(address).is_err());
    }

    #[test]
    fn the_pause_doubles_up_to_its_maximum_and_starts_again_after_an_accept() {
        let mut backoff = Backoff::default();
        let pauses: Vec<u128> = (0..8).map(|_| backoff.next().as_millis()).collect();
        assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 200, 200]);
        assert!(backoff.reset() && !backoff.reset());
        assert_eq!(backoff.next(), MIN_BACKOFF);
    }
}
