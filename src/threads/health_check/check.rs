//! One check: `GET /health` on a fresh connection, with one deadline for all of it.

use crate::config::HealthSettings;
use crate::net;
use crate::upstream::backend::{Backend, BackendId};
use crate::upstream::health::CheckResult;
use crossbeam_channel::{Receiver, Sender};
use std::io::{self, Read};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use ureq::config::Config;
use ureq::http::{Response, Uri, Version};
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use ureq::{Agent, Body};

/// The largest head of a check's request or response, in bytes. The library's own buffers, 256 KiB
/// a check, are for bodies.
const HEAD_BYTES: usize = 16 * 1024;
/// What is read of a check's body, in bytes.
const BODY_BYTES: u64 = 64 * 1024;

/// What a checker is to do.
pub enum Job {
    /// Check this backend like this.
    Check(Target, Arc<Checker>),
    /// End the thread.
    End,
}

/// What is to be checked: a copy, so that checkers share nothing.
pub struct Target {
    id: BackendId,
    name: String,
    address: SocketAddr,
}

impl From<&Backend> for Target {
    fn from(backend: &Backend) -> Self {
        Self { id: backend.id, name: backend.name.clone(), address: backend.address }
    }
}

/// What a check found.
pub struct Outcome {
    pub id: BackendId,
    /// None if this machine has run out of something: that is no fault of the backend.
    pub result: Option<CheckResult>,
    /// What was seen, in words.
    pub detail: String,
    /// The response was HTTP/1.0.
    pub is_http10: bool,
}

/// How a backend is checked.
pub struct Checker {
    agent: Agent,
    path: String,
}

/// Backends are addresses already. The library's own resolver would start a thread for each check.
#[derive(Debug)]
struct NoLookup;

impl Resolver for NoLookup {
    fn resolve(
        &self,
        uri: &Uri,
        _: &Config,
        _: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let address = uri.authority().and_then(|authority| authority.as_str().parse().ok());
        let mut addresses = self.empty();
        addresses.push(address.ok_or(ureq::Error::HostNotFound)?);
        Ok(addresses)
    }
}

/// A thread's whole life.
pub fn run(todo: &Receiver<Job>, results: &Sender<Outcome>) {
    while let Ok(Job::Check(target, checker)) = todo.recv() {
        // A checker that died would leave its backend unchecked for ever.
        let checked = catch_unwind(AssertUnwindSafe(|| checker.check(&target)));
        let outcome = checked
            .unwrap_or_else(|_| Outcome::new(&target, None, "the check panicked".to_owned()));
        if results.send(outcome).is_err() {
            return;
        }
    }
}

impl Checker {
    /// One fresh connection a check, nothing followed, nothing from the environment.
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
        Self {
            agent: Agent::with_parts(config, DefaultConnector::default(), NoLookup),
            path: health.path.clone(),
        }
    }

    fn check(&self, target: &Target) -> Outcome {
        let path = &self.path;
        let url = format!("http://{}{path}", target.address);
        match self.agent.get(&url).header("Host", &target.name).call() {
            Ok(response) => {
                let is_http10 = response.version() == Version::HTTP_10;
                let (result, detail) = self.evaluate(response);
                Outcome { is_http10, ..Outcome::new(target, Some(result), detail) }
            }
            Err(ureq::Error::Io(error)) if net::is_resource_exhaustion(&error) => {
                Outcome::new(target, None, error.to_string())
            }
            Err(ureq::Error::Io(error)) => {
                let detail = format!("GET {path} failed: {error}");
                Outcome::new(target, Some(CheckResult::Unreachable), detail)
            }
            Err(error) => {
                let detail = format!("GET {path} failed: {}", in_words(&error));
                Outcome::new(target, Some(CheckResult::Failed), detail)
            }
        }
    }

    fn evaluate(&self, mut response: Response<Body>) -> (CheckResult, String) {
        let (path, status) = (&self.path, response.status().as_u16());
        // A longer body is not read to its end: that it comes is proof enough.
        let body = io::copy(&mut response.body_mut().as_reader().take(BODY_BYTES), &mut io::sink());
        let (result, addition) = match (status, body) {
            (200..=399, Ok(_)) => (CheckResult::Passed, String::new()),
            (200..=399, Err(error)) => {
                (CheckResult::Failed, format!(", but its body failed: {error}"))
            }
            (404, _) => (CheckResult::Failed, ": add that file, or use --health-path /".to_owned()),
            _ => (CheckResult::Failed, String::new()),
        };
        (result, format!("GET {path} returned {status}{addition}"))
    }
}

impl Outcome {
    fn new(target: &Target, result: Option<CheckResult>, detail: String) -> Self {
        Self { id: target.id, result, detail, is_http10: false }
    }
}

/// What went wrong, without the library's own words around it.
fn in_words(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Timeout(_) => "timed out".to_owned(),
        other => other.to_string(),
    }
}
