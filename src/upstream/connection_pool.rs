//! A worker's own connections to backends: those in use and the idle ones.
//!
//! Owned by one worker; no lock, nothing shared. An entry names the session that owns the
//! connection, or none if it is idle. An event on an idle one means that the backend has closed it
//! or sends out of turn: it is dropped before a request can check it out. How connections end is
//! recorded in the backend's [`Reuse`](super::reuse::Reuse), which decides how old is too old.

use super::backend::{Backend, BackendId};
use super::reuse::Life;
use crate::net::{self, Buffer, Event, Poller, Slab, Source, Stream, Token};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A connection that was reused and has lasted longer than this was not stale, whatever ended it
/// then.
const STALE_WITHIN: Duration = Duration::from_secs(1);

/// A connection to a backend.
#[derive(Debug)]
pub struct Connection {
    /// The socket.
    pub stream: Stream,
    /// Received and not used yet.
    pub input: Buffer,
    backend: Arc<Backend>,
    /// The session that has checked it out.
    owner: Option<Token>,
    life: Life,
    /// How long it may be idle, from the last response on.
    keep_for: Duration,
}

impl Connection {
    fn has_expired(&self, now: Instant) -> bool {
        self.life.idle_since + self.keep_for <= now
    }

    /// The backend ended it while it was idle.
    fn note_closed(&self, now: Instant) {
        self.warn(self.backend.reuse.record_closed(&self.life, now));
    }

    /// Warns the operator that connections live no longer than this.
    fn warn(&self, lifetime: Option<Duration>) {
        if let Some(age) = lifetime {
            log::warn!(
                "backend {} closes idle connections after about {} ms: it gets fresh ones until that ends; \
                 raise its keep-alive timeout above ours ({:?})",
                self.backend.name,
                age.as_millis().max(1),
                self.keep_for
            );
        }
    }
}

/// A worker's connections to backends.
#[derive(Debug, Default)]
pub struct ConnectionPool {
    entries: Slab<Connection>,
    /// The newest at the back. Tokens of connections that were closed meanwhile name no entry.
    idle: BTreeMap<BackendId, VecDeque<Token>>,
}

impl ConnectionPool {
    /// Starts a fresh connection for a session.
    pub fn open(
        &mut self,
        poller: &Poller,
        backend: &Arc<Backend>,
        owner: Token,
        now: Instant,
    ) -> io::Result<Token> {
        let stream = match Stream::connect(backend.address) {
            // Idle connections hold what is missing.
            Err(error) if net::is_resource_exhaustion(&error) && !self.entries.is_empty() => {
                self.close_idle();
                Stream::connect(backend.address)?
            }
            connected => connected?,
        };
        let life = Life { opened: now, idle_since: now, served: 0 };
        let (input, backend) = (Buffer::default(), Arc::clone(backend));
        let connection = Connection {
            stream,
            input,
            backend,
            owner: Some(owner),
            life,
            keep_for: Duration::ZERO,
        };
        let token = self.entries.insert(connection);
        let stream =
            &self.entries.get_mut(token).expect("it was inserted in the line above").stream;
        if let Err(error) = poller.register(stream, Source::Backend(token)) {
            self.entries.remove(token);
            return Err(error);
        }
        Ok(token)
    }

    /// The newest idle connection to a backend, for a session, unless it is too old.
    /// `verify` is for requests that may not be sent twice: it looks once more whether the backend
    /// has closed the connection, and avoids an age at which it does.
    pub fn check_out(
        &mut self,
        backend: &Backend,
        owner: Token,
        verify: bool,
        now: Instant,
    ) -> Option<Token> {
        let idle = self.idle.get_mut(&backend.id)?;
        while let Some(token) = idle.pop_back() {
            let Some(connection) = self.entries.get_mut(token) else {
                continue;
            };
            if connection.has_expired(now) {
                self.entries.remove(token);
                continue;
            }
            let age = now.saturating_duration_since(connection.life.idle_since);
            if !backend.reuse.allows(age, !verify, now) {
                idle.push_back(token);
                self.make_room(backend.id);
                return None;
            }
            if verify && !connection.stream.is_idle_and_open() {
                connection.note_closed(now);
                self.entries.remove(token);
                continue;
            }
            connection.owner = Some(owner);
            return Some(token);
        }
        None
    }

    /// A fresh connection is about to take the place of an idle one that is too old. The oldest
    /// stays: how long it lives shows when reuse will do again.
    fn make_room(&mut self, backend: BackendId) {
        let Some(idle) = self.idle.get_mut(&backend) else {
            return;
        };
        idle.retain(|token| self.entries.get_mut(*token).is_some());
        if idle.len() > 1
            && let Some(newest) = idle.pop_back()
        {
            self.entries.remove(newest);
        }
    }

    /// Keeps a connection for the next request, for this long. One on which something is left to
    /// read, or whose backend gets no new requests, is closed instead.
    pub fn check_in(&mut self, token: Token, keep_for: Duration, now: Instant) {
        let Some(connection) = self.entries.get_mut(token) else {
            return;
        };
        connection.life.idle_since = now;
        connection.life.served = connection.life.served.saturating_add(1);
        connection.keep_for = keep_for;
        if connection.stream.is_broken()
            || connection.stream.is_readable() && !connection.stream.is_idle_and_open()
        {
            connection.note_closed(now);
            self.entries.remove(token);
            return;
        }
        if !connection.backend.is_active() {
            self.entries.remove(token);
            return;
        }
        connection.owner = None;
        connection.backend.reuse.record_served(&connection.life);
        self.idle.entry(connection.backend.id).or_default().push_back(token);
    }

    /// Notes that a connection died without a byte of a response to a request for which it was
    /// reused at `reused`.
    pub fn note_stale(&mut self, token: Token, reused: Instant, now: Instant) {
        let Some(connection) = self.entries.get_mut(token) else {
            return;
        };
        if now.saturating_duration_since(reused) > STALE_WITHIN {
            return;
        }
        connection.warn(connection.backend.reuse.record_stale(&connection.life, reused, now));
    }

    /// A connection in use.
    pub fn get(&mut self, token: Token) -> Option<&mut Connection> {
        self.entries.get_mut(token)
    }

    /// Closes a connection and returns what was received on it and not used.
    pub fn close(&mut self, token: Token) -> Option<Buffer> {
        self.entries.remove(token).map(|connection| connection.input)
    }

    /// Notes an event and returns the session that has to look at it. An event on an idle
    /// connection closes it.
    pub fn note(&mut self, token: Token, event: Event, now: Instant) -> Option<Token> {
        let connection = self.entries.get_mut(token)?;
        connection.stream.note(event);
        if connection.owner.is_none() && connection.stream.is_readable() {
            connection.note_closed(now);
            self.entries.remove(token);
            return None;
        }
        connection.owner
    }

    /// Closes the idle connections whose time is over, and those of backends that get no new
    /// requests.
    pub fn expire(&mut self, now: Instant) {
        let entries = &mut self.entries;
        self.idle.retain(|_, idle| {
            idle.retain(|token| match entries.get_mut(*token) {
                Some(connection)
                    if connection.has_expired(now) || !connection.backend.is_active() =>
                {
                    entries.remove(*token);
                    false
                }
                connection => connection.is_some(),
            });
            !idle.is_empty()
        });
    }

    /// Closes all idle connections.
    pub fn close_idle(&mut self) {
        for idle in self.idle.values_mut() {
            for token in idle.drain(..) {
                self.entries.remove(token);
            }
        }
    }

    /// How many bytes the buffers of all connections could hold.
    #[cfg(test)]
    pub(crate) fn buffered(&mut self) -> usize {
        let tokens = self.entries.tokens();
        tokens
            .into_iter()
            .map(|token| {
                self.entries.get_mut(token).map_or(0, |connection| connection.input.room())
            })
            .sum()
    }

    /// Masks the bytes of all connections from now on.
    #[cfg(test)]
    pub(crate) fn mask(&mut self) {
        for token in self.entries.tokens() {
            self.entries.get_mut(token).expect("its token was listed").stream.mask();
        }
    }

    /// How many connections there are, idle ones included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Buffers;
    use crate::upstream::backend::AdminState;
    use std::io::Write;
    use std::net::TcpListener;

    const SECOND: Duration = Duration::from_secs(1);

    struct Fixture {
        listener: TcpListener,
        backend: Arc<Backend>,
        connections: ConnectionPool,
        poller: Poller,
        owner: Token,
    }

    impl Fixture {
        fn new() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            Self {
                listener,
                backend: Arc::new(Backend::at(0, address)),
                connections: ConnectionPool::default(),
                poller: Poller::new().unwrap(),
                owner: Slab::default().insert(()),
            }
        }

        /// A connection that has been idle since `now` and may be for a second.
        fn idle(&mut self, now: Instant) -> (Token, std::net::TcpStream) {
            let token =
                self.connections.open(&self.poller, &self.backend, self.owner, now).unwrap();
            let (peer, _) = self.listener.accept().unwrap();
            self.connections.check_in(token, SECOND, now);
            (token, peer)
        }

        fn next_event(&mut self) -> Event {
            let mut events = Vec::new();
            self.poller.wait(&mut events, Some(Duration::from_secs(10)), || true).unwrap();
            events[0]
        }

        fn out(&mut self, now: Instant) -> Option<Token> {
            self.connections.check_out(&Arc::clone(&self.backend), self.owner, true, now)
        }
    }

    #[test]
    fn the_newest_is_used_first() {
        let (mut fixture, now) = (Fixture::new(), Instant::now());
        let (_first, _peer) = fixture.idle(now);
        let (second, _peer) = fixture.idle(now);
        assert_eq!(fixture.out(now), Some(second));
    }

    #[test]
    fn a_connection_that_the_backend_closed_is_skipped_and_its_age_is_avoided() {
        let (mut fixture, now) = (Fixture::new(), Instant::now());
        let (first, _peer) = fixture.idle(now);
        let (_second, peer) = fixture.idle(now);
        drop(peer);
        assert_eq!(fixture.out(now), None, "the other may close as well");
        assert_eq!(fixture.connections.len(), 1);
        let out =
            fixture.connections.check_out(&Arc::clone(&fixture.backend), fixture.owner, false, now);
        assert_eq!(out, Some(first), "a request that may be sent again risks it");
    }

    #[test]
    fn the_oldest_of_connections_too_old_for_reuse_stays_to_show_how_long_they_live() {
        let (mut fixture, now) = (Fixture::new(), Instant::now());
        let (oldest, _peer) = fixture.idle(now);
        let (_second, _peer) = fixture.idle(now);
        let life = Life { opened: now, idle_since: now, served: 1 };
        fixture.backend.reuse.record_closed(&life, now);
        assert_eq!([fixture.out(now), fixture.out(now)], [None, None]);
        assert_eq!(fixture.connections.entries.tokens(), [oldest]);
    }

    #[test]
    fn a_connection_stays_whose_event_is_only_room_to_write() {
        let (mut fixture, now) = (Fixture::new(), Instant::now());
        let token = fixture
            .connections
            .open(&fixture.poller, &Arc::clone(&fixture.backend), fixture.owner, now)
            .unwrap();
        let (mut peer, _) = fixture.listener.accept().unwrap();
        let writable_event = fixture.next_event();
        peer.write_all(b"response").unwrap();
        let readable_event = fixture.next_event();
        fixture.connections.note(token, readable_event, now);
        // Read to its last byte and no further: that nothing follows is still to be seen.
        let mut buffer = Buffers::default().get();
        let all_but_the_response = buffer.room() - b"response".len();
        buffer.as_vec_mut().resize(all_but_the_response, 0);
        fixture.connections.get(token).unwrap().stream.read(&mut buffer).unwrap();
        assert!(fixture.connections.get(token).unwrap().stream.is_readable());
        fixture.connections.check_in(token, SECOND, now);
        fixture.connections.note(token, writable_event, now);
        assert_eq!(fixture.out(now), Some(token));
    }

    #[test]
    fn an_idle_connection_whose_time_is_over_is_closed() {
        let (mut fixture, now) = (Fixture::new(), Instant::now());
        let (_token, _peer) = fixture.idle(now);
        let due = now + SECOND;
        fixture.connections.expire(now);
        assert_eq!(fixture.connections.len(), 1);
        fixture.connections.expire(due);
        assert!(fixture.connections.is_empty());
    }

    #[test]
    fn idle_connections_of_a_backend_that_is_not_active_close() {
        for state in [AdminState::Draining, AdminState::Removed] {
            let (mut fixture, now) = (Fixture::new(), Instant::now());
            let (_idle, _peer) = fixture.idle(now);
            let used = fixture
                .connections
                .open(&fixture.poller, &fixture.backend, fixture.owner, now)
                .unwrap();
            fixture.backend.set_admin_state(state);
            fixture.connections.expire(now);
            assert_eq!(fixture.connections.entries.tokens(), [used], "{state:?}");
            fixture.connections.check_in(used, SECOND, now);
            assert!(fixture.connections.is_empty() && fixture.connections.idle.is_empty());
        }
    }
}
