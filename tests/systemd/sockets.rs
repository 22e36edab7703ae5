//! Listening sockets that a service manager passes (`LISTEN_FDS`).

use super::{BINARY, Frozen, script, threads};
use crate::support::program::{self, Program, balancer_words};
use crate::support::{Client, Origin, config, get, until_some};
use lb_threads::server::{Drained, Server, StartOptions};
use rustix::process::Signal;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

/// A balancer that gets these kinds of sockets, see `pass_sockets.py`.
#[track_caller]
fn start(kinds: &str, origin: &Origin, words: &[&str]) -> Program {
    let mut command = program::clean("python3");
    command.arg(script("pass_sockets.py")).args([kinds, BINARY]);
    command.args(balancer_words(&[origin.address()], words));
    Program::start(command)
}

/// The address of the first passed socket.
#[track_caller]
fn passed_address(program: &Program) -> SocketAddr {
    until_some("the address is printed", || program.output().lines().next()?.parse().ok())
}

#[test]
fn a_passed_socket_is_served_instead_of_host_and_port() {
    let origin = Origin::responding("hello");
    let balancer = start("tcp,tcp", &origin, &["--host", "no.such.host.invalid"]);
    assert_eq!(balancer.address(), passed_address(&balancer));
    for line in balancer.output().lines() {
        assert_eq!(get(line.parse().expect("an address"), "/").text(), "hello");
    }
    balancer.until_logged("2 socket(s) from LISTEN_FDS: --host and --port are not used");
    balancer.signal(Signal::TERM);
    assert_eq!(balancer.wait_for_end().code, Some(0));
}

#[test]
fn each_worker_accepts_from_a_passed_socket() {
    let origin = Origin::responding("hello");
    let balancer = start("tcp", &origin, &["--workers", "3"]);
    let address = balancer.address();
    let workers = threads(&balancer, "worker-");
    assert_eq!(workers.len(), 3);
    for accepting in &workers {
        let others: Vec<u32> = workers.iter().copied().filter(|one| one != accepting).collect();
        let _frozen = Frozen::new(&others);
        assert_eq!(get(address, "/").text(), "hello", "only one of {workers:?} runs");
    }
}

#[test]
fn connections_wait_in_a_passed_socket_from_one_start_to_the_next() {
    let origin = Origin::responding("hello");
    let ours = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = ours.local_addr().expect("it is bound");
    let start = || {
        let passed = ours.try_clone().expect("descriptors are left");
        let options = StartOptions { inherited: vec![passed], ..StartOptions::default() };
        Server::start_with(config(&[origin.address()]), options).expect("the balancer starts")
    };
    let stop = |mut server: Server| {
        server.balancer().begin_drain(Some(Duration::from_secs(5)));
        assert_eq!(server.wait(), Drained::Clean);
    };
    let server = start();
    assert_eq!(get(address, "/").text(), "hello");
    stop(server);
    let mut waiting = Client::connect(address);
    waiting.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    let server = start();
    assert_eq!(waiting.read_response().text(), "hello");
    stop(server);
}

#[test]
fn a_descriptor_that_is_no_listening_socket_is_an_error_that_names_it() {
    let origin = Origin::responding("hello");
    for (kinds, problem) in [
        ("idle", "LISTEN_FDS: descriptor 3 (idle) is not listening"),
        ("tcp,file", "LISTEN_FDS: descriptor 4 (file) is not a socket"),
        ("tcp,closed", "LISTEN_FDS: descriptor 4 (closed) is not open"),
    ] {
        let ended = start(kinds, &origin, &[]).wait_for_end();
        assert_eq!(ended.code, Some(1), "{}", ended.stderr);
        assert!(ended.stderr.contains(problem), "{}", ended.stderr);
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    }
}

#[test]
fn sockets_for_another_process_are_left_alone() {
    let origin = Origin::responding("hello");
    let mut command = program::command(balancer_words(&[origin.address()], &[]));
    command.env("LISTEN_FDS", "1").env("LISTEN_PID", "1");
    let balancer = Program::start(command);
    assert_eq!(get(balancer.address(), "/").text(), "hello");
    assert!(!balancer.log().contains("LISTEN_FDS"), "{}", balancer.log());
}
