//! Rows three and four: a response has begun. Before its first forwarded byte an idempotent request
//! goes to the next backend; after that byte there is no retry.

use super::{assert_failed, balancer, origin, request, responds_once_then};
use crate::support::{Origin, Step, exchange, get};

/// Heads that are incomplete or not HTTP/1.1.
const BAD_HEADS: [&str; 8] = [
    "H",
    "HTTP/1.1 200",
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n",
    "SSH-2.0-OpenSSH_9.0\r\n\r\n",
    "HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
];

#[test]
fn an_idempotent_request_with_a_bad_response_head_goes_to_the_next_backend() {
    for method in ["GET", "HEAD", "PUT"] {
        for head in BAD_HEADS {
            for end in [Step::Reset, Step::Close] {
                let first = origin("first", [vec![Step::ReadRequest, Step::send(head), end]]);
                let next = Origin::named("next");
                let lb = balancer(&[first.address(), next.address()]);
                let sent = request(method, "/a", 5);
                let response = exchange(lb.address(), &sent);
                assert_eq!(
                    (response.status, response.header("X-Origin")),
                    (200, Some("next")),
                    "{method} {head:?}"
                );
                assert_eq!(
                    (first.count(), next.count(), lb.totals().retries),
                    (1, 1, 1),
                    "{method} {head:?}"
                );
                assert_eq!(
                    next.only_request().body,
                    super::body_of(&sent),
                    "the same request again"
                );
            }
        }
    }
}

#[test]
fn a_post_with_a_bad_response_head_gets_502_without_a_retry() {
    for head in BAD_HEADS {
        let first = origin("first", [vec![Step::ReadRequest, Step::send(head), Step::Close]]);
        let next = Origin::named("next");
        let lb = balancer(&[first.address(), next.address()]);
        assert_failed(&exchange(lb.address(), request("POST", "/a", 5)), 502, "bad_response");
        assert_eq!((first.count(), next.count(), lb.totals().retries), (1, 0, 0), "{head:?}");
    }
}

#[test]
fn bad_heads_cost_budget_and_count_as_failures_of_their_backend() {
    let bad = Origin::start([Step::ReadRequest, Step::send("garbage\r\n\r\n"), Step::Close]);
    let next = Origin::named("next");
    let lb = balancer(&[bad.address(), next.address()]);
    let mut client = lb.connect();
    for _ in 0..10 {
        client.get("/").expect_status(200);
    }
    assert_eq!((bad.count(), lb.up()), (5, 1), "five in a row take it out");
}

#[test]
fn a_reused_connection_closed_inside_a_head_is_not_retried_at_the_same_backend() {
    let then = [Step::ReadRequest, Step::send("HTTP/1.1 2"), Step::Reset];
    let first = origin("first", [responds_once_then("first", then)]);
    let lb = balancer(&[first.address()]);
    let mut client = lb.connect();
    client.get("/1").expect_status(200);
    assert_failed(&client.get("/2"), 502, "bad_response");
    assert_eq!(first.count(), 2);
}

#[test]
fn a_truncated_body_is_forwarded_as_truncated_without_a_retry() {
    let heads = ["Content-Length: 10\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"];
    for head in heads {
        let raw = format!("HTTP/1.1 200 OK\r\n{head}");
        let first = origin("first", [vec![Step::ReadRequest, Step::send(raw), Step::Close]]);
        let next = Origin::named("next");
        let lb = balancer(&[first.address(), next.address()]);
        let response = get(lb.address(), "/");
        assert!(
            response.truncated && response.status == 200 && response.text() == "abc",
            "{response:?}"
        );
        assert_eq!((first.count(), next.count(), lb.totals().retries), (1, 0, 0));
        lb.wait_for_closed(lb_threads::reason::Reason::ResponseTruncated, 1);
    }
}

#[test]
fn a_forwarded_1xx_counts_as_a_response_byte() {
    let hints = Step::send("HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n");
    let first = origin("first", [vec![Step::ReadRequest, hints, Step::Reset]]);
    let next = Origin::named("next");
    let lb = balancer(&[first.address(), next.address()]);
    let response = get(lb.address(), "/");
    assert_failed(&response, 502, "backend_closed");
    assert_eq!(response.interim.len(), 1);
    assert_eq!((next.count(), lb.totals().retries), (0, 0));
}

#[test]
fn a_1xx_that_could_not_be_forwarded_does_not_count() {
    let first = origin(
        "first",
        [vec![Step::ReadRequest, Step::send("HTTP/1.1 103 Early Hints\r\n\r\n"), Step::Reset]],
    );
    let next = Origin::named("next");
    let lb = balancer(&[first.address(), next.address()]);
    let response = exchange(lb.address(), "GET / HTTP/1.0\r\nHost: x\r\n\r\n");
    assert_eq!((response.status, response.text().as_str()), (200, "next"));
    assert_eq!((first.count(), next.count()), (1, 1));
}
