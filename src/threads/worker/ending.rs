//! The ends of sessions that a worker decides: all sessions in a drain, tunnels to a removed backend,
//! and the oldest session if too many linger. Runs on that worker.

use super::Worker;
use crate::config;
use crate::net::Token;
use crate::reason::Reason;
use crate::session::Session;
use std::time::Instant;

impl Worker {
    /// Begins a drain. An idle session stays open for a short time, for a request on its way; a busy
    /// one may continue until the deadline, if there is one.
    pub(super) fn begin_drain(&mut self, until: Option<Instant>, ready: &mut Vec<Token>) {
        (self.resources.draining, self.drain_until) = (true, until);
        self.resources.connections.close_idle();
        let mut tokens = self.sessions.tokens();
        tokens.retain(|token| self.schedule(*token));
        ready.extend(tokens);
    }

    /// The number of aborted connections, once the drain has ended.
    pub(super) fn drained(&mut self) -> Option<usize> {
        if self.resources.draining && self.sessions.is_empty() && self.inbox.is_empty() {
            return Some(0);
        }
        (self.resources.now() >= self.drain_until?).then(|| self.abort_all())
    }

    /// Closes all sessions. Returns the number of busy ones: the others have no response to lose.
    fn abort_all(&mut self) -> usize {
        let mut aborted = 0;
        for token in self.sessions.tokens() {
            let is_busy = self.sessions.get_mut(token).is_some_and(|session| session.is_busy());
            self.close(token, if is_busy { Reason::DrainAborted } else { Reason::Drained });
            aborted += usize::from(is_busy);
        }
        aborted
    }

    /// Steps the tunnels to removed backends, which get a last deadline. To be called after a removal
    /// and after a change of that timeout only, because it looks at all sessions.
    pub(super) fn limit_tunnels(&mut self) {
        for token in self.sessions.tokens() {
            if self.sessions.get_mut(token).is_some_and(Session::note_removal) {
                self.step(token);
            }
        }
    }

    /// Ends the oldest lingering session if there are too many, because its client has had the most
    /// time to read the response.
    pub(super) fn limit_lingering(&mut self) {
        self.resources.local.lingering.retain(|token| self.sessions.get_mut(*token).is_some());
        if self.resources.local.lingering.len() > config::MAX_LINGERING
            && let Some(token) = self.resources.local.lingering.pop_front()
        {
            let context = self.resources.context(token);
            if let Some(session) = self.sessions.get_mut(token) {
                session.shorten_linger(&context);
            }
            self.step(token);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::{Admission, Limits};
    use crate::config::Config;
    use crate::metrics::Counters;
    use crate::net::{self, Slab};
    use crate::session::{Resources, Shared};
    use crate::stats::Stats;
    use crate::threads::acceptor::Acceptor;
    use crate::threads::handle::Handle;
    use crate::threads::listeners::{self, Listeners};
    use crate::upstream::registry::Registry;
    use crate::upstream::retry::Budget;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::Arc;
    use std::time::Duration;

    /// A worker with this registry.
    fn worker(config: Config, registry: &Arc<Registry>) -> (Worker, Handle, Arc<Counters>) {
        let counters = Arc::<Counters>::default();
        let shared = Shared {
            settings: Arc::new(config.settings),
            cluster: Arc::clone(registry.cluster()),
            registry: Arc::clone(registry),
            budget: Arc::new(Budget::new(vec![Arc::clone(&counters)], Instant::now())),
            control: None,
            log: None,
        };
        let admission = Arc::new(Admission::new(Limits {
            max_connections: 1,
            max_connections_per_client: None,
            max_graceful_rejections: 0,
        }));
        let recorder = Stats::new(Instant::now()).recorder();
        let (worker, handle) =
            Worker::new(shared, admission, 0, Arc::clone(&counters), recorder).unwrap();
        (worker, handle, counters)
    }

    #[test]
    fn a_connection_that_is_in_the_inbox_when_a_drain_begins_is_served() {
        let config = Config::default();
        let registry = Arc::new(Registry::new(&config));
        let (mut worker, handle, counters) = worker(config, &registry);
        let sockets = net::listen_on_all(&["127.0.0.1:0".parse().unwrap()]).unwrap();
        let listening = Arc::new(Listeners::new(
            net::WorkerSockets::new(vec![sockets]),
            vec![Arc::new(handle)],
            1,
        ));
        let socket = &listening.sockets(0)[0];
        let mut client = TcpStream::connect(socket.local_addr().unwrap()).unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
        let (socket, peer) = listeners::accept(socket).unwrap();

        let handle = &listening.workers()[0];
        let until = Instant::now() + Duration::from_secs(10);
        worker.begin_drain(Some(until), &mut Vec::new());
        handle.dispatch(socket, handle.admit(peer).unwrap()).unwrap();
        assert_eq!(worker.drained(), None, "its inbox holds a connection");
        let acceptor = Acceptor::new(Arc::clone(&listening), 0, counters);
        assert_eq!(worker.run(acceptor), 0);
        let mut head = [0; 12];
        client.read_exact(&mut head).unwrap();
        assert_eq!(&head, b"HTTP/1.1 503", "there is no backend");
    }
    #[test]
    fn idle_connections_of_a_removed_backend_close_at_the_transition() {
        let backends: Vec<TcpListener> =
            (0..2).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let specs = backends.iter().map(|listener| listener.local_addr().unwrap().into());
        let config = Config { backends: specs.collect(), ..Config::default() };
        let registry = Arc::new(Registry::new(&config));
        let (mut worker, ..) = worker(config, &registry);
        worker.note_transition();
        let members = registry.statuses();
        let (owner, now) = (Slab::default().insert(()), worker.resources.now());
        let Resources { connections, local, .. } = &mut worker.resources;
        for member in &members {
            let to = (&member.backend, member.backend.addresses.in_use().unwrap());
            let token = connections.open(&local.poller, to, owner, now).unwrap();
            connections.check_in(token, Duration::from_secs(60), now);
        }
        assert_eq!(worker.resources.connections.len(), 2);
        registry.remove(members[0].backend.id);
        worker.note_transition();
        assert_eq!(worker.resources.connections.len(), 1, "the other one's is kept");
    }
}
