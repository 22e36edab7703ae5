//! Failures as values: what ends an exchange, or an attempt, before its time. They travel by `?` to
//! the one place that acts on them.

use crate::config::Deadline;
use crate::error::Cause;
use crate::reason::Reason;
use crate::upstream::retry::Failed;
use std::time::Instant;

/// Why a state cannot go on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The client gets an error response.
    Reject(Cause),
    /// The connection is over.
    Close(Reason),
    /// The attempt has failed; another may follow.
    AttemptFailed(AttemptError),
}

/// How an attempt has failed before a byte of its response was forwarded.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct AttemptError {
    /// What the retry contract goes by.
    pub(super) failed: Failed,
    /// What the client is told if nothing follows.
    pub(super) cause: Cause,
    /// What was seen, for the log.
    pub(super) detail: String,
}

impl AttemptError {
    pub(super) fn new(failed: Failed, cause: Cause, detail: impl Into<String>) -> Self {
        Self { failed, cause, detail: detail.into() }
    }

    /// The connection could not be opened.
    pub(super) fn connect(error: &std::io::Error) -> Self {
        Self::new(Failed::Connect, Cause::ConnectFailed, error.to_string())
    }

    /// The head of the response is invalid or broke off.
    pub(super) fn bad_response(detail: &'static str) -> Self {
        Self::new(Failed::BadResponse, Cause::BadResponse, detail)
    }
}

impl Deadline {
    /// The deadline to wait for, or what happens because it has passed. To be asked after the
    /// socket has said that it is not ready, so that an event wins over the clock.
    pub(super) fn unless_passed(self, now: Instant, late: impl Into<Stop>) -> Result<Self, Stop> {
        if self.has_passed(now) { Err(late.into()) } else { Ok(self) }
    }
}

impl From<Cause> for Stop {
    fn from(cause: Cause) -> Self {
        Self::Reject(cause)
    }
}

impl From<Reason> for Stop {
    fn from(reason: Reason) -> Self {
        Self::Close(reason)
    }
}

impl From<AttemptError> for Stop {
    fn from(error: AttemptError) -> Self {
        Self::AttemptFailed(error)
    }
}
