//! The behaviour of an origin: steps, scripts made of steps or of a closure, and the well-behaved
//! ready-made ones.
//!
//! Only the vocabulary is here. `connection.rs` runs it, on the thread of each connection.

use std::sync::Arc;
use std::time::Duration;

use super::super::wait::Gate;
use super::super::wire::Framing;
use super::record::Received;
use super::reply::Reply;

/// One action of an origin on a connection.
#[derive(Clone, Debug)]
pub enum Step {
    /// Reads a request's head and records it. Responds to health checks on the way (see
    /// [`Health`]). The connection ends here, properly, if the peer closes before a head.
    ReadHead,
    /// Reads the body of the request whose head was read last: by `Content-Length`, chunked, or
    /// none.
    ReadBody,
    /// Reads head and body, with a `100 Continue` in between if the request expects one.
    ReadRequest,
    /// Reads this many bytes, whatever they are.
    ReadBytes(usize),
    /// Reads until the peer closes its sending side.
    ReadToEnd,
    /// Sends these bytes. See [`Step::send`].
    Send(Vec<u8>),
    /// Sends these bytes in pieces of `piece` bytes with a `pause` between two. See
    /// [`Step::send_slowly`].
    SendSlowly {
        /// The bytes.
        bytes: Vec<u8>,
        /// How many bytes at once.
        piece: usize,
        /// How long to wait between two pieces.
        pause: Duration,
    },
    /// Does nothing for a while.
    Pause(Duration),
    /// Waits until the test opens the gate, [`TEST_TIMEOUT`](super::super::PATIENCE) at most.
    WaitFor(Gate),
    /// Opens a gate that the test may wait for.
    Open(Gate),
    /// Closes the sending side only (FIN).
    ShutdownWrite,
    /// Closes the connection as a server does that has read all that came: with a FIN, not with a
    /// reset.
    Close,
    /// Resets the connection (RST).
    Reset,
    /// Holds the connection and discards its input, until the peer closes or the origin stops.
    Hang,
    /// Holds the connection and reads nothing, so that the peer's sending comes to a halt.
    Stall,
}

impl Step {
    /// [`Step::Send`] of anything that is bytes.
    pub fn send(bytes: impl AsRef<[u8]>) -> Self {
        Self::Send(bytes.as_ref().to_vec())
    }

    /// [`Step::SendSlowly`] of anything that is bytes.
    pub fn send_slowly(bytes: impl AsRef<[u8]>, piece: usize, pause: Duration) -> Self {
        let bytes = bytes.as_ref().to_vec();
        Self::SendSlowly { bytes, piece, pause }
    }
}

/// How an origin treats `GET /health`: by itself, not counted and not recorded, by default.
///
/// To distinguish a health check from a request, an origin reads the first bytes of a connection
/// before it counts it and before its script begins; only a script that begins with sending is not
/// kept waiting. A script that must begin at the accept with anything else (a close, a reset) needs
/// [`Health::Scripted`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// Responds 200.
    #[default]
    Healthy,
    /// Responds with this status.
    Status(u16),
    /// Sends exactly these bytes and closes.
    Raw(Vec<u8>),
    /// Closes without a response. (For a refused connect, stop the origin.)
    Close,
    /// Never responds.
    Hang,
    /// Is nothing special: the script sees the request, and all connections count from their accept
    /// on.
    Scripted,
}

/// The fate of a connection after the bytes of [`Script::raw`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// It stays and the next request gets the same bytes.
    Keep,
    /// It is closed.
    Close,
}

/// The behaviour of an origin on each of its connections. Cheap to clone.
#[derive(Clone)]
pub struct Script {
    plan: Arc<Plan>,
}

pub(super) type Handler = dyn Fn(&Received, &mut Reply<'_>) + Send + Sync;

enum Plan {
    Steps(Vec<Step>),
    Serve { reads_body: bool, handler: Box<Handler> },
    Sequence(Vec<Script>),
}

/// One connection's part of a script.
pub(super) enum Part<'a> {
    Steps(&'a [Step]),
    Serve { reads_body: bool, handler: &'a Handler },
}

impl Script {
    /// These steps on each connection, from the first again as long as the connection lives. A list
    /// that never reads a head is run once, and then the connection hangs.
    pub fn steps(steps: impl Into<Vec<Step>>) -> Self {
        Self::of(Plan::Steps(steps.into()))
    }

    /// This closure for each request, when head and body are read (with a `100 Continue` if one is
    /// expected).
    pub fn serve(handler: impl Fn(&Received, &mut Reply<'_>) + Send + Sync + 'static) -> Self {
        Self::of(Plan::Serve { reads_body: true, handler: Box::new(handler) })
    }

    /// This closure for each request, when its head is read. The rest of the body is read after it.
    pub fn serve_heads(
        handler: impl Fn(&Received, &mut Reply<'_>) + Send + Sync + 'static,
    ) -> Self {
        Self::of(Plan::Serve { reads_body: false, handler: Box::new(handler) })
    }

    /// The first script on the first connection, the second on the second, and the last on all that
    /// follow.
    ///
    /// Health checks are not counted here either, as long as no script of the sequence sends first.
    #[track_caller]
    pub fn sequence<One: Into<Script>>(scripts: impl IntoIterator<Item = One>) -> Self {
        let scripts: Vec<Script> = scripts.into_iter().map(Into::into).collect();
        assert!(!scripts.is_empty(), "a sequence needs at least one script");
        Self::of(Plan::Sequence(scripts))
    }

    /// 200 with this body to each request.
    pub fn responding(body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref().to_vec();
        Self::serve(move |_, reply| reply.ok(&body))
    }

    /// 200 with its name to each request, as body and as field `X-Origin`.
    pub fn named(name: &str) -> Self {
        let name = name.to_owned();
        Self::serve(move |_, reply| reply.respond(200, &[("X-Origin", &name)], &name))
    }

    /// 200 with the request's body to each request: with a length, or chunked and with its
    /// trailers, as it came.
    pub fn echo() -> Self {
        Self::serve(|request, reply| match request.framing {
            Framing::Chunked => reply.respond_chunked(&request.body, &request.trailers),
            _ => reply.ok(&request.body),
        })
    }

    /// Exactly these bytes to each request, when head and body are read.
    pub fn raw(bytes: impl AsRef<[u8]>, after: After) -> Self {
        let mut steps = vec![Step::ReadRequest, Step::send(bytes)];
        if after == After::Close {
            steps.push(Step::Close);
        }
        Self::steps(steps)
    }

    fn of(plan: Plan) -> Self {
        Self { plan: Arc::new(plan) }
    }

    /// The script of connection number `index`.
    pub(super) fn part(&self, index: usize) -> Part<'_> {
        match &*self.plan {
            Plan::Steps(steps) => Part::Steps(steps),
            Plan::Serve { reads_body, handler } => Part::Serve { reads_body: *reads_body, handler },
            Plan::Sequence(scripts) => scripts[index.min(scripts.len() - 1)].part(index),
        }
    }

    /// Whether the script sends before the peer has, so that nothing must be read before it begins.
    pub(super) fn talks_first(&self) -> bool {
        match &*self.plan {
            Plan::Steps(steps) => {
                matches!(steps.first(), Some(Step::Send(_) | Step::SendSlowly { .. }))
            }
            Plan::Serve { .. } => false,
            Plan::Sequence(scripts) => scripts.iter().any(Self::talks_first),
        }
    }
}

impl From<Vec<Step>> for Script {
    fn from(steps: Vec<Step>) -> Self {
        Self::steps(steps)
    }
}

impl<const N: usize> From<[Step; N]> for Script {
    fn from(steps: [Step; N]) -> Self {
        Self::steps(steps)
    }
}
