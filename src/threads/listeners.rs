//! The listening sockets of all workers, and their end.
//!
//! Shared by the workers, whose [`Acceptor`](super::acceptor::Acceptor)s accept from their own
//! sockets, and by the thread that starts and stops the balancer: [`Listeners::stop`] runs there
//! and empties the backlogs. Owns the sockets, and the handles by which connections reach workers.
//! Must never wait, except for the moment in which workers stop accepting.

use super::handle::Handle;
use super::shedding::Shedding;
use crate::admission::Permit;
use crate::config;
use crate::error::Cause;
use crate::logging::RateLimitedLog;
use crate::metrics::Counters;
use crate::net::{self, WorkerSockets};
use parking_lot::Mutex;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// The listening sockets, and the workers that accept from them.
#[derive(Debug)]
pub struct Listeners {
    /// In non-blocking mode.
    sockets: WorkerSockets,
    workers: Vec<Arc<Handle>>,
    /// How many connections a worker keeps for a moment after it has shed them.
    max_held: usize,
    accept_errors: AtomicU64,
    /// Protects the lines about failed accepts; taken for each of them, and by the first accept
    /// that succeeds afterwards.
    error_log: Mutex<AcceptErrorLog>,
    /// Connections that were shed out of the backlogs at the end.
    shed_at_stop: Arc<Counters>,
}

impl Listeners {
    /// As many lists of sockets as workers. No worker accepts yet.
    pub fn new(sockets: WorkerSockets, workers: Vec<Arc<Handle>>, max_held: usize) -> Self {
        Self {
            sockets,
            workers,
            max_held,
            accept_errors: AtomicU64::default(),
            error_log: Mutex::default(),
            shed_at_stop: Arc::default(),
        }
    }

    /// The workers.
    pub fn workers(&self) -> &[Arc<Handle>] {
        &self.workers
    }

    /// The sockets of a worker.
    pub fn sockets(&self, worker: usize) -> &[TcpListener] {
        self.sockets.of(worker)
    }

    /// Whether a service manager has opened the sockets, so that workers share them.
    pub fn are_inherited(&self) -> bool {
        self.sockets.are_inherited()
    }

    /// Shuts a worker's sockets down, if they are ours.
    pub fn shut_down(&self, worker: usize) {
        self.sockets.shut_down(worker);
    }

    /// The load shedding of one thread, which owns the counters.
    pub fn shedding(&self, counters: Arc<Counters>) -> Shedding {
        Shedding::new(self.max_held, counters)
    }

    /// Lets all workers accept.
    pub fn start(&self) {
        self.workers.iter().for_each(|worker| worker.start_accepting());
    }

    /// Ends the listening. When it returns, every accepted connection is in the inbox of its worker
    /// or further: a worker may be drained then without the loss of one that another worker has
    /// just dispatched to it.
    pub fn stop(&self) {
        let (stopped, all_stopped) = crossbeam_channel::bounded(0);
        self.workers.iter().for_each(|worker| worker.stop_accepting(stopped.clone()));
        drop(stopped);
        // No message comes: this ends when the last worker has dropped its sender.
        let _ = all_stopped.recv();
        // The backlog of an inherited socket is for the next program that gets it.
        if !self.are_inherited() {
            self.empty_backlogs();
        }
    }

    /// Accepts what is in the backlogs and shuts the sockets down, which would reset it: lost is
    /// only a connection that comes in the microsecond after the last accept.
    fn empty_backlogs(&self) {
        let mut shedding = self.shedding(Arc::clone(&self.shed_at_stop));
        for socket in self.sockets.iter() {
            self.empty_backlog(socket, &mut shedding);
            net::shutdown_listener(socket);
        }
    }

    fn empty_backlog(&self, socket: &TcpListener, shedding: &mut Shedding) {
        // No more than can have waited: a flood must not keep the balancer from stopping.
        for _ in 0..=config::BACKLOG {
            match accept(socket) {
                Ok((socket, peer)) => self.dispatch(socket, peer, shedding),
                Err(error) if is_transient(&error) => {}
                Err(_) => return,
            }
        }
    }

    /// Dispatches a connection to the least loaded worker, or to any other whose inbox has room; it
    /// is shed if it gets no permit, or all inboxes are full.
    fn dispatch(&self, socket: TcpStream, peer: SocketAddr, shedding: &mut Shedding) {
        let least_loaded = self.least_loaded();
        let worker = self.workers.get(least_loaded);
        let permit = match worker.map_or(Err(Cause::Overload), |worker| worker.admit(peer)) {
            Ok(permit) => permit,
            Err(cause) => return shedding.shed(socket, cause),
        };
        if let Err((socket, permit)) = self.dispatch_to(least_loaded, socket, permit) {
            shedding.shed(socket, permit.rejection().unwrap_or(Cause::Overload));
        }
    }

    /// The number of the least loaded worker.
    pub fn least_loaded(&self) -> usize {
        let by_load = |number: &usize| self.workers[*number].load();
        (0..self.workers.len()).min_by_key(by_load).unwrap_or_default()
    }

    /// Dispatches a connection to this worker, or to any other whose inbox has room. Gives it back
    /// if none has.
    pub fn dispatch_to(
        &self,
        worker: usize,
        socket: TcpStream,
        permit: Permit,
    ) -> Result<(), (TcpStream, Permit)> {
        let (before, rest) = self.workers.split_at(worker);
        let mut undelivered = (socket, permit);
        for worker in rest.iter().chain(before) {
            match worker.dispatch(undelivered.0, undelivered.1) {
                Ok(()) => return Ok(()),
                Err(given_back) => undelivered = given_back,
            }
        }
        Err(undelivered)
    }

    /// Counts a failed accept, and logs it if a line is due.
    pub fn note_error(&self, error: &io::Error) {
        self.accept_errors.fetch_add(1, Relaxed);
        self.error_log.lock().note(error);
    }

    /// Notes an accept that has succeeded after a failed one.
    pub fn note_recovery(&self) {
        self.error_log.lock().note_recovery();
    }

    /// Failed accepts so far.
    pub fn accept_errors(&self) -> u64 {
        self.accept_errors.load(Relaxed)
    }

    /// The counters of connections that were shed when the listening ended.
    pub fn shed_at_stop(&self) -> &Counters {
        &self.shed_at_stop
    }
}

/// Accepts a connection. Never waits: without one the error is [`io::ErrorKind::WouldBlock`].
pub fn accept(socket: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let (socket, peer) = socket.accept()?;
    Ok((socket, canonical(peer)))
}

/// On a listener for both families an IPv4 client comes as ::ffff:a.b.c.d: everywhere else it is
/// a.b.c.d.
fn canonical(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}

/// Whether the next accept may succeed at once: a client gave up while it waited in the backlog, or
/// a signal came.
pub fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted)
}

/// The log lines about failed accepts: at most two every few seconds, for all workers together and
/// however often descriptors come and go.
#[derive(Debug, Default)]
struct AcceptErrorLog {
    log: RateLimitedLog,
    is_announced: bool,
}

impl AcceptErrorLog {
    fn note(&mut self, error: &io::Error) {
        if let Some(count) = self.log.count(Instant::now()) {
            log::warn!(
                event = "limit";
                "cannot accept connections ({count} time(s)): {error}; going on, more slowly"
            );
            self.is_announced = true;
        }
    }

    fn note_recovery(&mut self) {
        if std::mem::take(&mut self.is_announced) {
            log::info!(event = "limit"; "accepting connections again");
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

    /// Listening sockets of workers that take nothing out of their inboxes.
    struct Scene {
        listeners: Listeners,
        admission: Arc<Admission>,
        inboxes: Vec<Inbox>,
    }

    /// Inboxes with room for so many messages.
    fn scene(workers: usize, room: usize, limits: Limits) -> Scene {
        let admission = Arc::new(Admission::new(limits));
        let (mut handles, mut inboxes) = (Vec::new(), Vec::new());
        for _ in 0..workers {
            let permits = Permits::new(Arc::clone(&admission));
            let waker = Poller::new().unwrap().waker();
            let (handle, inbox) = Handle::new(room, permits, waker, Arc::default());
            handles.push(Arc::new(handle));
            inboxes.push(inbox);
        }
        let first = net::listen_on_all(&["127.0.0.1:0".parse().unwrap()]).unwrap();
        let sockets = net::listen_per_worker(first, workers).unwrap();
        let listeners = Listeners::new(sockets, handles, 1);
        Scene { listeners, admission, inboxes }
    }

    impl Scene {
        fn address(&self) -> SocketAddr {
            self.listeners.sockets(0)[0].local_addr().unwrap()
        }

        /// A client whose connection was accepted and dispatched, or shed.
        fn connect(&self, shedding: &mut Shedding) -> TcpStream {
            let client = TcpStream::connect(self.address()).unwrap();
            let sockets = self.listeners.sockets.iter();
            let (socket, peer) = sockets.filter_map(|socket| accept(socket).ok()).next().unwrap();
            self.listeners.dispatch(socket, peer, shedding);
            client
        }

        fn loads(&self) -> Vec<usize> {
            self.listeners.workers.iter().map(|worker| worker.load()).collect()
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
    fn an_ipv4_client_of_an_ipv6_listener_has_its_ipv4_address() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert_eq!(canonical(address("[::ffff:192.0.2.1]:80")), address("192.0.2.1:80"));
        for other in ["192.0.2.1:80", "[2001:db8::1]:80", "[::1]:80"] {
            assert_eq!(canonical(address(other)), address(other));
        }
    }

    #[test]
    fn connections_go_to_the_least_loaded_worker() {
        let (scene, counters) = (scene(3, 1, LIMITS), Arc::<Counters>::default());
        let mut shedding = Shedding::new(1, Arc::clone(&counters));
        let _clients: Vec<TcpStream> = (0..3).map(|_| scene.connect(&mut shedding)).collect();
        assert_eq!((scene.loads(), scene.admission.open()), (vec![1, 1, 1], 3));
        drop(scene.inboxes[1].next().unwrap());
        assert_eq!((scene.loads(), scene.admission.open()), (vec![1, 0, 1], 2));
        let _client = scene.connect(&mut shedding);
        assert_eq!((scene.loads(), counters.connections.get()), (vec![1, 1, 1], 0));
    }

    #[test]
    fn a_connection_that_finds_all_inboxes_full_is_shed_and_counted_nowhere() {
        let (scene, counters) = (scene(2, 1, LIMITS), Arc::<Counters>::default());
        let mut shedding = Shedding::new(1, Arc::clone(&counters));
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
        let (mut scene, counters) = (scene(2, 1, LIMITS), Arc::<Counters>::default());
        let mut shedding = Shedding::new(1, Arc::clone(&counters));
        let _first = scene.connect(&mut shedding);
        drop(scene.inboxes.remove(0));
        assert_eq!((scene.loads(), scene.admission.open()), (vec![0, 0], 0));
        let _second = scene.connect(&mut shedding);
        assert_eq!((scene.loads(), scene.admission.open()), (vec![0, 1], 1));
    }

    #[test]
    fn a_connection_over_a_limit_goes_to_a_worker_while_that_is_allowed_and_is_shed_then() {
        let limits = Limits { max_connections_per_client: Some(1), ..LIMITS };
        let (scene, counters) = (scene(3, 1, limits), Arc::<Counters>::default());
        let mut shedding = Shedding::new(1, Arc::clone(&counters));
        let _clients = [scene.connect(&mut shedding), scene.connect(&mut shedding)];
        let is_rejected = |inbox: &Inbox| match inbox.next().unwrap() {
            Message::Connection { permit, .. } => permit.rejection(),
            _ => unreachable!("only connections were sent"),
        };
        assert_eq!(status_of(scene.connect(&mut shedding)), "429");
        assert_eq!(is_rejected(&scene.inboxes[0]), None);
        assert_eq!(is_rejected(&scene.inboxes[1]), Some(Cause::ClientLimit));
        assert_eq!((scene.loads(), scene.admission.open()), (vec![0, 0, 0], 0));
    }

    #[test]
    fn the_end_of_the_listening_leaves_an_inherited_backlog_to_the_next_program() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, next) = (socket.local_addr().unwrap(), socket.try_clone().unwrap());
        let sockets = WorkerSockets::inherited(vec![socket], 2).unwrap();
        let listeners = Listeners::new(sockets, Vec::new(), 1);
        let _early = TcpStream::connect(address).unwrap();
        listeners.stop();
        (0..2).for_each(|worker| listeners.shut_down(worker));
        drop(listeners);
        assert!(next.accept().is_ok(), "the connection is still in the backlog");
        let _late = TcpStream::connect(address).unwrap();
        assert!(next.accept().is_ok(), "the socket is still listening");
    }

    #[test]
    fn the_end_of_the_listening_dispatches_every_connection_in_a_backlog() {
        let limits = Limits { max_connections: 40, max_connections_per_client: None, ..LIMITS };
        let scene = scene(4, 40, limits);
        let connect = || TcpStream::connect(scene.address());
        let clients: Vec<TcpStream> = (0..40).map(|_| connect().unwrap()).collect();
        let has_one =
            |socket: &&TcpListener| accept(socket).map(|(socket, _)| drop(socket)).is_ok();
        let used = scene.listeners.sockets.iter().filter(has_one).count();
        assert!(used > 1, "the kernel spreads connections over the sockets");
        scene.listeners.empty_backlogs();
        let dispatched = clients.len() - used;
        assert_eq!((scene.admission.open(), scene.loads().iter().sum()), (dispatched, dispatched));
        assert!(scene.loads().iter().all(|load| load.abs_diff(dispatched / 4) <= 1));
        assert!(connect().is_err(), "no socket listens any more");
    }
}
