//! A rejection inside a pipeline, and the end of the connection after it: no response is lost, no
//! byte is forwarded.

use super::Scene;
use crate::support::*;
use lb_threads::error::Cause;
use lb_threads::reason::Reason;
use std::time::Duration;

const GOOD: &str = "GET /good HTTP/1.1\r\nHost: h\r\n\r\n";
const BAD: &str = "GET / HTTP/1.1\r\nHost: h\r\nX : y\r\n\r\n";

#[test]
fn valid_requests_before_an_invalid_one_get_responses_in_order_and_nothing_after_it_reaches_a_backend()
 {
    let origin = Origin::serve(|request, reply| reply.ok(&request.target));
    let lb = Lb::over(&[&origin]);
    let mut client = lb.connect();
    client.send(format!(
        "{}{}{BAD}{GOOD}{GOOD}",
        GOOD.replace("/good", "/1"),
        GOOD.replace("/good", "/2")
    ));
    assert_eq!(client.read_response().text(), "/1");
    assert_eq!(client.read_response().text(), "/2");
    let rejection = client.read_response();
    assert_eq!((rejection.status, rejection.header("X-LB-Error")), (400, Some("bad_field")));
    assert!(rejection.announces_close() && client.at_end());
    drop(client);
    lb.wait_for_closed(Reason::Rejected, 1);
    let targets: Vec<String> =
        origin.requests().into_iter().map(|request| request.target).collect();
    assert_eq!(targets, ["/1", "/2"]);
    let totals = lb.totals();
    assert_eq!(
        (totals.requests, totals.failed(Cause::BadField), totals.closed_in_total()),
        (2, 1, 1)
    );
}

#[test]
fn a_request_with_a_body_before_an_invalid_one_gets_its_response_first() {
    let origin = Origin::echo();
    let lb = Lb::over(&[&origin]);
    let sized = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello";
    let chunked =
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let mut client = lb.connect();
    client.send(format!("{sized}{chunked}{sized}\nGET / HTTP/1.1\r\nHost: h\r\n\r\n{GOOD}"));
    for _ in 0..3 {
        assert_eq!(client.read_response().expect_status(200).text(), "hello");
    }
    assert_eq!(client.read_response().header("X-LB-Error"), Some("bad_request_line"));
    assert!(client.at_end());
    assert_eq!(origin.count(), 3);
}

#[test]
fn a_request_smuggled_in_a_rejected_body_reaches_no_backend() {
    let scene = Scene::new();
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n";
    let both = "Content-Length: 4\r\nTransfer-Encoding: chunked";
    scene.rejects(
        400,
        "length_and_coding",
        &[format!("POST / HTTP/1.1\r\nHost: h\r\n{both}\r\n\r\n0\r\n\r\n{smuggled}")],
    );
    scene.rejects(
        400,
        "bad_content_length",
        &[format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nContent-Length: 35\r\n\r\n{smuggled}{smuggled}")],
    );
}

#[test]
fn the_rejection_is_not_lost_to_a_reset_while_the_client_still_sends() {
    let scene = Scene::new();
    for length in [1, 30_000, 200_000] {
        let request = format!(
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: +{length}\r\n\r\n{}",
            "x".repeat(length)
        );
        // Panics on a reset.
        let raw = raw_exchange(scene.lb.address(), &request);
        assert!(raw.starts_with(b"HTTP/1.1 400 Bad Request\r\n"), "{}", escaped(&raw));
    }
    scene.lb.wait_for_closed(Reason::Rejected, 3);
}

#[test]
fn bytes_after_the_rejection_are_discarded_during_the_lingering_close() {
    let scene = Scene::new();
    let mut client = scene.lb.connect();
    client.send(BAD);
    for _ in 0..20 {
        client.send(GOOD.repeat(10));
    }
    assert_eq!(client.read_response().status, 400);
    for _ in 0..20 {
        client.send(GOOD.repeat(10));
    }
    assert!(client.at_end(), "the sending side was shut, and no reset came");
    assert_eq!(scene.lb.totals().closed_in_total(), 0, "it lingers until the client ends");
    client.shutdown_write();
    scene.lb.wait_for_closed(Reason::Rejected, 1);
    assert_eq!(scene.origin.connections(), 0);
}

#[test]
fn the_linger_ends_after_its_time_or_after_too_many_bytes() {
    let origin = Origin::responding("x");
    let lb =
        Lb::with(&[&origin], |config| config.settings.timeouts.linger = Duration::from_millis(100));
    let mut silent = lb.connect();
    silent.send(BAD);
    assert_eq!(silent.read_response().status, 400);
    lb.wait_for_closed(Reason::Rejected, 1);

    let lb =
        Lb::with(&[&origin], |config| config.settings.timeouts.linger = Duration::from_secs(60));
    let mut flood = lb.connect();
    flood.send(BAD);
    assert_eq!(flood.read_response().status, 400);
    until("the connection is closed during the flood", || {
        flood.try_send(vec![b'x'; 32 * 1024]).is_err()
    });
    lb.wait_for_closed(Reason::Rejected, 1);
    assert_eq!(origin.connections(), 0);
}

#[test]
fn a_long_response_reaches_a_client_that_reads_late_and_has_sent_too_much() {
    let body = "content ".repeat(100_000);
    let raw = format!("HTTP/1.1 413 Too Much\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let origin = Origin::start([Step::ReadHead, Step::send(raw), Step::Hang]);
    let lb =
        Lb::with(&[&origin], |config| config.settings.timeouts.linger = Duration::from_secs(60));
    let mut client = lb.connect();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10000000\r\n\r\n");
    // More than is discarded after a response, and sent before any of the response is read.
    while client.try_send(vec![b'x'; 32 * 1024]).is_ok()
        && lb.totals().bytes_sent < body.len() as u64
    {}
    let response = client.read_response();
    assert!(response.text() == body, "{} bytes of {}", response.body.len(), body.len());
    client.reset();
    lb.wait_for_closed(Reason::EarlyResponse, 1);
}

#[test]
fn a_rejection_of_head_has_no_body() {
    let scene = Scene::new();
    for request in [
        "HEAD / HTTP/1.1\r\n\r\n",
        "HEAD / HTTP/1.1\r\nHost: h\r\nX : y\r\n\r\n",
        "\r\nHEAD / HTTP/1.1\r\nHost: @\r\n\r\n",
    ] {
        let mut client = scene.lb.connect();
        client.send(request);
        assert_eq!(client.read_response_to("HEAD").status, 400);
        assert!(client.at_end(), "{request:?}");
    }
}

#[test]
fn a_rejection_has_its_body_even_if_a_head_request_follows() {
    let lb = Lb::over(&[]);
    let mut client = lb.connect();
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\nHEAD / HTTP/1.1\r\nHost: h\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n");
    for method in ["GET", "HEAD", "GET"] {
        let response = client.read_response_to(method);
        assert_eq!((response.status, response.truncated), (503, false), "{method}");
        assert_eq!(response.body.is_empty(), method == "HEAD", "{method} got {response:?}");
    }
    assert_eq!(lb.totals().failed(Cause::NoBackend), 3);
}

#[test]
fn a_rejection_is_json_if_the_client_accepts_json() {
    let lb = Lb::over(&[]);
    let response = exchange(
        lb.address(),
        "GET / HTTP/1.1\r\nHost: h\r\nAccept: text/html, application/json\r\n\r\n",
    );
    assert_eq!((response.status, response.header("Content-Type")), (503, Some("application/json")));
    assert!(response.header("Retry-After").is_some() && !response.announces_close());
    let body: serde_json::Value = serde_json::from_slice(&response.body).expect("it is JSON");
    assert_eq!((&body["status"], &body["error"]), (&503.into(), &"no_backend".into()));
}
