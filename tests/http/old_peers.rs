//! HTTP/1.0 on either side: no chunks, no 100, and connections that close unless keep-alive is
//! requested.

use super::noise;
use crate::support::*;
use lb_threads::error::Cause;
use lb_threads::reason::Reason;
use std::time::Duration;

/// Responds HTTP/1.0 to everything, with a length, and closes.
fn old_origin() -> Origin {
    Origin::raw("HTTP/1.0 200 OK\r\nDate: d\r\nContent-Length: 2\r\n\r\nok", After::Close)
}

/// A balancer that has recorded its backend as HTTP/1.0.
fn over_recorded(origin: &Origin) -> Lb {
    let lb = Lb::over(&[origin]);
    assert_eq!(get(lb.address(), "/first").text(), "ok");
    lb
}

#[test]
fn a_request_without_host_is_forwarded_with_the_backends_host() {
    let origin = Origin::responding("x");
    let lb = Lb::over(&[&origin]);
    exchange(lb.address(), "GET /a HTTP/1.0\r\nX: y\r\nX-Request-Id: i\r\n\r\n").expect_status(200);
    let host = origin.address();
    assert_eq!(
        String::from_utf8(origin.only_request().raw_head).expect("it is text"),
        format!(
            "GET /a HTTP/1.1\r\nX: y\r\nX-Request-Id: i\r\nX-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\n\
             Host: {host}\r\n\r\n"
        )
    );
    exchange(lb.address(), "GET http://real/a HTTP/1.0\r\n\r\n").expect_status(200);
    exchange(lb.address(), "GET /a HTTP/1.0\r\nHost: mine\r\n\r\n").expect_status(200);
    let hosts: Vec<String> =
        origin.requests().iter().map(|request| request.headers_named("Host").join("+")).collect();
    assert_eq!(hosts[1..], ["real", "mine"]);
}

#[test]
fn an_http_1_0_client_is_closed_after_its_response() {
    let origin = Origin::responding("x");
    let lb = Lb::over(&[&origin]);
    let mut client = lb.connect();
    client.send("GET / HTTP/1.0\r\n\r\n");
    let response = client.read_response();
    assert_eq!(
        (response.version.as_str(), response.text().as_str(), response.announces_close()),
        ("HTTP/1.1", "x", true)
    );
    assert!(client.at_end());
    lb.wait_for_closed(Reason::ClosedAfterResponse, 1);
}

#[test]
fn an_http_1_0_client_with_keep_alive_stays_open_and_gets_the_field() {
    let origin = Origin::responding("x");
    let lb = Lb::over(&[&origin]);
    let mut client = lb.connect();
    for _ in 0..3 {
        client.send("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n");
        let response = client.read_response();
        assert_eq!(
            (response.text().as_str(), response.header("Connection")),
            ("x", Some("keep-alive"))
        );
    }
    client.send("GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n");
    assert!(client.read_response().announces_close() && client.at_end());
    assert_eq!((origin.connections(), origin.count()), (1, 4));
    assert!(origin.requests().iter().all(|request| request.header("Connection").is_none()));
}

#[test]
fn an_error_response_to_a_kept_http_1_0_client_has_keep_alive() {
    let lb = Lb::over(&[]);
    let mut client = lb.connect();
    for _ in 0..2 {
        client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        let response = client.read_response();
        assert_eq!((response.status, response.header("Connection")), (503, Some("keep-alive")));
    }
}

#[test]
fn chunked_and_close_delimited_responses_reach_an_http_1_0_client_close_delimited() {
    let body = noise(300_000);
    for (fields, encoded) in [
        ("Transfer-Encoding: chunked\r\n", super::in_chunks(&body, &[10_000, 3])),
        ("", body.clone()),
    ] {
        let raw =
            [format!("HTTP/1.1 200 OK\r\nDate: d\r\n{fields}\r\n").as_bytes(), &encoded].concat();
        let origin = Origin::raw(raw, After::Close);
        let lb = Lb::over(&[&origin]);
        let mut client = lb.connect();
        client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\nX-Request-Id: i\r\n\r\n");
        let mut response = client.read_head();
        assert_eq!(
            String::from_utf8_lossy(&response.raw_head),
            "HTTP/1.1 200 OK\r\nDate: d\r\nX-Request-Id: i\r\nConnection: close\r\n\r\n"
        );
        client.read_body_to("GET", &mut response);
        assert!(response.body == body && !response.truncated);
        lb.wait_for_closed(Reason::ClosedAfterResponse, 1);
    }
}

#[test]
fn trailers_never_reach_an_http_1_0_client() {
    let origin = Origin::raw(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n",
        After::Keep,
    );
    let lb = Lb::over(&[&origin]);
    let raw = raw_exchange(lb.address(), "GET / HTTP/1.0\r\n\r\n");
    assert!(raw.ends_with(b"\r\n\r\nok"), "{}", escaped(&raw));
}

#[test]
fn a_truncated_response_never_looks_complete_to_an_http_1_0_client() {
    // To such a client a close is the body's proper end: only a reset shows the truncation.
    for raw in [
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
    ] {
        let origin = Origin::raw(raw, After::Close);
        let lb = Lb::over(&[&origin]);
        let mut client = lb.connect();
        client.send("GET / HTTP/1.0\r\n\r\n");
        let (bytes, end) = client.read_until_closed();
        assert_eq!(end, Next::Reset, "it looks whole: {}", escaped(&bytes));
        lb.wait_for_closed(Reason::ResponseTruncated, 1);
    }
}

#[test]
fn a_response_not_read_in_time_never_looks_complete_to_an_http_1_0_client() {
    let origin = Origin::serve(|request, reply| {
        let length: usize = request.target.trim_start_matches('/').parse().expect("a number");
        let chunk = format!("{length:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(length));
        reply.send(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}"));
    });
    let lb =
        Lb::with(&[&origin], |config| config.settings.timeouts.body = Duration::from_millis(150));
    let unread = |length: usize| {
        let mut client = lb.connect();
        client.send(format!("GET /{length} HTTP/1.0\r\n\r\n"));
        (length, client)
    };
    let (_, mut first) = unread(30_000_000);
    lb.wait_for_closed(Reason::SlowReader, 1);
    assert_eq!(first.read_until_closed().1, Next::Reset);
    // The kernel's buffers hold so much. The backend sends a little more, and the balancer still
    // holds a part.
    let buffered = usize::try_from(lb.totals().bytes_sent).expect("some megabytes");
    let clients: Vec<_> = (0..8).map(|step| unread(buffered + step * 8 * 1024)).collect();
    until("all have ended", || lb.totals().closed_in_total() == 9);
    for (length, mut client) in clients {
        let (bytes, end) = client.read_until_closed();
        let is_whole = bytes.ends_with(&vec![b'x'; length]);
        assert!(end == Next::Reset || is_whole, "{} of {length} bytes look whole", bytes.len());
    }
}

#[test]
fn the_balancer_sends_the_100_for_an_http_1_0_backend() {
    let origin = old_origin();
    let lb = over_recorded(&origin);
    for framing in ["Content-Length: 5", "Transfer-Encoding: chunked"] {
        let mut client = lb.connect();
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n{framing}\r\n\r\n"
        ));
        assert_eq!(client.read_interim().status, 100, "{framing}");
        client.send(if framing.starts_with('C') { "hello" } else { "5\r\nhello\r\n0\r\n\r\n" });
        assert_eq!(client.read_response().text(), "ok");
        assert_eq!(origin.requests().last().expect("it came").body, b"hello");
    }
}

#[test]
fn a_client_that_did_not_wait_gets_no_100_inside_its_body() {
    let origin = old_origin();
    let lb = over_recorded(&origin);
    let mut client = lb.connect();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
    until("the head was read", || lb.totals().requests == 2);
    client.send_in_pieces("5\r\nworld\r\n0\r\n\r\n", [1, 4, 6]);
    let response = client.read_response();
    assert!(response.interim.len() <= 1, "the origin sends one, and it is forwarded: {response:?}");
    assert_eq!(
        (response.text().as_str(), origin.requests()[1].body.as_slice()),
        ("ok", &b"helloworld"[..])
    );
}

#[test]
fn a_chunked_body_reaches_an_http_1_0_backend_after_a_refused_connect() {
    let old = old_origin();
    let mut config = config(&[old.address(), refused_address()]);
    config.settings.health.checks = false;
    let lb = Lb::start(config);
    assert_eq!(get(lb.address(), "/").text(), "ok", "now it is known that it speaks HTTP/1.0");
    let head = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    let response = exchange(lb.address(), format!("{head}5\r\nhello\r\n0\r\n\r\n"));
    assert_eq!(response.text(), "ok");
    assert_eq!(old.requests()[1].body, b"hello");
    assert_eq!(old.requests()[1].header("Content-Length"), Some("5"));
}

#[test]
fn an_empty_buffered_chunked_body_keeps_its_length_at_the_next_backend() {
    let (old, new) = (old_origin(), Origin::named("new"));
    let mut config = config(&[old.address(), new.address()]);
    config.settings.health.checks = false;
    config.boot.workers = 1;
    let lb = Lb::start(config);
    assert_eq!(get(lb.address(), "/").text(), "ok", "now it is known that it speaks HTTP/1.0");
    assert_eq!(get(lb.address(), "/").text(), "new");
    old.stop();
    let request = "PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    assert_eq!(exchange(lb.address(), request).text(), "new");
    assert_eq!(new.requests()[1].header("Content-Length"), Some("0"));
}

#[test]
fn responses_of_an_http_1_0_backend_are_forwarded_and_its_connection_closed() {
    let origin = old_origin();
    let lb = Lb::over(&[&origin]);
    let mut client = lb.connect();
    for _ in 0..3 {
        let response = client.get("/");
        assert_eq!(
            (response.version.as_str(), response.text().as_str(), response.announces_close()),
            ("HTTP/1.1", "ok", false)
        );
    }
    assert_eq!((origin.connections(), lb.totals().backend_reuses), (3, 0));
    assert!(origin.requests().iter().all(|request| request.version == "HTTP/1.1"));
}

#[test]
fn an_http_1_0_connection_with_keep_alive_is_reused() {
    let origin = Origin::raw(
        "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
        After::Keep,
    );
    let lb = Lb::over(&[&origin]);
    let mut client = lb.connect();
    for _ in 0..3 {
        assert_eq!(client.get("/").text(), "ok");
    }
    assert_eq!((origin.connections(), lb.totals().backend_reuses), (1, 2));
}

#[test]
fn a_chunked_request_reaches_an_http_1_0_backend_with_a_length() {
    let origin = old_origin();
    let lb = over_recorded(&origin);
    let mut client = lb.connect();
    for length in [0, 5, 1_000, 40_000, 64 * 1024] {
        let body = noise(length);
        let response = client.exchange(super::post_chunked(&body, &[1_000, 7]));
        assert_eq!(response.text(), "ok");
        let request = origin.requests().pop().expect("it came");
        assert_eq!(request.framing, Framing::Length(length as u64));
        assert_eq!(
            (request.header("Transfer-Encoding"), request.complete, request.body == body),
            (None, true, true)
        );
    }
}

#[test]
fn a_chunked_request_too_long_to_buffer_gets_411() {
    let origin = old_origin();
    let lb = over_recorded(&origin);
    let mut client = lb.connect();
    client.send(super::post_chunked(&noise(64 * 1024 + 1), &[5_000]));
    let response = client.read_response();
    assert_eq!((response.status, response.header("X-LB-Error")), (411, Some("length_required")));
    assert!(response.announces_close() && client.at_end());
    drop(client);
    lb.wait_for_closed(Reason::Rejected, 1);
    assert_eq!(
        (lb.totals().failed(Cause::LengthRequired), origin.count()),
        (1, 1),
        "nothing of it reached the backend"
    );
}

#[test]
fn a_request_with_a_length_streams_to_an_http_1_0_backend_whatever_its_size() {
    let origin = old_origin();
    let lb = over_recorded(&origin);
    let body = noise(1_000_000);
    assert_eq!(exchange(lb.address(), super::post(&body)).text(), "ok");
    assert!(origin.requests()[1].body == body);
}

#[test]
fn a_backend_upgraded_to_http_1_1_receives_chunks() {
    let origin = Origin::start(Script::sequence([
        Script::raw("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", After::Close),
        Script::raw("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", After::Keep),
    ]));
    let lb = over_recorded(&origin);
    assert_eq!(get(lb.address(), "/").text(), "ok");
    assert_eq!(exchange(lb.address(), super::post_chunked(b"hello", &[5])).text(), "ok");
    assert_eq!(origin.requests()[2].raw_body, b"5\r\nhello\r\n0\r\n\r\n");
}
