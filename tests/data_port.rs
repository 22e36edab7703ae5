//! Requests to the control API on the data port. An origin takes the part of the control threads.

use crate::support::*;
use lb_threads::config::Config;
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);

fn unchanged(_: &mut Config) {}

/// A balancer in front of this origin, with these control threads.
fn balancer(origin: &Origin, control: &Origin) -> Lb {
    Lb::with_control(&[origin], control.address(), unchanged)
}

#[test]
fn requests_to_the_control_api_reach_the_control_threads_as_they_are() {
    let (origin, control) = (Origin::named("origin"), Origin::named("control"));
    let lb = balancer(&origin, &control);
    let mut client = lb.connect();
    let body = "{\"url\": \"http://h:1\"}";
    client.send(format!(
        "POST /_control/add?x=%2f HTTP/1.1\r\nHost: h:9\r\nContent-Type: application/json\r\nAuthorization: Bearer t\r\n\
         Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\nX-Forwarded-For: 192.0.2.1\r\nX-Request-Id: i\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    assert_eq!(client.read_response().text(), "control");
    assert_eq!(client.get("/lb/stats").text(), "control");
    assert_eq!(client.get("/").text(), "origin", "the connection stays open");
    let requests = control.requests();
    assert_eq!(
        String::from_utf8_lossy(&requests[0].raw_head),
        "POST /_control/add?x=%2f HTTP/1.1\r\nHost: h:9\r\nContent-Type: application/json\r\n\
         Authorization: Bearer t\r\nX-Request-Id: i\r\nContent-Length: 21\r\nX-Forwarded-For: 127.0.0.1\r\n\
         X-Forwarded-Proto: http\r\nX-Forwarded-Host: h:9\r\n\r\n"
    );
    assert_eq!(requests[0].text(), body);
    assert_eq!((control.connections(), origin.count()), (1, 1), "its connection is reused");
}

#[test]
fn without_control_threads_these_paths_are_the_backends_own() {
    let origin = Origin::named("origin");
    let lb = Lb::over(&[&origin]);
    for path in ["/_control/list", "/lb/stats", "/lb/stats?x"] {
        assert_eq!(get(lb.address(), path).text(), "origin", "{path}");
    }
}

#[test]
fn no_other_spelling_reaches_the_control_threads() {
    let (origin, control) = (Origin::named("origin"), Origin::named("control"));
    let lb = balancer(&origin, &control);
    let mut client = lb.connect();
    for target in [
        "/_control",
        "/_control?/",
        "/_controlx",
        "/_CONTROL/list",
        "/%5fcontrol/list",
        "/_control%2Flist",
        "//_control/list",
        "/./_control/list",
        "/x/../_control/list",
        "/lb/stats/",
        "/lb/statsx",
        "/lb/../lb/stats",
        "http://h?/_control/list",
        "http://h//_control/list",
    ] {
        assert_eq!(client.get(target).text(), "origin", "{target}");
    }
    assert_eq!(control.connections(), 0);
}

#[test]
fn an_absolute_target_is_the_same_request_with_its_authority_as_the_host() {
    let (origin, control) = (Origin::named("origin"), Origin::named("control"));
    let lb = balancer(&origin, &control);
    let request = "GET http://evil.example/_control/list HTTP/1.1\r\nHost: localhost\r\n\r\n";
    assert_eq!(exchange(lb.address(), request).text(), "control");
    let received = control.only_request();
    assert_eq!(
        (&*received.target, received.header("Host")),
        ("/_control/list", Some("evil.example"))
    );
}

#[test]
fn a_request_without_a_host_gets_none_that_the_control_api_would_allow() {
    let (origin, control) = (Origin::named("origin"), Origin::named("control"));
    let lb = balancer(&origin, &control);
    exchange(lb.address(), "GET /_control/list HTTP/1.0\r\n\r\n").expect_status(200);
    assert_eq!(control.only_request().header("Host"), Some("control"));
}

#[test]
fn strict_framing_and_the_limit_of_bodies_hold_before_the_control_threads_see_a_request() {
    let (origin, control) = (Origin::named("origin"), Origin::named("control"));
    let lb = Lb::with_control(&[&origin], control.address(), |config| {
        config.settings.limits.max_body_bytes = Some(100);
    });
    let rows = [
        ("Content-Length: 101\r\n", 413),
        ("Content-Length: 1\r\nContent-Length: 1\r\n", 400),
        ("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", 400),
        ("Host: h\r\n", 400),
    ];
    for (fields, status) in rows {
        let request = format!("POST /_control/add HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
        assert_eq!(exchange(lb.address(), request).status, status, "{fields:?}");
    }
    assert_eq!(control.connections(), 0);
}

#[test]
fn the_control_api_responds_while_no_backend_is_there_and_while_all_are_full() {
    let control = Origin::named("control");
    let lb = Lb::with_control(&[], control.address(), unchanged);
    assert_eq!(get(lb.address(), "/").header("X-LB-Error"), Some("no_backend"));
    assert_eq!(get(lb.address(), "/_control/list").text(), "control");

    let gate = Gate::new();
    let opened = gate.clone();
    let origin = Origin::serve(move |_, reply| {
        opened.wait();
        reply.ok("late");
    });
    let lb = Lb::with_control(&[&origin], control.address(), |config| {
        config.settings.limits.max_requests_per_backend = Some(1);
    });
    let mut clients = [lb.connect(), lb.connect()];
    clients.iter_mut().for_each(|client| client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n"));
    until("one request waits for a slot", || lb.totals().requests == 2);
    for _ in 0..3 {
        assert_eq!(get(lb.address(), "/_control/list").text(), "control");
    }
    gate.open();
    clients.iter_mut().for_each(|client| assert_eq!(client.read_response().text(), "late"));
}

#[test]
fn the_backends_take_turns_as_if_there_were_no_control_requests() {
    let origins = [Origin::named("one"), Origin::named("two")];
    let control = Origin::named("control");
    let lb = Lb::with_control(&[&origins[0], &origins[1]], control.address(), unchanged);
    lb.wait_for_up(2);
    let mut client = lb.connect();
    for _ in 0..5 {
        assert_eq!(client.get("/").text().len(), 3);
        assert_eq!(client.get("/_control/list").text(), "control");
    }
    assert_eq!(origins.each_ref().map(Origin::count), [3, 2]);
    assert_eq!(lb.balancer().registry().statuses().len(), 2, "control is no member");
}

#[test]
fn a_request_that_fails_at_the_control_threads_goes_to_no_backend() {
    let origin = Origin::named("origin");
    let lb = Lb::with_control(&[&origin], refused_address(), unchanged);
    for _ in 0..6 {
        let response = get(lb.address(), "/_control/list");
        assert_eq!((response.status, response.header("X-LB-Error")), (502, Some("connect_failed")));
    }
    assert_eq!((origin.count(), lb.up(), lb.totals().retries), (0, 1, 0));

    let control = Origin::start([Step::ReadHead, Step::Close]);
    let lb = balancer(&origin, &control);
    for _ in 0..6 {
        let response = get(lb.address(), "/lb/stats");
        assert_eq!((response.status, response.header("X-LB-Error")), (502, Some("backend_closed")));
    }
    assert_eq!((origin.count(), control.connections(), lb.totals().retries), (0, 6, 0));
}

#[test]
fn control_threads_that_do_not_respond_cost_their_requests_only() {
    let (origin, control) = (Origin::named("origin"), Origin::start([Step::ReadHead, Step::Hang]));
    let lb = Lb::with_control(&[&origin], control.address(), |config| {
        config.settings.timeouts.first_byte = 200 * MS;
    });
    let mut stuck = lb.connect();
    stuck.send("GET /_control/list HTTP/1.1\r\nHost: h\r\n\r\n");
    control.wait_for_requests(1);
    assert_eq!(get(lb.address(), "/").text(), "origin");
    let response = stuck.read_response();
    assert_eq!((response.status, response.header("X-LB-Error")), (504, Some("first_byte_timeout")));
    assert_eq!(stuck.get("/").text(), "origin", "the client's connection stays open");
}

#[test]
fn a_connection_that_the_control_threads_have_closed_is_replaced_by_a_fresh_one() {
    let origin = Origin::named("origin");
    let control = Origin::start(Script::sequence([
        Script::steps([Step::ReadRequest, Step::send(ok("first")), Step::ReadHead, Step::Reset]),
        Script::named("fresh"),
    ]));
    let lb = Lb::with_control(&[&origin], control.address(), |config| config.boot.workers = 1);
    let mut client = lb.connect();
    assert_eq!(client.get("/_control/list").text(), "first");
    assert_eq!(client.get("/_control/list").text(), "fresh");
    assert_eq!((origin.count(), control.connections()), (0, 2));
}

#[test]
fn a_write_to_the_control_api_is_never_sent_twice() {
    let origin = Origin::named("origin");
    let control = Origin::start(Script::sequence([
        Script::steps([Step::ReadRequest, Step::send(ok("first")), Step::ReadHead, Step::Reset]),
        Script::named("second"),
    ]));
    let lb = Lb::with_control(&[&origin], control.address(), |config| config.boot.workers = 1);
    let mut client = lb.connect();
    assert_eq!(client.get("/_control/list").text(), "first");
    client.send("POST /_control/reload HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}");
    let response = client.read_response();
    assert_eq!((response.status, response.header("X-LB-Error")), (502, Some("backend_closed")));
    assert_eq!((origin.count(), control.connections()), (0, 1));
}
