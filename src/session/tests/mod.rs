//! Sessions without a worker: real sockets, a real poller, and a loop that steps one session.
//!
//! A [`TestWorker`] replaces the worker. The origin and the client of a test are threads with
//! blocking sockets.

mod parts;
mod queue;
mod records;
mod scenes;
mod tcp;

use super::*;
use crate::admission::{Admission, Limits, Permits};
use crate::config::Config;
use crate::metrics::Counters;
use crate::net::masked::mask;
use crate::net::{Pipes, Poller, Slab, Source, Token};
use crate::stats::Stats;
use crate::upstream::queue::Mailbox;
use crate::upstream::registry::Registry;
use crate::upstream::retry::Budget;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// The maximum duration of a test.
const TEST_TIMEOUT: Duration = Duration::from_secs(10);

/// A worker's state for one session.
pub(super) struct TestWorker {
    pub(super) resources: Resources,
    pub(super) token: Token,
    is_masked: bool,
}

impl TestWorker {
    /// A worker in front of these origins; `is_masked`: all connections are.
    pub(super) fn new(origins: &[SocketAddr], is_masked: bool) -> Self {
        let backends = origins.iter().map(|origin| (*origin).into()).collect();
        let mut config = Config { backends, ..Config::default() };
        config.settings.health.checks = false;
        let poller = Poller::new().unwrap();
        let counters = Arc::<Counters>::default();
        let registry = Arc::new(Registry::new(&config));
        let shared = Shared {
            cluster: Arc::clone(registry.cluster()),
            registry,
            settings: Arc::new(config.settings),
            budget: Arc::new(Budget::new(vec![Arc::clone(&counters)], Instant::now())),
            control: None,
            log: None,
        };
        let mailbox = Mailbox::new(crossbeam_channel::unbounded().0, poller.waker());
        let recorder = Stats::new(Instant::now()).recorder();
        let local = Local::new(poller, Pipes::new(4), counters, recorder);
        Self {
            resources: Resources::new(shared, mailbox, local),
            token: Slab::default().insert(()),
            is_masked,
        }
    }

    pub(super) fn context(&mut self) -> Context<'_> {
        self.resources.context(self.token)
    }

    /// Waits briefly for events on backend connections and notes them; whether there were any.
    pub(super) fn note_backend_events(&mut self) -> bool {
        let mut events = Vec::new();
        self.resources
            .local
            .poller
            .wait(&mut events, Some(Duration::from_millis(200)), || true)
            .unwrap();
        for event in &events {
            if let Source::Backend(token) = event.source {
                self.resources.connections.note(token, *event, Instant::now());
            }
        }
        !events.is_empty()
    }

    /// Steps `run` until its connection ends.
    pub(super) fn run<R: Steps>(&mut self, run: &mut R) -> Reason {
        self.run_until(run, |_| false).expect("the connection has ended")
    }

    /// Steps `run` until it waits and `is_reached` holds (none), or its connection ends.
    pub(super) fn run_until<R: Steps>(
        &mut self,
        run: &mut R,
        is_reached: impl Fn(&R) -> bool,
    ) -> Option<Reason> {
        let start = Instant::now();
        if self.is_masked {
            run.stream().mask();
        }
        self.resources.local.poller.register(run.stream(), Source::Client(self.token)).unwrap();
        let mut events = Vec::new();
        loop {
            assert!(start.elapsed() < TEST_TIMEOUT, "the connection does not end");
            self.resources.local.clock.update();
            let verdict = run.step(&mut self.context());
            if self.is_masked {
                self.resources.connections.mask();
            }
            let until = match verdict {
                Verdict::Close(reason) => return Some(reason),
                Verdict::Wait(_) if is_reached(run) => return None,
                Verdict::Again => self.resources.local.clock.now(),
                Verdict::Wait(deadline) => {
                    assert!(
                        deadline.at > self.resources.local.clock.now(),
                        "the deadline has passed already: {deadline:?}"
                    );
                    deadline.at
                }
            };
            // As in a worker, no step without an event or a deadline.
            loop {
                let timeout = until.saturating_duration_since(Instant::now()).min(TEST_TIMEOUT);
                self.resources.local.poller.wait(&mut events, Some(timeout), || true).unwrap();
                if !events.is_empty() || until <= Instant::now() || start.elapsed() >= TEST_TIMEOUT
                {
                    break;
                }
            }
            for event in &events {
                match event.source {
                    Source::Client(_) => run.stream().note(*event),
                    Source::Backend(token) => {
                        self.resources.connections.note(token, *event, Instant::now());
                    }
                    Source::Waker | Source::Listener(_) => {}
                }
            }
        }
    }
}

/// Runs on a [`TestWorker`]: a session, or a stand-in for one.
pub(super) trait Steps {
    fn stream(&mut self) -> &mut Stream;
    fn step(&mut self, cx: &mut Context<'_>) -> Verdict;
}

impl Steps for Session {
    fn stream(&mut self) -> &mut Stream {
        &mut self.client.stream
    }

    fn step(&mut self, cx: &mut Context<'_>) -> Verdict {
        Session::step(self, cx)
    }
}

/// A listening socket and its address.
pub(super) fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Two connected sockets: the client's end and the session's.
pub(super) fn pair() -> (TcpStream, TcpStream) {
    let (listener, address) = listen();
    let client = TcpStream::connect(address).unwrap();
    (client, listener.accept().unwrap().0)
}

/// A permit for the connection of this socket, to be served.
pub(super) fn permit(socket: &TcpStream) -> Permit {
    let limits =
        Limits { max_connections: 1, max_connections_per_client: None, max_graceful_rejections: 0 };
    Permits::new(Arc::new(Admission::new(limits))).admit(socket.peer_addr().unwrap()).unwrap()
}

/// A session with this socket.
pub(super) fn session(socket: TcpStream) -> Session {
    let permit = permit(&socket);
    Session::new(socket, permit, Instant::now() + TEST_TIMEOUT)
}

/// Writes and reads on a blocking socket, masked or not.
pub(super) struct Peer {
    pub(super) socket: TcpStream,
    pub(super) is_masked: bool,
}

impl Peer {
    pub(super) fn write(&mut self, bytes: &[u8]) {
        let mut bytes = bytes.to_vec();
        if self.is_masked {
            mask(&mut bytes);
        }
        // Fails if the peer has closed, in some tests.
        let _ = self.socket.write_all(&bytes);
    }

    /// Reads until `is_enough` holds for the received bytes, or the connection ends.
    pub(super) fn read_until(&mut self, is_enough: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        self.socket.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
        let (mut all, mut piece) = (Vec::new(), vec![0; 64 * 1024]);
        while !is_enough(&all) {
            let count = self.socket.read(&mut piece).unwrap_or(0);
            if count == 0 {
                break;
            }
            let start = all.len();
            all.extend_from_slice(&piece[..count]);
            if self.is_masked {
                mask(&mut all[start..]);
            }
        }
        all
    }
}

/// An origin that reads one request with `length` bytes of body on each connection and responds;
/// returns the received bytes of each connection.
pub(super) fn origin(
    is_masked: bool,
    exchanges: Vec<(usize, Vec<u8>)>,
) -> (SocketAddr, thread::JoinHandle<Vec<Vec<u8>>>) {
    let (listener, address) = listen();
    let serve = move || {
        let serve_one = |(length, response): (usize, Vec<u8>)| {
            let mut peer = Peer { socket: listener.accept().unwrap().0, is_masked };
            let received =
                peer.read_until(|all| body_of(all).is_some_and(|body| body.len() >= length));
            peer.write(&response);
            received
        };
        exchanges.into_iter().map(serve_one).collect()
    };
    (address, thread::spawn(serve))
}

/// The bytes after a head, once it is complete.
pub(super) fn body_of(bytes: &[u8]) -> Option<&[u8]> {
    bytes.windows(4).position(|bytes| bytes == b"\r\n\r\n").map(|head| &bytes[head + 4..])
}
