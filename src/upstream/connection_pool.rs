//! A worker's own connections to backends: those in use and the idle ones.
//!
//! Owned by one worker; no lock, nothing shared. A connection has an owner, the session that has
//! checked it out, or is idle. An event on an idle connection means that the backend has closed it
//! or sends an unrequested response, so the pool drops it before a request can check it out. Ends of
//! connections are recorded in the backend's [`ReuseLimit`](super::reuse::ReuseLimit).

use super::backend::{Backend, BackendId};
use super::reuse::Life;
use crate::net::{self, Buffer, Event, Poller, Slab, Source, Stream, Token};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A reused connection that ends later than this after its reuse was not stale.
const STALE_WITHIN: Duration = Duration::from_secs(1);

/// A connection to a backend.
#[derive(Debug)]
pub struct Connection {
    /// The socket.
    pub stream: Stream,
    /// Received bytes that are not processed yet.
    pub input: Buffer,
    backend: Arc<Backend>,
    address: SocketAddr,
    /// The number of changes of the backend's addresses at the last look at them.
    changes_seen: Option<u32>,
    /// The session that has checked it out; none while it is idle.
    owner: Option<Token>,
    life: Life,
    idle_timeout: Duration,
}

impl Connection {
    fn has_expired(&self, now: Instant) -> bool {
        self.life.idle_since + self.idle_timeout <= now
    }

    /// Whether it may wait for another request.
    fn may_stay_open(&mut self) -> bool {
        self.backend.is_active() && self.has_current_address()
    }

    /// Whether its backend still has its address.
    fn has_current_address(&mut self) -> bool {
        let addresses = &self.backend.addresses;
        let changes = Some(addresses.changes());
        if self.changes_seen != changes {
            if !addresses.contains(self.address) {
                return false;
            }
            self.changes_seen = changes;
        }
        true
    }

    /// Records that the backend has closed it while it was idle.
    fn record_closed(&self, now: Instant) {
        self.warn(self.backend.reuse.record_closed(&self.life, now));
    }

    /// Warns that the backend closes connections at this age, if a warning is due.
    fn warn(&self, age: Option<Duration>) {
        if let Some(age) = age {
            log::warn!(
                event = "state", backend = self.backend.name.as_str();
                "backend {} closes idle connections after about {} ms: requests get fresh connections until \
                 this stops; raise its keep-alive timeout above ours ({:?})",
                self.backend.name,
                age.as_millis().max(1),
                self.idle_timeout
            );
        }
    }
}

/// A worker's connections to backends.
#[derive(Debug, Default)]
pub struct ConnectionPool {
    entries: Slab<Connection>,
    /// The newest at the back. A token may have outlived its connection.
    idle: BTreeMap<BackendId, VecDeque<Token>>,
}

impl ConnectionPool {
    /// Starts a fresh connection to an address of a backend, for a session.
    pub fn open(
        &mut self,
        poller: &Poller,
        (backend, address): (&Arc<Backend>, SocketAddr),
        owner: Token,
        now: Instant,
    ) -> io::Result<Token> {
        let stream = match Stream::connect(address) {
            // Idle connections hold the descriptors or ports that are exhausted.
            Err(error) if net::is_resource_exhaustion(&error) && !self.entries.is_empty() => {
                self.close_idle();
                Stream::connect(address)?
            }
            connected => connected?,
        };
        let life = Life { opened: now, idle_since: now, served: 0 };
        let (input, backend) = (Buffer::default(), Arc::clone(backend));
        let connection = Connection {
            stream,
            input,
            backend,
            address,
            changes_seen: None,
            owner: Some(owner),
            life,
            idle_timeout: Duration::ZERO,
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

    /// Checks out the newest idle connection to a backend, unless it is too old or goes to a former
    /// address. `verify` is for
    /// requests that are not retryable: the socket is checked for a close by the backend, and an age
    /// at which the backend closes connections is avoided.
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
            if connection.has_expired(now) || !connection.has_current_address() {
                self.entries.remove(token);
                continue;
            }
            let age = now.saturating_duration_since(connection.life.idle_since);
            if !backend.reuse.allows(age, !verify, now) {
                idle.push_back(token);
                self.close_newest_idle(backend.id);
                return None;
            }
            if verify && !connection.stream.is_idle_and_open() {
                connection.record_closed(now);
                self.entries.remove(token);
                continue;
            }
            connection.owner = Some(owner);
            return Some(token);
        }
        None
    }

    /// Closes an idle connection that is too old for reuse, because a fresh one follows. The oldest
    /// stays: its age at its end shows when reuse is possible again.
    fn close_newest_idle(&mut self, backend: BackendId) {
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

    /// Keeps a connection for the next request, at most for `idle_timeout`. A connection with unread
    /// bytes, to a backend that gets no new requests, or to a former address is closed instead.
    pub fn check_in(&mut self, token: Token, idle_timeout: Duration, now: Instant) {
        let Some(connection) = self.entries.get_mut(token) else {
            return;
        };
        connection.life.idle_since = now;
        connection.life.served = connection.life.served.saturating_add(1);
        connection.idle_timeout = idle_timeout;
        if connection.stream.is_broken()
            || connection.stream.is_readable() && !connection.stream.is_idle_and_open()
        {
            connection.record_closed(now);
            self.entries.remove(token);
            return;
        }
        if !connection.may_stay_open() {
            self.entries.remove(token);
            return;
        }
        connection.owner = None;
        connection.backend.reuse.record_served(&connection.life);
        self.idle.entry(connection.backend.id).or_default().push_back(token);
    }

    /// Records the end of a connection that was reused at `reused` and has not sent a byte of the
    /// response.
    pub fn record_stale(&mut self, token: Token, reused: Instant, now: Instant) {
        let Some(connection) = self.entries.get_mut(token) else {
            return;
        };
        if now.saturating_duration_since(reused) > STALE_WITHIN {
            return;
        }
        connection.warn(connection.backend.reuse.record_stale(&connection.life, reused, now));
    }

    /// The connection, if it is still open.
    pub fn get(&mut self, token: Token) -> Option<&mut Connection> {
        self.entries.get_mut(token)
    }

    /// Closes a connection and returns the received bytes that are not processed.
    pub fn close(&mut self, token: Token) -> Option<Buffer> {
        self.entries.remove(token).map(|connection| connection.input)
    }

    /// Notes an event and returns the session to be stepped. Input on an idle connection closes it.
    pub fn note(&mut self, token: Token, event: Event, now: Instant) -> Option<Token> {
        let connection = self.entries.get_mut(token)?;
        connection.stream.note(event);
        if connection.owner.is_none() && connection.stream.is_readable() {
            connection.record_closed(now);
            self.entries.remove(token);
            return None;
        }
        connection.owner
    }

    /// Closes idle connections whose timeout has passed, those to backends that get no new requests,
    /// and those to former addresses.
    pub fn expire(&mut self, now: Instant) {
        let entries = &mut self.entries;
        self.idle.retain(|_, idle| {
            idle.retain(|token| {
                let is_usable = entries.get_mut(*token).is_some_and(|connection| {
                    !connection.has_expired(now) && connection.may_stay_open()
                });
                if !is_usable {
                    entries.remove(*token);
                }
                is_usable
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

    /// The capacity of all buffers together, in bytes.
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

    /// Puts a masking transport under all connections.
    #[cfg(test)]
    pub(crate) fn mask(&mut self) {
        for token in self.entries.tokens() {
            self.entries.get_mut(token).expect("its token was listed").stream.mask();
        }
    }

    /// The number of connections, idle ones included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no connection.
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

        fn open(&mut self, now: Instant) -> Token {
            let to = (&self.backend, self.backend.addresses.in_use().unwrap());
            self.connections.open(&self.poller, to, self.owner, now).unwrap()
        }

        /// A connection that has been idle since `now`, with an idle timeout of a second.
        fn idle(&mut self, now: Instant) -> (Token, std::net::TcpStream) {
            let token = self.open(now);
            let (peer, _) = self.listener.accept().unwrap();
            self.connections.check_in(token, SECOND, now);
            (token, peer)
        }

        fn next_event(&mut self) -> Event {
            let mut events = Vec::new();
            self.poller.wait(&mut events, Some(Duration::from_secs(10)), || true).unwrap();
            events[0]
        }

        fn check_out(&mut self, now: Instant) -> Option<Token> {
            self.connections.check_out(&Arc::clone(&self.backend), self.owner, true, now)
        }
    }

    #[test]
    fn the_newest_is_used_first() {
        let (mut fixture, now) = (Fixture::new(), Instant::now());
        let (_first, _peer) = fixture.idle(now);
        let (second, _peer) = fixture.idle(now);
        assert_eq!(fixture.check_out(now), Some(second));
    }

    #[test]
    fn a_connection_that_the_backend_closed_is_skipped_and_its_age_is_avoided() {
        let (mut fixture, now) = (Fixture::new(), Instant::now());
        let (first, _peer) = fixture.idle(now);
        let (_second, peer) = fixture.idle(now);
        drop(peer);
        assert_eq!(fixture.check_out(now), None, "the other connection may be closed as well");
        assert_eq!(fixture.connections.len(), 1);
        let out =
            fixture.connections.check_out(&Arc::clone(&fixture.backend), fixture.owner, false, now);
        assert_eq!(out, Some(first), "a retryable request takes the risk");
    }

    #[test]
    fn the_oldest_of_the_connections_that_are_too_old_for_reuse_stays_open() {
        let (mut fixture, now) = (Fixture::new(), Instant::now());
        let (oldest, _peer) = fixture.idle(now);
        let (_second, _peer) = fixture.idle(now);
        let life = Life { opened: now, idle_since: now, served: 1 };
        fixture.backend.reuse.record_closed(&life, now);
        assert_eq!([fixture.check_out(now), fixture.check_out(now)], [None, None]);
        assert_eq!(fixture.connections.entries.tokens(), [oldest]);
    }

    #[test]
    fn an_idle_connection_whose_socket_becomes_writable_stays_open() {
        let (mut fixture, now) = (Fixture::new(), Instant::now());
        let token = fixture.open(now);
        let (mut peer, _) = fixture.listener.accept().unwrap();
        let writable_event = fixture.next_event();
        peer.write_all(b"response").unwrap();
        let readable_event = fixture.next_event();
        fixture.connections.note(token, readable_event, now);
        // The read ends with the last byte, so the flag for readable stays set.
        let mut buffer = Buffers::default().get();
        let all_but_the_response = buffer.room() - b"response".len();
        buffer.as_vec_mut().resize(all_but_the_response, 0);
        fixture.connections.get(token).unwrap().stream.read(&mut buffer).unwrap();
        assert!(fixture.connections.get(token).unwrap().stream.is_readable());
        fixture.connections.check_in(token, SECOND, now);
        fixture.connections.note(token, writable_event, now);
        assert_eq!(fixture.check_out(now), Some(token));
    }

    #[test]
    fn an_idle_connection_is_closed_when_its_timeout_has_passed() {
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
            let used = fixture.open(now);
            fixture.backend.set_admin_state(state);
            fixture.connections.expire(now);
            assert_eq!(fixture.connections.entries.tokens(), [used], "{state:?}");
            fixture.connections.check_in(used, SECOND, now);
            assert!(fixture.connections.is_empty() && fixture.connections.idle.is_empty());
        }
    }

    #[test]
    fn connections_to_a_former_address_are_not_used_again() {
        let look: [fn(&mut Fixture, Instant); 2] = [
            |fixture, now| fixture.connections.expire(now),
            |fixture, now| assert_eq!(fixture.check_out(now), None),
        ];
        for look in look {
            let (mut fixture, now) = (Fixture::new(), Instant::now());
            let address = fixture.backend.addresses.in_use().unwrap();
            let (idle, _peer) = fixture.idle(now);
            let used = fixture.open(now);
            let other = ([127, 0, 0, 2], address.port()).into();
            fixture.backend.addresses.set(&[other, address]);
            fixture.connections.expire(now);
            assert_eq!(fixture.connections.entries.tokens(), [idle, used], "the address stays");
            fixture.backend.addresses.set(&[other]);
            look(&mut fixture, now);
            assert_eq!(fixture.connections.entries.tokens(), [used], "it is in use");
            fixture.connections.check_in(used, SECOND, now);
            assert!(fixture.connections.is_empty());
        }
    }
}
