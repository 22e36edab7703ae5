//! Which backend gets the next request: one row of a table and one file per algorithm.
//!
//! Runs on workers, for each request. An algorithm is two pure functions: `cycle` runs once per
//! snapshot, when the backends that are up have changed, and `choose` once per request. It reads
//! the snapshot and the backends' counters, and must neither lock nor allocate in `choose`.

mod choice;
mod round_robin;
#[cfg(test)]
mod shares;

pub use choice::Choice;

use super::backend::Backend;
use fastrand::Rng;
use std::fmt;
use std::sync::Arc;

/// How backends are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// The backends take turns.
    #[default]
    RoundRobin,
}

/// An algorithm's names and functions.
#[derive(Debug)]
pub struct Row {
    algorithm: Algorithm,
    /// Its name, then its other spellings; in lower case with `_`.
    names: &'static [&'static str],
    /// The order of turns among the backends that are up: indices; empty if there is none.
    pub(super) cycle: fn(&[Arc<Backend>]) -> Box<[u32]>,
    /// The index of the chosen backend; none if none is usable.
    pub(super) choose: fn(&Choice<'_>, &mut Rng) -> Option<usize>,
}

static ALGORITHMS: [Row; 1] = [Row {
    algorithm: Algorithm::RoundRobin,
    names: &["round_robin", "rr", "roundrobin"],
    cycle: round_robin::cycle,
    choose: round_robin::choose,
}];

impl Algorithm {
    /// The algorithm of this name, in any spelling: case does not matter, `-` is `_`.
    pub fn parse(name: &str) -> Result<Self, UnknownAlgorithm> {
        let spelling = name.trim().to_ascii_lowercase().replace('-', "_");
        let row = ALGORITHMS.iter().find(|row| row.names.contains(&spelling.as_str()));
        row.map(|row| row.algorithm).ok_or_else(|| UnknownAlgorithm(name.to_owned()))
    }

    /// Its name in settings, logs and statistics.
    pub fn name(self) -> &'static str {
        self.row().names[0]
    }

    pub(super) fn row(self) -> &'static Row {
        let row = ALGORITHMS.iter().find(|row| row.algorithm == self);
        row.expect("every algorithm has a row")
    }
}

/// No algorithm has this name.
#[derive(Debug, PartialEq, Eq)]
pub struct UnknownAlgorithm(String);

impl fmt::Display for UnknownAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = ALGORITHMS.iter().map(|row| row.names[0]).collect();
        write!(f, "unknown algorithm {:?}; choose one of: {}", self.0, names.join(", "))
    }
}

impl std::error::Error for UnknownAlgorithm {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_algorithm_is_found_by_each_spelling_in_any_case() {
        for name in ["round_robin", "Round-Robin", "RR", "roundrobin", " rr "] {
            assert_eq!(Algorithm::parse(name), Ok(Algorithm::RoundRobin), "{name}");
        }
        assert_eq!(Algorithm::RoundRobin.name(), "round_robin");
    }

    #[test]
    fn an_unknown_name_gets_the_list_of_names() {
        let error = Algorithm::parse("fastest").unwrap_err();
        assert_eq!(error.to_string(), "unknown algorithm \"fastest\"; choose one of: round_robin");
    }

    #[test]
    fn no_two_algorithms_share_a_spelling() {
        let mut names: Vec<&str> = ALGORITHMS.iter().flat_map(|row| row.names).copied().collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
