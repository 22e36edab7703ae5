//! The states of an exchange, and the results of a state.

use super::closing::Closing;
use super::stop::Stop;
use crate::config::Deadline;
use crate::reason::Reason;

/// The state of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Deciding whether the request is forwarded at all.
    Admit,
    /// Choosing a backend and a connection to it.
    Dispatch,
    /// Waiting for a slot at a backend.
    Queued,
    /// Buffering a whole chunked body, for a backend that does not support chunks.
    BufferBody,
    /// Waiting for a connect to succeed.
    Connecting,
    /// Sending the request and reading an early response.
    SendRequest,
    /// Awaiting the response to a request that was sent.
    AwaitResponse,
    /// Forwarding the response.
    ForwardResponse,
}

impl State {
    /// The name of the state in the log.
    pub(super) fn stage(self) -> &'static str {
        match self {
            Self::Admit => "head",
            Self::Dispatch => "dispatch",
            Self::Queued => "queue",
            Self::BufferBody | Self::SendRequest => "request body",
            Self::Connecting => "connect",
            Self::AwaitResponse => "await response",
            Self::ForwardResponse => "response body",
        }
    }
}

/// The end of a state without a failure.
#[derive(Debug)]
pub(super) enum Flow {
    /// Another state runs at once. Handled inside the exchange.
    Goto(State),
    /// The exchange waits until a socket is ready or the deadline has passed.
    Wait(Deadline),
    /// The I/O budget of the step is used up.
    BudgetUsed,
    /// The response is sent, and the client's connection stays open.
    Done,
    /// The exchange is over; a response of our own or a lingering close follows.
    Closing(Box<Closing>),
    /// The connection was upgraded to another protocol.
    Upgraded,
    /// The connection is over.
    Close(Reason),
}

impl From<Closing> for Flow {
    /// Boxed, because each state returns a `Flow`, and only the last one of some has a `Closing`.
    fn from(closing: Closing) -> Self {
        Self::Closing(Box::new(closing))
    }
}

/// The result of a state.
pub(super) type StateResult = Result<Flow, Stop>;
