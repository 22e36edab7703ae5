//! What the balancer was told to do: every setting with its default, and every limit, in one place.
//!
//! Plain values that were checked where they came in (`cli`); nothing here is read from the
//! outside, and nothing changes after the start.

use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

/// The largest request head, in bytes; beyond it 431.
pub const REQUEST_HEAD_BYTES: usize = 16 * 1024;
/// The longest request target, in bytes; beyond it 414.
pub const TARGET_BYTES: usize = 8 * 1024;
/// The most fields in a head; beyond it 431 to a client, 502 for a backend's answer.
pub const HEAD_FIELDS: usize = 100;
/// The largest head of an answer, in bytes; beyond it 502.
pub const ANSWER_HEAD_BYTES: usize = 64 * 1024;
/// The longest line that holds a chunk's size and extensions, in bytes.
pub const CHUNK_LINE_BYTES: usize = 4096;
/// The largest trailer section, in bytes.
pub const TRAILER_BYTES: usize = 8 * 1024;
/// What is kept of a request body so that the request can be sent again, in bytes.
pub const REPLAY_BYTES: usize = 64 * 1024;
/// What one step moves before other ready connections get their turn, in bytes.
pub const STEP_BYTES: usize = 256 * 1024;
/// What is read and dropped after a connection's last response so that it is not lost to a reset,
/// in bytes: more than most clients send before they look for a response.
pub const LINGER_BYTES: usize = 64 * 1024 * 1024;
/// The most connections of one worker that linger; beyond it the oldest is closed.
pub const LINGERING: usize = 256;
/// An answer of this size fits into any socket's buffers, in bytes: a longer one may still be on
/// its way when it was sent.
pub const BUFFERED_BYTES: u64 = 16 * 1024;
/// The most fields in an answer's head.
pub const ANSWER_HEAD_FIELDS: usize = 4096;
/// The most 1xx answers before a final one.
pub const INTERIM_ANSWERS: u32 = 32;
/// How long an idle connection waits for a request when the balancer stops: it may be on its way.
pub const REQUEST_GRACE: Duration = Duration::from_secs(1);
/// How long a connection that is to be rejected waits for its request, and for the rest of it,
/// before it is told unasked.
pub const REJECTION_GRACE: Duration = Duration::from_millis(400);
/// The longest time for which an idle connection to a backend is kept, whatever the backend says.
pub const LONGEST_BACKEND_IDLE: Duration = Duration::from_secs(60);
/// The most connections that one listener keeps for a moment after it has rejected them by itself.
pub const SHED: usize = 32;
/// Empty lines tolerated before a request line (RFC 9112 section 2.2).
pub const LEADING_EMPTY_LINES: usize = 8;
/// The listen backlog.
pub const BACKLOG: i32 = 4096;
/// The most backends that one exchange is tried on.
pub const ATTEMPTS: usize = 3;
/// The most requests that wait for a place at a backend.
pub const QUEUE: usize = 4096;
/// A backend with this many connects in progress is passed over while another has fewer: it may be
/// swallowing them.
pub const PENDING_CONNECTS: usize = 4;
/// A body moves if at least this many bytes went through within the body timeout.
pub const PROGRESS_BYTES: u64 = 1024;
/// Bodies of at least this many bytes move through a pipe inside the kernel.
pub const SPLICE_BYTES: u64 = 64 * 1024;

/// Everything that the balancer needs to know to start.
#[derive(Clone, Debug)]
pub struct Config {
    /// The addresses to listen on; port 0 takes a free one.
    pub listen: Vec<SocketAddr>,
    /// The backends, in the order given.
    pub backends: Vec<BackendAddress>,
    /// The size of the worker pool.
    pub workers: usize,
    /// How backends are checked.
    pub health: HealthConfig,
    /// How long each stage may take.
    pub timeouts: Timeouts,
    /// The most client connections at once; beyond it 503.
    pub connections: usize,
    /// The most connections beyond a limit that the workers hold, to respond to their requests with
    /// 503 or 429; those beyond these too are rejected at once.
    pub rejections: usize,
    /// The most pipes that one worker has in use for long bodies; beyond it they are copied.
    pub pipes_a_worker: usize,
    /// The most connections from one client address, if limited; beyond it 429.
    pub connections_a_client: Option<usize>,
    /// The most requests at one backend at once, if limited; what is beyond waits its turn.
    pub backend_connections: Option<usize>,
    /// The largest request body in bytes, if limited; beyond it 413.
    pub body_bytes: Option<u64>,
    /// The networks whose `X-Forwarded-*` fields are believed.
    pub trusted_proxies: Vec<IpNet>,
}

/// A backend: where it is, and the name under which logs and answers speak of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendAddress {
    /// `host:port` as it was given.
    pub name: String,
    /// What it resolved to.
    pub address: SocketAddr,
}

/// How backends are checked.
#[derive(Clone, Debug)]
pub struct HealthConfig {
    /// Whether `GET path` is sent at all; without it only attempts are judged.
    pub checks: bool,
    /// The path to ask for.
    pub path: String,
    /// The most checks at once, each with a thread and a connection of its own; beyond them one
    /// waits for another's end.
    pub checkers: usize,
    /// The time between two checks of one backend.
    pub period: Duration,
    /// How long one check may take.
    pub timeout: Duration,
    /// Passed checks in a row that bring a backend up.
    pub rise: u32,
    /// Failed checks, or failed connects, in a row that take a backend down.
    pub fall: u32,
}

/// A stage that may take only so long. Each has its own word in errors and logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timeout {
    /// A client between two requests.
    Idle,
    /// A request head from its first byte to its end.
    Head,
    /// A place at a backend, when all have as many requests as they may.
    Queue,
    /// A connection to a backend.
    Connect,
    /// The answer's head, from the request's last byte, over all attempts; or the 100 that a client
    /// waits for.
    FirstByte,
    /// Progress of a body, either way.
    Body,
    /// Silence in a tunnel.
    Tunnel,
    /// The client's bytes after its connection's last response.
    Linger,
    /// A request on an idle connection when the balancer stops.
    Grace,
    /// A request on a connection that is one too many.
    Rejection,
}

impl Timeout {
    /// How many stages there are; `as usize` is a stage's index.
    pub const COUNT: usize = 10;
}

/// Until when a stage may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    /// The stage.
    pub timeout: Timeout,
    /// The moment.
    pub at: Instant,
}

impl Deadline {
    /// Whether the moment has come.
    pub fn has_passed(self, now: Instant) -> bool {
        self.at <= now
    }
}

/// How long each stage may take.
#[derive(Clone, Debug)]
pub struct Timeouts {
    /// See [`Timeout::Idle`].
    pub idle: Duration,
    /// See [`Timeout::Head`].
    pub head: Duration,
    /// See [`Timeout::Queue`].
    pub queue: Duration,
    /// See [`Timeout::Connect`].
    pub connect: Duration,
    /// See [`Timeout::FirstByte`].
    pub first_byte: Duration,
    /// See [`Timeout::Body`].
    pub body: Duration,
    /// See [`Timeout::Tunnel`].
    pub tunnel: Duration,
    /// See [`Timeout::Linger`].
    pub linger: Duration,
    /// How long a connection lingers in all, however busily its client goes on sending.
    pub linger_in_all: Duration,
    /// How long an unused backend connection is kept, unless the backend's `Keep-Alive: timeout`
    /// says otherwise.
    pub backend_idle: Duration,
    /// How long requests in flight may take to end when the balancer stops.
    pub drain: Duration,
}

impl Timeouts {
    /// The duration of a stage.
    pub fn of(&self, timeout: Timeout) -> Duration {
        match timeout {
            Timeout::Idle => self.idle,
            Timeout::Head => self.head,
            Timeout::Queue => self.queue,
            Timeout::Connect => self.connect,
            Timeout::FirstByte => self.first_byte,
            Timeout::Body => self.body,
            Timeout::Tunnel => self.tunnel,
            Timeout::Linger => self.linger,
            Timeout::Grace => REQUEST_GRACE,
            Timeout::Rejection => REJECTION_GRACE,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(75),
            head: Duration::from_secs(10),
            queue: Duration::from_secs(5),
            connect: Duration::from_secs(2),
            first_byte: Duration::from_secs(30),
            body: Duration::from_secs(30),
            tunnel: Duration::from_secs(3600),
            linger: Duration::from_secs(2),
            linger_in_all: Duration::from_secs(30),
            backend_idle: Duration::from_secs(4),
            drain: Duration::from_secs(30),
        }
    }
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self {
            checks: true,
            path: "/health".to_owned(),
            checkers: 512,
            period: Duration::from_secs(10),
            timeout: Duration::from_secs(2),
            rise: 1,
            fall: 2,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9090)],
            backends: Vec::new(),
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            health: HealthConfig::default(),
            timeouts: Timeouts::default(),
            connections: 10_000,
            rejections: 256,
            pipes_a_worker: 256,
            connections_a_client: None,
            backend_connections: None,
            body_bytes: None,
            trusted_proxies: Vec::new(),
        }
    }
}

impl Config {
    /// Whether what this peer says about the client is believed.
    pub fn trusts(&self, peer: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|network| network.contains(&peer))
    }
}
