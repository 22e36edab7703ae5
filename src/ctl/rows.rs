//! The JSON of the control API, as a client reads it. Pure.
//!
//! Fields that are not known here are ignored, since a newer balancer may send more.

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::marker::PhantomData;

/// A backend.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Row {
    /// Its normalised URL, which is its identity.
    pub url: String,
    /// Its share of requests relative to other backends, from 1 to 1000.
    pub weight: u32,
    /// Whether its health alone allows requests.
    pub healthy: bool,
    /// `up`, `down`, `ejected`, `draining` or `removed`.
    pub state: String,
    /// The time of its last change of state, in RFC 3339.
    pub since: Option<String>,
    /// The reason for its state, a fragment of a sentence.
    pub why: Option<String>,
    /// Its requests in flight.
    pub in_flight: u64,
    /// Its share of the requests of the last minute, from 0 to 1.
    pub share: Option<f64>,
    /// A doubt about the change that was made.
    pub warning: Option<String>,
}

/// All backends.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Listing {
    /// The algorithm in use.
    pub algorithm: String,
    /// The backends.
    pub backends: Vec<Row>,
}

/// The algorithm after a change.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Scheduler {
    /// The algorithm in use.
    pub algorithm: String,
}

/// The effects of a reload.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Reload {
    /// The changes that were applied.
    pub changes: Vec<String>,
    /// The changes that take effect at the next start.
    #[serde(default)]
    pub next_start: Vec<String>,
    /// The values of the control API that differ from the file and stay.
    #[serde(default)]
    pub kept: Vec<String>,
}

/// The statistics of some periods, by name.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Statistics {
    /// In the order in which they were asked for.
    pub periods: Ordered<PeriodNumbers>,
}

/// The statistics of one period.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct PeriodNumbers {
    /// All requests.
    pub total: Numbers,
    /// By URL.
    pub backends: Ordered<Numbers>,
}

/// The numbers of one backend, or of all. Shares and rates are from 0 to 1, times in milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Numbers {
    /// The number of requests.
    pub requests: u64,
    /// The share of all requests.
    pub share: f64,
    /// The number of errors.
    pub errors: u64,
    /// The errors per request.
    pub error_rate: f64,
    /// The requests per second.
    pub requests_per_second: f64,
    /// The average response time.
    pub avg_ms: f64,
    /// The median.
    pub p50_ms: f64,
    /// The 95th percentile.
    pub p95_ms: f64,
    /// The 99th percentile.
    pub p99_ms: f64,
    /// The maximum.
    pub max_ms: f64,
}

/// A JSON object in its order.
#[derive(Clone, Debug, PartialEq)]
pub struct Ordered<V>(pub Vec<(String, V)>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Ordered<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<V>(PhantomData<V>);

        impl<'de, V: Deserialize<'de>> Visitor<'de> for Entries<V> {
            type Value = Ordered<V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Ordered(entries))
            }
        }

        deserializer.deserialize_map(Entries(PhantomData))
    }
}

/// An error of the API.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Rejection {
    /// The problem and its fix, one sentence.
    pub error: String,
    /// The code of the problem.
    pub code: String,
    /// All problems of a configuration file.
    #[serde(default)]
    pub problems: Vec<FileProblem>,
}

/// A problem of a configuration file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct FileProblem {
    /// The file.
    pub file: Option<String>,
    /// The line, from 1 on.
    pub line: Option<usize>,
    /// The character in the line, from 1 on.
    pub column: Option<usize>,
    /// The key.
    pub key: Option<String>,
    /// The problem, with the value.
    pub message: String,
    /// The right form, or the fix.
    pub hint: Option<String>,
}

impl fmt::Display for FileProblem {
    /// The problem in one line, as the balancer logs it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.file, self.line, self.column) {
            (Some(file), Some(line), Some(column)) => write!(f, "{file}:{line}:{column}: ")?,
            (Some(file), ..) => write!(f, "{file}: ")?,
            _ => {}
        }
        self.key.as_ref().map_or(Ok(()), |key| write!(f, "{key}: "))?;
        f.write_str(&self.message)?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, "; {hint}"))
    }
}
