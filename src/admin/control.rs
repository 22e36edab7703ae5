//! The operations on a running balancer, for the control API and everything else that operates it.
//!
//! Runs on the calling thread, which may wait: an addition waits for the backend's name and its first
//! check, at most the health timeout for both; a reload for its end. Must never run on a worker. No HTTP is in here.

use super::rows::{List, Row};
use super::statistics::{self, Overview, Statistics};
use crate::config::{self, Algorithm, BackendSpec, HostPort};
use crate::net;
use crate::server::Balancer;
use crate::server::ReloadOutcome;
use crate::stats::Period;
use crate::upstream::backend::BackendId;
use crate::upstream::health::NameState;
use crate::upstream::registry::{BackendStatus, Registry};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// The time for the result of a first check to arrive after the timeout of the check itself.
const RESULT_MARGIN: Duration = Duration::from_millis(200);

/// The operations.
#[derive(Clone, Debug)]
pub struct Control {
    balancer: Arc<Balancer>,
    /// Set when no operation may wait any longer.
    is_stopping: Arc<AtomicBool>,
}

/// Why an operation was rejected; nothing has changed then.
#[derive(Debug)]
pub enum ControlError {
    /// There is no such backend.
    UnknownBackend {
        /// The backend that was named.
        url: String,
        /// The URL of the backend that was probably meant.
        nearest: Option<String>,
    },
    /// The backend is a member already.
    AlreadyAdded {
        /// Its URL.
        url: String,
    },
    /// The backend is one of our own listeners.
    OwnListener {
        /// Its URL.
        url: String,
    },
}

impl Control {
    /// Operations on this balancer.
    pub fn new(balancer: Arc<Balancer>, is_stopping: Arc<AtomicBool>) -> Self {
        Self { balancer, is_stopping }
    }

    /// The balancer.
    pub fn balancer(&self) -> &Balancer {
        &self.balancer
    }

    fn registry(&self) -> &Registry {
        self.balancer.registry()
    }

    /// All backends.
    pub fn list(&self) -> List {
        let statuses = self.registry().statuses();
        let shares = self.balancer.stats().shares(Instant::now());
        let row = |status: &BackendStatus| self.row_of(status, &shares);
        List {
            algorithm: self.registry().algorithm().name(),
            backends: statuses.iter().map(row).collect(),
        }
    }

    fn row(&self, status: &BackendStatus) -> Row {
        self.row_of(status, &self.balancer.stats().shares(Instant::now()))
    }

    fn row_of(&self, status: &BackendStatus, shares: &[(BackendId, f64)]) -> Row {
        let mut shares = shares.iter().filter(|(id, _)| *id == status.backend.id);
        let share = shares.next().map_or(0.0, |(_, share)| *share);
        Row::new(status, statistics::rounded(share), self.balancer.calendar())
    }

    /// The statistics of these periods.
    pub fn statistics(&self, periods: &[Period]) -> Statistics {
        let report = self.balancer.stats().report(periods, Instant::now());
        Statistics::new(&report, &self.registry().statuses())
    }

    /// The statistics since the start, in short.
    pub fn overview(&self) -> Overview {
        let report = self.balancer.stats().report(&[Period::All], Instant::now());
        let statuses = self.registry().statuses();
        Overview::new(self.registry().algorithm(), &report, &statuses)
    }

    /// Adds a backend and waits for its first check, and before that for its name. A name that does
    /// not resolve is a backend that is down.
    pub fn add(&self, authority: HostPort, weight: u32) -> Result<Row, ControlError> {
        let url = authority.url();
        let already_added = || ControlError::AlreadyAdded { url: url.clone() };
        if self.find(&authority).is_ok() {
            return Err(already_added());
        }
        let spec = BackendSpec::new(authority, weight);
        let ours: Vec<SocketAddr> = self.balancer.own_listeners().collect();
        if spec.addresses.iter().any(|address| net::is_own_listener(*address, &ours)) {
            return Err(ControlError::OwnListener { url });
        }
        let id = self.registry().add_new(&spec).ok_or_else(already_added)?;
        self.wait_for_first_check(id);
        let added = self.find(&spec.authority)?;
        if added.name == NameState::Own {
            self.registry().remove(id);
            return Err(ControlError::OwnListener { url });
        }
        Ok(Row { warning: self.shared_address(&added), ..self.row(&added) })
    }

    fn wait_for_first_check(&self, id: BackendId) {
        let timeout = self.balancer.settings().health.check_timeout();
        let until = Instant::now() + timeout + RESULT_MARGIN;
        self.registry().wait_until_checked(id, until, &self.is_stopping);
    }

    /// The warning about a backend whose address is that of another one too.
    fn shared_address(&self, added: &BackendStatus) -> Option<String> {
        let address = added.backend.addresses.in_use()?;
        let statuses = self.registry().statuses();
        let mut others = statuses.iter().filter(|one| one.backend.id != added.backend.id);
        let other = others.find(|one| one.backend.addresses.contains(address))?;
        let other = other.backend.authority.url();
        Some(format!(
            "its address {address} is also an address of {other}, which gets requests as a backend of its own"
        ))
    }

    /// Removes a backend: requests in flight finish.
    pub fn remove(&self, authority: &HostPort) -> Result<Row, ControlError> {
        let status = self.find(authority)?;
        match self.registry().remove(status.backend.id) {
            true => Ok(self.row(&status).removed(self.balancer.calendar())),
            false => Err(self.unknown(authority)),
        }
    }

    /// Stops new requests to a backend.
    pub fn drain(&self, authority: &HostPort) -> Result<Row, ControlError> {
        self.change(authority, Registry::drain)
    }

    /// Ends a drain.
    pub fn resume(&self, authority: &HostPort) -> Result<Row, ControlError> {
        self.change(authority, Registry::resume)
    }

    /// Changes the weight of a backend.
    pub fn set_weight(&self, authority: &HostPort, weight: u32) -> Result<Row, ControlError> {
        self.change(authority, |registry, id| registry.set_weight(id, weight))
    }

    /// Changes the algorithm.
    pub fn set_algorithm(&self, algorithm: Algorithm) -> io::Result<()> {
        self.balancer.change_settings(|settings| settings.algorithm = algorithm)
    }

    /// Reloads the configuration file.
    pub fn reload(&self) -> ReloadOutcome {
        self.balancer.reload()
    }

    /// Makes a change, which returns false if the backend was removed meanwhile.
    fn change(
        &self,
        authority: &HostPort,
        change: impl FnOnce(&Registry, BackendId) -> bool,
    ) -> Result<Row, ControlError> {
        let id = self.find(authority)?.backend.id;
        if !change(self.registry(), id) {
            return Err(self.unknown(authority));
        }
        Ok(self.row(&self.find(authority)?))
    }

    fn find(&self, authority: &HostPort) -> Result<BackendStatus, ControlError> {
        let statuses = self.registry().statuses();
        let found = statuses.into_iter().find(|status| status.backend.authority == *authority);
        found.ok_or_else(|| self.unknown(authority))
    }

    fn unknown(&self, authority: &HostPort) -> ControlError {
        let statuses = self.registry().statuses();
        let urls: Vec<String> = statuses.iter().map(|one| one.backend.authority.url()).collect();
        let url = authority.url();
        let nearest = config::nearest(&url, urls.iter().map(String::as_str)).map(str::to_owned);
        ControlError::UnknownBackend { url, nearest }
    }
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownBackend { url, nearest: Some(nearest) } => {
                write!(f, "no backend {url}; did you mean {nearest}?")
            }
            Self::UnknownBackend { url, nearest: None } => {
                write!(f, "no backend {url}; GET /_control/list has all of them")
            }
            Self::AlreadyAdded { url } => write!(
                f,
                "backend {url} was added before; change it with /_control/weight, or remove it first"
            ),
            Self::OwnListener { url } => write!(
                f,
                "backend {url} is where the balancer itself listens, so requests would loop; name \
                 another one"
            ),
        }
    }
}

impl std::error::Error for ControlError {}
