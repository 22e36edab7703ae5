//! The balancer as a process: its environment, its log, and an unread log.

use crate::support::program::{self, Program};
use crate::support::{Client, Origin, Script, get, refused_address, until};
use rustix::process::Signal;
use std::collections::HashSet;
use std::net::{SocketAddr, ToSocketAddrs};

#[test]
fn the_environment_names_backends_host_and_port() {
    let (one, two) = (Origin::named("one"), Origin::named("two"));
    let port = refused_address().port();
    let mut command = program::command(["1"]);
    command.env("BACKEND_SERVERS", format!("{}, http://{}", one.address(), two.address()));
    command.env("HOST", "127.0.0.2").env("PORT", port.to_string());
    let balancer = Program::start(command);
    assert_eq!(balancer.address().to_string(), format!("127.0.0.2:{port}"));
    let mut names: Vec<String> = (0..4).map(|_| get(balancer.address(), "/").text()).collect();
    names.sort();
    assert_eq!(names, ["one", "one", "two", "two"]);
}

#[test]
fn a_flag_wins_over_the_environment() {
    let (named, other) = (Origin::named("flag"), Origin::named("environment"));
    let mut command =
        program::command(program::balancer_words(&[named.address()], &["--host", "127.0.0.1"]));
    command
        .env("BACKEND_SERVERS", other.address().to_string())
        .env("HOST", "192.0.2.1")
        .env("PORT", "1");
    command.env("LOGLEVEL", "info");
    let balancer = Program::start(command);
    for _ in 0..3 {
        assert_eq!(get(balancer.address(), "/").text(), "flag");
    }
    assert_eq!(other.health_checks(), 0, "the other backend is not one");
}

#[test]
fn the_algorithm_of_the_flag_or_else_of_the_environment_is_logged_and_used() {
    let (one, two) = (Origin::named("one"), Origin::named("two"));
    let backends = [one.address(), two.address()];
    for (words, algorithm) in [(&[][..], "ip_hash"), (&["-a", "Least-Connections"], "least_conn")] {
        let mut command = program::command(program::balancer_words(&backends, words));
        command.env("ALGORITHM", "hashing").env("LOGLEVEL", "info");
        let balancer = Program::start(command);
        balancer.until_logged(&format!(", {algorithm}"));
        let names: HashSet<String> = (0..6).map(|_| get(balancer.address(), "/").text()).collect();
        assert_eq!(names.len(), if algorithm == "ip_hash" { 1 } else { 2 });
    }
}

#[test]
fn the_admin_address_can_be_switched_off() {
    let origin = Origin::responding("hello");
    let balancer = Program::balancer(&[origin.address()], &["--admin", "off", "--workers", "1"]);
    assert_eq!(get(balancer.address(), "/").text(), "hello");
}

#[test]
fn the_balancer_listens_on_every_address_of_a_host_name() {
    let origin = Origin::responding("hello");
    let port = refused_address().port();
    let words =
        ["--host", "localhost", "--port", &port.to_string(), "-b", &origin.address().to_string()];
    let addresses: HashSet<SocketAddr> =
        ("localhost", port).to_socket_addrs().expect("localhost is known").collect();
    let balancer = Program::start(program::command(words));
    until("every address is listened on", || {
        balancer.log().matches("listening on").count() == addresses.len()
    });
    for address in addresses {
        assert_eq!(get(address, "/").text(), "hello", "at {address}");
    }
}

#[test]
fn info_logs_one_summary_per_request() {
    let origin = Origin::responding("hello");
    let balancer = Program::balancer(&[origin.address()], &[]);
    for request in
        ["GET /old HTTP/1.0\r\n\r\n", "GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"]
    {
        let mut client = Client::connect(balancer.address());
        client.exchange(request).expect_status(200);
        assert!(client.at_end(), "the access record precedes the close");
    }
    let mut client = Client::connect(balancer.address());
    client.get("/first?a=b").expect_status(200);
    client
        .exchange("POST /second HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
        .expect_status(200);
    balancer.until_logged("/second");
    let log = balancer.log();
    for label in ["\"GET /old\"", "\"GET /last\""] {
        assert_eq!(log.matches(label).count(), 1, "one line about {label}: {log}");
    }
    for label in ["\"GET /first\"", "POST /second"] {
        let lines: Vec<&str> = log.lines().filter(|line| line.contains(label)).collect();
        assert_eq!(lines.len(), 1, "one line about {label}: {log}");
        for part in [
            "INFO",
            &client.local_address().to_string(),
            &origin.address().to_string(),
            " 200 ",
            " ms",
        ] {
            assert!(lines[0].contains(part), "{part} in {}", lines[0]);
        }
    }
    assert!(!log.contains("a=b"), "a query may hold secrets: {log}");
    assert!(!log.contains("Host: x"), "heads are for DEBUG: {log}");
}

#[test]
fn debug_shows_heads_both_ways_with_secrets_masked() {
    let origin = Origin::serve(|_, reply| {
        reply.respond(200, &[("Set-Cookie", "id=topsecret"), ("X-Origin", "one")], "the body");
    });
    let mut command = program::command(program::balancer_words(&[origin.address()], &[]));
    command.env("LOGLEVEL", "DEBUG");
    let balancer = Program::start(command);
    Client::connect(balancer.address())
        .exchange(
            "GET /shown HTTP/1.1\r\nHost: example.com\r\nAuthorization: Basic topsecret\r\ncookie: a=topsecret\r\n\
             Proxy-Authorization: topsecret\r\nX-Mine: visible\r\nX-Odd: \u{9b}1m\r\n\r\n\
             GET /pipelined HTTP/1.1\r\nHost: example.com\r\nAuthorization: Basic topsecret\r\n\r\n",
        )
        .expect_status(200);
    balancer.until_logged("bytes");
    let log = balancer.log();
    let shown = [
        "GET /shown HTTP/1.1",
        "Authorization: ***",
        "cookie: ***",
        "Set-Cookie: ***",
        "X-Origin: one",
        "the body",
    ];
    for part in shown {
        assert!(log.contains(part), "{part} is not in the log: {log}");
    }
    assert_eq!(log.matches("X-Mine: visible").count(), 2, "as received and as sent: {log}");
    assert!(log.contains("X-Forwarded-For: 127.0.0.1"), "as sent: {log}");
    assert!(!log.contains("topsecret"), "no secret: {log}");
    assert!(log.is_ascii() || !log.contains('\u{9b}'), "control characters are escaped: {log}");
}

#[test]
fn an_unread_log_stalls_nothing() {
    let origin = Origin::start(Script::named("one"));
    let port = refused_address().port();
    let words =
        ["--port", &port.to_string(), "-b", &origin.address().to_string(), "--workers", "1"];
    let mut command = program::command(words);
    command.env("LOGLEVEL", "DEBUG");
    let mut balancer = Program::start_unread(command);
    let address = ([127, 0, 0, 1], port).into();
    until("it listens", || std::net::TcpStream::connect(address).is_ok());
    let mut client = Client::connect(address);
    // Four lines a request, three of them with a head of 500 bytes: the pipe is full after a few
    // dozen, and the log's own buffer of 8,192 lines after some 2,000.
    let request = format!("GET /it HTTP/1.1\r\nHost: x\r\nX-Padding: {}\r\n\r\n", "x".repeat(400));
    for _ in 0..40 {
        client.send(request.repeat(100));
        for _ in 0..100 {
            client.read_response().expect_status(200);
        }
    }
    balancer.signal(Signal::TERM);
    assert_eq!(balancer.exit_code(), Some(0), "it exits, though its log is unread");
}

#[test]
fn a_closed_terminal_stalls_nothing() {
    let origin = Origin::responding("hello");
    let port = refused_address().port();
    let words = ["--port", &port.to_string(), "-b", &origin.address().to_string()];
    let mut balancer = Program::start_unheard(program::command(words));
    let address = ([127, 0, 0, 1], port).into();
    until("it listens", || std::net::TcpStream::connect(address).is_ok());
    for _ in 0..20 {
        assert_eq!(get(address, "/").text(), "hello");
    }
    balancer.signal(Signal::TERM);
    assert_eq!(balancer.exit_code(), Some(0));
}

#[test]
fn no_backends_starts_empty_and_the_503_names_the_way_to_add_one() {
    let unused = Origin::named("unused");
    let mut command = program::command(["--no-backends", "--port", "0"]);
    command.env("BACKEND_SERVERS", unused.address().to_string());
    let balancer = Program::start(command);
    let response = get(balancer.address(), "/");
    assert_eq!((response.status, response.header("X-LB-Error")), (503, Some("no_backend")));
    assert_eq!(
        response.text(),
        "503 Service Unavailable\nno_backend: no backends yet: POST /_control/add\n"
    );
    let log = balancer.log();
    assert!(log.contains("balancing no backends yet"), "{log}");
    assert!(log.contains("the backends of BACKEND_SERVERS are ignored"), "{log}");
    assert_eq!(unused.connections(), 0, "the flag wins over the environment");
}

#[test]
fn without_a_healthy_backend_the_outage_is_not_that_of_an_empty_pool() {
    let balancer = Program::balancer(&[refused_address()], &[]);
    let response = get(balancer.address(), "/");
    assert_eq!((response.status, response.header("X-LB-Error")), (503, Some("no_backend")));
    let text = response.text();
    assert!(text.contains("no_backend: no backend is healthy: GET /health failed"), "{text}");
}
