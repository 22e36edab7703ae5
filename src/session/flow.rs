//! The states of an exchange, and how one ends.

use super::closing::Closing;
use super::stop::Stop;
use crate::config::Deadline;
use crate::reason::Reason;

/// The state of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Deciding whether the request is to be served at all.
    Admit,
    /// Choosing a backend and a connection to it.
    Dispatch,
    /// Waiting for a slot at a backend.
    Queued,
    /// Taking a whole chunked body in, for a backend that does not support chunks.
    BufferBody,
    /// Waiting for a connect.
    Connecting,
    /// Sending the request; an early response is looked for.
    SendRequest,
    /// The request is sent; its response is awaited.
    AwaitResponse,
    /// Forwarding the response.
    ForwardResponse,
}

impl State {
    /// Its name in the log.
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

/// How a state ends.
#[derive(Debug)]
pub(super) enum Flow {
    /// The next state is to be run at once. Never leaves the exchange.
    Goto(State),
    /// Nothing can be done before a socket is ready or the deadline has passed.
    Wait(Deadline),
    /// The step's share is used.
    ShareUsed,
    /// The response is sent, and the client's connection stays open.
    Done,
    /// The connection ends, with this left to do.
    Closing(Closing),
    /// Another protocol is spoken from now on.
    Upgraded,
    /// The connection is over.
    Close(Reason),
}

/// The result of a state.
pub(super) type Step = Result<Flow, Stop>;
