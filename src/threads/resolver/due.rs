//! The due times of names. Runs on the resolver thread; pure, with `now` as a parameter.
//!
//! A name is due at once for a new backend, and again a period after its last lookup; soon after one that has failed, while a
//! backend has no address; and soon after a failed connect or check.

use crate::upstream::health::NameState;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The time between two lookups of a name.
const PERIOD: Duration = Duration::from_secs(30);
/// The time until the first further lookup of a name without an address; it doubles with each one.
const MIN_RETRY: Duration = Duration::from_secs(1);
/// The time between two lookups of a name at whose addresses connects or checks fail.
const SUSPECT_PERIOD: Duration = Duration::from_secs(2);

/// The names of all backends.
#[derive(Debug, Default)]
pub struct Names {
    entries: BTreeMap<String, Entry>,
}

/// A name that backends have.
#[derive(Debug)]
pub struct Wanted {
    /// The host, without a port.
    pub host: String,
    /// The state of the name at its backend.
    pub state: NameState,
    /// Whether connects or checks of its backend have failed.
    pub is_suspect: bool,
}

#[derive(Debug)]
struct Entry {
    /// The end of the last lookup; none before the first.
    ended: Option<Instant>,
    added: Instant,
    in_flight: bool,
    /// Whether any backend has the name.
    is_wanted: bool,
    /// Whether a backend waits for the first result.
    is_pending: bool,
    /// Whether a backend has no address.
    is_unresolved: bool,
    is_suspect: bool,
    /// Consecutive lookups without an address.
    failures: u32,
}

/// The change in the lookups of a name: only changes are logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The first lookup that failed after one that succeeded.
    Failing,
    /// The first that succeeded after a failed one.
    Recovered,
    /// As before.
    None,
}

impl Names {
    /// Applies the names of all backends: new ones are due at once. A name may be listed once for
    /// each of its backends. One without a backend stays until its lookup has ended, so that a
    /// backend that is added again does not start a second one.
    pub fn update(&mut self, wanted: &[Wanted], now: Instant) {
        self.entries.retain(|host, entry| {
            entry.is_wanted = wanted.iter().any(|one| one.host == *host);
            entry.is_wanted || entry.in_flight
        });
        for entry in self.entries.values_mut() {
            (entry.is_pending, entry.is_unresolved) = (false, false);
        }
        for Wanted { host, state, is_suspect } in wanted {
            if !self.entries.contains_key(host) {
                self.entries.insert(host.clone(), Entry::new(now));
            }
            if let Some(entry) = self.entries.get_mut(host) {
                entry.is_pending |= *state == NameState::Pending;
                entry.is_unresolved |= state.is_unusable();
                entry.is_suspect |= is_suspect;
            }
        }
    }

    /// Takes the names that are due, the longest due ones first, while fewer than `limit` lookups are
    /// in flight.
    pub fn take_due(&mut self, now: Instant, limit: usize) -> Vec<String> {
        let room = limit.saturating_sub(self.in_flight());
        let waiting = self.entries.iter_mut().filter(|(_, entry)| !entry.in_flight);
        let mut due: Vec<_> = waiting.filter(|(_, entry)| entry.due() <= now).collect();
        due.sort_by_key(|(_, entry)| entry.due());
        due.truncate(room);
        let take = |(host, entry): (&String, &mut Entry)| {
            (entry.in_flight, entry.is_suspect) = (true, false);
            host.clone()
        };
        due.into_iter().map(take).collect()
    }

    /// Ends the lookup of a name.
    pub fn ended(&mut self, host: &str, has_addresses: bool, now: Instant) -> Turn {
        let Some(entry) = self.entries.get_mut(host) else {
            return Turn::None;
        };
        (entry.in_flight, entry.ended) = (false, Some(now));
        if !entry.is_wanted {
            self.entries.remove(host);
            return Turn::None;
        }
        let had_failed = entry.failures > 0;
        entry.failures = if has_addresses { 0 } else { entry.failures.saturating_add(1) };
        match (had_failed, has_addresses) {
            (false, false) => Turn::Failing,
            (true, true) => Turn::Recovered,
            _ => Turn::None,
        }
    }

    /// The time of the next lookup, if any may be started before another one ends.
    pub fn next_due(&self, limit: usize) -> Option<Instant> {
        if self.in_flight() >= limit {
            return None;
        }
        self.entries.values().filter(|entry| !entry.in_flight).map(Entry::due).min()
    }

    /// Whether the first lookup of every name has ended.
    pub fn is_first_round_over(&self) -> bool {
        self.entries.values().all(|entry| entry.ended.is_some() || !entry.is_wanted)
    }

    fn in_flight(&self) -> usize {
        self.entries.values().filter(|entry| entry.in_flight).count()
    }
}

impl Entry {
    fn new(now: Instant) -> Self {
        Self {
            ended: None,
            added: now,
            in_flight: false,
            is_wanted: true,
            is_pending: false,
            is_unresolved: false,
            is_suspect: false,
            failures: 0,
        }
    }

    fn due(&self) -> Instant {
        let Some(ended) = self.ended else {
            return self.added;
        };
        if self.is_pending {
            return ended;
        }
        let retry = MIN_RETRY * 2_u32.pow(self.failures.saturating_sub(1).min(5));
        let mut interval = PERIOD;
        if self.is_unresolved && self.failures > 0 {
            interval = interval.min(retry);
        }
        if self.is_suspect {
            interval = interval.min(SUSPECT_PERIOD);
        }
        ended + interval
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use NameState::{Pending, Resolved, Unresolved};

    const SECOND: Duration = Duration::from_secs(1);

    fn wanted(host: &str, state: NameState, is_suspect: bool) -> Wanted {
        Wanted { host: host.to_owned(), state, is_suspect }
    }

    /// The seconds until each of the next lookups of a name, all with this result.
    fn seconds(state: NameState, is_suspect: bool, has_addresses: bool) -> Vec<u64> {
        let (mut names, mut now) = (Names::default(), Instant::now());
        let mut waits = Vec::new();
        for _ in 0..8 {
            names.update(&[wanted("app", state, is_suspect)], now);
            let due = names.next_due(1).expect("it waits");
            waits.push((due - now).as_secs());
            now = due;
            assert_eq!(names.take_due(now, 1), ["app"]);
            names.ended("app", has_addresses, now);
        }
        waits
    }

    #[test]
    fn a_name_is_resolved_at_once_and_then_every_thirty_seconds() {
        assert_eq!(seconds(Resolved, false, true), [0, 30, 30, 30, 30, 30, 30, 30]);
        assert_eq!(seconds(Resolved, false, false)[1..], [30; 7], "its last addresses stay");
    }

    #[test]
    fn a_name_without_an_address_is_resolved_again_soon_and_then_less_often() {
        assert_eq!(seconds(Unresolved, false, false), [0, 1, 2, 4, 8, 16, 30, 30]);
    }

    #[test]
    fn failures_at_its_addresses_make_a_name_due_soon_but_not_all_the_time() {
        assert_eq!(seconds(Resolved, true, true), [0, 2, 2, 2, 2, 2, 2, 2]);
        let (mut names, start) = (Names::default(), Instant::now());
        names.update(&[wanted("app", Resolved, false)], start);
        names.take_due(start, 1);
        names.ended("app", true, start);
        let later = start + 20 * SECOND;
        names.update(&[wanted("app", Resolved, true)], later);
        assert_eq!(names.take_due(later, 1), ["app"], "its last lookup was long ago");
    }

    #[test]
    fn a_name_is_resolved_at_once_for_another_backend_with_it() {
        let (mut names, now) = (Names::default(), Instant::now());
        names.update(&[wanted("app", Resolved, false)], now);
        names.take_due(now, 1);
        names.ended("app", true, now);
        let both = [wanted("app", Resolved, false), wanted("app", Pending, false)];
        names.update(&both, now);
        assert_eq!(names.take_due(now, 1), ["app"]);
        names.update(&both, now);
        assert_eq!(names.next_due(2), None, "one lookup of a name at a time");
    }

    #[test]
    fn a_lookup_that_hangs_delays_no_other_up_to_the_limit_and_the_longest_due_come_first() {
        let (mut names, now) = (Names::default(), Instant::now());
        let hosts = ["a", "b", "c"].map(|host| wanted(host, Unresolved, false));
        names.update(&hosts, now);
        assert_eq!(names.take_due(now, 2), ["a", "b"]);
        assert_eq!(names.next_due(2), None, "two may hang");
        names.ended("b", false, now);
        assert_eq!(names.next_due(2), Some(now));
        let later = now + 10 * SECOND;
        assert_eq!(names.take_due(later, 2), ["c"], "it has waited for longer than b");
        assert!(!names.is_first_round_over());
        names.ended("c", true, later);
        assert_eq!(names.take_due(later, 2), ["b"]);
    }

    #[test]
    fn a_lookup_that_hangs_counts_after_its_backend_was_removed_and_serves_the_next_one() {
        let (mut names, now) = (Names::default(), Instant::now());
        names.update(&[wanted("app", Pending, false)], now);
        assert_eq!(names.take_due(now, 2), ["app"]);
        for _ in 0..3 {
            names.update(&[], now);
            names.update(&[wanted("app", Pending, false), wanted("db", Pending, false)], now);
            assert!(!names.take_due(now, 2).contains(&"app".to_owned()), "it is being looked up");
        }
        assert_eq!(names.next_due(2), None, "two lookups may hang, whatever their backends");
        names.ended("app", true, now);
        names.update(&[], now);
        names.update(&[wanted("app", Pending, false)], now);
        assert_eq!(names.take_due(now, 2), ["app"], "it is forgotten once its lookup has ended");
    }

    #[test]
    fn a_name_that_no_backend_has_is_forgotten() {
        let (mut names, now) = (Names::default(), Instant::now());
        names.update(&[wanted("a", Unresolved, false), wanted("a", Resolved, false)], now);
        assert_eq!(names.take_due(now, 9), ["a"], "one lookup for both backends");
        names.update(&[], now);
        assert_eq!(names.ended("a", false, now), Turn::None);
        assert!(names.is_first_round_over() && names.next_due(9).is_none());
    }

    #[test]
    fn only_the_first_failure_and_the_first_success_are_turns() {
        let (mut names, now) = (Names::default(), Instant::now());
        names.update(&[wanted("a", Resolved, false)], now);
        let turns = [true, false, false, true, true].map(|has| names.ended("a", has, now));
        assert_eq!(turns, [Turn::None, Turn::Failing, Turn::None, Turn::Recovered, Turn::None]);
    }
}
