//! The JSON of the control API, as a client reads it. Pure.
//!
//! Fields that are not known here are ignored, since a newer balancer may send more.

use serde::Deserialize;

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

/// An error of the API.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Rejection {
    /// The problem and its fix, one sentence.
    pub error: String,
    /// The code of the problem.
    pub code: String,
}
