//! `--log-format` and `--access-log`: every line of the format, and none that a client has made.

use super::Logged;
use crate::support::program::{self, Program};
use crate::support::{Client, Origin, get, until};
use rustix::process::Signal;
use serde_json::Value;

/// The lines, each of which is a JSON object.
#[track_caller]
fn parsed(text: &str) -> Vec<Value> {
    let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    text.lines().map(parse).collect()
}

/// A request with a user agent that would be a line of its own, or leave its quotes.
const HOSTILE: &str = "GET /a\\b?secret HTTP/1.1\r\nHost: x.example\r\nUser-Agent: a\" \\ \u{9b}1m {\"ts\":1}\r\n\
                       Referer: http://y.example/\r\nX-Request-Id: \"id\"\r\n\r\n";

#[test]
fn every_line_is_json_from_the_start_to_the_stop() {
    let origin = Origin::responding("hello");
    let mut balancer = Logged::start(&origin, &["--log-format", "json", "--log-level", "debug"]);
    let mut client = Client::connect(balancer.address());
    client.exchange(HOSTILE).expect_status(200);
    client.send("GET / HTTP/1.1\r\n\r\n");
    assert_eq!(client.read_response().status, 400);
    balancer.until_logged("\"status\":400");
    balancer.program.signal(Signal::TERM);
    assert_eq!(balancer.program.exit_code(), Some(0));
    let lines = parsed(&balancer.text());
    for line in &lines {
        let time = line["ts"].as_str().unwrap();
        assert!(time.len() == 24 && time.ends_with('Z'), "{line}");
        assert!(line["level"].is_string() && line["event"].is_string(), "{line}");
    }
    let served = lines.iter().find(|line| line["status"] == 200).expect("an access line");
    for (key, value) in [
        ("event", "access"),
        ("request_id", "\"id\""),
        ("client_ip", "127.0.0.1"),
        ("method", "GET"),
        ("host", "x.example"),
        ("path", "/a\\b"),
        ("proto", "HTTP/1.1"),
        ("backend", &origin.address().to_string()),
        ("ua", "a\" \\ \u{9b}1m {\"ts\":1}"),
        ("referer", "http://y.example/"),
    ] {
        assert_eq!(served[key], value, "{key}: {served}");
    }
    assert!(served["dur_ms"].as_f64().unwrap() >= served["ttfb_ms"].as_f64().unwrap());
    assert!(served.get("cause").is_none() && served["reused"] == false, "{served}");
    let rejected = lines.iter().find(|line| line["status"] == 400).expect("an access line");
    assert_eq!((&rejected["stage"], rejected["cause"].is_string()), (&"head".into(), true));
    for event in ["start", "stop", "state"] {
        assert!(lines.iter().any(|line| line["event"] == event), "no event {event}: {lines:?}");
    }
    let up =
        lines.iter().find(|line| line["message"].as_str().is_some_and(|m| m.contains(" up: ")));
    assert_eq!(up.expect("a state")["backend"], origin.address().to_string());
}

#[test]
fn an_error_at_the_start_is_json_too() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let ended = program::run(["--port", &port, "--no-backends", "--log-format", "json"]);
    assert_eq!(ended.code, Some(1));
    let lines = parsed(&ended.stderr);
    let last = lines.last().expect("a line");
    assert_eq!((&last["level"], &last["event"]), (&"error".into(), &"start".into()));
    assert!(last["message"].as_str().unwrap().contains("in use"), "{last}");
}

#[test]
fn the_combined_format_has_the_access_lines_of_apache_and_events_as_text() {
    let origin = Origin::responding("hello");
    let balancer = Logged::start(&origin, &["--log-format", "combined"]);
    Client::connect(balancer.address()).exchange(HOSTILE).expect_status(200);
    balancer.until_logged("x9b1m");
    let text = balancer.text();
    let access = text.lines().find(|line| line.contains("\"GET")).expect("an access line");
    let (before, rest) = access.split_once(" [").unwrap();
    let (time, after) = rest.split_once("] ").unwrap();
    assert_eq!(before, "127.0.0.1 - -");
    assert!(time.ends_with(" +0000") && time.matches('/').count() == 2, "{access}");
    assert!(after.starts_with("\"GET /a\\\\b HTTP/1.1\" 200 "), "{access}");
    let end = " \"http://y.example/\" \"a\\\" \\\\ \\xc2\\x9b1m {\\\"ts\\\":1}\"";
    assert!(after.ends_with(end), "{access}");
    let others = text.lines().filter(|line| *line != access);
    assert!(
        others.clone().count() > 0 && others.clone().all(|line| line.starts_with('[')),
        "{text}"
    );
}

#[test]
fn a_line_of_text_is_one_line_whatever_a_peer_has_sent() {
    let origin = Origin::serve(|_, reply| reply.respond(200, &[("X-Odd", "\u{9b}1m")], "a\nb\n"));
    let balancer = Logged::start(&origin, &["--log-level", "debug"]);
    Client::connect(balancer.address()).exchange(HOSTILE).expect_status(200);
    balancer.until_logged("bytes, id \"id\"");
    let text = balancer.text();
    assert!(text.lines().all(|line| line.starts_with("[20")), "{text}");
    assert!(!text.contains(|letter: char| letter.is_control() && letter != '\n'), "{text:?}");
}

#[test]
fn access_lines_can_be_limited_to_errors_or_switched_off() {
    let origin = Origin::serve(|request, reply| {
        let status = if request.target == "/bad" { 500 } else { 200 };
        reply.respond(status, &[], "");
    });
    for (value, has_error) in [("errors", true), ("off", false)] {
        let mut balancer = Logged::start(&origin, &["--access-log", value]);
        let address = balancer.address();
        assert_eq!(get(address, "/good").status, 200);
        assert_eq!(get(address, "/bad").status, 500);
        balancer.program.signal(Signal::TERM);
        assert_eq!(balancer.program.exit_code(), Some(0));
        let text = balancer.text();
        assert!(!text.contains("GET /good"), "{value}: {text}");
        assert_eq!(text.contains("\"GET /bad\" 500"), has_error, "{value}: {text}");
        assert!(text.contains("listening on") && text.contains("stopped after"), "{text}");
    }
}

#[test]
fn the_client_behind_a_trusted_proxy_is_another_one_than_the_peer() {
    let origin = Origin::responding("hello");
    let words = ["--log-format", "json", "--trusted-proxies", "127.0.0.1"];
    let balancer = Logged::start(&origin, &words);
    Client::connect(balancer.address())
        .exchange("GET /x HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n")
        .expect_status(200);
    until("there is a line", || balancer.text().contains("\"/x\""));
    let lines = parsed(&balancer.text());
    let line = lines.iter().find(|line| line["path"] == "/x").unwrap();
    assert_eq!(
        (&line["client_ip"], &line["peer_ip"]),
        (&"203.0.113.9".into(), &"127.0.0.1".into())
    );
    assert!(line.get("client_port").is_none(), "the port is the proxy's: {line}");
}

#[test]
fn an_unknown_format_is_rejected_with_the_names() {
    for (words, names) in [
        (["--log-format", "xml"], "text, json, combined"),
        (["--access-log", "some"], "all, errors, off"),
    ] {
        let ended = Program::start(program::command(words)).wait_for_end();
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert!(ended.stderr.contains(names) && ended.stderr.contains(words[0]), "{ended:?}");
    }
}
