//! Row two: a connection that had served before died without a byte of a response.

use super::{
    DIES, assert_failed, balancer, body_of, origin, origin_with_a_kept_connection, request,
    responds_once_then,
};
use crate::support::{Ending, Origin, Step};

#[test]
fn an_idempotent_request_is_retried_on_a_fresh_connection_to_the_same_backend() {
    for end in [Step::Reset, Step::Close] {
        let first = origin_with_a_kept_connection("first", [Step::ReadRequest, end]);
        let next = Origin::named("next");
        let lb = balancer(&[first.address(), next.address()]);
        let mut client = lb.connect();
        assert_eq!([client.get("/1").text(), client.get("/2").text()], ["first", "next"]);
        assert_eq!(client.get("/3").text(), "first");
        let came: Vec<(String, usize)> = first
            .requests()
            .into_iter()
            .map(|request| (request.target, request.connection))
            .collect();
        assert_eq!(came, [("/1".to_owned(), 0), ("/3".to_owned(), 0), ("/3".to_owned(), 1)]);
        let bytes = first.bytes_received();
        assert!(bytes[0].ends_with(&bytes[1]), "the same bytes again");
        assert_eq!((next.count(), lb.totals().retries, lb.totals().backend_reuses), (1, 1, 1));
        assert_eq!(lb.up(), 2, "a kept connection that the backend closed is no failure");
    }
}

#[test]
fn a_body_is_replayed_whole_with_its_request() {
    let first = origin_with_a_kept_connection("first", DIES);
    let lb = balancer(&[first.address()]);
    let mut client = lb.connect();
    client.get("/1").expect_status(200);
    let sent = request("PUT", "/2", 40_000);
    assert_eq!(client.exchange(&sent).text(), "first");
    let chunked = b"PUT /3 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    let requests = first.requests();
    assert_eq!(requests.len(), 3);
    assert!(
        requests[1..].iter().all(|received| received.body == body_of(&sent) && received.complete)
    );
    let first = origin_with_a_kept_connection("first", DIES);
    let lb = balancer(&[first.address()]);
    let mut client = lb.connect();
    client.get("/1").expect_status(200);
    client.exchange(chunked).expect_status(200);
    assert_eq!(first.requests()[2].text(), "abcde");
}

#[test]
fn a_post_is_not_retried_once_a_byte_of_it_was_written() {
    for method in ["POST", "PATCH"] {
        for end in [Step::Reset, Step::Close] {
            let first = origin_with_a_kept_connection("first", [Step::ReadRequest, end]);
            let next = Origin::named("next");
            let lb = balancer(&[first.address(), next.address()]);
            let mut client = lb.connect();
            assert_eq!([client.get("/1").text(), client.get("/2").text()], ["first", "next"]);
            assert_failed(&client.exchange(request(method, "/3", 5)), 502, "backend_closed");
            assert_eq!((first.count(), next.count(), lb.totals().retries), (2, 1, 0), "{method}");
            assert_eq!(lb.up(), 2);
        }
    }
}

#[test]
fn a_kept_connection_that_was_closed_before_a_post_is_not_used_for_it() {
    for end in [Step::Reset, Step::Close] {
        let first = origin_with_a_kept_connection("first", [end]);
        let lb = balancer(&[first.address()]);
        let mut client = lb.connect();
        client.get("/1").expect_status(200);
        assert_ne!(first.wait_for_ending(0), Ending::PeerClosed);
        assert_eq!(client.exchange(request("POST", "/2", 5)).text(), "first");
        let came: Vec<usize> = first.requests().iter().map(|request| request.connection).collect();
        assert_eq!(came, [0, 1]);
        assert_eq!(lb.totals().failed(lb_threads::error::Cause::BackendClosed), 0);
    }
}

#[test]
fn if_the_fresh_connection_dies_too_the_next_backend_is_tried() {
    let first = origin("first", [responds_once_then("first", DIES), DIES.to_vec()]);
    let next = Origin::named("next");
    let lb = balancer(&[first.address(), next.address()]);
    let mut client = lb.connect();
    assert_eq!([client.get("/1").text(), client.get("/2").text()], ["first", "next"]);
    assert_eq!(client.get("/3").text(), "next");
    assert_eq!(
        (first.count(), next.count(), lb.totals().retries),
        (3, 2, 2),
        "once more there, then elsewhere"
    );
}

#[test]
fn if_the_backend_refuses_connects_the_next_backend_is_tried() {
    let first = origin_with_a_kept_connection("first", [Step::ReadRequest, Step::Hang]);
    let next = Origin::named("next");
    let lb = balancer(&[first.address(), next.address()]);
    let mut client = lb.connect();
    assert_eq!([client.get("/1").text(), client.get("/2").text()], ["first", "next"]);
    client.send("GET /3 HTTP/1.1\r\nHost: x\r\n\r\n");
    first.wait_for_requests(2);
    first.stop();
    assert_eq!(client.read_response().text(), "next", "dead, then refused, then elsewhere");
    assert_eq!(lb.totals().retries, 2);
}

#[test]
fn a_body_too_large_to_replay_is_not_retried() {
    let first = origin_with_a_kept_connection("first", DIES);
    let next = Origin::named("next");
    let lb = balancer(&[first.address(), next.address()]);
    let mut client = lb.connect();
    assert_eq!([client.get("/1").text(), client.get("/2").text()], ["first", "next"]);
    assert_failed(&client.exchange(request("PUT", "/3", 200_000)), 502, "backend_closed");
    assert_eq!((first.count(), next.count(), lb.totals().retries), (2, 1, 0));
}
