//! Failures as values: the early ends of an exchange or an attempt. `?` carries them to the one
//! place that handles them.

use crate::config::Deadline;
use crate::error::Cause;
use crate::reason::Reason;
use crate::upstream::retry::FailureKind;
use std::time::Instant;

/// The failure of a state.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The client gets an error response.
    Reject(Cause),
    /// The connection is over.
    Close(Reason),
    /// The attempt has failed; another may follow.
    AttemptFailed(AttemptError),
}

/// The failure of an attempt before a byte of its response was forwarded.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct AttemptError {
    /// The kind of failure, which the retry contract depends on.
    pub(super) kind: FailureKind,
    /// The cause in the client's error response, if there is no retry.
    pub(super) cause: Cause,
    /// The detail for the log.
    pub(super) detail: String,
}

impl AttemptError {
    pub(super) fn new(kind: FailureKind, cause: Cause, detail: impl Into<String>) -> Self {
        Self { kind, cause, detail: detail.into() }
    }

    /// The connection could not be opened.
    pub(super) fn connect(error: &std::io::Error) -> Self {
        Self::new(FailureKind::Connect, Cause::ConnectFailed, error.to_string())
    }

    /// No address has accepted the connection in time.
    pub(super) fn connect_timeout() -> Self {
        Self::new(FailureKind::Connect, Cause::ConnectTimeout, "the connect timed out")
    }

    /// The backend's name has no address any more.
    pub(super) fn unresolved() -> Self {
        Self::new(FailureKind::Connect, Cause::ConnectFailed, "its name has no address")
    }

    /// The backend was marked down before a byte of its response.
    pub(super) fn marked_down() -> Self {
        let detail = "it was marked down while its response was awaited";
        Self::new(FailureKind::MarkedDown, Cause::FirstByteTimeout, detail)
    }

    /// The head of the response is invalid or truncated.
    pub(super) fn bad_response(detail: &'static str) -> Self {
        Self::new(FailureKind::BadResponse, Cause::BadResponse, detail)
    }
}

impl Deadline {
    /// The deadline, or the failure `late` if it has passed. To be called after the socket has
    /// blocked, so that an event takes precedence over the clock.
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
