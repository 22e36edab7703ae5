//! Failures as values: early ends of an exchange or an attempt. `?` carries them to the one place
//! that handles them.

use crate::config::Deadline;
use crate::error::Cause;
use crate::reason::Reason;
use crate::upstream::retry::FailureKind;
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
    /// The criterion of the retry contract.
    pub(super) failed: FailureKind,
    /// The client's error if there is no retry.
    pub(super) cause: Cause,
    /// The detail for the log.
    pub(super) detail: String,
}

impl AttemptError {
    pub(super) fn new(failed: FailureKind, cause: Cause, detail: impl Into<String>) -> Self {
        Self { failed, cause, detail: detail.into() }
    }

    /// The connection could not be opened.
    pub(super) fn connect(error: &std::io::Error) -> Self {
        Self::new(FailureKind::Connect, Cause::ConnectFailed, error.to_string())
    }

    /// The head of the response is invalid or truncated.
    pub(super) fn bad_response(detail: &'static str) -> Self {
        Self::new(FailureKind::BadResponse, Cause::BadResponse, detail)
    }
}

impl Deadline {
    /// The deadline to wait for, or the failure because it has passed. Call it after the socket has
    /// blocked, so that an event wins over the clock.
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
