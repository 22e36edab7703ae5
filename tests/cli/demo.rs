//! `demo`, the one-command start, and `backend`, its part.

use crate::support::program::{self, Program};
use crate::support::{Client, get, until, until_some};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::HashSet;
use std::net::{SocketAddr, TcpStream};

/// A running demo, read from its own output.
struct Demo {
    program: Program,
    balancer: SocketAddr,
    /// Each backend's name, address and process.
    backends: Vec<(String, SocketAddr, i32)>,
}

impl Demo {
    #[track_caller]
    fn start() -> Self {
        let program = Program::start(program::command(["demo", "--port", "0"]));
        until("the demo introduces itself", || program.output().contains("End:"));
        let output = program.output();
        let lines: Vec<Vec<&str>> =
            output.lines().map(|line| line.split_whitespace().collect()).collect();
        let address =
            |word: &str| word.strip_prefix("http://").and_then(|address| address.parse().ok());
        let backend = |words: &Vec<&str>| match words[..] {
            ["backend", name, url, "(process", id] => {
                Some((name.to_owned(), address(url)?, id.trim_end_matches(')').parse().ok()?))
            }
            _ => None,
        };
        let balancer = lines.iter().find_map(|words| match words[..] {
            ["balancer", url] => address(url),
            _ => None,
        });
        let backends = lines.iter().filter_map(backend).collect();
        Self {
            program,
            balancer: balancer.unwrap_or_else(|| panic!("no balancer: {output}")),
            backends,
        }
    }

    /// The name of the backend that responds.
    #[track_caller]
    fn served_by(&self) -> String {
        let response = get(self.balancer, "/");
        response.expect_status(200);
        response.header("X-Backend").expect("a demo backend names itself").to_owned()
    }

    #[track_caller]
    fn until_the_backends_are_gone(&self) {
        for (name, address, _) in &self.backends {
            until(&format!("backend {name} has ended"), || TcpStream::connect(address).is_err());
        }
    }
}

#[test]
fn the_demo_starts_three_backends_that_take_turns_and_ends_them_on_ctrl_c() {
    let mut demo = Demo::start();
    assert_eq!(demo.backends.len(), 3);
    let names: Vec<String> = (0..6).map(|_| demo.served_by()).collect();
    let different: HashSet<&String> = names.iter().collect();
    assert_eq!(different.len(), 3, "{names:?}");
    assert_eq!(names[..3], names[3..], "they take turns");
    demo.program.signal(Signal::INT);
    assert_eq!(demo.program.exit_code(), Some(0));
    demo.until_the_backends_are_gone();
}

#[test]
fn the_demos_backends_end_even_if_it_is_killed() {
    let mut demo = Demo::start();
    demo.program.signal(Signal::KILL);
    assert_eq!(demo.program.exit_code(), None, "a signal ended it");
    demo.until_the_backends_are_gone();
}

#[test]
fn killing_a_backend_of_the_demo_fails_no_request() {
    let demo = Demo::start();
    let (name, _, id) = &demo.backends[0];
    let mut client = Client::connect(demo.balancer);
    for _ in 0..6 {
        client.get("/").expect_status(200);
    }
    // Started by the demo, which this test started: the process that the demo's output suggests to
    // kill.
    kill_process(Pid::from_raw(*id).expect("a process id"), Signal::KILL).expect("it runs");
    for _ in 0..60 {
        let response = client.get("/");
        response.expect_status(200);
        assert_ne!(response.header("X-Backend"), Some(name.as_str()));
    }
    demo.program.until_logged(" down after ");
}

/// A `backend` and its address from its output.
#[track_caller]
fn backend(environment: &[(&str, &str)]) -> (Program, SocketAddr) {
    let mut command = program::command(["backend", "--port", "0"]);
    command.envs(environment.iter().copied());
    let program = Program::start(command);
    let address = until_some("the backend has printed its address", || {
        let output = program.output();
        output.strip_suffix('\n')?.rsplit("http://").next()?.parse().ok()
    });
    (program, address)
}

#[test]
fn a_demo_backend_that_always_fails_stays_healthy() {
    let (_program, address) = backend(&[("FAILURE_RATE", "1"), ("SERVER_ID", "bad")]);
    let mut client = Client::connect(address);
    for _ in 0..10 {
        let response = client.get("/");
        assert_eq!((response.status, response.header("X-Backend")), (500, Some("bad")));
    }
    client.get("/health").expect_status(200);
}

#[test]
fn a_demo_backend_responds_to_all_methods_and_counts() {
    let (_program, address) =
        backend(&[("FAILURE_RATE", "0"), ("MIN_LATENCY", "1ms"), ("MAX_LATENCY", "2ms")]);
    let mut client = Client::connect(address);
    let first = client.get("/a?b");
    let name = address.port().to_string();
    assert_eq!(
        (first.status, first.header("X-Backend")),
        (200, Some(name.as_str())),
        "its name is its port by default"
    );
    assert!(first.text().contains("GET /a?b (number 1 here)"), "{}", first.text());
    let head = client.exchange("HEAD /a HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(
        head.status == 200
            && head.body.is_empty()
            && head.header("content-length").is_some_and(|length| length != "0")
    );
    let post = client.exchange("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc");
    assert!(post.text().contains("3 bytes"), "{}", post.text());
    let chunked = client.exchange(
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    );
    assert_eq!((chunked.status, chunked.truncated), (200, false));
}

#[test]
fn a_demo_backend_accepts_as_many_fields_as_a_balancer_forwards() {
    let (_program, address) = backend(&[]);
    let fields: String = (0..120).map(|number| format!("X-{number}: y\r\n")).collect();
    Client::connect(address)
        .exchange(format!("GET / HTTP/1.1\r\nHost: x\r\n{fields}\r\n"))
        .expect_status(200);
}
