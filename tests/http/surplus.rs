//! Unrequested bytes of a backend: they never reach a client, and their connection is not reused.

use super::noise;
use crate::support::*;
use std::time::Duration;

const EVIL: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";

/// One worker, which keeps idle connections for longer than any test waits: a closed one was not
/// closed for its age.
fn over(origin: &Origin) -> Lb {
    Lb::with(&[origin], |config| {
        config.boot.workers = 1;
        config.settings.timeouts.backend_idle = Duration::from_secs(60);
    })
}

/// Sends three requests on one connection to an origin that always sends too much.
fn sends_three_requests(method: &str, raw: impl AsRef<[u8]>, expected: &[u8]) {
    let origin = Origin::start([Step::ReadRequest, Step::send(raw), Step::Hang]);
    let lb = over(&origin);
    let mut client = lb.connect();
    for number in 0..3 {
        client.send(format!("{method} / HTTP/1.1\r\nHost: h\r\n\r\n"));
        let response = client.read_response_to(method);
        assert!(response.body == expected && !response.truncated, "{method} gave {response:?}");
        origin.wait_for_ending(number);
    }
    stays("no byte follows the last response", 10 * super::MS, || client.is_open());
    assert_eq!((origin.connections(), lb.totals().backend_reuses, lb.totals().requests), (3, 0, 3));
}

#[test]
fn a_response_longer_than_its_content_length_ends_there() {
    sends_three_requests(
        "GET",
        format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok{EVIL}"),
        b"ok",
    );
    sends_three_requests("GET", format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n{EVIL}"), b"");
    sends_three_requests("GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok\r\n", b"ok");
}

#[test]
fn a_large_response_longer_than_its_content_length_ends_there() {
    for length in [40_000, 200_000, 1_000_000] {
        let body = noise(length);
        let raw = [
            format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").as_bytes(),
            &body,
            EVIL.as_bytes(),
        ]
        .concat();
        sends_three_requests("GET", raw, &body);
    }
}

#[test]
fn bytes_after_the_last_chunk_are_discarded() {
    sends_three_requests(
        "GET",
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n{EVIL}"),
        b"ok",
    );
    sends_three_requests(
        "GET",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n\r\n",
        b"ok",
    );
}

#[test]
fn a_body_where_none_is_allowed_is_discarded() {
    sends_three_requests("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", b"");
    sends_three_requests(
        "HEAD",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n",
        b"",
    );
    sends_three_requests("GET", "HTTP/1.1 204 No Content\r\n\r\nevil", b"");
    sends_three_requests(
        "GET",
        format!("HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n{EVIL}"),
        b"",
    );
}

#[test]
fn a_second_response_to_one_request_never_reaches_the_next_client() {
    let gate = Gate::new();
    let origin = Origin::start(Script::sequence([
        Script::steps([
            Step::ReadRequest,
            Step::send(ok("first")),
            Step::WaitFor(gate.clone()),
            Step::send(EVIL),
            Step::Hang,
        ]),
        Script::named("second"),
    ]));
    let lb = over(&origin);
    let mut client = lb.connect();
    assert_eq!(client.get("/").text(), "first");
    assert_eq!(origin.open_connections(), 1, "it is idle now");
    gate.open();
    origin.wait_for_ending(0);
    assert_eq!(client.get("/").text(), "second");
    assert_eq!(exchange(lb.address(), super::GET).text(), "second");
}

#[test]
fn a_connection_that_the_backend_closed_while_idle_is_not_reused() {
    let origin = Origin::start([Step::ReadRequest, Step::send(ok("x")), Step::Close]);
    let lb = over(&origin);
    let mut client = lb.connect();
    for number in 0..5 {
        client.send(super::post(b"a POST is not sent again"));
        assert_eq!(client.read_response().expect_status(200).text(), "x");
        origin.wait_for_ending(number);
    }
    assert_eq!((origin.connections(), origin.count()), (5, 5));
}
