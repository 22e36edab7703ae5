//! Fixed limits, which no setting changes.

use std::time::Duration;

/// The largest request head, in bytes; a larger one gets 431.
pub const MAX_REQUEST_HEAD_BYTES: usize = 16 * 1024;
/// The longest request target, in bytes; a longer one gets 414.
pub const MAX_TARGET_BYTES: usize = 8 * 1024;
/// Fields in a request head or a trailer section; more get 431 from a client, 502 from a backend.
pub const MAX_HEAD_FIELDS: usize = 100;
/// The largest response head, in bytes; a larger one becomes 502.
pub const MAX_RESPONSE_HEAD_BYTES: usize = 64 * 1024;
/// Fields in a response head; more become 502.
pub const MAX_RESPONSE_HEAD_FIELDS: usize = 4096;
/// 1xx responses before a final one; more become 502.
pub const MAX_INTERIM_RESPONSES: u32 = 32;
/// The longest line with a chunk's size and extensions, in bytes.
pub const MAX_CHUNK_LINE_BYTES: usize = 4096;
/// The largest trailer section, in bytes.
pub const MAX_TRAILER_BYTES: usize = 8 * 1024;
/// Empty lines tolerated before a request line (RFC 9112 section 2.2).
pub const MAX_LEADING_EMPTY_LINES: usize = 8;
/// The part of a request body that is kept for a retry, in bytes.
pub const MAX_REPLAY_BYTES: usize = 64 * 1024;
/// The backends at which one request may fail before the client gets the error.
pub const MAX_ATTEMPTS: usize = 3;
/// Requests that wait for a slot at a backend; more get 503.
pub const MAX_PENDING: usize = 4096;
/// Connects in progress from which on a backend counts as stalled, because it may be dropping SYNs.
pub const MAX_PENDING_CONNECTS: usize = 4;
/// The longest time for which an idle backend connection is kept, whatever the backend announces.
pub const MAX_BACKEND_IDLE: Duration = Duration::from_secs(60);
/// The I/O budget of one step, in bytes; a session that has used it goes to the end of the run
/// queue.
pub const MAX_STEP_BYTES: usize = 256 * 1024;
/// The bytes that a body must move within the body timeout.
pub const PROGRESS_BYTES: u64 = 1024;
/// The shortest body that moves through a pipe inside the kernel, in bytes.
pub const MIN_SPLICE_BYTES: u64 = 64 * 1024;
/// Pipes in use by one worker; more long bodies are copied.
pub const MAX_PIPES_PER_WORKER: usize = 256;
/// A size that every socket buffer holds, in bytes: a longer response may still be on its way after
/// its last byte was written.
pub const SOCKET_BUFFER_BYTES: u64 = 16 * 1024;
/// Bytes read and discarded in a lingering close: more than most clients send before they read a
/// response.
pub const LINGER_MAX_BYTES: usize = 64 * 1024 * 1024;
/// Connections of one worker in a lingering close; with more, the oldest is closed.
pub const MAX_LINGERING: usize = 256;
/// Connections over a limit that workers hold until their requests arrive, which get 503 or 429;
/// above it, connections are shed at once.
pub const MAX_GRACEFUL_REJECTIONS: usize = 256;
/// Sockets that all workers together keep open for a short time after they have shed them; at least
/// one per worker.
pub const MAX_SHED: usize = 32;
/// The listen backlog.
pub const BACKLOG: i32 = 4096;
/// The most workers.
pub const MAX_WORKERS: u32 = 1024;
/// The largest configuration file, in bytes.
pub const MAX_CONFIG_BYTES: usize = 1024 * 1024;
/// Health checks at once, each with a thread and a connection of its own.
pub const MAX_CHECKERS: usize = 512;
/// The shortest time between two health checks of one backend.
pub const MIN_HEALTH_PERIOD: Duration = Duration::from_secs(1);
/// Connections at once of the admin port, and as many of the data port to the control API; more get
/// 503.
pub const MAX_CONTROL_CONNECTIONS: usize = 32;
/// Sockets that the control API keeps open for a while after it has responded 503.
pub const MAX_CONTROL_SHED: usize = 4;
/// Connections of the control API, per port, that may still be ending in favour of new ones.
pub const MAX_CONTROL_ENDING: usize = 4;
/// The largest request body of the control API, in bytes; a larger one gets 413.
pub const MAX_CONTROL_BODY_BYTES: usize = 64 * 1024;
/// The time for a request head of the control API in total; the same for its body, for the response,
/// and for an idle connection.
pub const CONTROL_TIMEOUT: Duration = Duration::from_secs(5);
/// The upper bounds of the histograms of durations in `/metrics`, inclusive, in microseconds.
pub const DURATION_BOUNDS: [u64; 13] = [
    1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000,
];
