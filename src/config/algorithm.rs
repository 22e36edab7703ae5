//! The algorithms: their names and spellings. Plain values; `upstream::balance` has their functions.

use super::nearest;
use super::values::Show;

/// The table of algorithms, given to the macro `$rows`: the variant, the module in
/// `upstream::balance` with `cycle` and `choose`, the name, then other spellings in lower case with
/// `_`.
macro_rules! algorithms {
    ($rows:ident) => {
        $rows! {
            /// Each backend in turn.
            #[default]
            RoundRobin, round_robin, "round_robin", "rr", "roundrobin";
            /// Each backend in turn, as often as its weight, interleaved.
            Weighted, weighted, "weighted", "weighted_round_robin", "wrr";
            /// The backend with the fewest requests in flight per weight.
            LeastConn, least_conn, "least_conn", "least_connections", "leastconn", "lc",
                "least_outstanding_requests";
            /// Faster and less busy backends more often.
            LeastResponseTime, least_response_time, "least_response_time", "least_time", "lrt",
                "ewma";
            /// Any backend, as often as its weight.
            Random, random, "random";
            /// The less busy of two backends that are chosen at random.
            P2c, p2c, "p2c", "random_two", "power_of_two";
            /// The same backend for the same client.
            IpHash, ip_hash, "ip_hash", "hashing", "hash", "source", "client_ip_hash";
        }
    };
}
pub(crate) use algorithms;

macro_rules! names {
    ($($(#[$meta:meta])* $variant:ident, $module:ident, $($name:literal),+;)*) => {
        /// An algorithm, which chooses a backend for each request.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub enum Algorithm { $($(#[$meta])* $variant,)* }

        impl Algorithm {
            /// Every algorithm, in the order of the table.
            pub const ALL: &'static [Algorithm] = &[$(Algorithm::$variant),*];

            /// Every name, in the order of the table.
            pub const NAMES: &'static [&'static str] = &[$(Algorithm::$variant.name()),*];

            /// Its name, then its other spellings.
            pub const fn spellings(self) -> &'static [&'static str] {
                match self {
                    $(Algorithm::$variant => &[$($name),+]),*
                }
            }
        }
    };
}
algorithms!(names);

impl Algorithm {
    /// The algorithm of this name, in any spelling: case does not matter, `-` is `_`. The error has
    /// the nearest name, and all.
    pub fn parse(text: &str) -> Result<Self, String> {
        let spelling = text.trim().to_ascii_lowercase().replace('-', "_");
        let has_spelling = |one: &&Self| one.spellings().contains(&spelling.as_str());
        Self::ALL.iter().find(has_spelling).copied().ok_or_else(|| {
            let spellings = Self::ALL.iter().flat_map(|one| one.spellings()).copied();
            let hint = nearest(&spelling, spellings)
                .map_or(String::new(), |near| format!(" (did you mean {near}?)"));
            format!("`{text}` is not an algorithm{hint}; use one of: {}", Self::NAMES.join(", "))
        })
    }

    /// The name in settings, logs and statistics.
    pub const fn name(self) -> &'static str {
        self.spellings()[0]
    }
}

impl Show for Algorithm {
    fn show(&self) -> Option<String> {
        Some(self.name().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_algorithm_is_found_by_each_spelling_in_any_case() {
        for algorithm in Algorithm::ALL {
            for spelling in algorithm.spellings() {
                let dashed = format!(" {} ", spelling.to_uppercase().replace('_', "-"));
                for text in [spelling, dashed.as_str()] {
                    assert_eq!(Algorithm::parse(text), Ok(*algorithm), "{text}");
                }
            }
        }
        assert_eq!(Algorithm::default().name(), "round_robin");
    }

    #[test]
    fn the_spellings_of_other_balancers_are_accepted() {
        let rows = "round_robin|rr|roundrobin, weighted|weighted_round_robin|wrr, \
            least_conn|least_connections|leastconn|lc|least_outstanding_requests, \
            least_response_time|least_time|lrt|ewma, random, p2c|random_two|power_of_two, \
            ip_hash|hashing|hash|source|client_ip_hash";
        for row in rows.split(", ") {
            let mut spellings = row.split('|');
            let name = spellings.next().unwrap();
            for spelling in spellings {
                assert_eq!(Algorithm::parse(spelling).unwrap().name(), name);
            }
        }
    }

    #[test]
    fn an_unknown_name_gets_the_nearest_one_and_the_list() {
        let all = "use one of: round_robin, weighted, least_conn, least_response_time, random, p2c, ip_hash";
        for (text, hint) in [
            ("quantum", ""),
            ("", ""),
            ("Least-Con", " (did you mean least_conn?)"),
            ("roundrobbin", " (did you mean roundrobin?)"),
            ("iphash", " (did you mean ip_hash?)"),
        ] {
            let error = Algorithm::parse(text).unwrap_err();
            assert_eq!(error, format!("`{text}` is not an algorithm{hint}; {all}"));
        }
    }

    #[test]
    fn no_two_algorithms_share_a_spelling() {
        let mut names: Vec<&str> =
            Algorithm::ALL.iter().flat_map(|one| one.spellings()).copied().collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
