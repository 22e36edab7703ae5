//! One check: `GET /health` on a fresh connection, with one timeout for all of it.
//!
//! Runs on a checker thread, which owns a copy of the job and must never touch shared state.

use crate::config::HealthSettings;
use crate::net;
use crate::upstream::backend::{Backend, BackendId};
use crate::upstream::health::CheckResult;
use crossbeam_channel::{Receiver, Sender};
use std::io::{self, Read};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};
use ureq::config::Config;
use ureq::http::{Response, Uri, Version};
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use ureq::{Agent, Body};

/// The largest head of a check's request or response, in bytes. The default buffers of `ureq`,
/// 256 KiB per check, are for large bodies.
const HEAD_BYTES: usize = 16 * 1024;
/// The addresses of a backend that a check tries: as many as `ureq` takes.
const MAX_ADDRESSES: usize = 16;
/// The part of a check's response body that is read, in bytes.
const BODY_BYTES: u64 = 64 * 1024;

/// A message to a checker.
pub enum Job {
    /// Check this backend.
    Check(Target, Arc<Checker>),
    /// End the thread.
    End,
}

/// The backend to be checked: a copy, so that checkers share nothing.
pub struct Target {
    id: BackendId,
    name: String,
    /// In the order in which they are tried.
    addresses: Vec<SocketAddr>,
}

impl From<&Backend> for Target {
    fn from(backend: &Backend) -> Self {
        Self { id: backend.id, name: backend.name.clone(), addresses: backend.addresses.all() }
    }
}

/// The outcome of a check.
pub struct CheckOutcome {
    pub id: BackendId,
    /// The result; none if resources of this machine are exhausted, which is no fault of the backend.
    pub result: Option<CheckResult>,
    /// The description for the log.
    pub detail: String,
    /// Whether the response was HTTP/1.0.
    pub is_http10: bool,
    /// How long the check took.
    pub took: Duration,
}

/// The client that checks backends.
pub struct Checker {
    config: Config,
    path: String,
}

/// The addresses of one backend, as a resolver. `ureq` tries one after the other: the first gets half
/// of the time or more, each further one half as much.
#[derive(Debug)]
struct Resolved(Vec<SocketAddr>);

impl Resolver for Resolved {
    fn resolve(
        &self,
        _: &Uri,
        _: &Config,
        _: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let mut addresses = self.empty();
        self.0.iter().take(MAX_ADDRESSES).for_each(|address| addresses.push(*address));
        if addresses.is_empty() { Err(ureq::Error::HostNotFound) } else { Ok(addresses) }
    }
}

/// Runs a checker until its last job.
pub fn run(jobs: &Receiver<Job>, results: &Sender<CheckOutcome>) {
    while let Ok(Job::Check(target, checker)) = jobs.recv() {
        // A check that panicked must still have an outcome, or its backend would never be due again.
        let started = Instant::now();
        let checked = catch_unwind(AssertUnwindSafe(|| checker.check(&target)));
        let mut outcome = checked
            .unwrap_or_else(|_| CheckOutcome::new(&target, None, "the check panicked".to_owned()));
        outcome.took = started.elapsed();
        if results.send(outcome).is_err() {
            return;
        }
    }
}

impl Checker {
    /// A client for these settings: fresh connections, no redirects, no proxy from the environment.
    pub fn new(health: &HealthSettings) -> Self {
        let config = Agent::config_builder()
            .timeout_global(Some(health.check_timeout()))
            .proxy(None)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .max_idle_connections(0)
            .max_idle_connections_per_host(0)
            .input_buffer_size(HEAD_BYTES)
            .output_buffer_size(HEAD_BYTES)
            .user_agent("lb-threads health check")
            .build();
        Self { config, path: health.path.clone() }
    }

    fn check(&self, target: &Target) -> CheckOutcome {
        let path = &self.path;
        let resolver = Resolved(target.addresses.clone());
        let agent = Agent::with_parts(self.config.clone(), DefaultConnector::default(), resolver);
        let url = format!("http://{}{path}", target.name);
        match agent.get(&url).header("Host", &target.name).call() {
            Ok(response) => {
                let is_http10 = response.version() == Version::HTTP_10;
                let (result, detail) = self.evaluate(response);
                CheckOutcome { is_http10, ..CheckOutcome::new(target, Some(result), detail) }
            }
            Err(ureq::Error::Io(error)) if net::is_resource_exhaustion(&error) => {
                CheckOutcome::new(target, None, error.to_string())
            }
            Err(ureq::Error::Io(error)) => {
                let detail = format!("GET {path} failed: {error}");
                CheckOutcome::new(target, Some(CheckResult::Unreachable), detail)
            }
            Err(error) => {
                let detail = format!("GET {path} failed: {}", describe(&error));
                CheckOutcome::new(target, Some(CheckResult::Failed), detail)
            }
        }
    }

    fn evaluate(&self, mut response: Response<Body>) -> (CheckResult, String) {
        let (path, status) = (&self.path, response.status().as_u16());
        // A longer body is not read to its end, because its first part shows that the backend works.
        let body = io::copy(&mut response.body_mut().as_reader().take(BODY_BYTES), &mut io::sink());
        let (result, suffix) = match (status, body) {
            (200..=399, Ok(_)) => (CheckResult::Passed, String::new()),
            (200..=399, Err(error)) => {
                (CheckResult::Failed, format!(", but its body failed: {error}"))
            }
            (404, _) => (CheckResult::Failed, ": add that file, or use --health-path /".to_owned()),
            _ => (CheckResult::Failed, String::new()),
        };
        (result, format!("GET {path} returned {status}{suffix}"))
    }
}

impl CheckOutcome {
    fn new(target: &Target, result: Option<CheckResult>, detail: String) -> Self {
        Self { id: target.id, result, detail, is_http10: false, took: Duration::ZERO }
    }
}

/// The description of an error, without details of `ureq` for a timeout.
fn describe(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Timeout(_) => "timed out".to_owned(),
        other => other.to_string(),
    }
}
