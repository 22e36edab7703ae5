//! The retry contract end to end: which requests are retried, where, how often, and above all which
//! are not.
//!
//! All balancers here have one worker and no checks, so that the first backend is picked first and
//! connections are reused.

mod budget;
mod connecting;
mod every_byte;
mod fresh;
mod response_failures;
mod reused;
mod stale;

use crate::support::{Lb, Origin, Response, Script, Step, config};
use lb_threads::config::Config;
use std::net::SocketAddr;

/// The code for a request that a backend reads without a response.
const DIES: [Step; 2] = [Step::ReadRequest, Step::Reset];

/// A balancer that picks the first of these first.
#[track_caller]
fn balancer(backends: &[SocketAddr]) -> Lb {
    balancer_with(backends, |_| {})
}

#[track_caller]
fn balancer_with(backends: &[SocketAddr], change: impl FnOnce(&mut Config)) -> Lb {
    let mut config = config(backends);
    config.boot.workers = 1;
    config.settings.health.checks = false;
    change(&mut config);
    Lb::start(config)
}

/// An origin whose first connections run these steps, one after the other, and which responds on
/// all others with its name.
fn origin(name: &str, connections: impl IntoIterator<Item = Vec<Step>>) -> Origin {
    let scripts: Vec<Script> =
        connections.into_iter().map(Script::steps).chain([Script::named(name)]).collect();
    Origin::start(Script::sequence(scripts))
}

/// An origin whose first connection serves one request, and then runs these steps.
fn origin_with_a_kept_connection(name: &str, then: impl IntoIterator<Item = Step>) -> Origin {
    origin(name, [responds_once_then(name, then)])
}

fn responds_once_then(name: &str, then: impl IntoIterator<Item = Step>) -> Vec<Step> {
    [Step::ReadRequest, Step::send(crate::support::ok(name))].into_iter().chain(then).collect()
}

/// A request with a body of this length.
fn request(method: &str, target: &str, body: usize) -> Vec<u8> {
    let head = format!("{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {body}\r\n\r\n");
    let body = (0..body).map(|index| b'a' + (index % 23) as u8);
    head.into_bytes().into_iter().chain(body).collect()
}

/// The body that [`request`] has.
fn body_of(request: &[u8]) -> &[u8] {
    let head =
        request.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("a request has a head");
    &request[head + 4..]
}

#[track_caller]
fn assert_failed(response: &Response, status: u16, cause: &str) {
    assert_eq!(
        (response.status, response.header("X-LB-Error")),
        (status, Some(cause)),
        "{response:?}"
    );
}
