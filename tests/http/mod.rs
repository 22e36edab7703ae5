//! HTTP end to end: the response at the client, the exact bytes at the backend, and the end of each
//! connection.

mod bodies;
mod boundaries;
mod clients;
mod interim;
mod lingering_close;
mod old_peers;
mod options;
mod pieces;
mod request_ids;
mod requests;
mod response_forwarding;
mod reuse;
mod streaming;
mod surplus;
mod timeouts;
mod truncation;
mod waiting_for_100;

use std::time::Duration;

use crate::support::*;

const MS: Duration = Duration::from_millis(1);
const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
/// With an identifier, which the response has as well: its head can be compared as a whole.
const IDENTIFIED: &str = "GET / HTTP/1.1\r\nHost: h\r\nX-Request-Id: i\r\n\r\n";

/// The response to [`IDENTIFIED`] with this target.
#[track_caller]
fn get_identified(client: &mut Client, target: &str) -> Response {
    client.send(IDENTIFIED.replacen('/', target, 1));
    client.read_response()
}

/// Bytes without a repeated piece: a lost, doubled or moved one shows.
fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    fastrand::Rng::with_seed(length as u64).fill(&mut bytes);
    bytes
}

/// A request head with a `Content-Length`, and then the body.
fn post(body: &[u8]) -> Vec<u8> {
    let head = format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// The same with the body in chunks of these sizes, over and over.
fn post_chunked(body: &[u8], sizes: &[usize]) -> Vec<u8> {
    let mut request = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    request.extend_from_slice(&in_chunks(body, sizes));
    request
}

/// A chunked body with chunks of these sizes, over and over.
fn in_chunks(body: &[u8], sizes: &[usize]) -> Vec<u8> {
    let (mut rest, mut pieces, mut sizes) = (body, Vec::new(), sizes.iter().cycle());
    while !rest.is_empty() {
        let (piece, remaining) =
            rest.split_at((*sizes.next().expect("there are sizes")).min(rest.len()));
        pieces.push(piece);
        rest = remaining;
    }
    chunked(pieces)
}

/// The fields of a head as text, without its first line.
fn lines(raw_head: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(raw_head);
    text.trim_end_matches("\r\n").split("\r\n").skip(1).map(str::to_owned).collect()
}

/// Waits until no backend has a request any more.
#[track_caller]
fn wait_until_free(lb: &Lb) {
    until("no request is at a backend", || {
        lb.balancer().registry().statuses().iter().all(|status| status.backend.in_flight() == 0)
    });
}

/// Waits until all buffers on the way to a client that does not read are full: nothing has been
/// sent for a while.
#[track_caller]
fn wait_until_stuck(lb: &Lb) {
    let (mut sent, mut looks) = (0, 0);
    until("nothing more is sent", || {
        let now = lb.totals().bytes_sent;
        looks = if now == sent { looks + 1 } else { 0 };
        sent = now;
        sent > 0 && looks == 15
    });
}
