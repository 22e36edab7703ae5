//! Standard input, output and error that are closed or full: service goes on.

use super::Logged;
use crate::support::program::{self, Program};
use crate::support::{Client, Origin, get, refused_address, until};
use rustix::process::Signal;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;

/// The program with redirections of a shell.
fn redirected(redirections: &str, words: &[&str]) -> Command {
    let mut command = program::clean("sh");
    let script = format!("exec \"$0\" \"$@\" {redirections}");
    command.arg("-c").arg(script).arg(env!("CARGO_BIN_EXE_lb-threads")).args(words);
    command
}

#[test]
fn closed_and_full_streams_stop_no_service() {
    let origin = Origin::responding("hello");
    let backend = origin.address().to_string();
    for redirections in ["<&- >&- 2>&-", "2>/dev/full >/dev/full", "2>&-", "<&-", "</dev/full"] {
        let port = refused_address().port();
        let words = ["--port", &port.to_string(), "-b", &backend, "--admin", "off"];
        let mut command = redirected(redirections, &words);
        command.env("LOGLEVEL", "debug");
        let mut balancer = Program::start(command);
        let address: SocketAddr = ([127, 0, 0, 1], port).into();
        until("it listens", || TcpStream::connect(address).is_ok());
        for _ in 0..20 {
            assert_eq!(get(address, "/").text(), "hello", "{redirections}");
        }
        balancer.signal(Signal::USR1);
        balancer.signal(Signal::TERM);
        assert_eq!(balancer.exit_code(), Some(0), "{redirections}");
    }
}

#[test]
fn an_error_at_the_start_has_its_exit_code_without_a_place_to_print_it() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let rows: [(&[&str], i32); 3] = [
        (&["--port", &port, "--no-backends"], 1),
        (&["--log-file", "/"], 1),
        (&["--log-level", "loud"], 2),
    ];
    for (words, code) in rows {
        for redirections in ["2>/dev/full", "2>&-"] {
            let ended = Program::start(redirected(redirections, words)).wait_for_end();
            assert_eq!(ended.code, Some(code), "{words:?} {redirections}");
        }
    }
}

#[test]
fn a_demo_without_a_terminal_serves() {
    let port = refused_address().port();
    let mut command = redirected(">/dev/full 2>&1", &["demo", "--port", &port.to_string()]);
    command.env("LOGLEVEL", "debug");
    let mut demo = Program::start(command);
    let address: SocketAddr = ([127, 0, 0, 1], port).into();
    until("it listens", || TcpStream::connect(address).is_ok());
    until("it serves", || get(address, "/").status == 200);
    demo.signal(Signal::TERM);
    assert_eq!(demo.exit_code(), Some(0));
}

#[test]
fn a_log_file_that_is_a_full_fifo_stalls_nothing() {
    let origin = Origin::responding("hello");
    let mut balancer = Logged::start(&origin, &["--log-level", "debug"]);
    let address = balancer.address();
    // The file is replaced by a FIFO with a reader that never reads: full after 64 KiB.
    std::fs::remove_file(&balancer.path).unwrap();
    let mode = rustix::fs::Mode::RWXU;
    rustix::fs::mkfifoat(rustix::fs::CWD, &balancer.path, mode).unwrap();
    let _reader = std::fs::OpenOptions::new().read(true).write(true).open(&balancer.path).unwrap();
    balancer.program.signal(Signal::USR1);
    let mut client = Client::connect(address);
    let request = format!("GET / HTTP/1.1\r\nHost: x\r\nX-Padding: {}\r\n\r\n", "x".repeat(400));
    for _ in 0..20 {
        client.send(request.repeat(50));
        for _ in 0..50 {
            client.read_response().expect_status(200);
        }
    }
    balancer.program.signal(Signal::TERM);
    assert_eq!(balancer.program.exit_code(), Some(0), "it exits, though its log is unread");
}
