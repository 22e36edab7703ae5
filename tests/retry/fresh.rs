//! Row three: a fresh connection died before a response head.

use super::{DIES, assert_failed, balancer, balancer_with, body_of, origin, request};
use crate::support::{Origin, Script, Step, exchange, get};
use std::time::{Duration, Instant};

#[test]
fn an_idempotent_request_goes_to_the_next_backend() {
    for method in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"] {
        for end in [Step::Reset, Step::Close] {
            let first = origin("first", [vec![Step::ReadRequest, end]]);
            let next = Origin::named("next");
            let lb = balancer(&[first.address(), next.address()]);
            let response =
                exchange(lb.address(), format!("{method} /a HTTP/1.1\r\nHost: x\r\n\r\n"));
            assert_eq!(
                (response.status, response.header("X-Origin")),
                (200, Some("next")),
                "{method}"
            );
            assert_eq!(
                (first.count(), next.count(), lb.totals().retries),
                (1, 1, 1),
                "never the same backend twice"
            );
        }
    }
}

#[test]
fn a_retry_sends_the_same_request() {
    let first = origin("first", [DIES.to_vec()]);
    let next = Origin::named("next");
    let lb = balancer(&[first.address(), next.address()]);
    let sent = request("PUT", "/a?b=c", 1_000);
    exchange(lb.address(), &sent).expect_status(200);
    assert_eq!(first.bytes_received()[0], next.bytes_received()[0], "down to the request's id");
}

#[test]
fn a_post_that_was_written_is_not_retried() {
    for method in ["POST", "PATCH"] {
        for end in [Step::Reset, Step::Close] {
            let first = origin("first", [vec![Step::ReadRequest, end]]);
            let next = Origin::named("next");
            let lb = balancer(&[first.address(), next.address()]);
            let mut client = lb.connect();
            assert_failed(&client.exchange(request(method, "/a", 5)), 502, "backend_closed");
            assert_eq!((first.count(), next.count(), lb.totals().retries), (1, 0, 0), "{method}");
            client.get("/").expect_status(200);
        }
    }
}

#[test]
fn a_body_of_up_to_64_kib_is_replayed_whole() {
    for length in [1, 4_096, 32_768, 65_535, 65_536] {
        let first = origin("first", [DIES.to_vec()]);
        let next = Origin::named("next");
        let lb = balancer(&[first.address(), next.address()]);
        let sent = request("PUT", "/a", length);
        let response = exchange(lb.address(), &sent);
        assert_eq!((response.status, response.text().as_str()), (200, "next"), "{length} bytes");
        assert!(next.only_request().body == body_of(&sent), "{length} bytes");
        assert!(first.only_request().complete);
    }
}

#[test]
fn a_chunked_body_of_up_to_64_kib_is_replayed_whole_and_a_longer_one_is_not() {
    let chunked = |length: usize| {
        let chunks: String =
            (0..length / 4096).map(|_| format!("1000\r\n{}\r\n", "x".repeat(4096))).collect();
        format!("PUT /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n")
    };
    for (length, is_saved) in [(4_096, true), (65_536, true), (69_632, false)] {
        let first = origin("first", [DIES.to_vec()]);
        let next = Origin::named("next");
        let lb = balancer(&[first.address(), next.address()]);
        let response = exchange(lb.address(), chunked(length));
        assert_eq!(response.status, if is_saved { 200 } else { 502 }, "{length} bytes");
        assert_eq!(next.count(), usize::from(is_saved), "{length} bytes");
        assert!(!is_saved || next.only_request().body.len() == length, "{length} bytes");
    }
}

#[test]
fn a_body_over_64_kib_is_not_replayed() {
    for length in [65_537, 200_000] {
        let first = origin("first", [DIES.to_vec()]);
        let next = Origin::named("next");
        let lb = balancer(&[first.address(), next.address()]);
        assert_failed(&exchange(lb.address(), request("PUT", "/a", length)), 502, "backend_closed");
        assert_eq!((first.count(), next.count(), lb.totals().retries), (1, 0, 0), "{length} bytes");
    }
}

#[test]
fn a_retry_replays_the_buffered_bytes_and_continues_reading() {
    // The first backend dies when it has half of the body, all that the client has sent by then.
    let sent = request("PUT", "/a", 20_000);
    let (half, rest) = sent.split_at(sent.len() - 10_000);
    let first = origin("first", [vec![Step::ReadHead, Step::ReadBytes(10_000), Step::Reset]]);
    let next = Origin::named("next");
    let lb = balancer(&[first.address(), next.address()]);
    let mut client = lb.connect();
    client.send(half);
    next.wait_for_requests(1);
    client.send(rest);
    assert_eq!(client.read_response().text(), "next");
    assert!(next.only_request().body == body_of(&sent));
}

#[test]
fn the_only_backend_is_not_tried_twice() {
    let first = origin("first", [DIES.to_vec()]);
    let lb = balancer(&[first.address()]);
    assert_failed(&get(lb.address(), "/"), 502, "backend_closed");
    assert_eq!(first.count(), 1);
}

#[test]
fn a_request_is_tried_at_three_backends_and_no_fourth() {
    let origins = ["a", "b", "c", "d"].map(|name| origin(name, [DIES.to_vec()]));
    let lb = balancer(&origins.each_ref().map(Origin::address));
    assert_failed(&get(lb.address(), "/"), 502, "backend_closed");
    assert_eq!(origins.each_ref().map(Origin::count), [1, 1, 1, 0]);
}

#[test]
fn a_first_byte_timeout_is_a_504_without_a_retry() {
    for method in ["GET", "POST"] {
        let first = Origin::start([Step::ReadRequest, Step::Hang]);
        let next = Origin::named("next");
        let timeout = Duration::from_millis(100);
        let lb = balancer_with(&[first.address(), next.address()], |config| {
            config.settings.timeouts.first_byte = timeout;
        });
        assert_failed(&exchange(lb.address(), request(method, "/a", 5)), 504, "first_byte_timeout");
        first.wait_for_requests(1);
        assert_eq!(
            (first.count(), next.count()),
            (1, 0),
            "{method}: its time is over, for all attempts"
        );
        assert_eq!(
            first.wait_for_ending(0),
            crate::support::Ending::PeerClosed,
            "and its connection is closed"
        );
    }
}

#[test]
fn all_attempts_share_one_deadline() {
    let pause = Duration::from_secs(1);
    let first = origin("first", [vec![Step::ReadRequest, Step::Pause(pause), Step::Reset]]);
    let next = Origin::start(Script::steps([Step::ReadRequest, Step::Hang]));
    let timeout = Duration::from_secs(2);
    let lb = balancer_with(&[first.address(), next.address()], |config| {
        config.settings.timeouts.first_byte = timeout;
    });
    let start = Instant::now();
    assert_failed(&get(lb.address(), "/"), 504, "first_byte_timeout");
    let took = start.elapsed();
    assert!(took >= timeout && took < pause + timeout, "{took:?}");
    next.wait_for_requests(1);
    assert_eq!((first.count(), next.count()), (1, 1));
}

#[test]
fn a_response_received_before_the_connection_died_is_forwarded() {
    // It responds without reading the body, and resets: the balancer's sends fail, but the response
    // has come.
    let early =
        Step::send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno");
    let first = Origin::start([Step::ReadHead, early, Step::Reset]);
    let next = Origin::named("next");
    let lb = balancer(&[first.address(), next.address()]);
    let response = lb.connect().exchange(request("PUT", "/a", 3_000_000));
    assert_eq!((response.status, response.text().as_str()), (403, "no"));
    assert_eq!(next.count(), 0);
}
