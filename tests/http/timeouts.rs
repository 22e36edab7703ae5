//! Timeouts: each stage has its own limit, its own response, and its own reason.

use super::{GET, MS, wait_until_free};
use crate::support::*;
use lb_threads::config::{Config, Timeouts};
use lb_threads::error::Cause;
use lb_threads::reason::Reason;
use std::time::{Duration, Instant};

pub(super) const SHORT: Duration = Duration::from_millis(150);
const LONG: Duration = Duration::from_secs(60);

/// All limits but the ones set by `change` are far away, so that only these can end a connection.
pub(super) fn only(change: impl FnOnce(&mut Timeouts)) -> impl FnOnce(&mut Config) {
    |config| {
        let far = Timeouts {
            idle: LONG,
            head: LONG,
            connect: LONG,
            first_byte: LONG,
            body: LONG,
            tunnel: LONG,
            linger: LONG,
            backend_idle: LONG,
            ..Timeouts::default()
        };
        config.settings.timeouts = far;
        change(&mut config.settings.timeouts);
    }
}

/// The response is this error response, and it came neither too early nor much too late.
#[track_caller]
pub(super) fn times_out(
    lb: &Lb,
    client: &mut Client,
    since: Instant,
    status: u16,
    cause: Cause,
) -> Response {
    let response = client.read_response();
    assert_eq!(
        (response.status, response.header("X-LB-Error")),
        (status, Some(cause.code())),
        "{response:?}"
    );
    assert!((SHORT - MS..20 * SHORT).contains(&since.elapsed()), "after {:?}", since.elapsed());
    assert_eq!(lb.totals().failed(cause), 1);
    response
}

#[test]
fn a_client_too_slow_with_its_head_gets_408() {
    let origin = Origin::responding("x");
    let lb = Lb::with(&[&origin], only(|timeouts| timeouts.head = SHORT));
    let mut client = lb.connect();
    let since = Instant::now();
    client.send("GET / HTTP/1.1\r\nHost");
    let response = times_out(&lb, &mut client, since, 408, Cause::HeadTimeout);
    assert!(response.announces_close() && client.at_end());
    drop(client);
    lb.wait_for_closed(Reason::Rejected, 1);
    assert_eq!(origin.connections(), 0);
}

#[test]
fn single_bytes_do_not_extend_the_deadline_of_a_head() {
    let origin = Origin::responding("x");
    let lb = Lb::with(&[&origin], only(|timeouts| timeouts.head = SHORT));
    let mut client = lb.connect();
    client.send("GET / HTTP/1.1\r\nX: ");
    until("the slow request is served", || {
        client.try_send("x").is_err() || lb.totals().failed(Cause::HeadTimeout) == 1
    });
    assert_eq!(client.read_response().status, 408);
}

#[test]
fn the_deadline_of_a_head_covers_only_the_head() {
    // It does not run while the client is idle, while the backend works, or for a head that came in
    // time before.
    let gate = Gate::new();
    let origin =
        Origin::start([Step::ReadRequest, Step::WaitFor(gate.clone()), Step::send(ok("late"))]);
    let lb = Lb::with(&[&origin], only(|timeouts| timeouts.head = 40 * MS));
    let mut client = lb.connect();
    stays("an idle client is left alone", 80 * MS, || client.is_open());
    client.send(GET);
    origin.wait_for_requests(1);
    stays("a waiting client is left alone", 80 * MS, || {
        client.is_open() && lb.totals().failed(Cause::HeadTimeout) == 0
    });
    gate.open();
    assert_eq!(client.read_response().text(), "late");
    stays("and so is one between two requests", 80 * MS, || client.is_open());
    assert_eq!(client.get("/").text(), "late");
}

#[test]
fn a_client_too_slow_with_its_body_gets_408_and_the_backend_is_freed() {
    for (head, part) in [
        ("Content-Length: 10", "hello"),
        ("Transfer-Encoding: chunked", "5\r\nhello\r\n"),
        ("Content-Length: 10", ""),
    ] {
        let origin = Origin::echo();
        let lb = Lb::with(&[&origin], only(|timeouts| timeouts.body = SHORT));
        let mut client = lb.connect();
        let since = Instant::now();
        client.send(format!("POST / HTTP/1.1\r\nHost: h\r\n{head}\r\n\r\n{part}"));
        let response = times_out(&lb, &mut client, since, 408, Cause::RequestBodyTimeout);
        assert!(response.announces_close() && client.at_end());
        drop(client);
        lb.wait_for_closed(Reason::Rejected, 1);
        origin.wait_for_ending(0);
        wait_until_free(&lb);
        assert!(!origin.only_request().complete);
    }
}

#[test]
fn single_bytes_of_a_body_are_no_progress() {
    let origin = Origin::echo();
    let lb = Lb::with(&[&origin], only(|timeouts| timeouts.body = SHORT));
    let mut client = lb.connect();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n");
    until("the slow request is served", || {
        client.try_send("x").is_err() || lb.totals().failed(Cause::RequestBodyTimeout) == 1
    });
    assert_eq!(client.read_response().status, 408);
}

/// Sends a body in pieces that come well within the limit, over several times the limit.
fn uploads_steadily(lb: &Lb, client: &mut Client, pieces: &[String], pause: Duration) {
    for piece in pieces {
        client.send(piece);
        stays("the upload goes on", pause, || lb.totals().failed(Cause::RequestBodyTimeout) == 0);
    }
}

#[test]
fn an_upload_that_makes_progress_may_take_as_long_as_it_needs() {
    let origin = Origin::echo();
    let lb = Lb::with(&[&origin], only(|timeouts| timeouts.body = 4 * SHORT));
    let mut client = lb.connect();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 20000\r\n\r\n");
    uploads_steadily(&lb, &mut client, &vec!["x".repeat(2_000); 10], SHORT / 2);
    assert_eq!(client.read_response().expect_status(200).body.len(), 20_000);
}

#[test]
fn an_upload_buffered_for_an_http_1_0_backend_may_take_as_long_as_it_needs() {
    let origin = Origin::raw("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", After::Close);
    let lb = Lb::with(&[&origin], only(|timeouts| timeouts.body = 4 * SHORT));
    assert_eq!(get(lb.address(), "/").text(), "ok");
    let mut client = lb.connect();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
    uploads_steadily(
        &lb,
        &mut client,
        &vec![format!("7d0\r\n{}\r\n", "x".repeat(2_000)); 10],
        SHORT / 2,
    );
    client.send("0\r\n\r\n");
    assert_eq!(client.read_response().expect_status(200).text(), "ok");
    assert_eq!(origin.requests()[1].body.len(), 20_000);
}

#[test]
fn an_upload_that_makes_progress_keeps_an_early_response_alive() {
    let origin = Origin::start([
        Step::ReadHead,
        Step::send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n"),
        Step::ReadBody,
        Step::send("6\r\nsecond\r\n0\r\n\r\n"),
    ]);
    let lb = Lb::with(&[&origin], only(|timeouts| timeouts.body = 4 * SHORT));
    let mut client = lb.connect();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 20000\r\n\r\n");
    let mut response = client.read_head();
    uploads_steadily(&lb, &mut client, &vec!["x".repeat(2_000); 10], SHORT / 2);
    client.read_body_to("POST", &mut response);
    assert_eq!((response.text().as_str(), response.truncated), ("firstsecond", false));
}

#[test]
fn a_first_byte_timeout_is_a_gateway_timeout() {
    let origin = Origin::start([Step::ReadRequest, Step::Hang]);
    let lb = Lb::with(&[&origin], only(|timeouts| timeouts.first_byte = SHORT));
    let mut client = lb.connect();
    let since = Instant::now();
    client.send(GET);
    let response = times_out(&lb, &mut client, since, 504, Cause::FirstByteTimeout);
    assert!(!response.announces_close(), "the client did nothing wrong");
    origin.wait_for_ending(0);
    wait_until_free(&lb);
    assert_eq!((lb.up(), lb.totals().closed_in_total()), (1, 0), "slowness is no illness");
}

#[test]
fn single_bytes_of_a_response_head_do_not_extend_its_deadline() {
    let origin = Origin::start([
        Step::ReadRequest,
        Step::send_slowly("HTTP/1.1 200 OK\r\n".to_owned() + &"a: b\r\n".repeat(90), 1, 20 * MS),
        Step::Hang,
    ]);
    let lb = Lb::with(&[&origin], only(|timeouts| timeouts.first_byte = SHORT));
    let mut client = lb.connect();
    let since = Instant::now();
    client.send(GET);
    times_out(&lb, &mut client, since, 504, Cause::FirstByteTimeout);
}

#[test]
fn a_backend_that_reads_nothing_of_the_upload_is_a_gateway_timeout() {
    let origin = Origin::start([Step::ReadHead, Step::Stall]);
    let lb = Lb::with(&[&origin], only(|timeouts| timeouts.body = SHORT));
    let response = exchange(lb.address(), super::post(&vec![b'x'; 20_000_000]));
    assert_eq!((response.status, response.header("X-LB-Error")), (504, Some("send_timeout")));
    assert!(response.announces_close());
    wait_until_free(&lb);
}

#[test]
fn a_connect_that_hangs_is_a_gateway_timeout() {
    let hole = Blackhole::start();
    let mut config = config(&[hole.address()]);
    config.settings.health.checks = false;
    only(|timeouts| timeouts.connect = SHORT)(&mut config);
    let lb = Lb::start(config);
    let mut client = lb.connect();
    let since = Instant::now();
    client.send(GET);
    let response = times_out(&lb, &mut client, since, 504, Cause::ConnectTimeout);
    assert!(!response.announces_close());
    wait_until_free(&lb);
}

#[test]
fn an_idle_client_is_closed_without_a_byte() {
    let origin = Origin::responding("x");
    let lb = Lb::with(&[&origin], only(|timeouts| timeouts.idle = SHORT));
    let mut fresh = lb.connect();
    let mut used = lb.connect();
    let since = Instant::now();
    assert_eq!(used.get("/").text(), "x");
    assert!(fresh.at_end() && used.at_end());
    assert!(since.elapsed() >= SHORT - 20 * MS, "after {:?}", since.elapsed());
    lb.wait_for_closed(Reason::IdleTimeout, 2);
    assert_eq!(lb.totals().closed_in_total(), 2);
}

#[test]
fn each_request_restarts_the_idle_timeout() {
    let origin = Origin::responding("x");
    let lb = Lb::with(&[&origin], only(|timeouts| timeouts.idle = 4 * SHORT));
    let mut client = lb.connect();
    for _ in 0..10 {
        assert_eq!(client.get("/").text(), "x");
        stays("it is kept", SHORT / 2, || client.is_open());
    }
    assert!(client.at_end());
    lb.wait_for_closed(Reason::IdleTimeout, 1);
}

#[test]
fn empty_lines_do_not_extend_the_idle_deadline() {
    for lines in [["\r\n"; 6], ["\r", "\n", "\r", "\n", "\r", "\n"]] {
        let origin = Origin::responding("x");
        let lb = Lb::with(&[&origin], only(|timeouts| timeouts.idle = 4 * SHORT));
        let mut client = lb.connect();
        let since = Instant::now();
        for line in lines {
            // The assertion below checks whether it is closed already.
            let _ = client.try_send(line);
            stays("no byte is sent", SHORT, || lb.totals().bytes_sent == 0);
        }
        lb.wait_for_closed(Reason::IdleTimeout, 1);
        assert!(since.elapsed() < 15 * SHORT / 2, "it was closed after {:?}", since.elapsed());
    }
}

#[test]
fn a_backend_that_stalls_inside_its_body_shows_as_a_truncation() {
    for head in [
        "Content-Length: 10\r\n\r\nhello",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "X: to the end\r\n\r\nhello",
        "Content-Length: 900000\r\n\r\nhello",
    ] {
        let origin = Origin::start([
            Step::ReadRequest,
            Step::send(format!("HTTP/1.1 200 OK\r\n{head}")),
            Step::Hang,
        ]);
        let lb = Lb::with(&[&origin], only(|timeouts| timeouts.body = SHORT));
        let mut client = lb.connect();
        let since = Instant::now();
        client.send(GET);
        let response = client.read_response();
        assert_eq!(
            (response.status, response.text().as_str(), response.truncated),
            (200, "hello", true),
            "{head:?}"
        );
        assert!(since.elapsed() >= SHORT - MS, "after {:?}", since.elapsed());
        lb.wait_for_closed(Reason::ResponseTimeout, 1);
        origin.wait_for_ending(0);
        wait_until_free(&lb);
    }
}

#[test]
fn a_response_that_makes_progress_may_take_as_long_as_it_needs() {
    let origin = Origin::start([
        Step::ReadRequest,
        Step::send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"),
        Step::send_slowly("helloworld", 1, SHORT / 2),
    ]);
    let lb = Lb::with(&[&origin], only(|timeouts| timeouts.body = 4 * SHORT));
    assert_eq!(exchange(lb.address(), GET).text(), "helloworld");
}

#[test]
fn a_client_that_does_not_read_its_response_is_closed() {
    for fields in ["Content-Length: 30000000", "Transfer-Encoding: chunked"] {
        let head = format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n1c9c380\r\n");
        let origin = Origin::raw([head.as_bytes(), &vec![b'x'; 30_000_000]].concat(), After::Keep);
        let lb = Lb::with(&[&origin], only(|timeouts| timeouts.body = 3 * SHORT));
        let mut client = lb.connect();
        client.send(GET);
        lb.wait_for_closed(Reason::SlowReader, 1);
        origin.wait_for_ending(0);
        wait_until_free(&lb);
        assert!(lb.totals().bytes_sent < 30_000_000);
    }
}

#[test]
fn a_slow_backend_does_not_make_a_slow_reader() {
    // The client has read all there is; the backend has not sent the rest.
    let raw = format!("HTTP/1.1 200 OK\r\nContent-Length: 500000\r\n\r\n{}", "x".repeat(300_000));
    let origin = Origin::start([Step::ReadRequest, Step::send(raw), Step::Hang]);
    let lb = Lb::with(&[&origin], only(|timeouts| timeouts.body = SHORT));
    let response = exchange(lb.address(), GET);
    assert_eq!((response.body.len(), response.truncated), (300_000, true));
    lb.wait_for_closed(Reason::ResponseTimeout, 1);
    assert_eq!(lb.totals().closed(Reason::SlowReader), 0);
}

#[test]
fn a_client_that_reads_slowly_but_steadily_gets_everything() {
    for fields in ["Content-Length: 12000000", "Transfer-Encoding: chunked"] {
        let body = super::noise(12_000_000);
        let encoded = if fields.starts_with('C') {
            body.clone()
        } else {
            super::in_chunks(&body, &[100_000])
        };
        let raw = [format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n").as_bytes(), &encoded].concat();
        let origin = Origin::raw(raw, After::Keep);
        let lb = Lb::with(&[&origin], only(|timeouts| timeouts.body = 4 * SHORT));
        let mut client = lb.connect();
        // This client gets the body unchunked.
        client.send("GET / HTTP/1.0\r\n\r\n");
        let mut begun = client.read_exactly(1);
        for _ in 0..14 {
            begun.extend(client.read_exactly(500_000));
            stays("it is served", SHORT / 2, || lb.totals().closed(Reason::SlowReader) == 0);
        }
        begun.extend(client.read_to_end());
        assert!(begun.ends_with(&body), "{fields}");
    }
}

#[test]
fn a_client_that_resets_during_a_hanging_connect_frees_its_slot() {
    let hole = Blackhole::start();
    let mut config = config(&[hole.address()]);
    config.settings.health.checks = false;
    only(|_| {})(&mut config);
    let lb = Lb::start(config);
    let mut client = lb.connect();
    client.send(GET);
    until("the connect has begun", || lb.totals().backend_connects == 1);
    client.reset();
    lb.wait_for_closed(Reason::ClientReset, 1);
    wait_until_free(&lb);
}
