//! A service manager: its messages, the sockets that it passes, the unit files, and PID 1.

mod first_process;
mod sockets;
mod units;

use crate::support::program::{self, Program, balancer_words};
use crate::support::{Origin, comes_true, get, stays, until};
use rustix::process::Signal;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

const BINARY: &str = env!("CARGO_BIN_EXE_lb-threads");

/// A service manager's end of `NOTIFY_SOCKET`: the messages so far.
struct Manager {
    name: String,
    messages: Arc<Mutex<Vec<String>>>,
}

impl Manager {
    /// With a socket in the file system.
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("lb-threads-{}-notify-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let socket = UnixDatagram::bind(&path).expect("the path is free");
        Self::on(socket, path.display().to_string())
    }

    /// With a socket that only has a name.
    fn with_abstract_socket() -> Self {
        let name = format!("lb-threads-{}-abstract", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("the name is short");
        let socket = UnixDatagram::bind_addr(&address).expect("the name is free");
        Self::on(socket, format!("@{name}"))
    }

    fn on(socket: UnixDatagram, name: String) -> Self {
        let messages = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&messages);
        thread::spawn(move || {
            let mut message = [0; 4096];
            while let Ok(length) = socket.recv(&mut message) {
                let text = String::from_utf8_lossy(&message[..length]).into_owned();
                sink.lock().expect("no holder of this lock panics").push(text);
            }
        });
        Self { name, messages }
    }

    fn messages(&self) -> Vec<String> {
        self.messages.lock().expect("no holder of this lock panics").clone()
    }

    /// How many messages have this line.
    fn count(&self, line: &str) -> usize {
        self.messages().iter().filter(|message| message.lines().any(|one| one == line)).count()
    }

    #[track_caller]
    fn until_sent(&self, line: &str) {
        let is_sent = comes_true(|| self.count(line) > 0);
        assert!(is_sent, "it never sent `{line}`: {:?}", self.messages());
    }

    /// A balancer that this manager has started.
    #[track_caller]
    fn start(&self, origins: &[&Origin], words: &[&str], environment: &[(&str, &str)]) -> Program {
        let backends: Vec<_> = origins.iter().map(|origin| origin.address()).collect();
        let mut command = program::command(balancer_words(&backends, words));
        command.env("NOTIFY_SOCKET", &self.name).envs(environment.iter().copied());
        Program::start(command)
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        // Fails for an abstract socket, which is no file.
        let _ = fs::remove_file(&self.name);
    }
}

/// The script beside this file.
fn script(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/systemd").join(name)
}

/// Threads that do not run until this is dropped, as if each were stuck in one step.
struct Frozen(Child);

impl Frozen {
    #[track_caller]
    fn new(threads: &[u32]) -> Self {
        let mut command: Command = program::clean("python3");
        command.arg(script("freeze.py")).args(threads.iter().map(u32::to_string));
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut frozen = Self(child.expect("python3 starts"));
        let mut line = String::new();
        let output = frozen.0.stdout.take().expect("it is a pipe");
        BufReader::new(output).read_line(&mut line).expect("the pipe can be read");
        assert_eq!(line, "frozen\n", "threads can be frozen");
        frozen
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // Fails only if it has ended already.
        let _ = self.0.wait();
    }
}

/// The threads of a program whose names begin like this, in the order of their names.
#[track_caller]
fn threads(program: &Program, name: &str) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{}/task", program.id())).expect("it runs").flatten();
    let mut found: Vec<(String, u32)> = tasks
        .filter_map(|task| {
            let comm = fs::read_to_string(task.path().join("comm")).ok()?;
            Some((comm, task.file_name().to_str()?.parse().ok()?))
        })
        .filter(|(comm, _)| comm.starts_with(name))
        .collect();
    found.sort();
    found.into_iter().map(|(_, id)| id).collect()
}

#[test]
fn a_service_is_ready_when_it_listens_and_the_first_checks_are_over() {
    for manager in [Manager::new(), Manager::with_abstract_socket()] {
        let (one, two) = (Origin::named("one"), Origin::named("two"));
        let balancer = manager.start(&[&one, &two], &[], &[]);
        manager.until_sent("READY=1");
        assert_eq!(manager.messages(), ["READY=1\nSTATUS=2/2 backends up"]);
        assert_eq!(get(balancer.address(), "/").status, 200);
    }
}

#[test]
fn the_status_follows_the_backends() {
    let manager = Manager::new();
    let (one, two) = (Origin::named("one"), Origin::named("two"));
    let _balancer = manager.start(&[&one, &two], &["1"], &[]);
    manager.until_sent("STATUS=2/2 backends up");
    drop(one);
    manager.until_sent("STATUS=1/2 backends up");
    drop(two);
    manager.until_sent("STATUS=0/2 backends up");
    assert_eq!(manager.count("READY=1"), 1);
}

#[test]
fn a_stop_is_announced_before_the_drain() {
    let (manager, origin) = (Manager::new(), Origin::responding("hello"));
    let balancer = manager.start(&[&origin], &[], &[]);
    manager.until_sent("READY=1");
    balancer.signal(Signal::TERM);
    manager.until_sent("STOPPING=1");
    manager.until_sent("STATUS=stopping, 0 connection(s) open");
    assert_eq!(balancer.wait_for_end().code, Some(0));
}

#[test]
fn a_reload_is_announced_and_its_end_as_well() {
    let (manager, origin) = (Manager::new(), Origin::responding("hello"));
    let balancer = manager.start(&[&origin], &[], &[]);
    manager.until_sent("READY=1");
    balancer.signal(Signal::HUP);
    manager.until_sent("RELOADING=1");
    until("the reload is over", || manager.count("READY=1") == 2);
    let messages = manager.messages();
    let time = messages[1].strip_prefix("RELOADING=1\nMONOTONIC_USEC=");
    assert!(time.is_some_and(|time| time.parse::<u64>().is_ok()), "{messages:?}");
    assert!(messages[2].starts_with("READY=1\n"), "{messages:?}");
}

#[test]
fn the_watchdog_is_fed_while_every_worker_turns_and_not_while_one_is_stuck() {
    let (manager, origin) = (Manager::new(), Origin::responding("hello"));
    let environment = [("WATCHDOG_USEC", "1000000")];
    let balancer = manager.start(&[&origin], &["--workers", "3"], &environment);
    until("an idle balancer feeds it", || manager.count("WATCHDOG=1") >= 2);
    let workers = threads(&balancer, "worker-");
    assert_eq!(workers.len(), 3);
    let frozen = Frozen::new(&workers[1..2]);
    balancer.until_logged("worker-1 has been stuck");
    let fed = manager.count("WATCHDOG=1");
    let span = Duration::from_millis(1200);
    stays("a stuck worker keeps the watchdog hungry", span, || manager.count("WATCHDOG=1") == fed);
    drop(frozen);
    until("it is fed again", || manager.count("WATCHDOG=1") > fed);
    balancer.until_logged("every worker turns again");
}

#[test]
fn the_watchdog_of_another_process_is_not_fed() {
    let (manager, origin) = (Manager::new(), Origin::responding("hello"));
    let environment = [("WATCHDOG_USEC", "100000"), ("WATCHDOG_PID", "1")];
    let balancer = manager.start(&[&origin], &["1"], &environment);
    manager.until_sent("READY=1");
    drop(origin);
    // Later than ten times half of the watchdog's time.
    manager.until_sent("STATUS=0/1 backends up");
    assert_eq!(manager.count("WATCHDOG=1"), 0);
    drop(balancer);
}

#[test]
fn a_manager_that_cannot_be_reached_is_a_warning() {
    let origin = Origin::responding("hello");
    for (name, warning) in [
        ("vsock:2:1234", "NOTIFY_SOCKET=`vsock:2:1234` cannot be used: neither a path"),
        ("/does/not/exist", "cannot send READY=1 to NOTIFY_SOCKET"),
    ] {
        let mut command = program::command(balancer_words(&[origin.address()], &[]));
        command.env("NOTIFY_SOCKET", name);
        let balancer = Program::start(command);
        assert_eq!(get(balancer.address(), "/").text(), "hello");
        balancer.until_logged(warning);
    }
}
