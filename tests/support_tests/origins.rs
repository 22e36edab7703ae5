//! The abilities of an origin, and that it stops when it is stopped.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::{GET, MS, panic_of};
use crate::support::*;

#[test]
fn health_checks_get_a_response_and_are_not_counted_or_recorded() {
    let origin = Origin::responding("x");
    let check = || {
        exchange(origin.address(), "GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    };
    assert_eq!(check().status, 200);
    origin.set_health(Health::Status(503));
    assert_eq!(check().status, 503);
    origin.set_health(Health::Raw(b"HTTP/1.1 302 Go\r\n\r\n".to_vec()));
    assert_eq!(check().status, 302);
    assert_eq!(
        (origin.health_checks(), origin.connections(), origin.count(), origin.accepted()),
        (3, 0, 0, 3)
    );

    // One connection for both kinds: only bytes other than checks are recorded, in pieces or in
    // one.
    origin.set_health(Health::Healthy);
    let mut client = Client::connect(origin.address());
    client.send_in_pieces("GET /health HTTP/1.1\r\n\r\nGET /healthy HTTP/1.1\r\n\r\n", [3, 7, 9]);
    client.read_response();
    client.read_response();
    client.send("GET /a HTTP/1.1\r\n\r\nGET /health HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\n");
    (0..3).for_each(|_| drop(client.read_response()));
    let expected = "GET /healthy HTTP/1.1\r\n\r\nGET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\n";
    assert_eq!(origin.bytes_received(), [expected.as_bytes()]);
    assert_eq!((origin.count(), origin.health_checks()), (3, 5));

    origin.set_health(Health::Close);
    let mut client = Client::connect(origin.address());
    client.send("GET /health HTTP/1.1\r\n\r\n");
    assert!(client.at_end());
    origin.set_health(Health::Hang);
    let mut client = Client::connect(origin.address());
    client.send("GET /health HTTP/1.1\r\n\r\n");
    until("the check is seen", || origin.health_checks() == 7);
    stays("the check gets no response", 20 * MS, || client.is_open());

    let scripted = Origin::responding("x").health(Health::Scripted);
    let client = Client::connect(scripted.address());
    until("the connection counts without a byte", || scripted.connections() == 1);
    drop(client);
    assert_eq!(get(scripted.address(), "/health").text(), "x");
    assert_eq!((scripted.count(), scripted.health_checks()), (1, 0));
}

#[test]
fn a_stalled_origin_stops_the_senders() {
    let origin = Origin::start([Step::ReadHead, Step::Stall]);
    let mut stream = TcpStream::connect(origin.address()).expect("it works");
    stream.set_write_timeout(Some(50 * MS)).expect("it works");
    stream.write_all(GET.as_bytes()).expect("it works");
    assert!(stream.write_all(&vec![0; 100_000_000]).is_err());
    drop(origin);
}

#[test]
fn gates_and_slow_pieces_are_under_the_tests_control() {
    let (seen, go) = (Gate::new(), Gate::new());
    let origin = Origin::start([
        Step::ReadHead,
        Step::Open(seen.clone()),
        Step::WaitFor(go.clone()),
        Step::send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n"),
        Step::send_slowly("abcdef", 2, 5 * MS),
    ]);
    let mut client = Client::connect(origin.address());
    client.send(GET);
    seen.wait();
    assert!(client.is_open() && !go.is_open());
    go.open();
    let began = Instant::now();
    client.read_head();
    assert_eq!(client.read_exactly(2), b"ab");
    assert_eq!(client.read_until("ef"), b"cdef");
    assert!(began.elapsed() >= 10 * MS);
}

#[test]
fn steps_read_bytes_ends_and_bodies() {
    let origin = Origin::start([
        Step::ReadHead,
        Step::ReadBody,
        Step::ReadBytes(3),
        Step::send("three"),
        Step::ReadToEnd,
        Step::send("end"),
        Step::ShutdownWrite,
        Step::Close,
    ]);
    let mut client = Client::connect(origin.address());
    client.send("POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi123");
    assert_eq!(client.read_until("three"), b"three");
    client.send("rest");
    client.shutdown_write();
    assert_eq!(client.read_to_end(), b"end");
    assert_eq!(origin.only_request().body, b"hi");
    assert!(origin.bytes_received()[0].ends_with(b"hi123rest"));
}

#[test]
fn a_truncated_body_is_recorded_as_far_as_it_was_received() {
    let origin = Origin::start([Step::ReadRequest]);
    let mut client = Client::connect(origin.address());
    client.send("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n5\r\nfg");
    until("the input is recorded", || {
        origin.requests().first().is_some_and(|request| request.body == b"abcdefg")
    });
    drop(client);
    assert_eq!(origin.wait_for_ending(0), Ending::PeerClosed);
    assert!(!origin.only_request().complete);

    let mut client = Client::connect(origin.address());
    client.send("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n");
    assert!(client.at_end());
    assert!(matches!(origin.wait_for_ending(1), Ending::Fault(why) if why.contains("chunk size")));
}

#[test]
fn a_sequence_gives_each_connection_its_script() {
    let origin = Origin::start(Script::sequence([
        Script::steps([Step::ReadHead, Step::Reset]),
        Script::steps([Step::ReadHead, Step::send(ok("1")), Step::ReadHead, Step::Close]),
        Script::named("last"),
    ]));
    assert_eq!(
        exchange(origin.address(), "GET /health HTTP/1.1\r\nConnection: close\r\n\r\n").text(),
        "ok"
    );
    let mut first = Client::connect(origin.address());
    first.send(GET);
    assert_eq!(first.comes_next(), Next::Reset);
    let mut second = Client::connect(origin.address());
    assert_eq!(second.get("/").text(), "1");
    second.send(GET);
    assert!(second.at_end());
    assert_eq!(get(origin.address(), "/").text(), "last");
    assert_eq!(get(origin.address(), "/").text(), "last");
    assert_eq!(origin.connections(), 4);
}

#[test]
fn a_closure_can_do_anything() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let origin = Origin::start(Script::serve_heads(move |request, reply| {
        counted.fetch_add(1, Ordering::Relaxed);
        match request.target.as_str() {
            "/upgrade" => {
                reply.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: upgrade\r\n\r\n");
                let bytes = reply.read_bytes(4).expect("it works");
                reply.send(bytes);
                reply.step(&Step::Close);
                assert!(reply.has_ended() && reply.read_bytes(1).is_none());
            }
            _ => {
                let body = reply.read_body().text();
                reply.respond(201, &[("X-Body", &body)], "made");
            }
        }
    }));
    let mut client = Client::connect(origin.address());
    let made = client.exchange("PUT / HTTP/1.1\r\nContent-Length: 2\r\n\r\nab");
    assert_eq!(
        (made.expect_status(201).header("x-body"), made.text().as_str()),
        (Some("ab"), "made")
    );
    client.send("GET /upgrade HTTP/1.1\r\n\r\npi");
    assert_eq!(client.read_response().status, 101);
    client.send("ng");
    assert_eq!(client.read_to_end(), b"ping");
    assert_eq!(calls.load(Ordering::Relaxed), 2);
}

#[test]
fn an_origin_that_sends_first_is_not_kept_waiting() {
    let origin = Origin::start([Step::send("220 hello\r\n"), Step::ReadToEnd, Step::Close]);
    let mut client = Client::connect(origin.address());
    assert_eq!(client.read_until("\r\n"), b"220 hello\r\n");
    client.shutdown_write();
    assert!(client.at_end());

    // After a gate: a reset at the accept may overtake the end of the connect, which then fails.
    let gate = Gate::new();
    let origin = Origin::start([Step::WaitFor(gate.clone()), Step::Reset]).health(Health::Scripted);
    let mut client = Client::connect(origin.address());
    gate.open();
    assert_eq!(client.comes_next(), Next::Reset);
    let origin = Origin::start([]);
    let mut client = Client::connect(origin.address());
    client.send(GET);
    until("the connection is held", || origin.open_connections() == 1);
    stays("it is held", 10 * MS, || client.is_open());
}

#[test]
fn a_stopped_origin_refuses_connects_and_comes_back_on_its_port() {
    let origin = Origin::named("one");
    let address = origin.address();
    let mut idle = Client::connect(address);
    assert_eq!(idle.get("/").text(), "one");
    let untouched = Client::connect(address);
    until("both are accepted", || origin.accepted() == 2);
    origin.stop();
    assert!(idle.at_end());
    assert!(!untouched.is_open());
    assert_eq!(origin.ending(0), Some(Ending::Stopped));
    for _ in 0..100 {
        assert!(TcpStream::connect(address).is_err());
    }
    let back = Origin::start_on(address, Script::named("two"));
    assert_eq!(back.address(), address);
    assert_eq!(get(address, "/").text(), "two");
    assert_eq!((origin.count(), back.count()), (1, 1));
    drop(origin);
    assert_eq!(get(address, "/").text(), "two");
    drop(back);
    assert_eq!(
        get(Origin::start_on(address, Script::named("three")).address(), "/").text(),
        "three"
    );
}

#[test]
fn an_origin_that_is_busy_in_any_way_stops_at_once() {
    let shut = Gate::new();
    let big = vec![b'x'; 50_000_000];
    let scripts: Vec<Vec<Step>> = vec![
        vec![Step::ReadHead, Step::WaitFor(shut)],
        vec![Step::ReadHead, Step::Pause(TEST_TIMEOUT)],
        vec![Step::ReadHead, Step::send_slowly("ab", 1, TEST_TIMEOUT)],
        vec![Step::ReadHead, Step::Send(big)],
        vec![Step::ReadHead, Step::Hang],
        vec![Step::ReadHead, Step::Stall],
        vec![Step::ReadHead, Step::ReadBytes(1)],
    ];
    for steps in scripts {
        let origin = Origin::start(steps);
        let mut client = Client::connect(origin.address());
        client.send(GET);
        origin.wait_for_requests(1);
        let began = Instant::now();
        origin.stop();
        assert_eq!(origin.ending(0), Some(Ending::Stopped));
        assert!(began.elapsed() < 500 * MS, "{:?}", began.elapsed());
    }
}

#[test]
fn a_closure_that_panics_fails_the_test() {
    let origin = Origin::serve(|request, _| assert_eq!(request.target, "/other"));
    let mut client = Client::connect(origin.address());
    client.send(GET);
    assert!(client.try_response().is_none());
    assert!(panic_of(|| origin.stop()).contains("/other"));
    assert!(panic_of(|| drop(origin)).contains("a script panicked"));
}
