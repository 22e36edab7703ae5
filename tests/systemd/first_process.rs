//! The balancer as the first process of a container, which inherits the processes of others.

use super::BINARY;
use crate::support::program::{self, Program, balancer_words};
use crate::support::{Origin, get, until, until_some};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;

/// Leaves a process behind that has no parent, and becomes the program in its arguments.
const ORPHAN: &str = "(sleep 60 </dev/null >/dev/null 2>&1 &); exec \"$0\" \"$@\"";
/// The same as a subreaper, which every process below it without a parent gets as its parent.
const SUBREAPER: &str = "import ctypes, os, sys; ctypes.CDLL(None).prctl(36, 1, 0, 0, 0); \
                         os.execvp('sh', ['sh', '-c'] + sys.argv[1:])";

/// The state and the parent of a process.
fn state(pid: u32) -> Option<(String, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}

fn children(parent: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("/proc is there").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| state(*pid).is_some_and(|(_, of)| of == parent)).collect()
}

#[track_caller]
fn kill(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process number");
    kill_process(pid, signal).expect("it runs");
}

/// Ends the orphan of a balancer, which must not stay a zombie then.
#[track_caller]
fn check_reaping(balancer: u32) {
    let orphan = until_some("the orphan is its child", || children(balancer).first().copied());
    kill(orphan, Signal::KILL);
    until("the orphan is reaped", || state(orphan).is_none());
}

#[test]
fn the_first_process_reaps_the_children_that_it_inherits_and_stops_at_a_signal() {
    let namespace = ["--user", "--map-root-user", "--pid", "--fork", "--mount-proc"];
    let probe = program::clean("unshare").args(namespace).arg("true").output();
    if !probe.is_ok_and(|probe| probe.status.success()) {
        eprintln!("not run: this machine allows no process namespaces (unshare)");
        return;
    }
    let origin = Origin::responding("hello");
    for signal in [Signal::TERM, Signal::INT] {
        let mut command = program::clean("unshare");
        command.args(namespace).args(["--kill-child", "sh", "-c", ORPHAN, BINARY]);
        command.args(balancer_words(&[origin.address()], &[]));
        let mut unshare = Program::start(command);
        assert_eq!(get(unshare.address(), "/").text(), "hello");
        let balancer = children(unshare.id())[0];
        check_reaping(balancer);
        kill(balancer, signal);
        assert_eq!(unshare.exit_code(), Some(0), "{signal:?}");
    }
}

#[test]
fn a_subreaper_reaps_the_children_that_it_inherits() {
    let origin = Origin::responding("hello");
    let mut command = program::clean("python3");
    command.args(["-c", SUBREAPER, ORPHAN, BINARY]);
    command.args(balancer_words(&[origin.address()], &[]));
    let balancer = Program::start(command);
    assert_eq!(get(balancer.address(), "/").text(), "hello");
    check_reaping(balancer.id());
    balancer.signal(Signal::TERM);
    assert_eq!(balancer.wait_for_end().code, Some(0));
}
