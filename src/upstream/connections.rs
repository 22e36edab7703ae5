//! A worker's own connections to backends: those in use and the idle ones.
//!
//! Owned by one worker; no lock, nothing shared. A connection lives in a slot that names the session that uses it, or none. What
//! happens on one that nobody uses means that the backend closed it or talks out of turn: it is dropped, before anyone can check
//! it out.

use super::backend::Backend;
use crate::net::{self, Event, Poller, SlotKey, Slots, Source, Stream};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Instant;

/// A connection to a backend.
#[derive(Debug)]
pub struct Connection {
    /// The socket.
    pub stream: Stream,
    backend: Arc<Backend>,
    user: Option<SlotKey>,
    expires: Option<Instant>,
}

/// A worker's connections to backends.
#[derive(Debug)]
pub struct Connections {
    poller: Poller,
    slots: Slots<Connection>,
    /// By the backend's id; the newest at the back. Keys of connections that were closed meanwhile name nobody.
    idle: Vec<VecDeque<SlotKey>>,
}

impl Connections {
    /// No connections yet. Takes the poller, because every connection is registered in it for life.
    pub fn new(poller: Poller) -> Self {
        Self { poller, slots: Slots::default(), idle: Vec::new() }
    }

    /// The worker's poller.
    pub fn poller(&mut self) -> &mut Poller {
        &mut self.poller
    }

    /// Starts a fresh connection for a session.
    pub fn open(&mut self, backend: &Arc<Backend>, user: SlotKey) -> io::Result<SlotKey> {
        let stream = match Stream::connect(backend.address) {
            // Idle connections hold what is missing.
            Err(error) if net::is_shortage(&error) && !self.slots.is_empty() => {
                self.close_idle();
                Stream::connect(backend.address)?
            }
            connected => connected?,
        };
        let connection = Connection { stream, backend: Arc::clone(backend), user: Some(user), expires: None };
        let key = self.slots.insert(connection);
        let stream = &self.slots.get_mut(key).expect("it was inserted in the line above").stream;
        if let Err(error) = self.poller.register(stream, Source::Backend(key)) {
            self.slots.remove(key);
            return Err(error);
        }
        Ok(key)
    }

    /// The newest idle connection to a backend, for a session. `must_be_quiet` looks once more whether the backend has closed
    /// it: for requests that may not be sent twice.
    pub fn check_out(&mut self, backend: &Backend, user: SlotKey, must_be_quiet: bool, now: Instant) -> Option<SlotKey> {
        let idle = self.idle.get_mut(backend.id)?;
        while let Some(key) = idle.pop_back() {
            let Some(connection) = self.slots.get_mut(key) else {
                continue;
            };
            let expired = connection.expires.is_some_and(|expires| expires <= now);
            if expired || must_be_quiet && !connection.stream.is_quiet() {
                self.slots.remove(key);
                continue;
            }
            connection.user = Some(user);
            return Some(key);
        }
        None
    }

    /// Keeps a connection for the next request, until `expires`. One on which something is left to read is closed instead.
    pub fn check_in(&mut self, key: SlotKey, expires: Instant) {
        let Some(connection) = self.slots.get_mut(key) else {
            return;
        };
        if connection.stream.is_broken() || connection.stream.is_readable() && !connection.stream.is_quiet() {
            self.slots.remove(key);
            return;
        }
        connection.user = None;
        connection.expires = Some(expires);
        let id = connection.backend.id;
        if self.idle.len() <= id {
            self.idle.resize_with(id + 1, VecDeque::new);
        }
        self.idle[id].push_back(key);
    }

    /// A connection in use.
    pub fn get(&mut self, key: SlotKey) -> Option<&mut Connection> {
        self.slots.get_mut(key)
    }

    /// Closes a connection.
    pub fn close(&mut self, key: SlotKey) {
        self.slots.remove(key);
    }

    /// Notes an event and returns the session that has to look at it. An event on an idle connection closes it.
    pub fn note(&mut self, key: SlotKey, event: Event) -> Option<SlotKey> {
        let connection = self.slots.get_mut(key)?;
        connection.stream.note(event);
        if connection.user.is_none() && connection.stream.is_readable() {
            self.slots.remove(key);
            return None;
        }
        connection.user
    }

    /// Closes the idle connections whose time is over.
    pub fn expire(&mut self, now: Instant) {
        for idle in &mut self.idle {
            idle.retain(|key| {
                let Some(expires) = self.slots.get_mut(*key).and_then(|connection| connection.expires) else {
                    return false;
                };
                if expires <= now {
                    self.slots.remove(*key);
                    return false;
                }
                true
            });
        }
    }

    /// Closes all idle connections.
    pub fn close_idle(&mut self) {
        for idle in &mut self.idle {
            for key in idle.drain(..) {
                self.slots.remove(key);
            }
        }
    }

    /// How many connections there are, idle ones included.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Buffers;
    use std::io::Write;
    use std::net::TcpListener;
    use std::time::Duration;

    struct Fixture {
        listener: TcpListener,
        backend: Arc<Backend>,
        connections: Connections,
        user: SlotKey,
    }

    impl Fixture {
        fn new() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            Self {
                listener,
                backend: Arc::new(Backend::new(0, "b".to_owned(), address)),
                connections: Connections::new(Poller::new().unwrap()),
                user: Slots::default().insert(()),
            }
        }

        fn idle(&mut self, expires: Instant) -> (SlotKey, std::net::TcpStream) {
            let key = self.connections.open(&self.backend, self.user).unwrap();
            let (peer, _) = self.listener.accept().unwrap();
            self.connections.check_in(key, expires);
            (key, peer)
        }

        fn next_event(&mut self) -> Event {
            let mut events = Vec::new();
            self.connections.poller().wait(&mut events, Some(Duration::from_secs(10)), || true).unwrap();
            events[0]
        }

        fn out(&mut self, now: Instant) -> Option<SlotKey> {
            self.connections.check_out(&Arc::clone(&self.backend), self.user, true, now)
        }
    }

    #[test]
    fn the_newest_is_used_first() {
        let (mut fixture, now) = (Fixture::new(), Instant::now());
        let (_first, _peer) = fixture.idle(now + Duration::from_secs(1));
        let (second, _peer) = fixture.idle(now + Duration::from_secs(1));
        assert_eq!(fixture.out(now), Some(second));
    }

    #[test]
    fn one_that_the_backend_closed_is_passed_over() {
        let (mut fixture, now) = (Fixture::new(), Instant::now());
        let (first, _peer) = fixture.idle(now + Duration::from_secs(1));
        let (_second, peer) = fixture.idle(now + Duration::from_secs(1));
        drop(peer);
        assert_eq!(fixture.out(now), Some(first));
    }

    #[test]
    fn one_that_only_tells_of_room_to_write_stays() {
        let (mut fixture, now) = (Fixture::new(), Instant::now());
        let key = fixture.connections.open(&Arc::clone(&fixture.backend), fixture.user).unwrap();
        let (mut peer, _) = fixture.listener.accept().unwrap();
        let tells_of_room = fixture.next_event();
        peer.write_all(b"answer").unwrap();
        let tells_of_answer = fixture.next_event();
        fixture.connections.note(key, tells_of_answer);
        // Read to its last byte and no further: nobody has seen yet that nothing follows.
        let mut buffer = Buffers::default().take();
        let all_but_six = buffer.room() - b"answer".len();
        buffer.tail().resize(all_but_six, 0);
        fixture.connections.get(key).unwrap().stream.read(&mut buffer).unwrap();
        assert!(fixture.connections.get(key).unwrap().stream.is_readable());
        fixture.connections.check_in(key, now + Duration::from_secs(1));
        fixture.connections.note(key, tells_of_room);
        assert_eq!(fixture.out(now), Some(key));
    }

    #[test]
    fn one_whose_time_is_over_is_closed() {
        let (mut fixture, now) = (Fixture::new(), Instant::now());
        let (_key, _peer) = fixture.idle(now + Duration::from_secs(1));
        let due = now + Duration::from_secs(1);
        fixture.connections.expire(now);
        assert_eq!(fixture.connections.len(), 1);
        fixture.connections.expire(due);
        assert!(fixture.connections.is_empty());
    }
}
