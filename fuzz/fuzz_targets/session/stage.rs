//! The state kept from one input to the next: the balancer, its origin, and how they are
//! driven.

use crate::client::Client;
use crate::origin::Origin;
use crate::requests::{Request, Requests};
use crate::script::{CLIENTS, Ending, Piece};
use lb_threads::config::{Boot, Config, HealthSettings, Limits, Settings, Timeouts};
use lb_threads::server::Server;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::time::{Duration, Instant};

/// How long anything may take; far beyond every timeout of the balancer.
const TEST_TIMEOUT: Duration = Duration::from_secs(20);
/// Descriptors that the balancer may keep for later: the pipes of as many long responses at once as
/// there are clients.
const KEPT_FILES: usize = 2 * CLIENTS;
/// Enough to come by each backend twice.
const PLAIN_REQUESTS: usize = 4;

/// The balancer and its origin.
pub struct Stage {
    /// The balancer, with timeouts so short that a stall ends soon, and one worker, so that all
    /// clients share its connections.
    pub server: Server,
    /// Both its backends.
    pub origin: Origin,
    connected: u64,
    files: usize,
}

/// Formats every message, as a log at DEBUG does, and drops it.
struct Formatter;

impl log::Log for Formatter {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        std::hint::black_box(record.args().to_string());
    }

    fn flush(&self) {}
}

impl Stage {
    /// Starts both, and sees that they work.
    pub fn start() -> Self {
        log::set_logger(&Formatter).expect("there is no other");
        log::set_max_level(log::LevelFilter::Debug);
        let origin = Origin::start();
        let short = Duration::from_millis(20);
        let timeouts = Timeouts {
            idle: short,
            head: short,
            queue: short,
            first_byte: short,
            body: short,
            ..Timeouts::default()
        };
        let backends = origin.addresses().map(Into::into);
        let server = Server::start(Config {
            boot: Boot { listen: vec![([127, 0, 0, 1], 0).into()], workers: 1, ..Boot::default() },
            backends: backends.into(),
            settings: Settings {
                health: HealthSettings { checks: false, ..HealthSettings::default() },
                timeouts: Timeouts { tunnel: short, linger: short, ..timeouts },
                limits: Limits { max_body_bytes: Some(100_000), ..Limits::default() },
                ..Settings::default()
            },
        });
        let mut stage = Self {
            server: server.expect("a free port"),
            origin,
            connected: 0,
            files: usize::MAX - KEPT_FILES,
        };
        stage.serve_plain_requests();
        stage.settle();
        stage.files = open_files();
        stage
    }

    /// A client with something to send.
    pub fn connect(&mut self, pieces: Vec<Piece>, ending: Ending, reads_late: bool) -> Client {
        self.connected += 1;
        Client::connect(self.server.balancer().addresses()[0], pieces, ending, reads_late)
    }

    /// Drives clients and origin until all clients are done.
    pub fn play(&mut self, clients: &mut [Client]) {
        let (started, mut quiet) = (Instant::now(), false);
        while clients.iter().any(|client| client.socket.is_some()) {
            assert!(started.elapsed() < TEST_TIMEOUT, "a connection does not end: {clients:?}");
            let mut busy = self.origin.step();
            for client in clients.iter_mut() {
                busy |= client.step(quiet);
            }
            let sockets = self.origin.sockets().chain(clients.iter().filter_map(Client::readable));
            let mut polled: Vec<PollFd<'_>> =
                sockets.map(|socket| PollFd::from_borrowed_fd(socket, PollFlags::IN)).collect();
            let wait = Timespec { tv_sec: 0, tv_nsec: if busy { 0 } else { 1_000_000 } };
            quiet = poll(&mut polled, Some(&wait)) == Ok(0) && !busy;
        }
    }

    /// The origin closes its connections; waits until the balancer holds nothing any more. Returns
    /// the origin's requests.
    pub fn settle(&mut self) -> Vec<Request> {
        let (started, mut seen) = (Instant::now(), Vec::new());
        loop {
            seen.extend(self.origin.stop());
            // A connection that was closed at once may not even be accepted yet.
            let coming = self.connected - self.server.balancer().totals().connections;
            let (open, files) = (self.server.balancer().open_connections(), open_files());
            if coming == 0 && open == 0 && files <= self.files + KEPT_FILES {
                return seen;
            }
            assert!(
                started.elapsed() < TEST_TIMEOUT,
                "{coming} to come, {open} sessions and {files} files are left, at first {}",
                self.files
            );
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    /// Plain requests are served after every input. Its leftovers, or a machine that is slow for a
    /// moment, may fail a few.
    pub fn serve_plain_requests(&mut self) -> Vec<Client> {
        let (started, mut all) = (Instant::now(), Vec::new());
        loop {
            let piece = Piece {
                bytes: b"GET /plain HTTP/1.1\r\nHost: h\r\n\r\n".repeat(PLAIN_REQUESTS),
                waits: false,
            };
            let mut clients = [self.connect(vec![piece], Ending::Finish, false)];
            self.play(&mut clients);
            let responses = clients[0].check(&Requests::of(&clients[0].sent));
            let served = responses
                .iter()
                .filter(|response| {
                    response.status == 200 && response.body.as_deref() == Some(b"ok")
                })
                .count();
            all.extend(clients);
            if served == PLAIN_REQUESTS {
                return all;
            }
            assert!(started.elapsed() < TEST_TIMEOUT, "plain requests are not served");
        }
    }
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}
