//! The algorithms that choose a backend for each request: one row of a table and one file each.
//!
//! An algorithm is two pure functions: `cycle` runs once per snapshot, under the registry's mutex,
//! and `choose` once per request, on workers. `choose` reads the snapshot and the backends' counts,
//! and must never lock or allocate.

mod choice;
mod round_robin;
#[cfg(test)]
mod shares;

pub use choice::Choice;

use super::backend::Backend;
use fastrand::Rng;
use std::fmt;
use std::sync::Arc;

/// An algorithm's names and functions.
#[derive(Debug)]
pub struct Row {
    /// The name, then other spellings; in lower case with `_`.
    names: &'static [&'static str],
    /// The order of the backends that are up: indices; empty if the algorithm needs none.
    pub(super) cycle: fn(&[Arc<Backend>]) -> Box<[u32]>,
    /// The index of the chosen backend; none if no backend is usable.
    pub(super) choose: fn(&Choice<'_>, &mut Rng) -> Option<usize>,
}

macro_rules! algorithms {
    ($($(#[$meta:meta])* $variant:ident, $module:ident, $($name:literal),+;)*) => {
        /// An algorithm.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub enum Algorithm { $($(#[$meta])* $variant,)* }

        impl Algorithm {
            /// Every algorithm, in the order of the table.
            pub const ALL: &'static [Algorithm] = &[$(Algorithm::$variant),*];

            pub(super) const fn row(self) -> &'static Row {
                match self {
                    $(Algorithm::$variant => &Row {
                        names: &[$($name),+],
                        cycle: $module::cycle,
                        choose: $module::choose,
                    }),*
                }
            }
        }
    };
}

// The variant, the module with `cycle` and `choose`, the name, then other spellings. The module is
// declared above, where rustfmt finds it.
algorithms! {
    /// Each backend in turn.
    #[default]
    RoundRobin, round_robin, "round_robin", "rr", "roundrobin";
}

impl Algorithm {
    /// The algorithm of this name, in any spelling: case does not matter, `-` is `_`.
    pub fn parse(name: &str) -> Result<Self, UnknownAlgorithm> {
        let spelling = name.trim().to_ascii_lowercase().replace('-', "_");
        let has_spelling = |one: &&Self| one.row().names.contains(&spelling.as_str());
        let found = Self::ALL.iter().find(has_spelling);
        found.copied().ok_or_else(|| UnknownAlgorithm(name.to_owned()))
    }

    /// The name in settings, logs and statistics.
    pub fn name(self) -> &'static str {
        self.row().names[0]
    }
}

/// No algorithm has this name.
#[derive(Debug, PartialEq, Eq)]
pub struct UnknownAlgorithm(String);

impl fmt::Display for UnknownAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = Algorithm::ALL.iter().map(|one| one.name()).collect();
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
        let rows = Algorithm::ALL.iter().map(|one| one.row());
        let mut names: Vec<&str> = rows.flat_map(|row| row.names).copied().collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
