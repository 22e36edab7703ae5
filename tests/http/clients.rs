//! Clients that close one side, close both, reset, or pipeline many requests.

use super::{GET, wait_until_free};
use crate::support::*;
use lb_threads::reason::Reason;

/// An origin that responds when the gate opens.
fn gated() -> (Origin, Gate) {
    let gate = Gate::new();
    let origin =
        Origin::start([Step::ReadRequest, Step::WaitFor(gate.clone()), Step::send(ok("late"))]);
    (origin, gate)
}

#[test]
fn a_client_half_closed_after_its_request_still_gets_the_response() {
    let origin = Origin::echo();
    let lb = Lb::over(&[&origin]);
    let chunked =
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
            .as_bytes()
            .to_vec();
    for (number, request) in
        [GET.as_bytes().to_vec(), super::post(b"hello"), chunked].into_iter().enumerate()
    {
        let mut client = lb.connect();
        client.send(&request);
        client.shutdown_write();
        let response = client.read_response();
        assert_eq!(
            (response.status, response.text()),
            (200, if number == 0 { String::new() } else { "hello".to_owned() })
        );
        assert!(client.at_end());
    }
    lb.wait_for_closed(Reason::ClientClosed, 3);
}

#[test]
fn a_half_closed_client_gets_a_slow_and_large_response() {
    let (origin, gate) = gated();
    let lb = Lb::over(&[&origin]);
    let mut client = lb.connect();
    client.send(GET);
    client.shutdown_write();
    origin.wait_for_requests(1);
    stays("it waits", 20 * super::MS, || client.is_open() && lb.totals().closed_in_total() == 0);
    gate.open();
    assert_eq!(client.read_response().text(), "late");

    let body = super::noise(2_000_000);
    let origin = Origin::responding(&body);
    let lb = Lb::over(&[&origin]);
    let mut client = lb.connect();
    client.send(GET);
    client.shutdown_write();
    let response = client.read_response();
    assert!(response.body == body && client.at_end());
    lb.wait_for_closed(Reason::ClientClosed, 1);
}

#[test]
fn a_pipeline_from_a_half_closed_client_is_served_to_its_end() {
    let origin = Origin::serve(|request, reply| reply.ok(&request.target));
    let lb = Lb::over(&[&origin]);
    let mut client = lb.connect();
    client.send(
        (0..10)
            .map(|number| format!("GET /{number} HTTP/1.1\r\nHost: h\r\n\r\n"))
            .collect::<String>(),
    );
    client.shutdown_write();
    for number in 0..10 {
        assert_eq!(client.read_response().text(), format!("/{number}"));
    }
    assert!(client.at_end());
    lb.wait_for_closed(Reason::ClientClosed, 1);
}

#[test]
fn a_client_that_closes_inside_a_head_gets_no_response() {
    let origin = Origin::responding("x");
    let lb = Lb::over(&[&origin]);
    for part in ["G", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: h\r\n"] {
        let mut client = lb.connect();
        client.send(part);
        client.shutdown_write();
        assert!(client.at_end(), "{part:?}");
    }
    lb.wait_for_closed(Reason::ClientAborted, 3);
    assert_eq!(lb.totals().backend_connects, 0);
}

#[test]
fn a_client_that_closes_without_a_byte_is_no_error() {
    let origin = Origin::responding("x");
    let lb = Lb::over(&[&origin]);
    drop(lb.connect());
    let mut half = lb.connect();
    half.shutdown_write();
    assert!(half.at_end());
    lb.wait_for_closed(Reason::ClientClosed, 2);
    assert_eq!((lb.totals().requests, lb.totals().backend_connects), (0, 0));
}

#[test]
fn a_close_inside_a_body_aborts_the_request_and_closes_the_backends_connection() {
    let origin = Origin::echo();
    let lb = Lb::over(&[&origin]);
    for (number, (head, part)) in [
        ("Content-Length: 10", ""),
        ("Content-Length: 10", "hello"),
        ("Transfer-Encoding: chunked", ""),
        ("Transfer-Encoding: chunked", "5\r\nhel"),
        ("Transfer-Encoding: chunked", "5\r\nhello\r\n"),
        ("Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut client = lb.connect();
        client.send(format!("POST / HTTP/1.1\r\nHost: h\r\n{head}\r\n\r\n{part}"));
        origin.wait_for_requests(number + 1);
        client.shutdown_write();
        assert!(client.at_end(), "{head} {part:?}");
        lb.wait_for_closed(Reason::ClientAborted, number as u64 + 1);
        assert!(matches!(origin.wait_for_ending(number), Ending::PeerClosed | Ending::PeerReset));
    }
    wait_until_free(&lb);
    assert!(origin.requests().iter().all(|request| !request.complete), "{}", origin.story());
    assert_eq!(lb.totals().backend_reuses, 0);
}

#[test]
fn a_client_that_resets_before_its_response_frees_the_backend_connection() {
    let (origin, _gate) = gated();
    let lb = Lb::over(&[&origin]);
    let mut client = lb.connect();
    client.send(GET);
    origin.wait_for_requests(1);
    client.reset();
    lb.wait_for_closed(Reason::ClientReset, 1);
    wait_until_free(&lb);
}

#[test]
fn the_backend_sees_at_once_that_its_client_has_reset() {
    let origin = Origin::start([Step::ReadRequest, Step::Hang]);
    let lb = Lb::over(&[&origin]);
    for (number, request) in
        [GET.as_bytes().to_vec(), super::post(b"hello")].into_iter().enumerate()
    {
        let mut client = lb.connect();
        client.send(request);
        origin.wait_for_requests(number + 1);
        client.reset();
        assert!(matches!(origin.wait_for_ending(number), Ending::PeerClosed | Ending::PeerReset));
    }
    lb.wait_for_closed(Reason::ClientReset, 2);
    wait_until_free(&lb);
}

#[test]
fn a_client_that_resets_inside_its_upload_or_response_frees_the_backend() {
    let origin = Origin::start([
        Step::ReadRequest,
        Step::send("HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\nsome"),
        Step::Hang,
    ]);
    let lb = Lb::over(&[&origin]);
    let mut uploading = lb.connect();
    uploading.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nsome");
    origin.wait_for_requests(1);
    uploading.reset();
    origin.wait_for_ending(0);
    let mut reading = lb.connect();
    reading.send(GET);
    reading.read_until("some");
    reading.reset();
    origin.wait_for_ending(1);
    lb.wait_for_closed(Reason::ClientReset, 2);
    wait_until_free(&lb);
}

#[test]
fn a_reset_by_an_idle_client_affects_no_other_client() {
    let origin = Origin::responding("x");
    let lb = Lb::over(&[&origin]);
    let mut client = lb.connect();
    client.get("/");
    client.reset();
    lb.wait_for_closed(Reason::ClientReset, 1);
    assert_eq!(exchange(lb.address(), GET).text(), "x");
}

#[test]
fn fifty_requests_in_one_write_are_served_in_order_over_one_backend_connection() {
    let origin = Origin::serve(|request, reply| match request.target.len() % 2 {
        0 => reply.ok(&request.target),
        _ => reply.respond_chunked(&request.target, &[]),
    });
    let lb = Lb::over(&[&origin]);
    let mut client = lb.connect();
    client.send(
        (0..50)
            .map(|number| format!("GET /{number} HTTP/1.1\r\nHost: h\r\n\r\n"))
            .collect::<String>(),
    );
    for number in 0..50 {
        assert_eq!(client.read_response().text(), format!("/{number}"));
    }
    drop(client);
    lb.wait_for_closed(Reason::ClientClosed, 1);
    let totals = lb.totals();
    assert_eq!(
        (totals.connections, totals.requests, totals.backend_connects, totals.backend_reuses),
        (1, 50, 1, 49)
    );
    assert_eq!((origin.connections(), origin.count()), (1, 50));
}

#[test]
fn a_pipelined_request_waits_for_the_response_before_it() {
    let (origin, gate) = gated();
    let lb = Lb::over(&[&origin]);
    let mut client = lb.connect();
    client.send(GET.repeat(2));
    origin.wait_for_requests(1);
    stays("the second request is not at the backend", 20 * super::MS, || {
        origin.count() == 1 && lb.totals().requests == 1
    });
    gate.open();
    assert_eq!(client.read_response().text(), "late");
    assert_eq!(client.read_response().text(), "late");
}

#[test]
fn a_client_that_sends_far_ahead_is_not_read_further_than_needed() {
    // Thousands of requests pipelined after a waiting one: they stay in the kernel, and all are
    // served in the end.
    let (origin, gate) = gated();
    let lb = Lb::over(&[&origin]);
    let mut client = lb.connect();
    client.send(GET.repeat(2_000));
    origin.wait_for_requests(1);
    gate.open();
    for _ in 0..2_000 {
        assert_eq!(client.read_response().text(), "late");
    }
    assert_eq!((origin.connections(), lb.totals().requests), (1, 2_000));
}
