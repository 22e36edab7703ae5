//! 1xx responses and `Expect: 100-continue`, end to end.

use super::wait_until_free;
use crate::support::*;
use lb_threads::error::Cause;
use lb_threads::reason::Reason;
use std::time::Duration;

const EXPECTING: &str =
    "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";

#[test]
fn interim_responses_reach_the_client_before_the_final_one() {
    let gate = Gate::new();
    let origin = Origin::start([
        Step::ReadRequest,
        Step::send(
            "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nConnection: x-hop\r\nX-Hop: 1\r\nContent-Length: 0\r\n\r\n",
        ),
        Step::WaitFor(gate.clone()),
        Step::send("HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    ]);
    let lb = Lb::over(&[&origin]);
    let mut client = lb.connect();
    client.send(super::GET);
    let hints = client.read_interim();
    assert_eq!(
        String::from_utf8_lossy(&hints.raw_head),
        "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"
    );
    gate.open();
    let response = client.read_response();
    assert_eq!((response.status, response.text().as_str(), response.interim.len()), (200, "ok", 1));
    assert_eq!(response.interim[0].status, 102);
    let again = client.get("/");
    assert_eq!((again.status, again.interim.len(), origin.connections()), (200, 2, 1));
}

#[test]
fn an_http_1_0_client_gets_no_interim_responses() {
    let origin = Origin::raw(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\nHTTP/1.1 200 OK\r\nDate: d\r\n\
         Content-Length: 2\r\n\r\nok",
        After::Keep,
    );
    let lb = Lb::over(&[&origin]);
    let raw = raw_exchange(lb.address(), "GET / HTTP/1.0\r\nX-Request-Id: i\r\n\r\n");
    let expected = "HTTP/1.1 200 OK\r\nDate: d\r\nContent-Length: 2\r\nX-Request-Id: i\r\nConnection: close\r\n\r\nok";
    assert_eq!(String::from_utf8_lossy(&raw), expected);
}

#[test]
fn a_client_that_waits_for_100_gets_it_from_the_backend() {
    let go = Gate::new();
    let origin = Origin::start([
        Step::ReadHead,
        Step::WaitFor(go.clone()),
        Step::send("HTTP/1.1 100 Continue\r\n\r\n"),
        Step::ReadBody,
        Step::send(ok("thanks")),
    ]);
    let lb = Lb::over(&[&origin]);
    let mut client = lb.connect();
    client.send(EXPECTING);
    let head = origin.wait_for_requests(1).remove(0);
    assert_eq!(
        (head.header("Expect"), head.header("Content-Length")),
        (Some("100-continue"), Some("5"))
    );
    stays("only the backend sends 100", 20 * super::MS, || {
        client.is_open() && lb.totals().bytes_sent == 0
    });
    go.open();
    let interim = client.read_interim();
    assert_eq!(String::from_utf8_lossy(&interim.raw_head), "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("hello");
    assert_eq!(client.read_response().text(), "thanks");
    assert_eq!(origin.only_request().body, b"hello");
    assert_eq!(client.exchange(super::post(b"hello")).text(), "thanks");
    assert_eq!(origin.connections(), 1);
}

#[test]
fn a_client_that_does_not_wait_for_the_100_is_served_too() {
    let origin = Origin::echo();
    let lb = Lb::over(&[&origin]);
    let mut client = lb.connect();
    client.send(format!("{EXPECTING}hello{}", super::GET));
    let response = client.read_response();
    assert_eq!((response.text().as_str(), response.interim.len()), ("hello", 1));
    assert_eq!(client.read_response().status, 200);
}

#[test]
fn a_backend_that_rejects_the_body_receives_none_of_it() {
    for status in [401, 413, 417] {
        let origin = Origin::start(Script::serve_heads(move |_, reply| {
            reply.respond(status, &[], "no");
            reply.step(&Step::Hang);
        }));
        let lb = Lb::with(&[&origin], |config| {
            config.settings.timeouts.backend_idle = Duration::from_secs(60);
        });
        let mut client = lb.connect();
        client.send(EXPECTING);
        let response = client.read_response();
        assert_eq!(
            (response.status, response.text().as_str(), response.interim.len()),
            (status, "no", 0)
        );
        assert!(response.announces_close(), "it is unknown whether the body follows");
        assert!(client.at_end());
        drop(client);
        lb.wait_for_closed(Reason::EarlyResponse, 1);
        origin.wait_for_ending(0);
        assert!(origin.bytes_received()[0].ends_with(b"\r\n\r\n"), "{}", origin.story());
    }
}

#[test]
fn an_http_1_0_backend_is_not_waited_for() {
    // It cannot send 100, so the balancer does, and forwards the chunked body with its length.
    let origin = Origin::raw("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", After::Close);
    let lb = Lb::over(&[&origin]);
    assert_eq!(get(lb.address(), "/").text(), "ok");
    let mut client = lb.connect();
    client.send(
        "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n",
    );
    assert_eq!(client.read_interim().status, 100);
    client.send("5\r\nhello\r\n0\r\n\r\n");
    assert_eq!(client.read_response().text(), "ok");
    assert_eq!(origin.requests()[1].body, b"hello");
}

#[test]
fn an_interim_response_counts_as_a_response_and_prevents_a_retry() {
    let dies = || {
        Origin::start([
            Step::ReadRequest,
            Step::send("HTTP/1.1 103 Early Hints\r\n\r\n"),
            Step::Reset,
        ])
    };
    let (one, two) = (dies(), dies());
    let lb = Lb::over(&[&one, &two]);
    let response = exchange(lb.address(), super::GET);
    assert_eq!((response.status, response.interim.len()), (502, 1));
    assert_eq!((one.count() + two.count(), lb.totals().retries), (1, 0));
    assert_eq!(lb.totals().failed(Cause::BackendClosed), 1);
    wait_until_free(&lb);
}

#[test]
fn an_interim_response_is_forwarded_during_the_upload() {
    let origin = Origin::start([
        Step::ReadHead,
        Step::send("HTTP/1.1 102 Processing\r\n\r\n"),
        Step::ReadBody,
        Step::send(ok("done")),
    ]);
    let lb = Lb::over(&[&origin]);
    let mut client = lb.connect();
    for _ in 0..2 {
        client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhe");
        assert_eq!(client.read_interim().status, 102);
        client.send("llo");
        let response = client.read_response();
        assert_eq!((response.text().as_str(), response.announces_close()), ("done", false));
    }
    assert_eq!((origin.connections(), lb.totals().backend_reuses), (1, 1));
}

#[test]
fn expect_from_an_http_1_0_client_is_ignored() {
    let origin = Origin::echo();
    let lb = Lb::over(&[&origin]);
    let raw = raw_exchange(
        lb.address(),
        "POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
    );
    assert!(
        raw.starts_with(b"HTTP/1.1 200 ") && raw.ends_with(b"\r\n\r\nhello"),
        "{}",
        escaped(&raw)
    );
    assert_eq!(origin.only_request().header("Expect"), None);
}
