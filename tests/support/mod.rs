//! The basis of the integration tests: a scripted origin, a raw client, and bounded waiting.
//!
//! Everything here speaks raw bytes over real loopback sockets and shares no line with the product:
//! a mistake in the product's own parser cannot cover up the same mistake in the test's.
//!
//! - [`Origin`] is a backend that runs its [`Script`] (responds, delays, truncates, resets) and
//!   records all that it received. It responds to `GET /health` by itself, see [`Health`].
//! - [`Client`] sends exact bytes and reads strictly: a malformed response fails the test.
//! - [`refused_address`] and [`Blackhole`] are the two ways in which a connect can fail.
//! - [`until`] and [`Gate`] are how a test waits. Nothing sleeps, and nothing waits longer than
//!   [`TEST_TIMEOUT`].
//!
//! ```ignore
//! let origin = Origin::responding("hello");
//! let response = get(balancer.address(), "/a");
//! assert_eq!(response.text(), "hello");
//! assert_eq!(origin.only_request().header("Host"), Some("example.com"));
//! ```
//!
//! Behaviour that the ready-made origins do not have is a list of steps, or a closure:
//!
//! ```ignore
//! let gate = Gate::new();
//! let origin = Origin::start([Step::ReadRequest, Step::WaitFor(gate.clone()), Step::send(ok("late")), Step::Reset]);
//! let origin = Origin::serve(|request, reply| reply.ok(&request.target));
//! ```

#![allow(
    dead_code,
    unused_imports,
    reason = "a library for all test modules: no single binary uses the whole of it"
)]

mod address;
mod client;
mod folder;
mod lb;
mod origin;
pub mod program;
pub mod prometheus;
pub mod terminal;
mod wait;
mod wire;

pub use address::{Blackhole, refused_address};
pub use client::{Client, Next, Response, exchange, get, raw_exchange};
pub use folder::Folder;
pub use lb::{Lb, config, with_admin};
pub use origin::{After, Ending, Health, Origin, Received, Reply, Script, Step};
pub use wait::{Deadline, Gate, TEST_TIMEOUT, comes_true, stays, until, until_some};
pub use wire::{Field, Framing, chunked, chunked_with_trailers, escaped, ok, response};
