//! Bounded waiting: the only place where a test waits for something, and the only one that sleeps.
//!
//! A test never sleeps "long enough". It waits until a condition holds, or it opens and awaits a
//! [`Gate`]. Each such wait ends at the latest after [`TEST_TIMEOUT`], with a panic that names the
//! condition.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// The one timeout of the whole test suite: generous for a busy machine, short enough to notice.
pub const TEST_TIMEOUT: Duration = Duration::from_secs(10);

const POLL: Duration = Duration::from_millis(2);

/// Waits until `condition` holds, and panics with `what` if it does not within [`TEST_TIMEOUT`].
///
/// `what` continues the sentence "timed out waiting until": `until("the backend is down", || ...)`.
#[track_caller]
pub fn until(what: &str, condition: impl FnMut() -> bool) {
    assert!(comes_true(condition), "timed out after {TEST_TIMEOUT:?} waiting until {what}");
}

/// Waits until `attempt` gives a value, and panics with `what` if it does not within
/// [`TEST_TIMEOUT`].
#[track_caller]
pub fn until_some<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let mut value = None;
    until(what, || {
        value = attempt();
        value.is_some()
    });
    value.expect("until returns only after a value came")
}

/// Waits for `condition` and returns whether it came true within [`TEST_TIMEOUT`].
pub fn comes_true(mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Deadline::new();
    loop {
        if condition() {
            return true;
        }
        if deadline.has_passed() {
            return false;
        }
        thread::sleep(POLL);
    }
}

/// Panics with `what` if `condition` fails at any look during `span`: for things that must *not*
/// happen.
///
/// Costs its whole `span` each time, so keep it short, and prefer to wait for an event that proves
/// the same.
#[track_caller]
pub fn stays(what: &str, span: Duration, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + span;
    loop {
        assert!(condition(), "did not stay true: {what}");
        if Instant::now() >= end {
            return;
        }
        thread::sleep(POLL);
    }
}

/// The instant of the timeout, for an operation of several blocking calls.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    end: Instant,
}

impl Deadline {
    /// A deadline [`TEST_TIMEOUT`] from now.
    pub fn new() -> Self {
        Self { end: Instant::now() + TEST_TIMEOUT }
    }

    /// The time left, never zero: zero means "for ever" to a socket's timeout.
    pub fn remaining(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
    }

    /// Whether the timeout has passed.
    pub fn has_passed(&self) -> bool {
        Instant::now() >= self.end
    }
}

impl Default for Deadline {
    fn default() -> Self {
        Self::new()
    }
}

/// A gate that starts shut and, once open, stays open. Clones are the same gate.
///
/// A test opens what an origin waits for (`Step::WaitFor`), or waits for what an origin opens
/// (`Step::Open`).
#[derive(Clone, Default)]
pub struct Gate {
    shared: Arc<(Mutex<bool>, Condvar)>,
}

impl Gate {
    /// A gate that is shut.
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens the gate for present and future waits.
    pub fn open(&self) {
        let (open, opened) = &*self.shared;
        *open.lock().expect("no holder of a gate's lock panics") = true;
        opened.notify_all();
    }

    /// Whether the gate is open.
    pub fn is_open(&self) -> bool {
        *self.shared.0.lock().expect("no holder of a gate's lock panics")
    }

    /// Waits until the gate opens, and panics if it does not within [`TEST_TIMEOUT`].
    #[track_caller]
    pub fn wait(&self) {
        assert!(self.wait_for(TEST_TIMEOUT), "timed out after {TEST_TIMEOUT:?} waiting for a gate");
    }

    /// Waits until the gate opens, `span` at most. Returns whether it is open.
    pub fn wait_for(&self, span: Duration) -> bool {
        let (open, opened) = &*self.shared;
        let shut = open.lock().expect("no holder of a gate's lock panics");
        let (open, _) = opened
            .wait_timeout_while(shut, span, |open| !*open)
            .expect("no holder of a gate's lock panics");
        *open
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_open() { "Gate(open)" } else { "Gate(shut)" })
    }
}
