//! The start: addresses, tokens, and a panic in a request.

use crate::support::program::{self, Ended, Program};
use crate::support::{Client, Lb, Origin, exchange, get, until, until_some};
use lb_threads::config::{AdminPort, Boot, Config, ControlBoot, DataPortControl};
use lb_threads::server::Server;
use rustix::process::Signal;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

const LIST: &str = "GET /_control/list HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n";

/// The one line with the error of a start that has failed.
#[track_caller]
fn failed(ended: &Ended, code: i32) -> String {
    assert_eq!(ended.code, Some(code), "{ended:?}");
    ended.stderr.lines().last().expect("a line with the error").to_owned()
}

/// A file with this content, which goes with the test.
struct TempFile(PathBuf);

impl TempFile {
    fn new(name: &str, content: &str, mode: u32) -> Self {
        let path = std::env::temp_dir().join(format!("lb-threads-{}-{name}", std::process::id()));
        fs::write(&path, content).expect("the file can be written");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("its mode can be set");
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("it is UTF-8")
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn the_log_names_the_address_and_the_port_serves_the_api() {
    let origin = Origin::named("one");
    let program = Program::balancer(&[origin.address()], &["--admin", "localhost:0"]);
    let response = exchange(program.admin_address(), format!("{LIST}\r\n"));
    assert!(response.text().contains(&origin.address().to_string()), "{}", response.text());
    program.signal(Signal::TERM);
    assert_eq!(program.wait_for_end().code, Some(0));
}

#[test]
fn the_log_leads_from_a_change_through_the_data_port_to_its_client() {
    let program = Program::balancer(&[], &["--no-backends", "--control-on-data-port"]);
    let body = "{\"algorithm\": \"random\"}";
    let head = "POST /_control/scheduler HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: change-7\r\n\
                Connection: close\r\nContent-Type: application/json\r\nContent-Length: 23\r\n\r\n";
    assert_eq!(exchange(program.address(), format!("{head}{body}")).status, 200);
    program.until_logged("request change-7 \"POST /_control/scheduler\" 200");
    program.until_logged(", id change-7");
}

#[test]
fn a_change_of_the_algorithm_repeats_no_other_line_of_the_log() {
    let words = ["--no-backends", "--admin", "127.0.0.1:0", "--max-connections", "1000000000"];
    let program = Program::balancer(&[], &words);
    let url = format!("--admin={}", program.admin_address());
    let ended = program::run(["ctl", &url, "algorithm", "random"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    program.until_logged("algorithm random, was round_robin");
    program.signal(Signal::TERM);
    assert_eq!(program.whole_log().matches("serving at most").count(), 1);
}

#[test]
fn if_the_default_address_is_taken_service_goes_on_with_a_warning() {
    let _holder =
        until_some("the default address is ours", || TcpListener::bind("127.0.0.1:9190").ok());
    let origin = Origin::named("one");
    let backend = origin.address().to_string();
    let program = Program::start(program::command(["--port", "0", "-b", &backend]));
    assert_eq!(get(program.address(), "/").text(), "one");
    let log = program.log();
    assert!(log.contains("no control API on 127.0.0.1:9190: it is in use"), "{log}");
    assert!(!log.contains("control API on http"), "{log}");
}

#[test]
fn an_address_that_was_asked_for_and_is_taken_is_an_error() {
    let holder = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = holder.local_addr().expect("it is bound").to_string();
    let ended = program::run(program::balancer_words(&[], &["--admin", &address]));
    let error = failed(&ended, 1);
    assert!(error.contains(&address) && error.contains("--admin"), "{error}");
}

#[test]
fn off_loopback_a_token_is_required() {
    let ended = program::run(program::balancer_words(&[], &["--admin", "0.0.0.0:0"]));
    let error = failed(&ended, 1);
    assert!(error.contains("--admin-token-file") && error.contains("LB_ADMIN_TOKEN"), "{error}");
    let words = ["--host", "0.0.0.0", "--control-on-data-port"];
    let error = failed(&program::run(program::balancer_words(&[], &words)), 1);
    assert!(error.contains("--control-on-data-port makes"), "{error}");
    let origin = Origin::named("one");
    let mut command =
        program::command(program::balancer_words(&[origin.address()], &["--admin", "0.0.0.0:0"]));
    command.env("LB_ADMIN_TOKEN", "s3cret");
    let program = Program::start(command);
    let admin = ([127, 0, 0, 1], program.admin_address().port()).into();
    assert_eq!(exchange(admin, format!("{LIST}\r\n")).status, 401);
    assert_eq!(exchange(admin, format!("{LIST}Authorization: Bearer s3cret\r\n\r\n")).status, 200);
}

#[test]
fn reads_on_the_data_port_need_no_token_on_any_address() {
    let control =
        ControlBoot { on_data_port: Some(DataPortControl::Read), ..ControlBoot::default() };
    let listen = vec![([0, 0, 0, 0], 0).into()];
    let boot = Boot { listen, workers: 1, control, ..Boot::default() };
    assert!(Server::start(Config { boot, ..Config::default() }).is_ok());
}

#[test]
fn a_token_file_is_trimmed_and_never_logged() {
    let file = TempFile::new("token", "  s3cret-of-file\n", 0o600);
    let origin = Origin::named("one");
    let words =
        ["--admin", "127.0.0.1:0", "--admin-token-file", file.path(), "--log-level", "trace"];
    let mut command = program::command(program::balancer_words(&[origin.address()], &words));
    command.env("LB_ADMIN_TOKEN", "s3cret-of-environment");
    let program = Program::start(command);
    let admin = program.admin_address();
    let with = |token: &str| {
        exchange(admin, format!("{LIST}Authorization: Bearer {token}\r\n\r\n")).status
    };
    assert_eq!((with("s3cret-of-file"), with("s3cret-of-environment")), (200, 401));
    program.until_logged("\"GET /_control/list\" 200");
    program.until_logged("\"GET /_control/list\" rejected: the token is wrong");
    let log = program.log();
    assert!(!log.contains("s3cret") && !log.contains("other users"), "{log}");
}

#[test]
fn a_token_file_that_others_can_read_is_a_warning_and_a_useless_one_an_error() {
    let open = TempFile::new("open", "token", 0o644);
    let origin = Origin::named("one");
    let words = ["--admin", "127.0.0.1:0", "--admin-token-file", open.path()];
    let program = Program::balancer(&[origin.address()], &words);
    program.until_logged("other users can read the token");
    for (name, content) in [("empty", " \n"), ("two-words", "a b"), ("control", "a\u{1}b")] {
        let file = TempFile::new(name, content, 0o600);
        let words = ["--admin", "127.0.0.1:0", "--admin-token-file", file.path()];
        let error = failed(&program::run(program::balancer_words(&[], &words)), 2);
        assert!(error.contains(file.path()) && error.contains("--admin-token-file"), "{error}");
        assert!(content.trim().is_empty() || !error.contains(content), "{error}");
    }
    let error = failed(&program::run(["--admin-token-file", "/no/such/file"]), 2);
    assert!(error.contains("cannot read /no/such/file"), "{error}");
    let mut command = program::command(program::balancer_words(&[], &["--admin", "127.0.0.1:0"]));
    command.env("LB_ADMIN_TOKEN", "");
    let error = failed(&Program::start(command).wait_for_end(), 2);
    assert!(error.contains("LB_ADMIN_TOKEN is empty"), "{error}");
}

#[test]
fn the_admin_port_is_no_backend() {
    let origin = Origin::named("one");
    let first = Lb::controlled(&[&origin]);
    let mut config = crate::support::config(&[]);
    let free = first.admin();
    drop(first);
    config.boot.control.admin = Some(AdminPort::at(free));
    config.backends = vec![free.into()];
    let error = Server::start(config).expect_err("requests would loop").to_string();
    assert!(error.contains(&free.to_string()) && error.contains("loop"), "{error}");
}

#[test]
fn its_threads_end_with_the_balancer() {
    let lb = Lb::controlled(&[]);
    let admin = lb.admin();
    let mut idle = Client::connect(admin);
    idle.send(format!("{LIST}\r\n").replace("Connection: close\r\n", ""));
    assert_eq!(idle.read_response().status, 200);
    let half = Client::connect(admin);
    drop(lb);
    assert!(idle.at_end());
    until("each connection is closed", || !half.is_open());
    assert!(std::net::TcpStream::connect(admin).is_err());
}
