//! Few descriptors: they are divided so that service continues, and exhaustion stops nothing.

use crate::support::program::{self, Program};
use crate::support::{Client, Gate, Origin, Step, comes_true, get, ok, until};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// The concurrent connections; every other one sends a request.
const CROWD: usize = 2_000;
const REQUEST: &str = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";

/// A balancer with this limit of descriptors, and a backend.
#[track_caller]
fn balancer(descriptors: usize, origin: &Origin, words: &[&str]) -> Program {
    Program::start(program::command_with_descriptors(
        descriptors,
        program::balancer_words(&[origin.address()], words),
    ))
}

/// The number of a crowd's requests that were served with this limit of descriptors. All others get
/// 503.
#[track_caller]
fn served_with(descriptors: usize, asks_at_once: bool) -> usize {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
        .expect("the soft limit can be raised to the hard one");
    let origin = Origin::responding("hello");
    let program = balancer(descriptors, &origin, &["--workers", "2"]);
    let address = program.address();
    let start = Instant::now();
    // A connection with its 503 may be closed: sending fails then.
    let ask = |client: &mut Client| drop(client.try_send(REQUEST));
    let connect = |number: usize| {
        let mut client = Client::connect(address);
        if asks_at_once && number.is_multiple_of(2) {
            ask(&mut client);
        }
        client
    };
    let mut crowd: Vec<Client> = (0..CROWD).map(connect).collect();
    if !asks_at_once {
        crowd.iter_mut().step_by(2).for_each(ask);
    }
    let mut served = 0;
    for client in crowd.iter_mut().step_by(2) {
        let response = client.read_response();
        match response.status {
            200 => served += 1,
            _ => assert_eq!(
                (response.status, response.header("X-LB-Error")),
                (503, Some("overload")),
                "{response:?}"
            ),
        }
    }
    println!(
        "{descriptors} descriptors: {served} served, the others got 503 after {:?}",
        start.elapsed()
    );
    assert!(!program.log().contains("cannot accept"), "{}", program.log());
    drop(crowd);
    until("it serves again", || get(address, "/").status == 200);
    program.signal(Signal::TERM);
    assert_eq!(program.wait_for_end().code, Some(0));
    served
}

#[test]
fn with_128_descriptors_and_2000_connections_some_are_served_and_all_others_get_503() {
    let served = [served_with(128, true), served_with(128, false)];
    assert!(served.iter().all(|served| *served >= 8), "{served:?}");
}

#[test]
fn with_256_descriptors_and_2000_connections_some_are_served_and_all_others_get_503() {
    let served = [served_with(256, true), served_with(256, false)];
    assert!(served.iter().all(|served| *served >= 32), "{served:?}");
}

#[test]
fn with_512_descriptors_and_2000_connections_some_are_served_and_all_others_get_503() {
    let served = [served_with(512, true), served_with(512, false)];
    assert!(served.iter().all(|served| *served >= 64), "{served:?}");
}

#[test]
fn with_1024_descriptors_and_2000_connections_some_are_served_and_all_others_get_503() {
    let served = [served_with(1_024, true), served_with(1_024, false)];
    assert!(served.iter().all(|served| *served >= 176), "{served:?}");
}

#[test]
fn a_process_without_free_descriptors_lives_on_and_serves_again() {
    let origin = Origin::responding("hello");
    let program = Program::balancer(
        &[origin.address()],
        &["1", "--workers", "2", "--health-timeout", "500ms"],
    );
    let address = program.address();
    get(address, "/").expect_status(200);
    program.spare_descriptors(Some(10));
    let crowd: Vec<TcpStream> =
        (0..50).map(|_| TcpStream::connect(address).expect("the backlog takes it")).collect();
    program.until_logged("cannot accept connections");
    // Meanwhile two checks are due, and cannot be made: that is no failure of the backend.
    comes_true_for(Duration::from_millis(2_500), || program.log().contains(" down "));
    drop(crowd);
    program.until_logged("accepting connections again");
    program.spare_descriptors(None);
    until("it serves again", || get(address, "/").status == 200);
    let log = program.log();
    assert!(!log.contains(" down "), "its own shortage is no reason to take a backend out: {log}");
    assert!(
        log.lines().filter(|line| line.contains("cannot accept")).count() <= 3,
        "it does not flood its log: {log}"
    );
    program.signal(Signal::TERM);
    let ended = program.wait_for_end();
    assert!(ended.code == Some(0) && !ended.stderr.contains("panicked"), "{ended:?}");
}

#[test]
fn descriptors_that_come_and_go_do_not_flood_the_log() {
    let origin = Origin::responding("hello");
    let program = Program::balancer(&[origin.address()], &["--workers", "1", "--no-health-checks"]);
    let address = program.address();
    program.spare_descriptors(Some(10));
    let mut crowd: Vec<TcpStream> =
        (0..80).map(|_| TcpStream::connect(address).expect("the backlog takes it")).collect();
    program.until_logged("cannot accept connections");
    // Each closed connection frees a descriptor for a waiting one, and then there is none again.
    for _ in 0..40 {
        let before = program.descriptors();
        crowd.remove(0);
        until("another request has its descriptor", || {
            let now = program.descriptors();
            now.len() == before.len() && now != before
        });
    }
    let log = program.log();
    let lines = log.lines().filter(|line| line.contains("accept")).count();
    assert!(lines <= 4, "{lines} lines about accepting in a moment: {log}");
}

/// Waits for the condition, but not longer than this.
fn comes_true_for(span: Duration, condition: impl Fn() -> bool) {
    let end = Instant::now() + span;
    comes_true(|| condition() || Instant::now() >= end);
}

#[test]
fn a_request_without_a_descriptor_for_its_backend_gets_503_overload() {
    let gate = Gate::new();
    let origin =
        Origin::start([Step::ReadRequest, Step::WaitFor(gate.clone()), Step::send(ok("late"))]);
    let program = Program::balancer(&[origin.address()], &["--workers", "1", "--no-health-checks"]);
    let address = program.address();
    let before = program.descriptors().len();
    let mut asking: Vec<Client> = (0..8).map(|_| Client::connect(address)).collect();
    until("all are known", || program.descriptors().len() == before + 8);
    program.spare_descriptors(Some(0));
    for client in &mut asking {
        client.send(REQUEST);
    }
    for client in &mut asking {
        let response = client.read_response();
        assert_eq!(
            (response.status, response.header("X-LB-Error")),
            (503, Some("overload")),
            "{response:?}"
        );
    }
    assert_eq!(origin.count(), 0);
    drop(asking);
    program.spare_descriptors(None);
    gate.open();
    until("it serves again", || get(address, "/").status == 200);
    assert!(!program.log().contains(" down "), "{}", program.log());
}
