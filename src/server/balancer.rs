//! The running balancer, as threads other than its workers use it: backends, settings, status.
//!
//! Shared by the main thread, the control API and everything else that looks at or changes a
//! running balancer. No worker has it. Must never wait for a worker that serves.

use super::capacity::Capacity;
use super::reloads::{ReloadError, ReloadOutcome, Reloading, Reloads};
use crate::admission::{self, Admission};
use crate::clock::Calendar;
use crate::config::Settings;
use crate::logging;
use crate::metrics::Totals;
use crate::notifier::Notifier;
use crate::stats::Stats;
use crate::threads::handle::Handle;
use crate::threads::health_check::HealthChecks;
use crate::threads::listeners::Listeners;
use crate::threads::supervision::{self, Supervision};
use crate::upstream::cluster::Cluster;
use crate::upstream::registry::Registry;
use crossbeam_channel::Receiver;
use parking_lot::Mutex;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// A running balancer.
#[derive(Debug)]
pub struct Balancer {
    pub(super) capacity: Capacity,
    pub(super) registry: Arc<Registry>,
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) admission: Arc<Admission>,
    pub(super) listeners: Arc<Listeners>,
    pub(super) stats: Arc<Stats>,
    /// Protects the pointer; no thread that serves takes it.
    pub(super) settings: Mutex<Arc<Settings>>,
    /// Protects the order of changes of settings, and the running health checks, which they start
    /// and end; held until a change has reached all threads.
    pub(super) change_order: Mutex<Option<HealthChecks>>,
    /// Every backend had the chance of a first check, and workers accept.
    pub(super) is_serving: AtomicBool,
    pub(super) is_draining: AtomicBool,
    /// The addresses of the admin port.
    pub(super) admin_addresses: Vec<SocketAddr>,
    /// The internal address of the control API for the data port.
    pub(super) control_address: Option<SocketAddr>,
    pub(super) calendar: Calendar,
    /// The way to the thread that reloads the configuration file, if there is one.
    pub(super) reloading: OnceLock<Reloading>,
}

impl Balancer {
    fn workers(&self) -> &[Arc<Handle>] {
        self.listeners.workers()
    }

    /// Starts the health checks, if there are any, and waits for their first round.
    pub(super) fn start_health_checks(&self) -> io::Result<()> {
        let settings = self.settings();
        if settings.health.checks {
            let limit = self.capacity.checkers;
            let checks = HealthChecks::start(&self.registry, &settings.health, limit)?;
            self.change_order.lock().insert(checks).wait_for_first_round();
        }
        Ok(())
    }

    /// The settings in use.
    pub fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.lock())
    }

    /// Changes the settings while the balancer serves. Open connections stay, also above a new limit.
    /// Deadlines that are set stay, except for tunnels to removed backends, and later ones use the new
    /// timeouts; a request keeps the limit of its body. Fails, without a change, if health checks cannot be started.
    pub fn apply_settings(&self, settings: Settings) -> io::Result<()> {
        self.apply(settings, &mut self.change_order.lock())
    }

    /// Changes some of the settings, as [`Balancer::apply_settings`] does; no other change comes in
    /// between. Nothing is applied if nothing changes.
    pub fn change_settings(&self, change: impl FnOnce(&mut Settings)) -> io::Result<()> {
        let mut running = self.change_order.lock();
        let present = self.settings();
        let mut settings = Settings::clone(&present);
        change(&mut settings);
        if settings == *present { Ok(()) } else { self.apply(settings, &mut running) }
    }

    fn apply(&self, settings: Settings, running: &mut Option<HealthChecks>) -> io::Result<()> {
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
        let earlier = self.settings();
        if settings.log_level != earlier.log_level {
            logging::set_level(settings.log_level);
        }
        logging::set_format(settings.log_format);
        if settings.limits.max_connections != earlier.limits.max_connections {
            log_capacity(self.capacity, &settings);
        }
        let settings = Arc::new(settings);
        self.admission.set_limits(admission_limits(self.capacity, &settings));
        for worker in self.workers() {
            worker.apply(&settings);
        }
        *self.settings.lock() = settings;
        Ok(())
    }

    /// Requests a reload of the configuration file, whose outcome the channel gets.
    pub fn request_reload(&self) -> Result<Receiver<ReloadOutcome>, ReloadError> {
        self.reloading.get().map(Reloading::request).ok_or(ReloadError::NoFile)
    }

    /// Reloads the configuration file and waits for the outcome, ten seconds at most.
    pub fn reload(&self) -> ReloadOutcome {
        self.reloading.get().ok_or(ReloadError::NoFile)?.reload()
    }

    /// The reloads so far; none if there is no configuration file.
    pub fn reloads(&self) -> Option<Reloads> {
        self.reloading.get().map(Reloading::reloads)
    }

    /// The addresses on which it listens; port 0 is replaced by the real port.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The addresses of the admin port; none if it is off. Port 0 is replaced by the real port.
    pub fn admin_addresses(&self) -> &[SocketAddr] {
        &self.admin_addresses
    }

    /// The internal address to which workers forward requests for the control API, if the data port
    /// gives access to it.
    pub fn control_address(&self) -> Option<SocketAddr> {
        self.control_address
    }

    /// All addresses on which this program listens: none may be a backend.
    pub fn own_listeners(&self) -> impl Iterator<Item = SocketAddr> {
        self.addresses.iter().chain(&self.admin_addresses).copied().chain(self.control_address)
    }

    /// The dates of instants.
    pub fn calendar(&self) -> &Calendar {
        &self.calendar
    }

    /// The reading side of the backends.
    pub fn cluster(&self) -> &Cluster {
        self.registry.cluster()
    }

    /// The writing side of the backends.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// The number of backends that are up, and of all, as a line for people.
    pub fn status(&self) -> String {
        supervision::status(&self.registry)
    }

    /// Keeps a service manager informed until the result is dropped.
    pub(crate) fn supervise(&self, notifier: &Arc<Notifier>) -> io::Result<Supervision> {
        let workers = self.workers().to_vec();
        Supervision::start(Arc::clone(notifier), Arc::clone(&self.registry), workers)
    }

    /// The sums of all counters.
    pub fn totals(&self) -> Totals {
        let workers = self.workers().iter().map(|worker| worker.counters());
        Totals::sum(workers.chain([self.listeners.shed_at_stop()]))
    }

    /// The statistics by backend and period, also after the end of the workers.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// The number of failed accepts.
    pub fn accept_errors(&self) -> u64 {
        self.listeners.accept_errors()
    }

    /// Client connections open now, by worker.
    pub fn connections_by_worker(&self) -> Vec<usize> {
        self.workers().iter().map(|worker| worker.load()).collect()
    }

    /// The kernel's numbers of the workers' threads; 0 of a worker that does not run yet.
    pub fn worker_threads(&self) -> Vec<u64> {
        self.workers().iter().map(|worker| worker.counters().thread.get()).collect()
    }

    /// The number of open client connections, including those on their way to a worker.
    pub fn open_connections(&self) -> usize {
        self.admission.open()
    }

    /// Whether it accepts connections, or has done so until it was stopped.
    pub fn is_serving(&self) -> bool {
        self.is_serving.load(Ordering::Relaxed)
    }

    /// Lets the workers accept connections.
    pub(super) fn begin_serving(&self) {
        self.listeners.start();
        self.is_serving.store(true, Ordering::Relaxed);
    }

    /// Whether it is stopping.
    pub fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }

    /// Stops accepting and starts the drain of the workers, which ends after `timeout` if there is
    /// one.
    pub fn begin_drain(&self, timeout: Option<Duration>) {
        self.is_draining.store(true, Ordering::Relaxed);
        // Accepted connections must reach their workers before these get the message to drain.
        self.listeners.stop();
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        for worker in self.workers() {
            worker.drain(deadline);
        }
    }
}

/// The limits of connections: those of the settings, within the capacity.
pub(super) fn admission_limits(capacity: Capacity, settings: &Settings) -> admission::Limits {
    let max_connections = settings.limits.max_connections.min(capacity.connections);
    admission::Limits {
        max_connections,
        max_connections_per_client: settings.limits.max_connections_per_client,
        max_graceful_rejections: capacity.rejections,
    }
}

/// Logs that the limit of open files allows fewer connections than the settings, if it does.
pub(super) fn log_capacity(capacity: Capacity, settings: &Settings) {
    let Capacity { connections, files, .. } = capacity;
    if connections < settings.limits.max_connections {
        log::info!(
            event = "limit";
            "serving at most {connections} connections at once: the limit of open files is {files}"
        );
    }
}
