//! The balancer as a whole: built, started, drained.
//!
//! Owns the threads and ends them. Runs on the thread that calls it.

use crate::admission::{Admission, Limits};
use crate::config::{self, Config};
use crate::metrics::{Counters, Totals};
use crate::net;
use crate::session::Shared;
use crate::threads::handle::Handle;
use crate::threads::health_check::{self, HealthChecks};
use crate::threads::listener::{Listener, ListenerCounters};
use crate::threads::worker::Worker;
use crate::upstream::cluster::Cluster;
use crate::upstream::retry::Budget;
use crossbeam_channel::Sender;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Descriptors that are not for connections: standard streams, signals, a few to spare.
const OTHER_FILES: usize = 32;
/// An epoll and its waker.
const FILES_A_WORKER: usize = 2;
/// A client connection may need one to a backend.
const FILES_A_CONNECTION: usize = 2;
/// One in so many at most is for each of these: pipes, connections that are only rejected.
const SHARE_OF_FILES: usize = 16;
/// One in so many at most is for health checks.
const SHARE_OF_CHECKS: usize = 4;

/// Why the balancer could not start: what, and how to fix it.
#[derive(Debug)]
pub enum StartError {
    /// An address could not be listened on.
    Listen(SocketAddr, io::Error),
    /// A backend is one of our own listeners.
    Loop(String),
    /// The machine refuses threads or descriptors.
    Resources(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(address, error) if error.kind() == io::ErrorKind::AddrInUse => {
                write!(
                    f,
                    "cannot listen on {address}: the port is in use; end what listens there or choose another with --port"
                )
            }
            Self::Listen(address, error) if error.kind() == io::ErrorKind::PermissionDenied => {
                write!(
                    f,
                    "cannot listen on {address}: ports below 1024 need privileges; choose another with --port"
                )
            }
            Self::Listen(address, error) if net::is_foreign_address(error) => {
                write!(
                    f,
                    "cannot listen on {address}: this machine does not have that address; choose another with --host"
                )
            }
            Self::Listen(address, error) => {
                write!(
                    f,
                    "cannot listen on {address}: {error}; choose another with --host and --port"
                )
            }
            Self::Loop(name) => {
                write!(
                    f,
                    "backend {name} is the balancer itself: requests would go round for ever; name another with --backend"
                )
            }
            Self::Resources(error) => {
                write!(
                    f,
                    "cannot start: {error}; raise the limits of open files and processes (ulimit -n, -u)"
                )
            }
        }
    }
}

impl std::error::Error for StartError {}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Everything in flight was finished.
    Clean,
    /// So many connections had to be cut.
    Cut(usize),
}

/// A running balancer.
#[derive(Debug)]
pub struct Server {
    config: Arc<Config>,
    cluster: Arc<Cluster>,
    addresses: Vec<SocketAddr>,
    stop: Option<Sender<()>>,
    admission: Arc<Admission>,
    listeners: Vec<(Arc<Listener>, Option<JoinHandle<()>>)>,
    workers: Vec<(Arc<Handle>, Option<JoinHandle<usize>>)>,
    _health: Option<HealthChecks>,
}

impl Server {
    /// Listens, checks the backends once, starts the pool and serves.
    pub fn start(mut config: Config) -> Result<Self, StartError> {
        share_out_files(&mut config);
        let config = Arc::new(config);
        let (sockets, addresses) = open_listeners(&config)?;
        refuse_loops(&config, &addresses)?;
        let cluster = Arc::new(Cluster::new(&config));
        let admission = Arc::new(Admission::new(Limits {
            max_connections: config.connections,
            max_connections_per_client: config.connections_a_client,
            max_graceful_rejections: config.rejections,
        }));
        let mut server = Self {
            config,
            cluster,
            addresses,
            stop: None,
            admission,
            listeners: Vec::new(),
            workers: Vec::new(),
            _health: None,
        };
        // Checkers take the threads that the machine has left: those that must be there come first.
        server.start_workers().map_err(StartError::Resources)?;
        let gate = server.start_listeners(sockets).map_err(StartError::Resources)?;
        if server.config.health.checks {
            server._health = Some(
                health_check::start(&server.cluster, &server.config.health)
                    .map_err(StartError::Resources)?,
            );
        }
        drop(gate);
        Ok(server)
    }

    fn start_workers(&mut self) -> io::Result<()> {
        let counters: Vec<Arc<Counters>> =
            (0..self.config.workers).map(|_| Arc::default()).collect();
        let shared = Shared {
            config: Arc::clone(&self.config),
            cluster: Arc::clone(&self.cluster),
            budget: Arc::new(Budget::new(counters.clone(), Instant::now())),
        };
        for (number, counters) in counters.into_iter().enumerate() {
            let (worker, handle) =
                Worker::new(shared.clone(), Arc::clone(&self.admission), counters)?;
            let thread = thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn(move || worker.run())?;
            self.workers.push((Arc::new(handle), Some(thread)));
        }
        Ok(())
    }

    /// Starts the listeners before a gate; they accept once it is dropped.
    fn start_listeners(&mut self, sockets: Vec<TcpListener>) -> io::Result<Sender<()>> {
        let (gate, opened) = crossbeam_channel::bounded::<()>(0);
        let (stop, stopped) = crossbeam_channel::bounded(0);
        self.stop = Some(stop);
        for (number, socket) in sockets.into_iter().enumerate() {
            let listener = Arc::new(Listener {
                socket,
                workers: self.workers.iter().map(|(handle, _)| Arc::clone(handle)).collect(),
                config: Arc::clone(&self.config),
                stop: stopped.clone(),
                counters: ListenerCounters::default(),
            });
            let (of_thread, opened) = (Arc::clone(&listener), opened.clone());
            let run = move || {
                let _ = opened.recv();
                of_thread.run();
            };
            let thread = thread::Builder::new().name(format!("listener-{number}")).spawn(run)?;
            self.listeners.push((listener, Some(thread)));
        }
        Ok(gate)
    }

    /// Where it listens, with the ports that were free.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The backends and how they stand.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// All workers' and listeners' counters, summed.
    pub fn totals(&self) -> Totals {
        let workers = self.workers.iter().map(|(handle, _)| handle.counters());
        Totals::sum(
            workers.chain(self.listeners.iter().flat_map(|(listener, _)| listener.counters.shed())),
        )
    }

    /// Failed accepts so far.
    pub fn accept_errors(&self) -> u64 {
        self.listeners
            .iter()
            .map(|(listener, _)| listener.counters.accept_errors.load(Relaxed))
            .sum()
    }

    /// Client connections open now, those on their way to a worker included.
    pub fn open_connections(&self) -> usize {
        self.admission.open()
    }

    /// Stops accepting, and tells the workers to finish what is in flight: within `timeout` if
    /// there is one.
    pub fn begin_drain(&mut self, timeout: Option<Duration>) {
        self.stop = None;
        for (listener, _) in &self.listeners {
            listener.stop();
        }
        // What was accepted must have reached its worker before that is told to end.
        for thread in self.listeners.iter_mut().filter_map(|(_, thread)| thread.take()) {
            // A panic of the listener was printed; there is nothing left to end.
            let _ = thread.join();
        }
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        for (handle, _) in &self.workers {
            handle.drain(deadline);
        }
    }

    /// Waits until the workers have ended; to be called after [`Server::begin_drain`].
    pub fn wait(&mut self) -> Drained {
        let threads = self.workers.iter_mut().filter_map(|(_, thread)| thread.take());
        let cut: usize = threads.map(|thread| thread.join().unwrap_or(1)).sum();
        if cut == 0 { Drained::Clean } else { Drained::Cut(cut) }
    }
}

impl Drop for Server {
    /// A server that was not drained is cut.
    fn drop(&mut self) {
        if self.workers.iter().any(|(_, thread)| thread.is_some()) {
            self.begin_drain(Some(Duration::ZERO));
            self.wait();
        }
    }
}

/// Limits connections and pipes to what the limit of open files allows. What rejected connections
/// may take is little and fixed: they must never take what service needs.
fn share_out_files(config: &mut Config) {
    let files = usize::try_from(net::raise_file_limit()).unwrap_or(usize::MAX);
    let share = files / SHARE_OF_FILES;
    config.pipes_a_worker = config.pipes_a_worker.min(share / 2 / config.workers.max(1));
    config.rejections = config.rejections.min(share.max(1));
    let for_workers = (FILES_A_WORKER + 2 * config.pipes_a_worker) * config.workers;
    let for_rejections =
        config.rejections + (1 + config::SHED.min(config.rejections)) * config.listen.len();
    config.health.checkers = config.health.checkers.min((files / SHARE_OF_CHECKS).max(1));
    let for_checks = config.backends.len().min(config.health.checkers);
    let for_others = OTHER_FILES + for_workers + for_rejections + for_checks;
    let for_connections = files.saturating_sub(for_others) / FILES_A_CONNECTION;
    if for_connections < config.connections {
        config.connections = for_connections.max(1);
        log::info!(
            "serving at most {} connections at once: the limit of open files is {files}",
            config.connections
        );
    }
}

/// Listens on every address. One of several that this machine does not have is passed over:
/// `localhost` names `::1` also where there is no IPv6. If any port will do, all get the same one.
fn open_listeners(config: &Config) -> Result<(Vec<TcpListener>, Vec<SocketAddr>), StartError> {
    let (mut sockets, mut addresses) = (Vec::new(), Vec::<SocketAddr>::new());
    let mut missing = None;
    for address in &config.listen {
        let port = if address.port() == 0 {
            addresses.first().map_or(0, SocketAddr::port)
        } else {
            address.port()
        };
        let address = SocketAddr::new(address.ip(), port);
        match net::listen(address) {
            Ok(socket) => {
                addresses
                    .push(socket.local_addr().map_err(|error| StartError::Listen(address, error))?);
                sockets.push(socket);
            }
            Err(error) if net::is_foreign_address(&error) => {
                log::warn!("not listening on {address}: this machine does not have that address");
                missing = Some(StartError::Listen(address, error));
            }
            Err(error) => return Err(StartError::Listen(address, error)),
        }
    }
    match missing {
        Some(error) if sockets.is_empty() => Err(error),
        _ => Ok((sockets, addresses)),
    }
}

/// A backend that is one of our own listeners is a loop.
fn refuse_loops(config: &Config, listening: &[SocketAddr]) -> Result<(), StartError> {
    // Connecting to 0.0.0.0 or [::] ends at this machine, as loopback does.
    let is_here = |ip: IpAddr| ip.is_unspecified() || ip.is_loopback() || is_own_address(ip);
    let reaches = |address: SocketAddr, ours: &SocketAddr| {
        let is_same =
            ours.ip() == address.ip() || address.ip().is_unspecified() && ours.ip().is_loopback();
        ours.port() == address.port()
            && (is_same || ours.ip().is_unspecified() && is_here(address.ip()))
    };
    match config
        .backends
        .iter()
        .find(|backend| listening.iter().any(|ours| reaches(backend.address, ours)))
    {
        Some(backend) => Err(StartError::Loop(backend.name.clone())),
        None => Ok(()),
    }
}

/// Whether this machine has the address: the way to an own address has that address as its source.
/// Nothing is sent.
fn is_own_address(ip: IpAddr) -> bool {
    let any: IpAddr =
        if ip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let source = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect((ip, 9))?;
        socket.local_addr()
    });
    source.is_ok_and(|source| source.ip() == ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listening_on(addresses: &[&str]) -> Result<Vec<SocketAddr>, StartError> {
        let listen = addresses.iter().map(|address| address.parse().unwrap()).collect();
        open_listeners(&Config { listen, ..Config::default() }).map(|(_, addresses)| addresses)
    }

    #[test]
    fn all_addresses_of_a_name_get_the_same_free_port() {
        let addresses = listening_on(&["127.0.0.1:0", "127.0.0.2:0"]).unwrap();
        assert_eq!(addresses.len(), 2);
        assert_eq!(addresses[0].port(), addresses[1].port());
    }

    #[test]
    fn an_address_that_this_machine_does_not_have_is_passed_over_while_there_is_another() {
        // 192.0.2.0/24 is for documentation: nobody has it.
        let addresses = listening_on(&["192.0.2.1:0", "127.0.0.1:0"]).unwrap();
        assert_eq!(addresses.len(), 1);
        let error = listening_on(&["192.0.2.1:0"]).unwrap_err();
        assert!(error.to_string().contains("this machine does not have that address"), "{error}");
    }

    #[test]
    fn a_port_in_use_is_never_passed_over() {
        let holder = TcpListener::bind("127.0.0.2:0").unwrap();
        let taken = holder.local_addr().unwrap().to_string();
        let error = listening_on(&["127.0.0.1:0", &taken]).unwrap_err();
        assert!(error.to_string().contains("in use"), "{error}");
    }
}
