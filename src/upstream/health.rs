//! Judging one backend: rise and fall of its checks, ejection after failed attempts. Pure: `now` is a parameter.
//!
//! Active judgement (checks) and passive judgement (attempts) are kept apart. A backend is up if both say so.

use std::time::{Duration, Instant};

/// The first ejection; each further one without an answer between doubles.
const FIRST_EJECTION: Duration = Duration::from_secs(1);
/// The longest ejection.
const LONGEST_EJECTION: Duration = Duration::from_secs(30);
/// Requests in a row that were sent and not answered, before the backend is ejected.
const FAILED_SENDS: u32 = 5;

/// How results turn into states.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Whether there are checks at all; without them only attempts judge.
    pub checks: bool,
    /// Passed checks in a row that bring a backend up.
    pub rise: u32,
    /// Failed checks, or failed connects, in a row that take it down.
    pub fall: u32,
}

/// How an attempt went, as far as it says something about the backend's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It answered with a head, whatever the status.
    Answered,
    /// It could not be connected to.
    ConnectFailed,
    /// It took the request and closed or broke the protocol.
    SendFailed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Checked {
    /// No check has ended yet; treated as down.
    Unknown,
    Passing,
    Failing,
}

/// What is known about one backend's health.
#[derive(Debug)]
pub struct Health {
    rules: Rules,
    checked: Checked,
    /// Checks in a row that speak against `checked`.
    against: u32,
    failed_connects: u32,
    failed_sends: u32,
    ejected_until: Option<Instant>,
    next_ejection: Duration,
}

impl Health {
    /// A backend that nothing is known about: down until a check passes, or up if there are no checks.
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            checked: if rules.checks { Checked::Unknown } else { Checked::Passing },
            against: 0,
            failed_connects: 0,
            failed_sends: 0,
            ejected_until: None,
            next_ejection: FIRST_EJECTION,
        }
    }

    /// Whether it gets work.
    pub fn is_up(&self) -> bool {
        self.checked == Checked::Passing && self.ejected_until.is_none()
    }

    /// Whether anything has been found out about it.
    pub fn is_known(&self) -> bool {
        self.checked != Checked::Unknown
    }

    /// Whether the checks alone say that it is up.
    pub fn passes_checks(&self) -> bool {
        self.checked == Checked::Passing
    }

    /// Whether its state is about to change, so that the next check should come soon.
    pub fn in_transition(&self) -> bool {
        self.against > 0 || self.ejected_until.is_some()
    }

    /// Whether an answer would tell something about it: there were failures since the last one.
    pub fn is_suspect(&self) -> bool {
        self.failed_connects > 0 || self.failed_sends > 0 || self.ejected_until.is_some()
    }

    /// Until when it is ejected by failed attempts, if it is.
    pub fn ejected_until(&self) -> Option<Instant> {
        self.ejected_until
    }

    /// Takes in a check's result and returns how many in a row have now spoken against its state. A passed one also ends an
    /// ejection whose time is over.
    pub fn check(&mut self, passed: bool, now: Instant) -> u32 {
        let agrees = matches!((self.checked, passed), (Checked::Passing, true) | (Checked::Failing, false));
        self.against = if agrees { 0 } else { self.against + 1 };
        let in_a_row = self.against;
        let needed = match self.checked {
            Checked::Unknown => 1,
            Checked::Passing => self.rules.fall,
            Checked::Failing => self.rules.rise,
        };
        if self.against >= needed {
            self.checked = if passed { Checked::Passing } else { Checked::Failing };
            self.against = 0;
        }
        if passed && self.ejected_until.is_some_and(|until| until <= now) {
            self.readmit();
        }
        in_a_row
    }

    /// Takes in the outcome of an attempt that was `started` then, and returns how many in a row have now failed like this. `is_last`
    /// says that no other backend is up: the last one is never ejected.
    pub fn attempt(&mut self, outcome: Outcome, is_last: bool, started: Instant, now: Instant) -> u32 {
        // What was started before or during an ejection is no trial, whenever it ends.
        let is_trial = self.ejected_until.is_some_and(|until| until <= started);
        let in_a_row = match outcome {
            Outcome::Answered => {
                if self.ejected_until.is_none() {
                    self.next_ejection = FIRST_EJECTION;
                } else if !self.rules.checks && is_trial {
                    self.readmit();
                }
                self.failed_connects = 0;
                self.failed_sends = 0;
                return 0;
            }
            Outcome::ConnectFailed => &mut self.failed_connects,
            Outcome::SendFailed => &mut self.failed_sends,
        };
        *in_a_row += 1;
        let in_a_row = *in_a_row;
        let too_many = self.failed_connects >= self.rules.fall || self.failed_sends >= FAILED_SENDS;
        // One failed trial is enough to be out again, for longer.
        let is_out = if self.ejected_until.is_some() { is_trial } else { too_many && !is_last };
        if is_out {
            self.ejected_until = Some(now + self.next_ejection);
            self.next_ejection = (self.next_ejection * 2).min(LONGEST_EJECTION);
        }
        in_a_row
    }

    fn readmit(&mut self) {
        self.ejected_until = None;
        self.failed_connects = 0;
        self.failed_sends = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules { checks: true, rise: 2, fall: 3 };
    const SECOND: Duration = Duration::from_secs(1);

    fn up() -> (Health, Instant) {
        let (mut health, now) = (Health::new(RULES), Instant::now());
        health.check(true, now);
        assert!(health.is_up());
        (health, now)
    }

    #[test]
    fn a_new_backend_is_judged_by_its_first_check() {
        let now = Instant::now();
        let mut health = Health::new(RULES);
        assert!(!health.is_up());
        health.check(false, now);
        assert!(!health.is_up() && !health.in_transition());
        let (health, _) = up();
        assert!(!health.in_transition());
    }

    #[test]
    fn it_falls_after_failures_in_a_row_and_rises_after_passes_in_a_row() {
        let (mut health, now) = up();
        health.check(false, now);
        health.check(false, now);
        health.check(true, now);
        health.check(false, now);
        health.check(false, now);
        assert!(health.is_up() && health.in_transition(), "a pass between starts the count anew");
        health.check(false, now);
        assert!(!health.is_up());
        health.check(true, now);
        assert!(!health.is_up());
        health.check(true, now);
        assert!(health.is_up());
    }

    #[test]
    fn refused_connections_eject_and_a_passed_check_readmits_when_the_time_is_over() {
        let (mut health, now) = up();
        for _ in 0..RULES.fall {
            assert!(health.is_up());
            health.attempt(Outcome::ConnectFailed, false, now, now);
        }
        assert!(!health.is_up() && health.in_transition());
        health.check(true, now + SECOND / 2);
        assert!(!health.is_up(), "too early");
        health.check(true, now + SECOND);
        assert!(health.is_up());
    }

    #[test]
    fn an_answer_starts_the_count_anew() {
        let (mut health, now) = up();
        for _ in 0..10 {
            health.attempt(Outcome::ConnectFailed, false, now, now);
            health.attempt(Outcome::ConnectFailed, false, now, now);
            health.attempt(Outcome::Answered, false, now, now);
        }
        assert!(health.is_up());
    }

    #[test]
    fn failures_after_sending_eject_later() {
        let (mut health, now) = up();
        for _ in 0..FAILED_SENDS {
            assert!(health.is_up());
            health.attempt(Outcome::SendFailed, false, now, now);
        }
        assert!(!health.is_up());
    }

    #[test]
    fn the_last_backend_is_never_ejected() {
        let (mut health, now) = up();
        for _ in 0..100 {
            health.attempt(Outcome::ConnectFailed, true, now, now);
        }
        assert!(health.is_up());
    }

    #[test]
    fn without_checks_a_trial_decides_and_ejections_double() {
        let mut health = Health::new(Rules { checks: false, ..RULES });
        let mut now = Instant::now();
        assert!(health.is_up());
        for _ in 0..RULES.fall {
            health.attempt(Outcome::ConnectFailed, false, now, now);
        }
        for expected in [1, 2, 4, 8, 16, 30, 30] {
            let until = health.ejected_until().unwrap();
            assert_eq!(until - now, expected * SECOND);
            health.attempt(Outcome::ConnectFailed, false, now, now);
            assert_eq!(health.ejected_until(), Some(until), "late failures change nothing");
            now = until;
            health.attempt(Outcome::ConnectFailed, false, now, now);
        }
        health.attempt(Outcome::Answered, false, now, now);
        assert!(!health.is_up(), "an answer to a request from before the ejection is no trial");
        let until = health.ejected_until().unwrap();
        health.attempt(Outcome::ConnectFailed, false, until, until);
        assert_eq!(health.ejected_until(), Some(until + 30 * SECOND), "and takes nothing from a trial that fails");
        let until = until + 30 * SECOND;
        health.attempt(Outcome::Answered, false, until, until);
        assert!(health.is_up());
    }
}
