//! The due times of health checks. Runs on the health daemon; pure, with `now` as a parameter.
//!
//! A check is due a period after the start of the last one. It is due within a second while the
//! state of the backend is about to change, after it was marked down or got other addresses, while it
//! has never been up, and while no backend is up except one that is spared as the last. A backend
//! without an address is not checked. When the last backend goes, the others are checked at once.

use crate::upstream::backend::{Backend, BackendId};
use crate::upstream::health::NameState;
use crate::upstream::registry::BackendStatus;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The time between two checks of a backend whose state may change, unless the period is shorter.
pub const FAST_PERIOD: Duration = Duration::from_secs(1);

/// The time between two checks of a backend at the moment when no other is up any more.
const OUTAGE_DELAY: Duration = Duration::from_millis(100);

/// The due times of all backends.
pub struct Schedule {
    period: Duration,
    /// Whether a backend was up that was not only spared as the last.
    had_healthy: bool,
    entries: BTreeMap<BackendId, Entry>,
}

/// The due time of one backend.
struct Entry {
    backend: Arc<Backend>,
    last_start: Instant,
    /// The time from the last start to the next one, if no change is expected.
    interval: Duration,
    /// The longest interval in the current state.
    max_interval: Duration,
    in_flight: bool,
    was_checked: bool,
    was_up: bool,
    is_up: bool,
    /// Whether it was marked down, or got other addresses, after the start of its last check: the
    /// next one is due soon, because the failure may have been a short one.
    is_outdated: bool,
    /// Whether the others went down since the start of its last check: it may have recovered, and
    /// requests fail until that is known.
    is_urgent: bool,
    name: NameState,
    /// The number of changes of its addresses.
    changes: u32,
}

impl Schedule {
    /// A schedule without backends.
    pub fn new(period: Duration) -> Self {
        Self { period, had_healthy: false, entries: BTreeMap::new() }
    }

    /// Changes the period. A shorter one applies at once, a longer one after the next check.
    pub fn set_period(&mut self, period: Duration) {
        self.period = period;
    }

    /// Applies new statuses: new backends are due at once, backends whose state may change within a
    /// second.
    pub fn update(&mut self, statuses: Vec<BackendStatus>, now: Instant) {
        let any_healthy = statuses.iter().any(|status| status.state.is_up() && !status.is_spared);
        let begins_outage = std::mem::replace(&mut self.had_healthy, any_healthy) && !any_healthy;
        let mut earlier = std::mem::take(&mut self.entries);
        for BackendStatus { backend, state, in_transition, name, .. } in statuses {
            let (id, is_up, changes) = (backend.id, state.is_up(), backend.addresses.changes());
            let mut entry = earlier.remove(&id).unwrap_or_else(|| Entry::new(backend, now));
            entry.was_up |= is_up;
            entry.is_outdated |= entry.is_up && !is_up || entry.changes != changes;
            (entry.is_up, entry.name, entry.changes) = (is_up, name, changes);
            entry.is_urgent |= begins_outage && !is_up;
            let may_change = in_transition || entry.is_outdated || !entry.was_up || !any_healthy;
            entry.max_interval = if may_change { FAST_PERIOD } else { self.period };
            self.entries.insert(id, entry);
        }
    }

    /// Takes the backends that are due. Each is in flight then, and not due again before the end of
    /// its check.
    pub fn take_due(&mut self, now: Instant, rng: &mut fastrand::Rng) -> Vec<Arc<Backend>> {
        let mut due = Vec::new();
        for entry in
            self.entries.values_mut().filter(|entry| entry.is_waiting() && entry.due() <= now)
        {
            // Jitter only shortens the interval, so that a failure is never detected later than
            // documented.
            let jitter = self.period.mul_f64(0.1 * rng.f64());
            (entry.in_flight, entry.is_outdated, entry.is_urgent) = (true, false, false);
            entry.last_start = now;
            entry.interval = self.period - jitter;
            due.push(Arc::clone(&entry.backend));
        }
        due
    }

    /// Ends the check of a backend; without a result, the next one is due soon. None if the backend
    /// was removed meanwhile.
    pub fn ended(&mut self, id: BackendId, has_result: bool) -> Option<&Backend> {
        let entry = self.entries.get_mut(&id)?;
        entry.in_flight = false;
        entry.was_checked = true;
        if !has_result {
            entry.interval = entry.interval.min(FAST_PERIOD);
        }
        Some(&entry.backend)
    }

    /// The time of the next check, if any is to come that is not in flight.
    pub fn next_due(&self) -> Option<Instant> {
        self.entries.values().filter(|entry| entry.is_waiting()).map(Entry::due).min()
    }

    /// Whether every backend was checked, or has no address.
    pub fn is_first_round_over(&self) -> bool {
        let is_over = |entry: &Entry| entry.was_checked || entry.name.is_unusable();
        self.entries.values().all(is_over)
    }
}

impl Entry {
    fn new(backend: Arc<Backend>, now: Instant) -> Self {
        let (interval, max_interval) = (Duration::ZERO, Duration::ZERO);
        let (in_flight, was_checked, was_up, is_up, is_outdated) =
            (false, false, false, false, false);
        Self {
            changes: backend.addresses.changes(),
            backend,
            last_start: now,
            interval,
            max_interval,
            in_flight,
            was_checked,
            was_up,
            is_up,
            is_outdated,
            is_urgent: false,
            name: NameState::Pending,
        }
    }

    /// Whether its next check is to come.
    fn is_waiting(&self) -> bool {
        !self.in_flight && self.name == NameState::Resolved
    }

    fn due(&self) -> Instant {
        let interval = self.interval.min(self.max_interval);
        self.last_start + if self.is_urgent { interval.min(OUTAGE_DELAY) } else { interval }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::backend::AdminState;
    use crate::upstream::health::State;
    use crate::upstream::health_counts::HealthCounts;

    const PERIOD: Duration = Duration::from_secs(10);
    const SECOND: Duration = Duration::from_secs(1);

    /// A schedule, its backends, and a clock.
    struct Scene {
        schedule: Schedule,
        statuses: Vec<BackendStatus>,
        rng: fastrand::Rng,
        now: Instant,
    }

    impl Scene {
        fn new(period: Duration, backends: u16) -> Self {
            let status = |id: u16| BackendStatus {
                backend: Arc::new(Backend::at(id.into(), ([127, 0, 0, 1], id + 1).into())),
                state: State::Unknown,
                admin_state: AdminState::Active,
                since: Instant::now(),
                admin_since: Instant::now(),
                detail: String::new(),
                is_spared: false,
                in_transition: false,
                name: NameState::Resolved,
                counts: HealthCounts::default(),
            };
            let statuses = (0..backends).map(status).collect();
            Self {
                schedule: Schedule::new(period),
                statuses,
                rng: fastrand::Rng::with_seed(7),
                now: Instant::now(),
            }
        }

        /// The backends that are due now.
        fn due(&mut self) -> Vec<u32> {
            self.schedule.update(self.statuses.clone(), self.now);
            self.schedule
                .take_due(self.now, &mut self.rng)
                .iter()
                .map(|backend| backend.id.0)
                .collect()
        }

        fn end(&mut self, id: u32, is_up: bool) {
            self.statuses[id as usize].state = if is_up { State::Up } else { State::Down };
            self.schedule.ended(BackendId(id), true);
            self.schedule.update(self.statuses.clone(), self.now);
        }

        /// The time until the next check.
        fn wait(&self) -> Duration {
            self.schedule.next_due().expect("one waits").saturating_duration_since(self.now)
        }

        fn pass(&mut self, time: Duration) {
            self.now += time;
        }
    }

    #[test]
    fn the_first_checks_of_all_backends_are_due_at_once() {
        let mut scene = Scene::new(PERIOD, 600);
        assert_eq!(scene.due().len(), 600);
        assert!(!scene.schedule.is_first_round_over());
        assert_eq!(scene.due().len(), 0, "one check of a backend at a time");
        assert_eq!(scene.schedule.next_due(), None);
        (0..600).for_each(|id| scene.end(id, true));
        assert!(scene.schedule.is_first_round_over());
    }

    #[test]
    fn a_backend_that_is_up_is_checked_once_per_period_or_up_to_a_tenth_earlier() {
        let mut scene = Scene::new(PERIOD, 1);
        for _ in 0..20 {
            assert_eq!(scene.due(), [0]);
            scene.end(0, true);
            let wait = scene.wait();
            assert!(wait <= PERIOD && wait >= PERIOD.mul_f64(0.9), "{wait:?}");
            scene.pass(wait);
        }
    }

    #[test]
    fn a_check_that_takes_its_whole_period_is_followed_by_the_next_at_once() {
        let mut scene = Scene::new(SECOND, 200);
        for _ in 0..5 {
            assert_eq!(scene.due().len(), 200);
            scene.pass(SECOND);
            (0..200).for_each(|id| scene.end(id, false));
            assert_eq!(scene.wait(), Duration::ZERO);
        }
    }

    #[test]
    fn while_the_only_backend_that_is_up_is_spared_all_are_checked_once_per_second() {
        let mut scene = Scene::new(PERIOD, 2);
        scene.due();
        scene.end(0, true);
        scene.end(1, true);
        scene.pass(PERIOD);
        scene.due();
        scene.end(0, false);
        scene.end(1, true);
        scene.pass(SECOND);
        assert_eq!(scene.due(), [0], "once more, because it was just marked down");
        scene.end(0, false);
        scene.pass(SECOND);
        assert_eq!(scene.due(), [0_u32; 0]);
        scene.statuses[1].is_spared = true;
        assert_eq!(scene.due(), [0, 1]);
        scene.end(0, false);
        scene.end(1, true);
        assert_eq!(scene.wait(), SECOND);
    }

    #[test]
    fn when_the_last_backend_goes_the_others_are_checked_at_once_and_once() {
        let millis = Duration::from_millis;
        for is_spared in [true, false] {
            let mut scene = Scene::new(PERIOD, 2);
            scene.due();
            scene.end(0, false);
            scene.end(1, true);
            scene.pass(millis(60));
            // Failed attempts have taken the last backend, or it is up only because it is the last.
            scene.statuses[1].state = if is_spared { State::Up } else { State::Unreachable };
            scene.statuses[1].is_spared = is_spared;
            assert_eq!(scene.due(), [0_u32; 0], "it was checked a moment ago");
            scene.pass(millis(40));
            let due = scene.due();
            assert!(due.contains(&0), "it may have recovered since its last check");
            due.into_iter().for_each(|id| scene.end(id, is_spared && id == 1));
            scene.pass(millis(500));
            assert_eq!(scene.due(), [0_u32; 0], "once");
        }
    }

    #[test]
    fn while_no_backend_is_up_all_are_checked_once_per_second() {
        let mut scene = Scene::new(PERIOD, 2);
        scene.due();
        scene.end(0, true);
        scene.end(1, true);
        scene.pass(PERIOD);
        assert_eq!(scene.due(), [0, 1]);
        scene.end(0, false);
        scene.end(1, true);
        scene.pass(SECOND);
        assert_eq!(scene.due(), [0], "once more");
        scene.end(0, false);
        assert!(scene.wait() > 7 * SECOND, "the other one serves");
        scene.pass(PERIOD);
        assert_eq!(scene.due(), [0, 1]);
        scene.end(0, false);
        scene.end(1, false);
        assert_eq!(scene.wait(), OUTAGE_DELAY, "once at the beginning of the outage");
        scene.pass(OUTAGE_DELAY);
        assert_eq!(scene.due(), [0, 1]);
        scene.end(0, false);
        scene.end(1, false);
        assert_eq!(scene.wait(), SECOND);
        scene.pass(SECOND);
        assert_eq!(scene.due(), [0, 1]);
        scene.end(0, true);
        scene.end(1, false);
        assert!(scene.wait() > 8 * SECOND, "one serves again");
    }

    #[test]
    fn a_backend_that_was_never_up_is_checked_once_per_second_while_others_serve() {
        let mut scene = Scene::new(PERIOD, 2);
        scene.due();
        scene.end(0, true);
        for _ in 0..8 {
            scene.end(1, false);
            assert_eq!(scene.wait(), SECOND);
            scene.pass(SECOND - Duration::from_millis(1));
            assert!(!scene.due().contains(&1));
            scene.pass(Duration::from_millis(1));
            assert!(scene.due().contains(&1));
            scene.end(0, true);
        }
        scene.end(1, true);
        scene.pass(PERIOD);
        assert!(scene.due().contains(&1));
        scene.end(1, false);
        scene.pass(SECOND);
        assert!(scene.due().contains(&1), "once more, because it was just marked down");
        scene.end(1, false);
        scene.pass(2 * SECOND);
        assert!(!scene.due().contains(&1), "a backend that has been up is checked once per period");
    }

    #[test]
    fn a_backend_whose_state_is_about_to_change_is_checked_within_a_second() {
        let mut scene = Scene::new(PERIOD, 2);
        scene.due();
        scene.end(0, true);
        scene.end(1, true);
        scene.pass(3 * SECOND);
        scene.statuses[1].in_transition = true;
        assert_eq!(scene.due(), [1], "its last check was three seconds ago");
        scene.end(1, true);
        assert_eq!(scene.wait(), SECOND);
    }

    /// The time from a failure just after a passed check, the worst case, to the end of the second
    /// failed check, each of which takes `check`.
    fn time_to_two_failures(check: Duration) -> Duration {
        let mut scene = Scene::new(PERIOD, 2);
        scene.due();
        scene.end(0, true);
        scene.end(1, true);
        let start = scene.now;
        for in_transition in [true, false] {
            while !scene.due().contains(&1) {
                scene.pass(scene.wait());
            }
            scene.pass(check);
            scene.statuses[1].in_transition = in_transition;
            scene.end(1, in_transition);
        }
        scene.now - start
    }

    #[test]
    fn a_dead_backend_fails_two_checks_within_a_period_and_a_second() {
        let took = time_to_two_failures(Duration::ZERO);
        assert!(took > PERIOD.mul_f64(0.9) && took <= PERIOD + SECOND, "{took:?}");
    }

    #[test]
    fn a_hanging_backend_fails_two_checks_within_a_period_a_second_and_two_timeouts() {
        let took = time_to_two_failures(2 * SECOND);
        assert!(took > PERIOD && took <= PERIOD + SECOND + 2 * (2 * SECOND), "{took:?}");
    }

    #[test]
    fn without_backends_the_first_round_is_over_at_once() {
        let mut scene = Scene::new(PERIOD, 0);
        scene.due();
        assert!(scene.schedule.is_first_round_over());
    }

    #[test]
    fn a_check_without_a_result_is_repeated_within_a_second() {
        let mut scene = Scene::new(PERIOD, 1);
        scene.due();
        scene.end(0, true);
        scene.pass(PERIOD);
        scene.due();
        scene.schedule.ended(BackendId(0), false);
        assert_eq!(scene.wait(), SECOND);
    }

    #[test]
    fn a_shorter_period_applies_at_once_and_a_longer_one_after_the_next_check() {
        let mut scene = Scene::new(PERIOD, 1);
        scene.due();
        scene.end(0, true);
        scene.pass(2 * SECOND);
        scene.schedule.set_period(SECOND);
        assert_eq!(scene.due().len(), 1);
        scene.end(0, true);
        scene.schedule.set_period(PERIOD);
        scene.pass(SECOND);
        assert_eq!(scene.due().len(), 1);
        scene.end(0, true);
        assert!(scene.wait() >= PERIOD.mul_f64(0.9));
    }

    #[test]
    fn a_removed_backend_is_not_checked() {
        let mut scene = Scene::new(PERIOD, 2);
        scene.statuses.remove(0);
        assert_eq!(scene.due(), [1]);
        assert!(scene.schedule.ended(BackendId(0), true).is_none());
    }
}
