//! Child processes: those that we start, and those that only end here because we are PID 1.
//!
//! The first process of a container inherits every process whose parent has ended, and each stays a
//! zombie until it is waited for. The thread `reaper` does that, for processes that [`spawn`] has not
//! started: the exit status of ours belongs to their owners. So every process must be started by
//! [`spawn`]. `OWNED` and `SPAWNING` are process-wide, as the children are.

use parking_lot::Mutex;
use rustix::process::{Pid, WaitOptions, child_subreaper, waitpid};
use signal_hook::consts::SIGCHLD;
use signal_hook::iterator::Signals;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::ops::{Deref, DerefMut};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

/// Protects the processes that have an owner; taken when one is started, when its owner drops it, and
/// by the reaper.
static OWNED: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());
/// Processes that are being started, and may have ended before they are in `OWNED`.
static SPAWNING: AtomicUsize = AtomicUsize::new(0);
/// The pause of the reaper while a process is being started.
const RETRY: Duration = Duration::from_millis(10);

/// A process that we have started. As with [`Child`], a drop neither ends it nor waits for it.
#[derive(Debug)]
pub struct Owned(Child);

/// Starts a process whose exit status is for the caller.
pub fn spawn(command: &mut Command) -> io::Result<Owned> {
    SPAWNING.fetch_add(1, SeqCst);
    let child = command.spawn().inspect(|child| {
        OWNED.lock().insert(child.id());
    });
    SPAWNING.fetch_sub(1, SeqCst);
    child.map(Owned)
}

impl Deref for Owned {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for Owned {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        OWNED.lock().remove(&self.0.id());
    }
}

/// Starts the reaper, if processes of others can become our children: we are PID 1, or a subreaper
/// (`PR_SET_CHILD_SUBREAPER`).
pub fn start_reaper() -> io::Result<()> {
    if std::process::id() != 1 && !child_subreaper().is_ok_and(|one| one.is_some()) {
        return Ok(());
    }
    let mut signals = Signals::new([SIGCHLD])?;
    thread::Builder::new().name("reaper".to_owned()).spawn(move || {
        // A process may have ended before the handler was there.
        reap_all();
        for _ in signals.forever() {
            reap_all();
        }
    })?;
    Ok(())
}

fn reap_all() {
    while !reap() {
        thread::sleep(RETRY);
    }
}

/// Waits for every ended child without an owner; false if it may have skipped one, because a process
/// is being started.
fn reap() -> bool {
    let ended = ended_children();
    // In this order: a process of ours that is in the list is still being started, or in `OWNED`.
    if SPAWNING.load(SeqCst) > 0 {
        return false;
    }
    let owned = OWNED.lock().clone();
    for pid in ended.into_iter().filter(|pid| !owned.contains(&pid.as_raw_pid().unsigned_abs())) {
        // Fails only if another thread has waited for it.
        if waitpid(Some(pid), WaitOptions::NOHANG).is_ok() {
            log::debug!("process {pid} has ended, after its parent");
        }
    }
    true
}

/// Our children that have ended and were not waited for. There is no system call that lists them
/// without taking their statuses, so `/proc` is read.
fn ended_children() -> Vec<Pid> {
    let own = std::process::id();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_ended_child = |pid: &i32| {
        fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| is_zombie_of(&stat, own))
    };
    pids.filter(is_ended_child).filter_map(Pid::from_raw).collect()
}

/// Whether this line of `/proc/PID/stat` is that of a zombie with this parent. The name of a process
/// is in brackets and may hold spaces and brackets itself.
fn is_zombie_of(stat: &str, parent: u32) -> bool {
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let mut fields = after_name.split_whitespace();
    fields.next() == Some("Z") && fields.next().is_some_and(|field| field.parse() == Ok(parent))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn until(condition: impl Fn() -> bool) {
        let end = Instant::now() + Duration::from_secs(10);
        while !condition() {
            assert!(Instant::now() < end, "it takes too long");
            thread::yield_now();
        }
    }

    fn has_ended(pid: u32) -> bool {
        ended_children().iter().any(|child| child.as_raw_pid().unsigned_abs() == pid)
    }

    #[test]
    fn a_child_without_an_owner_is_reaped_and_the_exit_status_of_an_owned_one_is_kept() {
        let mut owned = spawn(Command::new("sh").args(["-c", "exit 7"])).unwrap();
        let mut other = Command::new("true").spawn().unwrap();
        until(|| has_ended(owned.id()) && has_ended(other.id()));
        assert!(reap());
        assert!(!has_ended(other.id()) && has_ended(owned.id()));
        assert!(other.wait().is_err(), "its status is gone");
        assert_eq!(owned.wait().unwrap().code(), Some(7));
        let pid = owned.id();
        drop(owned);
        assert!(!OWNED.lock().contains(&pid));
    }

    #[test]
    fn a_program_that_does_not_exist_leaves_nothing_behind() {
        assert!(spawn(&mut Command::new("/does/not/exist")).is_err());
        until(|| SPAWNING.load(SeqCst) == 0);
    }

    #[test]
    fn a_zombie_is_recognised_whatever_its_name_is() {
        assert!(is_zombie_of("12 (sleep) Z 1 1 1 0", 1));
        assert!(is_zombie_of("12 (a) Z 9 (b) Z 1 1 1 0", 1));
        assert!(!is_zombie_of("12 (a) Z 1 (b) S 1 1 1 0", 1), "it runs");
        assert!(!is_zombie_of("12 (sleep) Z 2 1 1 0", 1), "another parent");
        assert!(!is_zombie_of("", 1));
    }
}
