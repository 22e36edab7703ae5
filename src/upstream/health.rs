//! Judging one backend: rise and fall of its checks, ejection after failed attempts. Pure: `now` is
//! a parameter.
//!
//! Active judgement (checks) and passive judgement (attempts) are kept apart. A backend is up if
//! both say so.

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

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckResult {
    /// The backend says that it is well.
    Passed,
    /// The backend says that it is not well, or says nothing in time.
    Failed,
    /// The connection was refused or broke: nobody serves there, but a restarted process may at any
    /// moment.
    Unreachable,
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
    /// Failing, because the connection was refused or broke at the last check.
    Unreachable,
}

/// The time for which failed attempts keep a backend out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ejection {
    since: Instant,
    until: Instant,
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
    ejection: Option<Ejection>,
    next_ejection: Duration,
    /// A request was answered though the checks say that nobody serves there.
    answered_while_unreachable: bool,
}

impl Health {
    /// A backend that nothing is known about: down until a check passes, or up if there are no
    /// checks.
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            checked: if rules.checks { Checked::Unknown } else { Checked::Passing },
            against: 0,
            failed_connects: 0,
            failed_sends: 0,
            ejection: None,
            next_ejection: FIRST_EJECTION,
            answered_while_unreachable: false,
        }
    }

    /// Uses other rules for the results to come. Without checks, the last check's result says
    /// nothing any more.
    pub fn set_rules(&mut self, rules: Rules) {
        self.rules = rules;
        if !rules.checks {
            (self.checked, self.against) = (Checked::Passing, 0);
        }
    }

    /// Whether there are checks.
    pub fn has_checks(&self) -> bool {
        self.rules.checks
    }

    /// Whether it gets work.
    pub fn is_up(&self) -> bool {
        self.checked == Checked::Passing && self.ejection.is_none()
    }

    /// Whether anything has been found out about it.
    pub fn is_known(&self) -> bool {
        self.checked != Checked::Unknown
    }

    /// Whether the checks alone say that it is up.
    pub fn passes_checks(&self) -> bool {
        self.checked == Checked::Passing
    }

    /// Whether it is worth trying before a request fails that has failed everywhere else: it is out
    /// because of failed attempts, or because its port was closed at the last check. A backend that
    /// says itself that it is not well is left in peace.
    pub fn is_last_resort(&self) -> bool {
        self.checked == Checked::Passing && self.ejection.is_some()
            || self.checked == Checked::Unreachable
    }

    /// Whether it is up only because it is the last: failed attempts would have ejected it.
    pub fn is_spared(&self) -> bool {
        self.is_up() && self.has_failed_enough()
    }

    fn has_failed_enough(&self) -> bool {
        self.failed_connects >= self.rules.fall || self.failed_sends >= FAILED_SENDS
    }

    /// Whether its state is about to change, so that the next check should come soon.
    pub fn in_transition(&self) -> bool {
        self.against > 0
            || self.ejection.is_some()
            || self.answered_while_unreachable
            || self.is_spared()
    }

    /// Whether an answer would tell something about it: there were failures since the last one.
    pub fn is_suspect(&self) -> bool {
        let is_news = self.checked == Checked::Unreachable && !self.answered_while_unreachable;
        // The first answer after an ejection starts the doubling anew.
        let is_doubled = self.next_ejection != FIRST_EJECTION;
        self.failed_connects > 0
            || self.failed_sends > 0
            || self.ejection.is_some()
            || is_doubled
            || is_news
    }

    /// Until when it is ejected by failed attempts, if it is.
    pub fn ejected_until(&self) -> Option<Instant> {
        self.ejection.map(|ejection| ejection.until)
    }

    /// Takes in a check's result and returns how many in a row have now spoken against its state. A
    /// passed one also ends an ejection whose time is over.
    pub fn check(&mut self, result: CheckResult, now: Instant) -> u32 {
        if !self.rules.checks {
            // The checks were switched off while this one was in flight.
            return 0;
        }
        let passed = result == CheckResult::Passed;
        let is_failing = matches!(self.checked, Checked::Failing | Checked::Unreachable);
        let agrees = self.checked == Checked::Passing && passed || is_failing && !passed;
        self.against = if agrees { 0 } else { self.against + 1 };
        let in_a_row = self.against;
        let needed = match self.checked {
            Checked::Unknown => 1,
            Checked::Passing => self.rules.fall,
            Checked::Failing | Checked::Unreachable => self.rules.rise,
        };
        if self.against >= needed || is_failing && !passed {
            self.checked = match result {
                CheckResult::Passed => Checked::Passing,
                CheckResult::Failed => Checked::Failing,
                CheckResult::Unreachable => Checked::Unreachable,
            };
            self.against = 0;
        }
        self.answered_while_unreachable = false;
        if passed && self.ejection.is_some_and(|ejection| ejection.until <= now) {
            self.readmit();
        }
        in_a_row
    }

    /// Takes in the outcome of an attempt that was `started` then, and returns how many in a row
    /// have now failed like this. `is_last` says that no other backend would serve in its place:
    /// the last one is never ejected.
    pub fn attempt(
        &mut self,
        outcome: Outcome,
        is_last: bool,
        started: Instant,
        now: Instant,
    ) -> u32 {
        // The failure of an attempt that was started before or during an ejection is no news.
        let is_trial = self.ejection.is_some_and(|ejection| ejection.until <= started);
        let in_a_row = match outcome {
            Outcome::Answered => {
                match self.ejection {
                    None => self.next_ejection = FIRST_EJECTION,
                    // A response to an attempt from before the ejection says nothing; a later one
                    // is better proof than a check.
                    Some(ejection) if ejection.since < started => self.readmit(),
                    Some(_) => {}
                }
                self.answered_while_unreachable = self.checked == Checked::Unreachable;
                self.failed_connects = 0;
                self.failed_sends = 0;
                return 0;
            }
            Outcome::ConnectFailed => &mut self.failed_connects,
            Outcome::SendFailed => &mut self.failed_sends,
        };
        *in_a_row += 1;
        let in_a_row = *in_a_row;
        // One failed trial is enough to be out again, for longer. What the checks keep out needs no
        // ejection: it is back as soon as they pass.
        let is_failure =
            if self.ejection.is_some() { is_trial } else { self.has_failed_enough() && !is_last };
        let is_out = is_failure && self.passes_checks();
        if is_out {
            self.ejection = Some(Ejection { since: now, until: now + self.next_ejection });
            self.next_ejection = (self.next_ejection * 2).min(LONGEST_EJECTION);
        }
        in_a_row
    }

    fn readmit(&mut self) {
        self.ejection = None;
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
        health.check(CheckResult::Passed, now);
        assert!(health.is_up());
        (health, now)
    }

    #[test]
    fn a_new_backend_is_judged_by_its_first_check() {
        let now = Instant::now();
        let mut health = Health::new(RULES);
        assert!(!health.is_up());
        health.check(CheckResult::Failed, now);
        assert!(!health.is_up() && !health.in_transition());
        let (health, _) = up();
        assert!(!health.in_transition());
    }

    #[test]
    fn it_falls_after_failures_in_a_row_and_rises_after_passes_in_a_row() {
        let (mut health, now) = up();
        health.check(CheckResult::Failed, now);
        health.check(CheckResult::Failed, now);
        health.check(CheckResult::Passed, now);
        health.check(CheckResult::Failed, now);
        health.check(CheckResult::Failed, now);
        assert!(health.is_up() && health.in_transition(), "a pass between starts the count anew");
        health.check(CheckResult::Failed, now);
        assert!(!health.is_up());
        health.check(CheckResult::Passed, now);
        assert!(!health.is_up());
        health.check(CheckResult::Passed, now);
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
        health.check(CheckResult::Passed, now + SECOND / 2);
        assert!(!health.is_up(), "too early");
        health.check(CheckResult::Passed, now + SECOND);
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
        assert!(
            health.is_up() && health.is_spared() && health.in_transition(),
            "others are to be checked soon, and it as well"
        );
        health.attempt(Outcome::Answered, true, now, now);
        assert!(!health.is_spared() && !health.in_transition());
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
        assert_eq!(
            health.ejected_until(),
            Some(until + 30 * SECOND),
            "and takes nothing from a trial that fails"
        );
        let until = until + 30 * SECOND;
        health.attempt(Outcome::Answered, false, until, until);
        assert!(health.is_up());
    }

    #[test]
    fn a_response_to_an_attempt_from_after_the_ejection_ends_it() {
        let (mut health, now) = up();
        for _ in 0..RULES.fall {
            health.attempt(Outcome::ConnectFailed, false, now, now);
        }
        assert!(health.is_last_resort() && !health.is_up());
        health.attempt(Outcome::Answered, false, now, now + SECOND);
        assert!(!health.is_up(), "the attempt is older than the ejection");
        let soon = now + SECOND / 10;
        health.attempt(Outcome::Answered, false, soon, soon);
        assert!(health.is_up(), "it serves: its time need not be over");
    }

    #[test]
    fn a_closed_port_is_a_last_resort_and_an_unwell_backend_is_not() {
        for (result, is_last_resort) in
            [(CheckResult::Unreachable, true), (CheckResult::Failed, false)]
        {
            let (mut health, now) = up();
            assert!(!health.is_last_resort());
            for _ in 0..RULES.fall {
                health.check(result, now);
            }
            assert_eq!(
                (health.is_up(), health.is_last_resort()),
                (false, is_last_resort),
                "{result:?}"
            );
        }
        let (mut health, now) = up();
        for _ in 0..RULES.fall {
            health.check(CheckResult::Unreachable, now);
        }
        health.check(CheckResult::Failed, now);
        assert!(!health.is_last_resort(), "the last check counts");
    }

    #[test]
    fn a_response_from_behind_a_closed_port_asks_for_a_check_soon() {
        let (mut health, now) = up();
        for _ in 0..RULES.fall {
            health.check(CheckResult::Unreachable, now);
        }
        assert!(health.is_suspect() && !health.in_transition());
        health.attempt(Outcome::Answered, false, now, now);
        assert!(
            health.in_transition() && !health.is_suspect() && !health.is_up(),
            "the checks decide"
        );
        health.check(CheckResult::Unreachable, now);
        assert!(!health.in_transition());
    }

    #[test]
    fn what_the_checks_keep_out_is_back_as_soon_as_they_pass() {
        let (mut health, now) = up();
        for _ in 0..RULES.fall {
            health.check(CheckResult::Unreachable, now);
        }
        for second in 0..100 {
            let now = now + second * SECOND;
            health.attempt(Outcome::ConnectFailed, false, now, now);
        }
        for _ in 0..RULES.rise {
            health.check(CheckResult::Passed, now + 100 * SECOND);
        }
        assert!(health.is_up(), "attempts of last resort have not ejected it");
    }
}
