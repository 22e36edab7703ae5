//! Failures of `lb-threads ctl`: a rejection, a balancer that cannot be reached, a server that is
//! none, and `ctl health`.

use super::{JSON, api, command, ctl, done, failed};
use crate::support::program::Program;
use crate::support::{After, Blackhole, Gate, Origin, Step, refused_address};
use serde_json::json;
use std::time::{Duration, Instant};

/// The error of `ctl list` at a server that sends these bytes.
#[track_caller]
fn error_of(bytes: &str) -> String {
    let origin = Origin::raw(bytes, After::Close);
    failed(&ctl(origin.address(), &["list"]), 1)
}

fn http(status: &str, fields: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{fields}\r\n{body}", body.len())
}

#[test]
fn a_rejection_is_the_apis_sentence_with_exit_code_four() {
    let json =
        r#"{"error":"no backend http://a:1; did you mean http://b:1?","code":"no_such_backend"}"#;
    let origin = Origin::serve(move |_, reply| reply.respond(404, &JSON, json));
    let error = failed(&ctl(origin.address(), &["remove", "a", "1"]), 4);
    assert_eq!(error, "no backend http://a:1; did you mean http://b:1?");
    let ended = ctl(origin.address(), &["remove", "a", "1", "--json"]);
    assert_eq!((ended.code, ended.stdout), (Some(4), format!("{json}\n")));
    assert!(ended.stderr.contains("did you mean"), "{}", ended.stderr);
}

#[test]
fn a_rejection_of_the_token_is_shown_as_the_balancer_words_it() {
    let json = r#"{"error":"the token is missing","code":"unauthorized"}"#;
    let origin = Origin::serve(move |_, reply| {
        reply.respond(401, &[("WWW-Authenticate", "Bearer"), JSON[0]], json);
    });
    let error = failed(&ctl(origin.address(), &["list"]), 4);
    assert_eq!(error, "the token is missing");
    let mut with_token = command(origin.address(), &["list"]);
    with_token.env("LB_ADMIN_TOKEN", "wrong");
    let error = failed(&Program::start(with_token).wait_for_end(), 4);
    assert_eq!(error, "the token is missing");
}

#[test]
fn an_error_of_the_apis_own_has_exit_code_one() {
    let json = r#"{"error":"32 connections are open; try again","code":"overload"}"#;
    let origin = Origin::serve(move |_, reply| {
        reply.respond(503, &[JSON[0], ("X-LB-Error", "overload")], json);
    });
    for words in [&["list"][..], &["health"]] {
        let error = failed(&ctl(origin.address(), words), 1);
        assert_eq!(error, "32 connections are open; try again", "{words:?}");
    }
}

#[test]
fn an_error_of_the_api_never_acts_on_the_terminal() {
    let json = r#"{"error":"a\u001b[2Jb\nc","code":"x"}"#;
    let origin = Origin::serve(move |_, reply| reply.respond(400, &JSON, json));
    assert_eq!(failed(&ctl(origin.address(), &["list"]), 4), r"a\u{1b}[2Jb\nc");
}

#[test]
fn a_refused_connect_is_an_error_that_asks_whether_it_runs() {
    let address = refused_address();
    for words in [&["list"][..], &["add", "h", "1"], &["health"], &["drain", "h:1", "--wait", "1s"]]
    {
        let error = failed(&ctl(address, words), 1);
        let expected = format!(
            "cannot reach {address}: connection refused; is lb-threads running, with --admin?"
        );
        assert_eq!(error, expected, "{words:?}");
    }
}

#[test]
fn a_name_that_cannot_be_resolved_is_named() {
    let error = failed(&ctl(refused_address(), &["list", "--admin", "no-such-host.invalid:1"]), 1);
    assert!(error.contains("no-such-host.invalid:1") && error.contains("check --admin"), "{error}");
}

#[test]
fn a_server_that_is_not_the_api_is_described() {
    let html = "<html>{}</html>";
    let described = "is not the control API of lb-threads (status";
    for (bytes, expected) in [
        (
            http("200 OK", "Server: nginx\r\nContent-Type: text/html\r\n", html),
            "Server nginx, Content-Type text/html",
        ),
        (http("404 Not Found", "Content-Type: text/html\r\n", html), "status 404, no Server"),
        (
            http("200 OK", "Content-Type: application/json\r\n", "{\"algorithm\":\"rr\",\"backe"),
            described,
        ),
        (http("200 OK", "Content-Type: application/json\r\n", "[]"), described),
        (http("200 OK", "", ""), described),
        (http("404 Not Found", "", "{\"error\":\"only half\"}"), described),
        (http("500 Oh No", "", "{}"), "status 500"),
    ] {
        let error = error_of(&bytes);
        assert!(error.contains(expected) && error.contains("check --admin"), "{bytes}: {error}");
    }
}

#[test]
fn a_response_that_is_not_http_or_not_whole_is_described() {
    for (bytes, expected) in [
        ("SSH-2.0-OpenSSH_9.2\r\n\r\n", "is not the control API"),
        ("\0\u{1}\u{2}", "is not the control API"),
        ("HTTP/1.1 200 OK\r\nContent-", "closed the connection before the end"),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{\"alg",
            "closed the connection before the end",
        ),
    ] {
        let error = error_of(bytes);
        assert!(error.contains(expected), "{bytes:?}: {error}");
    }
    let origin = Origin::start([Step::ReadRequest, Step::Reset]);
    let error = failed(&ctl(origin.address(), &["list"]), 1);
    assert!(error.contains("closed the connection"), "{error}");
}

#[test]
fn the_port_for_traffic_is_recognised() {
    let bytes = http(
        "503 Service Unavailable",
        "X-LB-Error: no_backend\r\nServer: lb-threads\r\n",
        "{\"error\":\"no_backend\"}",
    );
    let error = error_of(&bytes);
    assert!(error.contains("the port of lb-threads for traffic (503, no_backend)"), "{error}");
}

#[test]
fn a_slow_api_is_given_up_at_the_time_limit() {
    let gate = Gate::new();
    let origin = Origin::start([Step::ReadRequest, Step::WaitFor(gate.clone())]);
    let error = failed(&ctl(origin.address(), &["list", "--timeout", "100ms"]), 1);
    assert!(error.contains("no response from") && error.contains("within 100ms"), "{error}");
    let error = failed(&ctl(origin.address(), &["add", "h", "1", "--timeout", "100ms"]), 1);
    assert!(error.contains("the change may have been made"), "{error}");
    gate.open();

    let bytes = http(
        "200 OK",
        "Content-Type: application/json\r\n",
        "{\"algorithm\":\"rr\",\"backends\":[]}",
    );
    let slow =
        Origin::start([Step::ReadRequest, Step::send_slowly(bytes, 10, Duration::from_millis(40))]);
    let error = failed(&ctl(slow.address(), &["list", "--timeout", "100ms"]), 1);
    assert!(error.contains("within 100ms"), "a limit for all of it: {error}");
    assert!(done(slow.address(), &["list"]).contains("no backends yet"));
}

/// An origin with this readiness.
fn readiness(status: u16, server: &'static str, kind: &'static str) -> Origin {
    let body = "not ready: draining\n1 of 3 backends up\n";
    Origin::serve(move |_, reply| {
        reply.respond(status, &[("Server", server), ("Content-Type", kind)], body);
    })
}

#[test]
fn health_prints_the_reasons_and_is_an_exit_status() {
    for (status, code) in [(200, 0), (503, 1)] {
        let origin = readiness(status, "lb-threads", "text/plain; charset=utf-8");
        let ended = ctl(origin.address(), &["health"]);
        assert_eq!(ended.code, Some(code), "{ended:?}");
        assert_eq!(ended.stdout, "not ready: draining\n1 of 3 backends up\n");
        assert_eq!(ended.stderr, if code == 0 { "" } else { "lb-threads: not ready\n" });
        let request = origin.only_request();
        assert_eq!((request.method.as_str(), request.target.as_str()), ("GET", "/readyz?verbose"));
        let ended = ctl(origin.address(), &["health", "--json"]);
        let json: serde_json::Value = serde_json::from_str(&ended.stdout).expect("JSON");
        let reasons = ["not ready: draining", "1 of 3 backends up"];
        assert_eq!(json, json!({ "ready": code == 0, "reasons": reasons }));
    }
}

#[test]
fn another_server_is_never_healthy() {
    for (server, kind) in [("nginx", "text/plain"), ("lb-threads", "text/html")] {
        let origin = readiness(200, server, kind);
        let error = failed(&ctl(origin.address(), &["health"]), 1);
        assert!(error.contains("is not the control API"), "{error}");
    }
    let origin = Origin::named("a backend");
    assert!(failed(&ctl(origin.address(), &["health"]), 1).contains("status 200, no Server"));
}

#[test]
fn health_takes_two_seconds_at_most() {
    let origin = Origin::start([Step::ReadRequest, Step::Hang]);
    let start = Instant::now();
    let error = failed(&ctl(origin.address(), &["health"]), 1);
    assert!(error.contains("within 2s"), "{error}");
    assert!(start.elapsed() >= Duration::from_secs(2), "{:?}", start.elapsed());
}

#[test]
fn a_full_disk_is_an_error_and_a_closed_pipe_is_none() {
    let origin = api(json!([]));
    let mut full = command(origin.address(), &["list"]);
    full.stdout(std::fs::File::options().write(true).open("/dev/full").expect("Linux has it"));
    let output = full.output().expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot write the result"));
    let mut unheard = Program::start_unheard(command(origin.address(), &["list"]));
    assert_eq!(unheard.exit_code(), Some(0));
}

#[test]
fn a_connect_that_hangs_ends_at_the_time_limit() {
    let hole = Blackhole::start();
    let address = hole.address();
    let error = failed(&ctl(address, &["list", "--timeout", "200ms"]), 1);
    assert!(error.contains(&format!("no response from {address} within 200ms")), "{error}");
}
