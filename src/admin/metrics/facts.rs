//! All that `/metrics` shows, read at one moment. Plain values.

use super::process::{self, Process};
use crate::metrics::Totals;
use crate::server::Balancer;
use crate::server::Reloads;
use crate::stats::BackendTotals;
use crate::upstream::registry::BackendStatus;
use std::time::{Duration, Instant};

/// The label of requests that reached no backend; no backend has this name, which has no port.
const NO_BACKEND: &str = "none";

/// The facts.
#[derive(Debug)]
pub struct Facts {
    /// The members.
    pub members: Vec<BackendStatus>,
    /// By the label of the backend: members, and removed backends.
    pub backends: Vec<(String, BackendTotals)>,
    /// The requests that reached no backend.
    pub without_backend: BackendTotals,
    /// Over all backends.
    pub all: BackendTotals,
    /// The sums of the workers' counters.
    pub totals: Totals,
    /// Requests in the queue for a slot.
    pub queue_length: usize,
    /// Open client connections.
    pub connections: usize,
    /// The CPU time of each worker thread, in seconds; none of one that has ended.
    pub worker_seconds: Vec<Option<f64>>,
    /// The reloads of the configuration file, if there is one.
    pub reloads: Option<Reloads>,
    /// The time of the last successful load of the file, since 1970-01-01.
    pub loaded: Option<Duration>,
    /// The process.
    pub process: Process,
    /// The start, since 1970-01-01.
    pub started: Duration,
}

impl Facts {
    /// The facts now.
    pub fn of(balancer: &Balancer) -> Self {
        let (members, reloads) = (balancer.registry().statuses(), balancer.reloads());
        let threads = balancer.worker_threads();
        // A counter is zero before its first request, so that an increase can be seen.
        balancer.stats().add_members(members.iter().map(|member| &member.backend));
        let counted = balancer.stats().cumulative(Instant::now());
        let labelled = counted.backends.into_iter();
        let backends = labelled.map(|(backend, totals)| (backend.name.clone(), totals)).collect();
        Self {
            members,
            backends,
            without_backend: counted.without_backend,
            all: counted.total,
            totals: balancer.totals(),
            queue_length: balancer.cluster().queue_length(),
            connections: balancer.open_connections(),
            worker_seconds: threads.into_iter().map(process::cpu_seconds_of).collect(),
            loaded: reloads.as_ref().map(|all| balancer.calendar().since_epoch(all.last_success)),
            reloads,
            process: Process::now(),
            started: balancer.calendar().began(),
        }
    }

    /// The numbers of all requests, by the label of the backend.
    pub fn requests(&self) -> impl Iterator<Item = (&str, &BackendTotals)> {
        let backends = self.backends.iter().map(|(name, totals)| (name.as_str(), totals));
        backends.chain([(NO_BACKEND, &self.without_backend)])
    }
}
