//! `X-Request-Id`: the same at the backend, in the response and in the log, whatever the outcome.

use super::GET;
use crate::support::program::Program;
use crate::support::*;
use rustix::process::Signal;

/// The one identifier of a response.
#[track_caller]
fn id_of(response: &Response) -> String {
    let ids = response.headers_named("X-Request-Id");
    assert_eq!(ids.len(), 1, "{}", String::from_utf8_lossy(&response.raw_head));
    ids[0].to_owned()
}

fn is_generated(id: &str) -> bool {
    id.len() == 32 && id.bytes().all(|digit| digit.is_ascii_hexdigit())
}

#[test]
fn the_backend_and_the_client_get_the_same_identifier() {
    let origin = Origin::serve(|request, reply| {
        reply.respond(200, &[("X-Request-Id", "theirs"), ("X-Seen", &request.target)], "ok");
    });
    let lb = Lb::over(&[&origin]);
    let longest = "~".repeat(128);
    let mut generated = Vec::new();
    for (sent, is_kept) in
        [("mine", true), (longest.as_str(), true), ("", false), ("a b", false), ("\u{e9}", false)]
    {
        let request = format!("GET / HTTP/1.1\r\nHost: h\r\nX-Request-Id: {sent}\r\n\r\n");
        let id = id_of(exchange(lb.address(), request).expect_status(200));
        let seen = origin.requests().pop().expect("the backend has a request");
        assert_eq!(seen.headers_named("X-Request-Id"), [id.as_str()]);
        assert!(if is_kept { id == sent } else { is_generated(&id) }, "{sent:?}: {id}");
        generated.extend((!is_kept).then_some(id));
    }
    let too_long = "x".repeat(129);
    let request = format!("GET / HTTP/1.1\r\nHost: h\r\nX-Request-Id: {too_long}\r\n\r\n");
    generated.push(id_of(&exchange(lb.address(), request)));
    generated.sort();
    generated.dedup();
    assert_eq!(generated.len(), 4, "each is another one");
}

#[test]
fn every_response_of_ours_has_an_identifier() {
    let lb = Lb::start(config(&[refused_address()]));
    let mine = "X-Request-Id: mine\r\n\r\n";
    for (request, status, is_kept) in [
        (format!("GET / HTTP/1.1\r\nHost: h\r\n{mine}"), 503, true),
        (GET.to_owned(), 503, false),
        (format!("OPTIONS * HTTP/1.1\r\nHost: h\r\nMax-Forwards: 0\r\n{mine}"), 200, true),
        // A malformed head has no fields that could be relied on.
        (format!("GET / HTTP/1.1\r\n{mine}"), 400, false),
        ("\x16\x03\x01".to_owned(), 400, false),
    ] {
        let response = exchange(lb.address(), &request);
        let id = id_of(response.expect_status(status));
        assert!(if is_kept { id == "mine" } else { is_generated(&id) }, "{request:?}: {id}");
    }
}

#[test]
fn every_access_line_has_the_identifier_of_its_response() {
    let origin = Origin::named("one");
    let balancer = Program::balancer(&[origin.address()], &["--max-body", "5"]);
    let post = "POST /large HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n";
    for (request, status) in [
        ("GET /served HTTP/1.1\r\nHost: h\r\n\r\n", 200),
        ("GET /mine HTTP/1.1\r\nHost: h\r\nX-Request-Id: mine\r\n\r\n", 200),
        (post, 413),
        ("GET / HTTP/9.9\r\n\r\n", 505),
    ] {
        let id = id_of(exchange(balancer.address(), request).expect_status(status));
        balancer.until_logged(&format!("id {id}"));
        let log = balancer.log();
        let lines: Vec<&str> = log.lines().filter(|line| line.contains(&id)).collect();
        assert_eq!(lines.len(), 1, "one line for each exchange: {log}");
        assert!(lines[0].contains(&format!("\" {status} ")), "{}", lines[0]);
    }
}

#[test]
fn an_exchange_that_the_client_aborts_has_one_access_line() {
    let origin = Origin::start([Step::ReadHead, Step::Hang]);
    let balancer = Program::balancer(&[origin.address()], &["--no-health-checks"]);
    let mut client = Client::connect(balancer.address());
    client.send("GET /slow HTTP/1.1\r\nHost: h\r\nX-Request-Id: aborted\r\n\r\n");
    origin.wait_for_requests(1);
    client.reset();
    balancer.until_logged("id aborted");
    let log = balancer.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("client_reset")).collect();
    assert_eq!(lines.len(), 1, "no other line has its end: {log}");
    assert!(lines[0].ends_with("id aborted"), "{log}");
    assert!(lines[0].contains("\"GET /slow\" - client_reset in stage await response"), "{log}");
}

#[test]
fn a_request_over_a_limit_has_one_access_line() {
    let origin = Origin::responding("served");
    let balancer = Program::balancer(&[origin.address()], &["--max-connections", "1"]);
    let mut held = Client::connect(balancer.address());
    held.get("/").expect_status(200);
    let mut rejected = Client::connect(balancer.address());
    rejected.send("GET /over HTTP/1.1\r\nHost: h\r\n\r\n");
    rejected.read_response().expect_status(503);
    let address = rejected.local_address().to_string();
    drop((rejected, held));
    balancer.signal(Signal::TERM);
    let log = balancer.wait_for_end().stderr;
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(&address)).collect();
    assert_eq!(lines.len(), 1, "{log}");
    assert!(lines[0].contains("\"GET /over\" 503 overload in stage head"), "{log}");
}
