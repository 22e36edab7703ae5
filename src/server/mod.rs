//! The balancer as a whole: start, drain, end.
//!
//! Runs on the calling thread. Owns all other threads and ends them; must never serve.

mod balancer;
mod capacity;
mod config_watch;
mod reload;
mod reloads;
mod service_manager;
mod start_error;

pub use balancer::Balancer;
pub use capacity::allowed_connections;
pub use reload::{LOOK_INTERVAL, ReloadSource};
pub use reloads::{ReloadError, ReloadOutcome, Reloads};
pub use service_manager::ServiceManager;
pub use start_error::StartError;

use crate::admin::{Admin, ControlSockets};
use crate::admission::Admission;
use crate::clock::Calendar;
use crate::config::{Boot, Config};
use crate::logging::LogWriter;
use crate::metrics::Counters;
use crate::net::{self, WorkerSockets};
use crate::session::Shared;
use crate::stats::Stats;
use crate::threads::acceptor::Acceptor;
use crate::threads::listeners::Listeners;
use crate::threads::resolver::{Lookup, Resolver};
use crate::threads::statistics::StatisticsThread;
use crate::threads::worker::Worker;
use crate::upstream::backend::Backend;
use crate::upstream::registry::Registry;
use crate::upstream::retry::Budget;
use balancer::{admission_limits, log_capacity};
use capacity::Capacity;
use config_watch::{ConfigWatch, NewConfigWatch};
use parking_lot::Mutex;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Without health checks, the time for which the start waits for names if no backend is up.
const NAMES_TIMEOUT: Duration = Duration::from_secs(2);
/// The same if a backend is up.
const SERVING_TIMEOUT: Duration = Duration::from_millis(500);

/// The result of a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// All requests in flight were finished.
    Clean,
    /// This many connections were aborted.
    Aborted(usize),
}

/// Parts of a start that are not configuration.
#[derive(Debug, Default)]
pub struct StartOptions {
    /// Listening sockets that a service manager has opened; with any, the addresses in the
    /// configuration are not used.
    pub inherited: Vec<TcpListener>,
    /// The log thread that gets access lines; without one they go to the logger of the program.
    pub log: Option<LogWriter>,
    /// Where the threads of the control API accept connections of the workers, if requests to it are
    /// forwarded.
    pub control: Option<SocketAddr>,
    /// The configuration file, which is reloaded when it changes and when asked for.
    pub reload: Option<ReloadSource>,
}

/// The threads of a running balancer.
#[derive(Debug)]
pub struct Server {
    balancer: Arc<Balancer>,
    workers: Vec<JoinHandle<usize>>,
    /// None until it is started.
    statistics: Option<StatisticsThread>,
    /// The running resolver, from the start on.
    resolver: Option<Resolver>,
    /// The running thread that reloads the configuration file. Ends before `admin`, whose threads
    /// may wait for a reload.
    config_watch: Option<ConfigWatch>,
    /// Ends after the workers: it responds during a drain.
    admin: Option<Admin>,
}

impl Server {
    /// Listens, starts the threads, checks the backends once, and serves.
    pub fn start(config: Config) -> Result<Self, StartError> {
        Self::start_with(config, StartOptions::default())
    }

    /// Starts a balancer that forwards requests to the control API to `control`, where the threads
    /// of an API outside of this balancer accept connections of the workers.
    pub fn start_with_control(config: Config, control: SocketAddr) -> Result<Self, StartError> {
        let control = Some(control);
        Self::start_with(config, StartOptions { control, ..StartOptions::default() })
    }

    /// The same with options.
    pub fn start_with(config: Config, options: StartOptions) -> Result<Self, StartError> {
        Self::start_resolving_by(config, options, Arc::new(net::resolve_host))
    }

    fn start_resolving_by(
        config: Config,
        options: StartOptions,
        lookup: Lookup,
    ) -> Result<Self, StartError> {
        let files = usize::try_from(net::raise_file_limit()).unwrap_or(usize::MAX);
        let is_inherited = !options.inherited.is_empty();
        let sockets = if is_inherited {
            options.inherited
        } else {
            net::listen_on_all(&config.boot.listen)
                .map_err(|(address, error)| StartError::Listen(address, error))?
        };
        let capacity = Capacity::new(files, sockets.len(), &config);
        let addresses: Vec<SocketAddr> =
            sockets.iter().filter_map(|socket| socket.local_addr().ok()).collect();
        let mut control = ControlSockets::open(&config.boot, &addresses)?;
        control.data_port = options.control.or(control.data_port);
        let ours: Vec<SocketAddr> =
            addresses.iter().chain(&control.admin).copied().chain(control.data_port).collect();
        let is_loop = |address: &SocketAddr| net::is_own_listener(*address, &ours);
        if let Some(looped) = config.backends.iter().find(|one| one.addresses.iter().any(is_loop)) {
            return Err(StartError::Loop(looped.authority.to_string()));
        }
        let distribute =
            if is_inherited { WorkerSockets::inherited } else { net::listen_per_worker };
        let sockets = distribute(sockets, config.boot.workers).map_err(StartError::Resources)?;
        let (balancer, workers) =
            create(config, capacity, (addresses, sockets), &control, options.log)
                .map_err(StartError::Resources)?;
        let mut server = Self::new(balancer);
        server.run(workers).map_err(StartError::Resources)?;
        // Before the control API, which gets requests for reloads.
        let watch = options.reload.map(|source| NewConfigWatch::new(source, &server.balancer));
        // Before the first round of checks: the readiness page shows that the balancer is starting.
        let admin = Admin::start(control, &server.balancer, capacity.control_connections);
        server.admin = admin.map_err(StartError::Resources)?;
        server.start_checks(lookup)?;
        server.balancer.begin_serving();
        let watch = watch.map(NewConfigWatch::start).transpose();
        server.config_watch = watch.map_err(StartError::Resources)?;
        Ok(server)
    }

    fn new(balancer: Arc<Balancer>) -> Self {
        let workers = Vec::new();
        let (statistics, resolver, config_watch, admin) = (None, None, None, None);
        Self { balancer, workers, statistics, resolver, config_watch, admin }
    }

    /// Starts the resolver and the health checks, and waits for the first round of both, for two
    /// seconds at most.
    fn start_checks(&mut self, lookup: Lookup) -> Result<(), StartError> {
        let balancer = &self.balancer;
        let (registry, listening) = (&balancer.registry, balancer.own_listeners().collect());
        let resolver = Resolver::start(registry, listening, lookup);
        let resolver = resolver.map_err(StartError::Resources)?;
        // Last, because checkers take as many threads as the machine has left.
        balancer.start_health_checks().map_err(StartError::Resources)?;
        if !balancer.settings().health.checks {
            let is_serving = balancer.cluster().up() > 0;
            resolver.wait_for_first_round(if is_serving { SERVING_TIMEOUT } else { NAMES_TIMEOUT });
        }
        if let Some(name) = resolver.own_listener() {
            return Err(StartError::Loop(name.to_owned()));
        }
        self.resolver = Some(resolver);
        Ok(())
    }

    /// Starts the threads of the workers, which accept once the listeners are started, and of the
    /// statistics.
    fn run(&mut self, workers: NewWorkers) -> io::Result<()> {
        for (number, (worker, acceptor)) in workers.into_iter().enumerate() {
            let thread = thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn(move || worker.run(acceptor))?;
            self.workers.push(thread);
        }
        self.statistics = Some(StatisticsThread::start(&self.balancer.stats)?);
        Ok(())
    }

    /// The running balancer, for threads that look at it or change it.
    pub fn balancer(&self) -> &Arc<Balancer> {
        &self.balancer
    }

    /// Waits for the end of all workers; to be called after [`Balancer::begin_drain`].
    pub fn wait(&mut self) -> Drained {
        let threads = self.workers.drain(..);
        let aborted: usize = threads.map(|thread| thread.join().unwrap_or(1)).sum();
        if aborted == 0 { Drained::Clean } else { Drained::Aborted(aborted) }
    }
}

impl Drop for Server {
    /// Without a drain, open connections are aborted.
    fn drop(&mut self) {
        if !self.workers.is_empty() {
            self.balancer.begin_drain(Some(Duration::ZERO));
            self.wait();
        }
    }
}

/// Workers that do not run yet, each with what it accepts connections with.
type NewWorkers = Vec<(Worker, Acceptor)>;

/// Makes a balancer that listens on these sockets, and its workers, which do not run yet. They
/// forward requests to the control API to its address for the data port, if there is one.
fn create(
    config: Config,
    capacity: Capacity,
    (addresses, sockets): (Vec<SocketAddr>, WorkerSockets),
    control: &ControlSockets,
    log: Option<LogWriter>,
) -> io::Result<(Arc<Balancer>, NewWorkers)> {
    let registry = Arc::new(Registry::new(&config));
    let Config { boot: Boot { workers: count, .. }, settings, .. } = config;
    log_capacity(capacity, &settings);
    let admission = Arc::new(Admission::new(admission_limits(capacity, &settings)));
    let settings = Arc::new(settings);
    let counters: Vec<Arc<Counters>> = (0..count).map(|_| Arc::default()).collect();
    let shared = Shared {
        settings: Arc::clone(&settings),
        cluster: Arc::clone(registry.cluster()),
        registry: Arc::clone(&registry),
        budget: Arc::new(Budget::new(counters.clone(), Instant::now())),
        control: control.data_port.map(|address| Arc::new(Backend::control(address))),
        log,
    };
    let stats = Arc::new(Stats::new(Instant::now()));
    let (mut workers, mut handles) = (Vec::new(), Vec::new());
    for counters in &counters {
        let (admission, counters) = (Arc::clone(&admission), Arc::clone(counters));
        let (max_pipes, recorder) = (capacity.pipes_per_worker, stats.recorder());
        let (worker, handle) =
            Worker::new(shared.clone(), admission, max_pipes, counters, recorder)?;
        workers.push(worker);
        handles.push(Arc::new(handle));
    }
    let listeners = Arc::new(Listeners::new(sockets, handles, capacity.shed_per_worker));
    let acceptors = counters
        .into_iter()
        .enumerate()
        .map(|(number, counters)| Acceptor::new(Arc::clone(&listeners), number, counters));
    let workers = workers.into_iter().zip(acceptors).collect();
    let balancer = Balancer {
        capacity,
        registry,
        addresses,
        admission,
        listeners,
        stats,
        settings: Mutex::new(settings),
        change_order: Mutex::new(None),
        is_serving: AtomicBool::new(false),
        is_draining: AtomicBool::new(false),
        admin_addresses: control.admin.clone(),
        control_address: control.data_port,
        calendar: Calendar::new(),
        reloading: OnceLock::new(),
    };
    Ok((Arc::new(balancer), workers))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::Permits;
    use crate::config::{BackendSpec, Settings};

    #[test]
    fn a_name_whose_lookup_hangs_delays_neither_the_start_nor_the_end_for_long() {
        for checks in [true, false] {
            let mut config = Config::default();
            config.boot.listen = vec![([127, 0, 0, 1], 0).into()];
            config.settings.health.checks = checks;
            config.backends = vec![BackendSpec::parse("hangs:80").unwrap()];
            let (end, ended) = crossbeam_channel::bounded::<()>(0);
            let lookup = move |_: &str| {
                // Hangs until the test ends.
                let _ = ended.recv();
                Ok(vec![])
            };
            let before = Instant::now();
            let server =
                Server::start_resolving_by(config, StartOptions::default(), Arc::new(lookup))
                    .unwrap();
            let reason = server.balancer().cluster().outage().unwrap();
            assert!(reason.ends_with("\"hangs\" is not resolved yet"), "{reason}");
            drop(server);
            assert!(before.elapsed() < Duration::from_secs(10), "{:?}", before.elapsed());
            drop(end);
        }
    }

    #[test]
    fn the_limit_of_open_files_bounds_a_limit_of_connections_that_is_raised_later() {
        let mut config = Config::default();
        config.boot.listen = vec![([127, 0, 0, 1], 0).into()];
        config.settings.health.checks = false;
        config.settings.limits.max_connections = 1;
        let mut server = Server::start(config).unwrap();
        let balancer = Arc::get_mut(&mut server.balancer).expect("no other thread has it");
        balancer.capacity.connections = 2;
        let mut settings = Settings::clone(&balancer.settings());
        settings.limits.max_connections = 1000;
        balancer.apply_settings(settings).unwrap();
        let permits = Permits::new(Arc::clone(&balancer.admission));
        let clients = [1, 2, 3].map(|port| permits.admit(([192, 0, 2, 1], port).into()).unwrap());
        let is_rejected = clients.each_ref().map(|permit| permit.rejection().is_some());
        assert_eq!(is_rejected, [false, false, true]);
    }
}
