//! A backend as operators see it. Plain values, whose order of fields is the order in JSON.

use crate::clock::Calendar;
use crate::upstream::backend::AdminState;
use crate::upstream::health::State;
use crate::upstream::registry::BackendStatus;
use serde::Serialize;
use std::net::SocketAddr;
use std::time::Instant;

/// A backend and its state.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Its identity, normalised.
    pub url: String,
    /// The address of its name that is in use, if there is one.
    pub address: Option<SocketAddr>,
    /// The share of requests relative to other backends.
    pub weight: u32,
    /// Whether its health alone allows requests.
    pub healthy: bool,
    /// `up`, `down`, `ejected`, `draining` or `removed`.
    pub state: &'static str,
    /// When it got into this state: RFC 3339, UTC, with milliseconds.
    pub since: String,
    /// Why: a fragment of a sentence.
    pub why: String,
    /// Its requests in flight.
    pub in_flight: usize,
    /// Its share of the requests of the last minute, from 0 to 1.
    pub share: f64,
    /// A problem that an operator should look at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}

/// All backends, and the algorithm that chooses one of them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct List {
    /// The algorithm.
    pub algorithm: &'static str,
    /// The backends, in the order of their configuration.
    pub backends: Vec<Row>,
}

impl Row {
    /// The row of a member with this share.
    pub fn new(status: &BackendStatus, share: f64, calendar: &Calendar) -> Self {
        let backend = &status.backend;
        let (state, since, why) = described(status);
        Self {
            url: backend.authority.url(),
            address: backend.addresses.in_use(),
            weight: backend.weight(),
            healthy: backend.is_serving(),
            state,
            since: calendar.rfc3339(since),
            why,
            in_flight: backend.in_flight(),
            share,
            warning: None,
        }
    }

    /// The row after the removal of its backend.
    pub fn removed(self, calendar: &Calendar) -> Self {
        let (since, why) = (calendar.rfc3339(Instant::now()), "removed by an operator".to_owned());
        Self { state: "removed", since, why, ..self }
    }
}

/// The state of a member: `up`, `down`, `ejected` or `draining`.
pub fn state(status: &BackendStatus) -> &'static str {
    described(status).0
}

/// The state of a member, its time and its reason.
fn described(status: &BackendStatus) -> (&'static str, Instant, String) {
    let BackendStatus { state, since, admin_since, detail, .. } = status;
    match (status.admin_state, state) {
        (AdminState::Draining, _) => {
            ("draining", *admin_since, "drained by an operator".to_owned())
        }
        (AdminState::Removed, _) => ("removed", *admin_since, "removed".to_owned()),
        // No check has ended yet, so the backend gets no requests.
        (AdminState::Active, State::Unknown) => ("down", *since, detail.clone()),
        (AdminState::Active, State::Up) if admin_since > since => {
            ("up", *admin_since, format!("resumed by an operator; {detail}"))
        }
        (AdminState::Active, state) => (state.code(), *since, detail.clone()),
    }
}
