//! The health of one backend: rise and fall of its checks, ejection after failed attempts.
//!
//! Pure, with `now` as a parameter; runs under the registry's mutex. Active health checking (checks)
//! and passive health checking (attempts) are kept apart: a backend is up while both consider it
//! healthy. Each observation returns the change that it has made.

use std::time::{Duration, Instant};

/// The length of the first ejection; it doubles with each further one until a response.
const BASE_EJECTION: Duration = Duration::from_secs(1);
const MAX_EJECTION: Duration = Duration::from_secs(30);
/// Consecutive requests without a response after which the backend is ejected.
const MAX_FAILED_SENDS: u32 = 5;

/// The thresholds between states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Whether health checks are sent; without them only attempts count.
    pub checks: bool,
    /// Consecutive passed checks that mark a backend up.
    pub rise: u32,
    /// Consecutive failed checks that mark a backend down, or failed connects that eject it.
    pub fall: u32,
}

/// The result of a health check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckResult {
    /// The response is a 2xx or 3xx.
    Passed,
    /// The response is another one, or did not arrive in time.
    Failed,
    /// The connect was refused or the connection broke: the process has ended, but may be restarted
    /// at any moment.
    Unreachable,
}

/// The outcome of an attempt, as far as it concerns the backend's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The head of a response arrived, whatever its status.
    Responded,
    /// The connect failed.
    ConnectFailed,
    /// The request was sent, and the backend closed the connection or violated the protocol.
    SendFailed,
}

/// An observation of a backend.
#[derive(Clone, Copy, Debug)]
pub enum Observation {
    /// The result of a check.
    Check(CheckResult),
    /// The outcome of an attempt.
    Attempt {
        /// Its outcome.
        outcome: Outcome,
        /// When it was started.
        started: Instant,
    },
}

/// The state of a backend's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No check has ended yet; counts as down.
    Unknown,
    /// It gets requests.
    Up,
    /// Its checks fail, or its name has no address.
    Down,
    /// Its checks fail, the last one as [`CheckResult::Unreachable`].
    Unreachable,
    /// Its checks pass, but attempts have failed.
    Ejected {
        /// The end of the ejection.
        until: Instant,
    },
}

impl State {
    /// Whether checks and attempts consider it healthy.
    pub fn is_up(self) -> bool {
        self == Self::Up
    }

    /// Whether the checks alone consider it healthy.
    pub fn passes_checks(self) -> bool {
        matches!(self, Self::Up | Self::Ejected { .. })
    }

    /// Whether it is tried before a request fails that has failed at all other backends: attempts
    /// have failed, or its port was closed at the last check. A backend that responds to its check
    /// with an error gets no request.
    pub fn is_last_resort(self) -> bool {
        matches!(self, Self::Ejected { .. } | Self::Unreachable)
    }

    /// Its name.
    pub fn code(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Down | Self::Unreachable => "down",
            Self::Ejected { .. } => "ejected",
        }
    }
}

/// The state of a backend's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameState {
    /// It is being resolved for the first time.
    Pending,
    /// It has no address.
    Unresolved,
    /// It has addresses, or is an address itself.
    Resolved,
}

/// The change that an observation or new rules have made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The state before.
    pub from: State,
    /// The state now.
    pub to: State,
    /// Consecutive observations that contradict the state before, this one included.
    pub streak: u32,
}

impl Change {
    /// Whether the kind of state has changed; a longer ejection is no transition.
    pub fn is_transition(self) -> bool {
        std::mem::discriminant(&self.from) != std::mem::discriminant(&self.to)
    }
}

/// The state of active health checking alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CheckState {
    Unknown,
    Passing,
    Failing,
    Unreachable,
}

/// The time for which failed attempts exclude a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ejection {
    since: Instant,
    until: Instant,
}

/// The health of one backend.
#[derive(Debug)]
pub struct Health {
    rules: Rules,
    name: NameState,
    check_state: CheckState,
    /// Consecutive checks that contradict `check_state`.
    streak: u32,
    failed_connects: u32,
    failed_sends: u32,
    ejection: Option<Ejection>,
    next_ejection: Duration,
    /// A response has arrived although the last check could not connect.
    responded_while_unreachable: bool,
}

impl Health {
    /// The health of a new backend: down until a check passes, or up if there are no checks.
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            name: NameState::Resolved,
            check_state: if rules.checks { CheckState::Unknown } else { CheckState::Passing },
            streak: 0,
            failed_connects: 0,
            failed_sends: 0,
            ejection: None,
            next_ejection: BASE_EJECTION,
            responded_while_unreachable: false,
        }
    }

    /// Applies new rules to later observations. When checks end, a backend that they had marked down
    /// is up.
    pub fn set_rules(&mut self, rules: Rules) -> Change {
        let from = self.state();
        self.rules = rules;
        if !rules.checks {
            (self.check_state, self.streak) = (CheckState::Passing, 0);
        }
        Change { from, to: self.state(), streak: 0 }
    }

    /// The state of the backend's name.
    pub fn name(&self) -> NameState {
        self.name
    }

    /// Applies the state of the name: a backend without an address gets no request. Once it has one,
    /// its health is that of a new backend.
    pub fn set_name(&mut self, name: NameState) -> Change {
        let from = self.state();
        if name == NameState::Resolved && self.name != name {
            *self = Self::new(self.rules);
        }
        self.name = name;
        Change { from, to: self.state(), streak: 0 }
    }

    /// The state now.
    pub fn state(&self) -> State {
        match self.name {
            NameState::Pending => return State::Unknown,
            NameState::Unresolved => return State::Down,
            NameState::Resolved => {}
        }
        match (self.check_state, self.ejection) {
            (CheckState::Unknown, _) => State::Unknown,
            (CheckState::Failing, _) => State::Down,
            (CheckState::Unreachable, _) => State::Unreachable,
            (CheckState::Passing, None) => State::Up,
            (CheckState::Passing, Some(ejection)) => State::Ejected { until: ejection.until },
        }
    }

    /// Whether it is up only as the last backend: failed attempts would else have ejected it.
    pub fn is_spared(&self) -> bool {
        self.state().is_up() && self.meets_ejection_threshold()
    }

    fn meets_ejection_threshold(&self) -> bool {
        self.failed_connects >= self.rules.fall || self.failed_sends >= MAX_FAILED_SENDS
    }

    /// Whether its state may be about to change, so that the next check should come soon.
    pub fn in_transition(&self) -> bool {
        self.streak > 0
            || self.ejection.is_some()
            || self.responded_while_unreachable
            || self.is_spared()
    }

    /// Whether the next response would make a change, because attempts have failed since the last
    /// one.
    pub fn has_recent_failures(&self) -> bool {
        let is_unreachable =
            self.check_state == CheckState::Unreachable && !self.responded_while_unreachable;
        // The first response after an ejection resets the doubling.
        let is_doubled = self.next_ejection != BASE_EJECTION;
        self.failed_connects > 0
            || self.failed_sends > 0
            || self.ejection.is_some()
            || is_doubled
            || is_unreachable
    }

    /// Applies an observation. `is_last`: no other backend would serve, so this one is never
    /// ejected.
    pub fn observe(&mut self, observation: Observation, is_last: bool, now: Instant) -> Change {
        let from = self.state();
        let streak = match observation {
            // Checks were disabled while this one was in flight.
            Observation::Check(_) if !self.rules.checks => 0,
            Observation::Check(result) => self.check(result, now),
            Observation::Attempt { outcome, started } => {
                self.attempt(outcome, is_last, started, now)
            }
        };
        Change { from, to: self.state(), streak }
    }

    /// A passed check also ends an ejection that has expired.
    fn check(&mut self, result: CheckResult, now: Instant) -> u32 {
        let passed = result == CheckResult::Passed;
        let is_failing = matches!(self.check_state, CheckState::Failing | CheckState::Unreachable);
        let agrees = self.check_state == CheckState::Passing && passed || is_failing && !passed;
        self.streak = if agrees { 0 } else { self.streak + 1 };
        let streak = self.streak;
        let threshold = match self.check_state {
            CheckState::Unknown => 1,
            CheckState::Passing => self.rules.fall,
            CheckState::Failing | CheckState::Unreachable => self.rules.rise,
        };
        if self.streak >= threshold || is_failing && !passed {
            self.check_state = match result {
                CheckResult::Passed => CheckState::Passing,
                CheckResult::Failed => CheckState::Failing,
                CheckResult::Unreachable => CheckState::Unreachable,
            };
            self.streak = 0;
        }
        self.responded_while_unreachable = false;
        if passed && self.ejection.is_some_and(|ejection| ejection.until <= now) {
            self.end_ejection();
        }
        streak
    }

    fn attempt(&mut self, outcome: Outcome, is_last: bool, started: Instant, now: Instant) -> u32 {
        // Only an attempt that was started after the end of an ejection is its probe.
        let is_probe = self.ejection.is_some_and(|ejection| ejection.until <= started);
        let streak = match outcome {
            Outcome::Responded => {
                self.respond(started);
                return 0;
            }
            Outcome::ConnectFailed => &mut self.failed_connects,
            Outcome::SendFailed => &mut self.failed_sends,
        };
        *streak += 1;
        let streak = *streak;
        // One failed probe ejects again, for longer. A backend whose checks fail is not ejected: it
        // is up again as soon as they pass.
        let must_eject = if self.ejection.is_some() {
            is_probe
        } else {
            self.meets_ejection_threshold() && !is_last
        };
        if must_eject && self.check_state == CheckState::Passing {
            self.ejection = Some(Ejection { since: now, until: now + self.next_ejection });
            self.next_ejection = (self.next_ejection * 2).min(MAX_EJECTION);
        }
        streak
    }

    /// A response to an attempt that was started after the ejection ends it; a response to an earlier
    /// attempt is no proof.
    fn respond(&mut self, started: Instant) {
        match self.ejection {
            None => self.next_ejection = BASE_EJECTION,
            Some(ejection) if ejection.since < started => self.end_ejection(),
            Some(_) => {}
        }
        self.responded_while_unreachable = self.check_state == CheckState::Unreachable;
        self.failed_connects = 0;
        self.failed_sends = 0;
    }

    fn end_ejection(&mut self) {
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
        assert!(health.state().is_up());
        (health, now)
    }

    fn ejected_until(health: &Health) -> Option<Instant> {
        match health.state() {
            State::Ejected { until } => Some(until),
            _ => None,
        }
    }

    #[test]
    fn the_first_check_of_a_new_backend_decides() {
        let now = Instant::now();
        let mut health = Health::new(RULES);
        assert!(!health.state().is_up());
        health.check(CheckResult::Failed, now);
        assert!(!health.state().is_up() && !health.in_transition());
        let (health, _) = up();
        assert!(!health.in_transition());
    }

    #[test]
    fn consecutive_failures_mark_it_down_and_consecutive_passes_up() {
        let (mut health, now) = up();
        health.check(CheckResult::Failed, now);
        health.check(CheckResult::Failed, now);
        health.check(CheckResult::Passed, now);
        health.check(CheckResult::Failed, now);
        health.check(CheckResult::Failed, now);
        assert!(
            health.state().is_up() && health.in_transition(),
            "a pass between resets the count"
        );
        health.check(CheckResult::Failed, now);
        assert!(!health.state().is_up());
        health.check(CheckResult::Passed, now);
        assert!(!health.state().is_up());
        health.check(CheckResult::Passed, now);
        assert!(health.state().is_up());
    }

    #[test]
    fn refused_connects_eject_and_a_passed_check_ends_an_ejection_that_has_expired() {
        let (mut health, now) = up();
        for _ in 0..RULES.fall {
            assert!(health.state().is_up());
            health.attempt(Outcome::ConnectFailed, false, now, now);
        }
        assert!(!health.state().is_up() && health.in_transition());
        health.check(CheckResult::Passed, now + SECOND / 2);
        assert!(!health.state().is_up(), "too early");
        health.check(CheckResult::Passed, now + SECOND);
        assert!(health.state().is_up());
    }

    #[test]
    fn a_response_resets_the_count() {
        let (mut health, now) = up();
        for _ in 0..10 {
            health.attempt(Outcome::ConnectFailed, false, now, now);
            health.attempt(Outcome::ConnectFailed, false, now, now);
            health.attempt(Outcome::Responded, false, now, now);
        }
        assert!(health.state().is_up());
    }

    #[test]
    fn failures_after_sending_eject_at_their_own_threshold() {
        let (mut health, now) = up();
        for _ in 0..MAX_FAILED_SENDS {
            assert!(health.state().is_up());
            health.attempt(Outcome::SendFailed, false, now, now);
        }
        assert!(!health.state().is_up());
    }

    #[test]
    fn the_last_backend_is_never_ejected() {
        let (mut health, now) = up();
        for _ in 0..100 {
            health.attempt(Outcome::ConnectFailed, true, now, now);
        }
        assert!(
            health.state().is_up() && health.is_spared() && health.in_transition(),
            "all backends are checked soon"
        );
        health.attempt(Outcome::Responded, true, now, now);
        assert!(!health.is_spared() && !health.in_transition());
    }

    #[test]
    fn without_checks_a_probe_decides_and_ejections_double() {
        let mut health = Health::new(Rules { checks: false, ..RULES });
        let mut now = Instant::now();
        assert!(health.state().is_up());
        for _ in 0..RULES.fall {
            health.attempt(Outcome::ConnectFailed, false, now, now);
        }
        for expected in [1, 2, 4, 8, 16, 30, 30] {
            let until = ejected_until(&health).unwrap();
            assert_eq!(until - now, expected * SECOND);
            health.attempt(Outcome::ConnectFailed, false, now, now);
            assert_eq!(ejected_until(&health), Some(until), "late failures change nothing");
            now = until;
            health.attempt(Outcome::ConnectFailed, false, now, now);
        }
        health.attempt(Outcome::Responded, false, now, now);
        assert!(
            !health.state().is_up(),
            "a response to a request from before the ejection is no probe"
        );
        let until = ejected_until(&health).unwrap();
        health.attempt(Outcome::ConnectFailed, false, until, until);
        assert_eq!(
            ejected_until(&health),
            Some(until + 30 * SECOND),
            "and resets nothing for a probe that fails"
        );
        let until = until + 30 * SECOND;
        health.attempt(Outcome::Responded, false, until, until);
        assert!(health.state().is_up());
    }

    #[test]
    fn a_response_to_an_attempt_from_after_the_ejection_ends_it() {
        let (mut health, now) = up();
        for _ in 0..RULES.fall {
            health.attempt(Outcome::ConnectFailed, false, now, now);
        }
        assert!(health.state().is_last_resort() && !health.state().is_up());
        health.attempt(Outcome::Responded, false, now, now + SECOND);
        assert!(!health.state().is_up(), "the attempt is older than the ejection");
        let soon = now + SECOND / 10;
        health.attempt(Outcome::Responded, false, soon, soon);
        assert!(health.state().is_up(), "before the ejection has expired");
    }

    #[test]
    fn a_closed_port_is_a_last_resort_and_an_unhealthy_backend_is_not() {
        for (result, is_last_resort) in
            [(CheckResult::Unreachable, true), (CheckResult::Failed, false)]
        {
            let (mut health, now) = up();
            assert!(!health.state().is_last_resort());
            for _ in 0..RULES.fall {
                health.check(result, now);
            }
            assert_eq!(
                (health.state().is_up(), health.state().is_last_resort()),
                (false, is_last_resort),
                "{result:?}"
            );
        }
        let (mut health, now) = up();
        for _ in 0..RULES.fall {
            health.check(CheckResult::Unreachable, now);
        }
        health.check(CheckResult::Failed, now);
        assert!(!health.state().is_last_resort(), "the last check counts");
    }

    #[test]
    fn a_response_after_a_closed_port_schedules_a_check_soon() {
        let (mut health, now) = up();
        for _ in 0..RULES.fall {
            health.check(CheckResult::Unreachable, now);
        }
        assert!(health.has_recent_failures() && !health.in_transition());
        health.attempt(Outcome::Responded, false, now, now);
        assert!(
            health.in_transition() && !health.has_recent_failures() && !health.state().is_up(),
            "the checks decide"
        );
        health.check(CheckResult::Unreachable, now);
        assert!(!health.in_transition());
    }

    #[test]
    fn a_backend_whose_checks_fail_is_not_ejected_and_up_as_soon_as_they_pass() {
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
        assert!(health.state().is_up(), "attempts of last resort have not ejected it");
    }

    #[test]
    fn an_observation_returns_its_change() {
        let (mut health, now) = up();
        let failed = Observation::Check(CheckResult::Failed);
        let changes: Vec<_> = (0..4).map(|_| health.observe(failed, false, now)).collect();
        let (up, down) = (State::Up, State::Down);
        let change = |from, to, streak| Change { from, to, streak };
        assert_eq!(
            changes,
            [change(up, up, 1), change(up, up, 2), change(up, down, 3), change(down, down, 0)]
        );
        assert_eq!(
            changes.into_iter().map(Change::is_transition).collect::<Vec<_>>(),
            [false, false, true, false]
        );
    }

    #[test]
    fn when_checks_end_a_backend_that_they_marked_down_is_up() {
        let (mut health, now) = up();
        for _ in 0..RULES.fall {
            health.check(CheckResult::Failed, now);
        }
        health.set_rules(Rules { checks: false, ..RULES });
        assert!(health.state().is_up());
        health.set_rules(RULES);
        assert!(health.state().is_up(), "until a check fails");
    }
}
