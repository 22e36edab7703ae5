//! How other threads reach a worker: messages into its inbox, and the counts that the listener goes
//! by.

use crate::error::Cause;
use crate::metrics::Counters;
use crate::net::Waker;
use crossbeam_channel::{Sender, TrySendError};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// What other threads tell a worker.
#[derive(Debug)]
pub enum Message {
    /// A client connection, now the worker's.
    Socket {
        /// The socket.
        socket: TcpStream,
        /// Its other end.
        peer: SocketAddr,
        /// Why it is not to be served, if it is one too many.
        refusal: Option<Cause>,
    },
    /// Finish what is in flight, and cut what is left at this moment, if there is one.
    Drain(Option<Instant>),
}

/// How other threads reach a worker.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(super) inbox: Sender<Message>,
    pub(super) waker: Arc<Waker>,
    pub(super) sessions: Arc<AtomicUsize>,
    pub(super) served: Arc<AtomicUsize>,
    pub(super) counters: Arc<Counters>,
}

impl Handle {
    /// Client connections that the worker has, those on their way to it included.
    pub fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Those of them that are served; the others are only there to be refused.
    pub fn served(&self) -> usize {
        self.served.load(Ordering::Relaxed)
    }

    /// The worker's counters.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Hands a socket over. A full inbox gives it back.
    pub fn hand(
        &self,
        socket: TcpStream,
        peer: SocketAddr,
        refusal: Option<Cause>,
    ) -> Result<(), TcpStream> {
        let is_served = usize::from(refusal.is_none());
        self.sessions.fetch_add(1, Ordering::Relaxed);
        self.served.fetch_add(is_served, Ordering::Relaxed);
        match self.inbox.try_send(Message::Socket { socket, peer, refusal }) {
            Ok(()) => {
                self.waker.wake();
                Ok(())
            }
            Err(TrySendError::Full(message) | TrySendError::Disconnected(message)) => {
                self.sessions.fetch_sub(1, Ordering::Relaxed);
                self.served.fetch_sub(is_served, Ordering::Relaxed);
                match message {
                    Message::Socket { socket, .. } => Err(socket),
                    Message::Drain(_) => unreachable!("the message was a socket"),
                }
            }
        }
    }

    /// Tells the worker to finish, by `deadline` if there is one.
    pub fn drain(&self, deadline: Option<Instant>) {
        // Fails only if the worker has ended, which is what is wanted.
        let _ = self.inbox.send(Message::Drain(deadline));
        self.waker.wake();
    }
}
