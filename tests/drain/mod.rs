//! Stopping: requests in flight finish, idle connections close, no new ones are accepted, and the
//! exit code is right.

mod under_load;

use crate::support::program::Program;
use crate::support::{Client, Gate, Lb, Next, Origin, Step, get, ok, stays, until};
use lb_threads::reason::Reason;
use lb_threads::server::Drained;
use rustix::process::Signal;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(10);

/// An origin that responds when the gate is open.
fn slow(gate: &Gate) -> Origin {
    Origin::start([Step::ReadRequest, Step::WaitFor(gate.clone()), Step::send(ok("late"))])
}

#[track_caller]
fn balancer(origin: &Origin) -> Lb {
    // One worker: when anything shows that it drains, everything does.
    let lb = Lb::with(&[origin], |config| config.boot.workers = 1);
    lb.wait_for_up(1);
    lb
}

/// A request that is at the backend.
#[track_caller]
fn in_flight(address: SocketAddr, origin: &Origin) -> Client {
    let (mut client, before) = (Client::connect(address), origin.count());
    client.send("GET /in-flight HTTP/1.1\r\nHost: x\r\n\r\n");
    origin.wait_for_requests(before + 1);
    client
}

fn refuses_connects(address: SocketAddr) -> bool {
    TcpStream::connect(address).is_err()
}

#[test]
fn a_drain_finishes_requests_in_flight_closes_idle_connections_and_accepts_none() {
    let gate = Gate::new();
    let origin = slow(&gate);
    let mut lb = balancer(&origin);
    let mut fresh = lb.connect();
    let mut busy = in_flight(lb.address(), &origin);
    until("both are known", || lb.balancer().open_connections() == 2);
    lb.begin_drain(LONG);
    assert!(refuses_connects(lb.address()));
    assert!(fresh.at_end(), "one that never asked is closed");
    lb.wait_for_closed(Reason::Drained, 1);
    assert!(busy.is_open());
    gate.open();
    let response = busy.read_response();
    assert_eq!((response.text().as_str(), response.announces_close()), ("late", true));
    assert!(busy.at_end());
    lb.wait_for_closed(Reason::Drained, 2);
    assert_eq!(lb.wait_for_end(), Drained::Clean);
    until("no connection to the backend is left", || origin.open_connections() == 0);
}

#[test]
fn a_drain_closes_kept_connections_on_both_sides() {
    let origin = Origin::responding("hello");
    let mut lb = balancer(&origin);
    let mut client = lb.connect();
    client.get("/").expect_status(200);
    assert_eq!(origin.open_connections(), 1);
    let start = Instant::now();
    lb.begin_drain(LONG);
    assert!(client.at_end());
    assert_eq!(lb.wait_for_end(), Drained::Clean);
    assert!(start.elapsed() < LONG / 2, "nothing is waited for: {:?}", start.elapsed());
    until("no connection to the backend is left", || origin.open_connections() == 0);
}

#[test]
fn a_drain_closes_idle_backend_connections_while_a_request_is_still_in_flight() {
    let gate = Gate::new();
    let waits = gate.clone();
    let origin = Origin::serve(move |request, reply| {
        if request.target == "/in-flight" {
            reply.step(&Step::WaitFor(waits.clone()));
        }
        reply.ok("late");
    });
    let mut lb = Lb::with(&[&origin], |config| {
        config.boot.workers = 1;
        config.settings.timeouts.backend_idle = 6 * LONG;
    });
    lb.wait_for_up(1);
    let mut busy = in_flight(lb.address(), &origin);
    get(lb.address(), "/").expect_status(200);
    assert_eq!(origin.open_connections(), 2, "one is busy and one is kept");
    lb.begin_drain(LONG);
    until("the kept one is closed", || origin.open_connections() == 1);
    assert!(busy.is_open());
    gate.open();
    assert_eq!(busy.read_response().text(), "late");
    assert_eq!(lb.wait_for_end(), Drained::Clean);
}

#[test]
fn a_drain_finishes_bodies_in_transfer() {
    let gate = Gate::new();
    let head = Step::send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
    let origin = Origin::start([
        Step::ReadHead,
        head,
        Step::ReadBody,
        Step::WaitFor(gate.clone()),
        Step::send("2\r\nde\r\n0\r\n\r\n"),
    ]);
    let mut lb = balancer(&origin);
    let mut client = lb.connect();
    client.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\n123");
    let mut response = client.read_head();
    lb.begin_drain(LONG);
    until("it does not listen any more", || refuses_connects(lb.address()));
    client.send("456");
    until("the whole request came", || origin.only_request().complete);
    gate.open();
    client.read_body_to("POST", &mut response);
    assert_eq!((response.text().as_str(), response.truncated), ("abcde", false));
    assert!(client.at_end());
    assert_eq!(lb.wait_for_end(), Drained::Clean);
}

#[test]
fn a_drain_serves_a_request_whose_head_is_incomplete() {
    let origin = Origin::responding("hello");
    let mut lb = balancer(&origin);
    let mut client = lb.connect();
    client.send("GET / HTTP/1.1\r\nHo");
    until("it is being read", || lb.totals().connections == 1);
    // One whole exchange on the same worker after the bytes above: they have been read by then.
    for _ in 0..4 {
        get(lb.address(), "/").expect_status(200);
    }
    lb.begin_drain(LONG);
    until("it does not listen any more", || refuses_connects(lb.address()));
    client.send("st: x\r\n\r\n");
    let response = client.read_response();
    assert_eq!((response.text().as_str(), response.announces_close()), ("hello", true));
    assert_eq!(lb.wait_for_end(), Drained::Clean);
}

#[test]
fn connections_open_at_the_drain_timeout_are_aborted_and_counted() {
    let gate = Gate::new();
    let origin = slow(&gate);
    let mut lb = balancer(&origin);
    let mut client = in_flight(lb.address(), &origin);
    let (start, timeout) = (Instant::now(), Duration::from_millis(200));
    lb.begin_drain(timeout);
    lb.wait_for_closed(Reason::DrainAborted, 1);
    assert!(start.elapsed() >= timeout);
    assert_eq!(lb.wait_for_end(), Drained::Aborted(1));
    assert!(matches!(client.comes_next(), Next::End | Next::Reset), "no response was made up");
    gate.open();
    until("the backend connection is closed", || origin.open_connections() == 0);
}

#[test]
fn an_idle_balancer_drains_at_once() {
    let origin = Origin::responding("hello");
    let mut lb = balancer(&origin);
    let start = Instant::now();
    lb.begin_drain(LONG);
    assert_eq!(lb.wait_for_end(), Drained::Clean);
    assert!(start.elapsed() < LONG / 2, "{:?}", start.elapsed());
}

#[test]
fn int_and_term_let_requests_in_flight_finish() {
    for signal in [Signal::INT, Signal::TERM] {
        let gate = Gate::new();
        let origin = slow(&gate);
        let mut program = Program::balancer(&[origin.address()], &[]);
        let address = program.address();
        let mut client = in_flight(address, &origin);
        program.signal(signal);
        program.until_logged("stopping: 1 connection(s) open");
        until("it does not listen any more", || refuses_connects(address));
        assert!(program.is_running(), "it waits for the response");
        gate.open();
        assert_eq!(client.read_response().text(), "late");
        let ended = program.wait_for_end();
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.stderr.contains("stopped after 1 requests"), "{ended:?}");
    }
}

#[test]
fn a_second_signal_stops_the_process_at_once_with_exit_code_three() {
    let (int, term, quit) = (Signal::INT, Signal::TERM, Signal::QUIT);
    for signals in [[int, int], [term, term], [term, int], [quit, term], [term, quit], [quit, quit]]
    {
        let gate = Gate::new();
        let origin = slow(&gate);
        let mut program = Program::balancer(&[origin.address()], &[]);
        let address = program.address();
        let mut client = in_flight(address, &origin);
        program.signal(signals[0]);
        until("it does not listen any more", || refuses_connects(address));
        assert!(program.is_running());
        let start = Instant::now();
        program.signal(signals[1]);
        let ended = program.wait_for_end();
        assert_eq!(ended.code, Some(3), "{ended:?}");
        assert!(start.elapsed() < LONG / 2, "{:?}", start.elapsed());
        assert!(matches!(client.comes_next(), Next::End | Next::Reset));
        gate.open();
    }
}

#[test]
fn a_process_that_aborted_connections_exits_with_three() {
    let gate = Gate::new();
    let origin = slow(&gate);
    let program = Program::balancer(&[origin.address()], &["--drain-timeout", "100ms"]);
    let _client = in_flight(program.address(), &origin);
    program.signal(Signal::TERM);
    let ended = program.wait_for_end();
    assert_eq!(ended.code, Some(3), "{ended:?}");
    assert!(ended.stderr.contains("1 connection(s) were aborted"), "{ended:?}");
    gate.open();
}

#[test]
fn a_signal_during_the_start_ends_the_process_too() {
    // The first round of checks hangs for two seconds: time enough to change one's mind.
    let origin = Origin::responding("hello").health(crate::support::Health::Hang);
    let program = Program::balancer(&[origin.address()], &[]);
    until("it checks", || origin.health_checks() == 1);
    program.signal(Signal::INT);
    assert_eq!(program.wait_for_end().code, Some(0));
}

#[test]
fn a_client_that_was_accepted_and_is_about_to_send_is_served() {
    let origin = Origin::responding("hello");
    let mut lb = balancer(&origin);
    let mut fresh = lb.connect();
    until("it was accepted", || lb.balancer().open_connections() == 1);
    lb.begin_drain(LONG);
    let response = fresh.get("/");
    assert_eq!((response.text().as_str(), response.announces_close()), ("hello", true));
    assert_eq!(lb.wait_for_end(), Drained::Clean);
}

#[test]
fn a_request_just_after_the_stop_on_a_kept_connection_gets_its_response_with_connection_close() {
    let origin = Origin::responding("hello");
    let mut lb = balancer(&origin);
    let mut kept = lb.connect();
    kept.get("/").expect_status(200);
    lb.begin_drain(LONG);
    until("it does not listen any more", || refuses_connects(lb.address()));
    let response = kept.get("/");
    assert_eq!((response.text().as_str(), response.announces_close()), ("hello", true));
    // Bytes that the client sends before it has seen the close must not destroy its unread
    // response.
    let too_late = "GET /too-late HTTP/1.1\r\nHost: x\r\n\r\n";
    stays("it lingers: no reset", Duration::from_millis(200), || kept.try_send(too_late).is_ok());
    assert!(kept.at_end());
    drop(kept);
    assert_eq!(lb.wait_for_end(), Drained::Clean);
    assert_eq!(origin.count(), 2);
}

#[test]
fn an_idle_connection_is_closed_a_second_after_the_stop() {
    let origin = Origin::responding("hello");
    let mut lb = balancer(&origin);
    let mut kept = lb.connect();
    kept.get("/").expect_status(200);
    let start = Instant::now();
    lb.begin_drain(6 * LONG);
    assert!(kept.at_end());
    assert!(
        start.elapsed() >= Duration::from_millis(900),
        "a request may be on its way: {:?}",
        start.elapsed()
    );
    assert_eq!(lb.wait_for_end(), Drained::Clean);
}

#[test]
fn an_idle_connection_is_closed_at_the_end_of_a_short_drain_and_does_not_count_as_aborted() {
    let origin = Origin::responding("hello");
    let mut lb = balancer(&origin);
    let (mut kept, mut fresh) = (lb.connect(), lb.connect());
    kept.get("/").expect_status(200);
    until("both are known", || lb.balancer().open_connections() == 2);
    let start = Instant::now();
    lb.begin_drain(Duration::from_millis(50));
    assert!(kept.at_end() && fresh.at_end());
    lb.wait_for_closed(Reason::Drained, 2);
    assert!(start.elapsed() < LONG / 2, "{:?}", start.elapsed());
    assert_eq!(lb.wait_for_end(), Drained::Clean);
}

#[test]
fn a_connection_over_the_limit_gets_503_while_the_balancer_stops() {
    let gate = Gate::new();
    let origin = slow(&gate);
    let mut lb = Lb::with(&[&origin], |config| {
        (config.boot.workers, config.settings.limits.max_connections) = (1, 1);
    });
    lb.wait_for_up(1);
    let mut busy = in_flight(lb.address(), &origin);
    let mut extra = lb.connect();
    until("both are known", || lb.balancer().open_connections() == 2);
    lb.begin_drain(LONG);
    assert_eq!(extra.read_response().status, 503, "unasked, after a moment");
    gate.open();
    assert_eq!(busy.read_response().text(), "late");
    drop((busy, extra));
    assert_eq!(lb.wait_for_end(), Drained::Clean);
}

#[test]
fn quit_drains_without_a_deadline() {
    let gate = Gate::new();
    let origin = slow(&gate);
    let mut program = Program::balancer(&[origin.address()], &["--drain-timeout", "50ms"]);
    let address = program.address();
    let mut client = in_flight(address, &origin);
    program.signal(Signal::QUIT);
    program.until_logged("stopping: 1 connection(s) open");
    until("it does not listen any more", || refuses_connects(address));
    stays("it waits for the response", Duration::from_millis(500), || program.is_running());
    gate.open();
    assert_eq!(client.read_response().text(), "late");
    drop(client);
    let ended = program.wait_for_end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

#[test]
fn a_process_without_connections_ends_at_once_though_one_was_served_before() {
    let origin = Origin::responding("hello");
    let program = Program::balancer(&[origin.address()], &["--drain-timeout", "1h"]);
    get(program.address(), "/").expect_status(200);
    program.signal(Signal::TERM);
    assert_eq!(program.wait_for_end().code, Some(0));
}
