//! A worker's own connections to backends: those in use and the idle ones.
//!
//! Owned by one worker; no lock, nothing shared. A connection lives in a slot that names the
//! session that uses it, or none. What happens on one that nobody uses means that the backend
//! closed it or talks out of turn: it is dropped, before anyone can check it out. How connections
//! end is told to the backend's [`Reuse`](super::reuse::Reuse), which says how old is too old.

use super::backend::Backend;
use super::reuse::Life;
use crate::net::{self, Buffer, Event, Poller, Slab, Source, Stream, Token};
use std::collections::VecDeque;
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
    user: Option<Token>,
    life: Life,
    /// How long it may be idle, from the last response on.
    keep_for: Duration,
}

impl Connection {
    fn has_expired(&self, now: Instant) -> bool {
        self.life.idle_since + self.keep_for <= now
    }

    /// The backend ended it while nobody used it.
    fn note_closed(&self, now: Instant) {
        self.tell(self.backend.reuse.closed(&self.life, now));
    }

    /// Tells the operator that connections live no longer than this.
    fn tell(&self, news: Option<Duration>) {
        if let Some(age) = news {
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
    /// By the backend's id; the newest at the back. Keys of connections that were closed meanwhile
    /// name nobody.
    idle: Vec<VecDeque<Token>>,
}

impl ConnectionPool {
    /// Starts a fresh connection for a session.
    pub fn open(
        &mut self,
        poller: &Poller,
        backend: &Arc<Backend>,
        user: Token,
        now: Instant,
    ) -> io::Result<Token> {
        let stream = match Stream::connect(backend.address) {
            // Idle connections hold what is missing.
            Err(error) if net::is_shortage(&error) && !self.entries.is_empty() => {
                self.close_idle();
                Stream::connect(backend.address)?
            }
            connected => connected?,
        };
        let life = Life { opened: now, idle_since: now, served: 0 };
        let (input, backend) = (Buffer::default(), Arc::clone(backend));
        let connection =
            Connection { stream, input, backend, user: Some(user), life, keep_for: Duration::ZERO };
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
    /// `must_be_quiet` is for requests that may not be sent twice: they look once more whether the
    /// backend has closed it, and stay away from an age at which it does.
    pub fn check_out(
        &mut self,
        backend: &Backend,
        user: Token,
        must_be_quiet: bool,
        now: Instant,
    ) -> Option<Token> {
        let idle = self.idle.get_mut(backend.id)?;
        while let Some(token) = idle.pop_back() {
            let Some(connection) = self.entries.get_mut(token) else {
                continue;
            };
            if connection.has_expired(now) {
                self.entries.remove(token);
                continue;
            }
            let age = now.saturating_duration_since(connection.life.idle_since);
            if !backend.reuse.allows(age, !must_be_quiet, now) {
                idle.push_back(token);
                self.make_room(backend.id);
                return None;
            }
            if must_be_quiet && !connection.stream.is_quiet() {
                connection.note_closed(now);
                self.entries.remove(token);
                continue;
            }
            connection.user = Some(user);
            return Some(token);
        }
        None
    }

    /// A fresh connection is about to take the place of an idle one that is too old. The oldest
    /// stays: how long it lives shows when reuse will do again.
    fn make_room(&mut self, backend: usize) {
        let idle = &mut self.idle[backend];
        idle.retain(|token| self.entries.get_mut(*token).is_some());
        if idle.len() > 1
            && let Some(newest) = idle.pop_back()
        {
            self.entries.remove(newest);
        }
    }

    /// Keeps a connection for the next request, for this long. One on which something is left to
    /// read is closed instead.
    pub fn check_in(&mut self, token: Token, keep_for: Duration, now: Instant) {
        let Some(connection) = self.entries.get_mut(token) else {
            return;
        };
        connection.life.idle_since = now;
        connection.life.served = connection.life.served.saturating_add(1);
        connection.keep_for = keep_for;
        if connection.stream.is_broken()
            || connection.stream.is_readable() && !connection.stream.is_quiet()
        {
            connection.note_closed(now);
            self.entries.remove(token);
            return;
        }
        connection.user = None;
        connection.backend.reuse.lives(&connection.life);
        let id = connection.backend.id;
        if self.idle.len() <= id {
            self.idle.resize_with(id + 1, VecDeque::new);
        }
        self.idle[id].push_back(token);
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
        connection.tell(connection.backend.reuse.died(&connection.life, reused, now));
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
        if connection.user.is_none() && connection.stream.is_readable() {
            connection.note_closed(now);
            self.entries.remove(token);
            return None;
        }
        connection.user
    }

    /// Closes the idle connections whose time is over.
    pub fn expire(&mut self, now: Instant) {
        for idle in &mut self.idle {
            idle.retain(|token| match self.entries.get_mut(*token) {
                Some(connection) if connection.has_expired(now) => {
                    self.entries.remove(*token);
                    false
                }
                connection => connection.is_some(),
            });
        }
    }

    /// Closes all idle connections.
    pub fn close_idle(&mut self) {
        for idle in &mut self.idle {
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
    use std::io::Write;
    use std::net::TcpListener;

    const SECOND: Duration = Duration::from_secs(1);

    struct Fixture {
        listener: TcpListener,
        backend: Arc<Backend>,
        connections: ConnectionPool,
        poller: Poller,
        user: Token,
    }

    impl Fixture {
        fn new() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            Self {
                listener,
                backend: Arc::new(Backend::new(0, "b".to_owned(), address)),
                connections: ConnectionPool::default(),
                poller: Poller::new().unwrap(),
                user: Slab::default().insert(()),
            }
        }

        /// A connection that has been idle since `now` and may be for a second.
        fn idle(&mut self, now: Instant) -> (Token, std::net::TcpStream) {
            let token = self.connections.open(&self.poller, &self.backend, self.user, now).unwrap();
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
            self.connections.check_out(&Arc::clone(&self.backend), self.user, true, now)
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
    fn one_that_the_backend_closed_is_passed_over_and_its_age_is_avoided() {
        let (mut fixture, now) = (Fixture::new(), Instant::now());
        let (first, _peer) = fixture.idle(now);
        let (_second, peer) = fixture.idle(now);
        drop(peer);
        assert_eq!(fixture.out(now), None, "the other may close as well");
        assert_eq!(fixture.connections.len(), 1);
        let out =
            fixture.connections.check_out(&Arc::clone(&fixture.backend), fixture.user, false, now);
        assert_eq!(out, Some(first), "which harms nobody who can be sent again");
    }

    #[test]
    fn of_those_that_are_too_old_the_oldest_stays_to_show_how_long_they_live() {
        let (mut fixture, now) = (Fixture::new(), Instant::now());
        let (oldest, _peer) = fixture.idle(now);
        let (_second, _peer) = fixture.idle(now);
        let life = Life { opened: now, idle_since: now, served: 1 };
        fixture.backend.reuse.closed(&life, now);
        assert_eq!([fixture.out(now), fixture.out(now)], [None, None]);
        assert_eq!(fixture.connections.entries.tokens(), [oldest]);
    }

    #[test]
    fn one_that_only_tells_of_room_to_write_stays() {
        let (mut fixture, now) = (Fixture::new(), Instant::now());
        let token = fixture
            .connections
            .open(&fixture.poller, &Arc::clone(&fixture.backend), fixture.user, now)
            .unwrap();
        let (mut peer, _) = fixture.listener.accept().unwrap();
        let tells_of_room = fixture.next_event();
        peer.write_all(b"answer").unwrap();
        let tells_of_answer = fixture.next_event();
        fixture.connections.note(token, tells_of_answer, now);
        // Read to its last byte and no further: nobody has seen yet that nothing follows.
        let mut buffer = Buffers::default().take();
        let all_but_six = buffer.room() - b"answer".len();
        buffer.tail().resize(all_but_six, 0);
        fixture.connections.get(token).unwrap().stream.read(&mut buffer).unwrap();
        assert!(fixture.connections.get(token).unwrap().stream.is_readable());
        fixture.connections.check_in(token, SECOND, now);
        fixture.connections.note(token, tells_of_room, now);
        assert_eq!(fixture.out(now), Some(token));
    }

    #[test]
    fn one_whose_time_is_over_is_closed() {
        let (mut fixture, now) = (Fixture::new(), Instant::now());
        let (_key, _peer) = fixture.idle(now);
        let due = now + SECOND;
        fixture.connections.expire(now);
        assert_eq!(fixture.connections.len(), 1);
        fixture.connections.expire(due);
        assert!(fixture.connections.is_empty());
    }
}
