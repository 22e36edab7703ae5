//! The balancer as a whole: start, change of settings, drain.
//!
//! Runs on the calling thread. Owns all other threads and ends them; must never serve.

mod capacity;
mod start_error;

pub use start_error::StartError;

use crate::admission::{self, Admission};
use crate::config::{Boot, Config, Settings};
use crate::metrics::{Counters, Totals};
use crate::net;
use crate::session::Shared;
use crate::threads::acceptor::Acceptor;
use crate::threads::handle::Handle;
use crate::threads::health_check::HealthChecks;
use crate::threads::listeners::Listeners;
use crate::threads::worker::Worker;
use crate::upstream::cluster::Cluster;
use crate::upstream::registry::Registry;
use crate::upstream::retry::Budget;
use capacity::Capacity;
use parking_lot::Mutex;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The result of a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// All requests in flight were finished.
    Clean,
    /// This many connections were aborted.
    Aborted(usize),
}

/// A running balancer.
#[derive(Debug)]
pub struct Server {
    capacity: Capacity,
    registry: Arc<Registry>,
    addresses: Vec<SocketAddr>,
    admission: Arc<Admission>,
    /// None until there are workers.
    listeners: Option<Arc<Listeners>>,
    workers: Vec<(Arc<Handle>, Option<JoinHandle<usize>>)>,
    /// Protects the pointer; no thread that serves takes it.
    settings: Mutex<Arc<Settings>>,
    /// Protects the order of changes of settings, and the running health checks, which they start
    /// and end; held until a change has reached all threads.
    change_order: Mutex<Option<HealthChecks>>,
}

impl Server {
    /// Listens, starts the threads, checks the backends once, and serves.
    pub fn start(config: Config) -> Result<Self, StartError> {
        let files = usize::try_from(net::raise_file_limit()).unwrap_or(usize::MAX);
        let capacity = Capacity::new(files, &config);
        let sockets = net::listen_on_all(&config.boot.listen)
            .map_err(|(address, error)| StartError::Listen(address, error))?;
        let addresses: Vec<SocketAddr> =
            sockets.iter().filter_map(|socket| socket.local_addr().ok()).collect();
        let is_loop = |address| net::is_own_listener(address, &addresses);
        if let Some(backend) = config.backends.iter().find(|backend| is_loop(backend.address)) {
            return Err(StartError::Loop(backend.name.clone()));
        }
        let registry = Arc::new(Registry::new(&config));
        let Config { boot, settings, .. } = config;
        let mut server = Self {
            capacity,
            registry,
            addresses,
            admission: Arc::new(Admission::new(admission_limits(capacity, &settings))),
            listeners: None,
            workers: Vec::new(),
            settings: Mutex::new(Arc::new(settings)),
            change_order: Mutex::new(None),
        };
        // Checkers last, because they take as many threads as the machine has left.
        let listeners = server.start_workers(&boot, sockets).map_err(StartError::Resources)?;
        server.start_health_checks().map_err(StartError::Resources)?;
        listeners.start();
        Ok(server)
    }

    fn start_health_checks(&mut self) -> io::Result<()> {
        let settings = self.settings();
        if settings.health.checks {
            let limit = self.capacity.checkers;
            let checks = HealthChecks::start(&self.registry, &settings.health, limit)?;
            self.change_order.get_mut().insert(checks).wait_for_first_round();
        }
        Ok(())
    }

    /// Starts the workers. They accept once the listeners are started.
    fn start_workers(
        &mut self,
        boot: &Boot,
        sockets: Vec<TcpListener>,
    ) -> io::Result<Arc<Listeners>> {
        let counters: Vec<Arc<Counters>> = (0..boot.workers).map(|_| Arc::default()).collect();
        let shared = Shared {
            settings: self.settings(),
            cluster: Arc::clone(self.registry.cluster()),
            registry: Arc::clone(&self.registry),
            budget: Arc::new(Budget::new(counters.clone(), Instant::now())),
        };
        let max_pipes = self.capacity.pipes_per_worker;
        let (mut workers, mut handles) = (Vec::new(), Vec::new());
        for counters in &counters {
            let (admission, counters) = (Arc::clone(&self.admission), Arc::clone(counters));
            let (worker, handle) = Worker::new(shared.clone(), admission, max_pipes, counters)?;
            workers.push(worker);
            handles.push(Arc::new(handle));
        }
        let sockets = net::listen_per_worker(sockets, boot.workers)?;
        let listeners = Listeners::new(sockets, handles, self.capacity.shed_per_worker);
        let listeners = Arc::clone(self.listeners.insert(Arc::new(listeners)));
        for ((number, worker), counters) in workers.into_iter().enumerate().zip(counters) {
            let acceptor = Acceptor::new(Arc::clone(&listeners), number, counters);
            let thread = thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn(move || worker.run(acceptor))?;
            self.workers.push((Arc::clone(&listeners.workers()[number]), Some(thread)));
        }
        Ok(listeners)
    }

    /// The settings in use.
    pub fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.lock())
    }

    /// Changes the settings while the balancer serves. Open connections stay, also above a new limit.
    /// Deadlines that are set stay, later ones use the new timeouts; a request keeps the limit of its
    /// body. Fails, without a change, if health checks cannot be started.
    pub fn apply_settings(&self, settings: Settings) -> io::Result<()> {
        let mut running = self.change_order.lock();
        // Before checks start, because the new rules evaluate their results.
        self.registry.apply_settings(&settings);
        if !settings.health.checks {
            *running = None;
        } else if let Some(checks) = &*running {
            checks.apply(&settings.health);
        } else {
            let limit = self.capacity.checkers;
            let checks = HealthChecks::start(&self.registry, &settings.health, limit);
            *running =
                Some(checks.inspect_err(|_| self.registry.apply_settings(&self.settings()))?);
        }
        let settings = Arc::new(settings);
        self.admission.set_limits(admission_limits(self.capacity, &settings));
        for (worker, _) in &self.workers {
            worker.apply(&settings);
        }
        *self.settings.lock() = settings;
        Ok(())
    }

    /// The addresses on which it listens; port 0 is replaced by the real port.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The reading side of the backends.
    pub fn cluster(&self) -> &Cluster {
        self.registry.cluster()
    }

    /// The writing side of the backends.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The sums of all counters.
    pub fn totals(&self) -> Totals {
        let workers = self.workers.iter().map(|(handle, _)| handle.counters());
        let shed = self.listeners.iter().map(|listeners| listeners.shed_at_stop());
        Totals::sum(workers.chain(shed))
    }

    /// The number of failed accepts.
    pub fn accept_errors(&self) -> u64 {
        self.listeners.as_ref().map_or(0, |listeners| listeners.accept_errors())
    }

    /// Client connections open now, by worker.
    pub fn connections_by_worker(&self) -> Vec<usize> {
        self.workers.iter().map(|(handle, _)| handle.load()).collect()
    }

    /// The number of open client connections, including those on their way to a worker.
    pub fn open_connections(&self) -> usize {
        self.admission.open()
    }

    /// Stops accepting and starts the drain of the workers, which ends after `timeout` if there is
    /// one.
    pub fn begin_drain(&mut self, timeout: Option<Duration>) {
        // Accepted connections must reach their workers before these get the message to drain.
        if let Some(listeners) = &self.listeners {
            listeners.stop();
        }
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        for (handle, _) in &self.workers {
            handle.drain(deadline);
        }
    }

    /// Waits for the end of all workers; to be called after [`Server::begin_drain`].
    pub fn wait(&mut self) -> Drained {
        let threads = self.workers.iter_mut().filter_map(|(_, thread)| thread.take());
        let aborted: usize = threads.map(|thread| thread.join().unwrap_or(1)).sum();
        if aborted == 0 { Drained::Clean } else { Drained::Aborted(aborted) }
    }
}

impl Drop for Server {
    /// Without a drain, open connections are aborted.
    fn drop(&mut self) {
        if self.workers.iter().any(|(_, thread)| thread.is_some()) {
            self.begin_drain(Some(Duration::ZERO));
            self.wait();
        }
    }
}

/// The limits of connections: those of the settings, within the capacity.
fn admission_limits(capacity: Capacity, settings: &Settings) -> admission::Limits {
    let max_connections = settings.limits.max_connections.min(capacity.connections);
    if max_connections < settings.limits.max_connections {
        log::info!(
            "serving at most {max_connections} connections at once: the limit of open files is {}",
            capacity.files
        );
    }
    admission::Limits {
        max_connections,
        max_connections_per_client: settings.limits.max_connections_per_client,
        max_graceful_rejections: capacity.rejections,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::Permits;

    #[test]
    fn the_limit_of_open_files_bounds_a_limit_of_connections_that_is_raised_later() {
        let mut config = Config::default();
        config.boot.listen = vec![([127, 0, 0, 1], 0).into()];
        config.settings.health.checks = false;
        config.settings.limits.max_connections = 1;
        let mut server = Server::start(config).unwrap();
        server.capacity.connections = 2;
        let mut settings = Settings::clone(&server.settings());
        settings.limits.max_connections = 1000;
        server.apply_settings(settings).unwrap();
        let permits = Permits::new(Arc::clone(&server.admission));
        let clients = [1, 2, 3].map(|port| permits.admit(([192, 0, 2, 1], port).into()).unwrap());
        let is_rejected = clients.each_ref().map(|permit| permit.rejection().is_some());
        assert_eq!(is_rejected, [false, false, true]);
    }
}
