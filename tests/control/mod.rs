//! The control API, through real sockets: each operation and the data port after it, each error with
//! its JSON, access, hostile clients, health pages, the start.

mod access;
mod data_port;
mod errors;
mod health_pages;
mod hostile;
mod load;
mod operations;
mod start;
mod statistics;

use crate::support::{Lb, Origin, Response, exchange};
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

/// A POST with this JSON, on a connection of its own.
fn post_bytes(path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: \
         close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// The response of the control API to these bytes, and its JSON.
#[track_caller]
fn sent(admin: SocketAddr, request: impl AsRef<[u8]>) -> (Response, Value) {
    let response = exchange(admin, request);
    assert_eq!(response.header("Server"), Some("lb-threads"), "{response:?}");
    assert_eq!(response.header("Content-Type"), Some("application/json"), "{response:?}");
    let json = serde_json::from_slice(&response.body).expect("the body is JSON");
    (response, json)
}

/// Posts to an operation; the status and the JSON of the response.
#[track_caller]
fn post(lb: &Lb, operation: &str, body: &str) -> (u16, Value) {
    let path = format!("/_control/{operation}");
    let (response, json) = sent(lb.admin(), post_bytes(&path, body.as_bytes()));
    (response.status, json)
}

#[track_caller]
fn post_url(lb: &Lb, operation: &str, origin: &Origin) -> (u16, Value) {
    post(lb, operation, &format!("{{\"url\": {:?}}}", url(origin)))
}

/// `GET /_control/list`.
#[track_caller]
fn list(lb: &Lb) -> Value {
    let (response, json) = sent(
        lb.admin(),
        "GET /_control/list HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    );
    assert_eq!(response.status, 200);
    json
}

fn url(origin: &Origin) -> String {
    format!("http://{}", origin.address())
}

/// Ends the clients of a test, also if it fails.
struct SetAtDrop<'f>(&'f AtomicBool);

impl Drop for SetAtDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
