//! One check: `GET /health` on a fresh connection, with one deadline for all of it.

use crate::config::HealthSettings;
use crate::net;
use crate::upstream::backend::{Backend, BackendId};
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
    pub finding: Finding,
    /// The response was HTTP/1.0.
    pub is_http10: bool,
}

/// What a check says about the backend, in words.
pub enum Finding {
    Passed(String),
    Failed(String),
    /// The connection was refused or broke.
    Unreachable(String),
    /// Nothing: this machine has run out of something. That is no fault of the backend.
    Unknown(String),
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
        let (finding, is_http10) =
            checked.unwrap_or_else(|_| (Finding::Unknown("the check panicked".to_owned()), false));
        if results.send(Outcome { id: target.id, finding, is_http10 }).is_err() {
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

    fn check(&self, target: &Target) -> (Finding, bool) {
        let path = &self.path;
        let url = format!("http://{}{path}", target.address);
        match self.agent.get(&url).header("Host", &target.name).call() {
            Ok(response) => {
                let is_http10 = response.version() == Version::HTTP_10;
                (self.judge(response), is_http10)
            }
            Err(ureq::Error::Io(error)) if net::is_resource_exhaustion(&error) => {
                (Finding::Unknown(error.to_string()), false)
            }
            Err(ureq::Error::Io(error)) => {
                (Finding::Unreachable(format!("GET {path} failed: {error}")), false)
            }
            Err(error) => {
                (Finding::Failed(format!("GET {path} failed: {}", in_words(&error))), false)
            }
        }
    }

    fn judge(&self, mut response: Response<Body>) -> Finding {
        let (path, status) = (&self.path, response.status().as_u16());
        // A longer body is not read to its end: that it comes is proof enough.
        let body = io::copy(&mut response.body_mut().as_reader().take(BODY_BYTES), &mut io::sink());
        match (status, body) {
            (200..=399, Ok(_)) => Finding::Passed(format!("GET {path} answered {status}")),
            (200..=399, Err(error)) => Finding::Failed(format!(
                "GET {path} answered {status}, but its body failed: {error}"
            )),
            (404, _) => Finding::Failed(format!(
                "GET {path} answered 404: add that file, or use --health-path /"
            )),
            _ => Finding::Failed(format!("GET {path} answered {status}")),
        }
    }
}

/// What went wrong, without the library's own words around it.
fn in_words(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Timeout(_) => "timed out".to_owned(),
        other => other.to_string(),
    }
}
