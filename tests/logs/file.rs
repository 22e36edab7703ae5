//! `--log-file`: appending, rotation, files that cannot be written.

use super::Logged;
use crate::support::program::{self, Program};
use crate::support::{Folder, Origin, get, refused_address, until};
use rustix::process::Signal;
use std::fs;
use std::net::TcpListener;

#[test]
fn lines_go_to_the_file_alone_and_are_appended() {
    let origin = Origin::responding("hello");
    let folder = Folder::new();
    let path = folder.write("load_balancer.log", "an earlier line\n");
    let words = ["--log-file", &path];
    let mut balancer = Program::balancer(&[origin.address()], &words);
    until("it listens", || fs::read_to_string(&path).unwrap().contains("backend(s) up"));
    balancer.signal(Signal::TERM);
    assert_eq!(balancer.exit_code(), Some(0));
    assert_eq!((balancer.whole_log(), balancer.output()), (String::new(), String::new()));
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("an earlier line\n["), "{text}");
    assert!(text.lines().last().unwrap().contains("INFO ] stopped after"), "{text}");
}

#[test]
fn usr1_and_hup_open_a_rotated_file_again() {
    let origin = Origin::responding("hello");
    let balancer = Logged::start(&origin, &[]);
    let address = balancer.address();
    for (signal, path) in [(Signal::USR1, "/one"), (Signal::HUP, "/two")] {
        let rotated = balancer.rotate();
        balancer.program.signal(signal);
        balancer.until_logged("opened again");
        get(address, path);
        balancer.until_logged(path);
        assert!(!fs::read_to_string(rotated).unwrap().contains(path));
        let text = balancer.text();
        let first = text.lines().next().unwrap();
        assert!(first.contains("log file") && first.contains("opened again"), "{text}");
    }
}

#[test]
fn a_rotated_or_removed_file_is_noticed_without_a_signal() {
    let origin = Origin::responding("hello");
    let balancer = Logged::start(&origin, &[]);
    let address = balancer.address();
    let rotated = balancer.rotate();
    until("a new file has lines", || {
        get(address, "/after");
        balancer.text().contains("/after")
    });
    assert!(fs::read_to_string(rotated).unwrap().contains("listening on"));
    fs::remove_file(&balancer.path).unwrap();
    until("there is a file again", || {
        get(address, "/last");
        balancer.text().contains("/last")
    });
}

#[test]
fn a_full_disk_stops_no_service_and_the_lost_lines_are_counted() {
    let origin = Origin::responding("hello");
    let folder = Folder::new();
    let path = folder.path().join("log");
    std::os::unix::fs::symlink("/dev/full", &path).unwrap();
    let (port, text) = (refused_address().port(), path.display().to_string());
    let words = ["--port", &port.to_string(), "--log-file", &text];
    let mut balancer = Program::start(program::command(
        program::balancer_words(&[origin.address()], &words).into_iter().skip(2),
    ));
    let address = ([127, 0, 0, 1], port).into();
    until("it listens", || std::net::TcpStream::connect(address).is_ok());
    for _ in 0..20 {
        assert_eq!(get(address, "/lost").text(), "hello");
    }
    fs::remove_file(&path).unwrap();
    balancer.signal(Signal::USR1);
    let read = || fs::read_to_string(&path).unwrap_or_default();
    until("the loss is reported", || read().contains("were lost: No space left on device"));
    assert!(!read().contains("/lost"));
    balancer.signal(Signal::TERM);
    assert_eq!(balancer.exit_code(), Some(0));
    assert_eq!(read().matches("were lost").count(), 1, "{}", read());
}

#[test]
fn a_file_that_cannot_be_opened_is_an_error_at_the_start() {
    let folder = Folder::new();
    let fifo = folder.path().join("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RWXU).unwrap();
    let missing = folder.path().join("missing/log");
    for (path, expected) in [
        (folder.path(), "it is a directory; name a file in it"),
        (&fifo, "it is a FIFO without a reader"),
        (&missing, "its directory does not exist; create it first"),
    ] {
        let path = path.display().to_string();
        let ended = program::run(["--port", "0", "--admin", "off", "--log-file", &path]);
        let expected = format!("lb-threads: cannot open the log file {path}: {expected}");
        assert!(ended.stderr.starts_with(&expected), "{ended:?}");
        assert_eq!((ended.code, ended.stderr.lines().count()), (Some(1), 1));
    }
    let ended = program::run(["--log-file", ""]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.contains("--log-file"), "{ended:?}");
}

#[test]
fn an_error_at_the_start_is_on_the_terminal_and_in_the_file() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let folder = Folder::new();
    let path = folder.path().join("log").display().to_string();
    let ended = program::run(["--port", &port, "--no-backends", "--log-file", &path]);
    assert_eq!((ended.code, ended.stderr.lines().count()), (Some(1), 1), "{ended:?}");
    let message = ended.stderr.trim().strip_prefix("lb-threads: ").unwrap();
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.trim_end().ends_with(&format!("ERROR] {message}")), "{text}");
}
