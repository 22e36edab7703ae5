//! `lb-threads`: a synchronous HTTP/1.1 load balancer. A fixed pool of threads, blocking sockets,
//! no async runtime.
//!
//! Start with `ARCHITECTURE.md`. An item is public if the program, its tests, the fuzz targets or the
//! benchmarks use it. The layers, from the lowest up; a module imports only from its own or lower
//! ones: `admission children clock config config_file error logging metrics notifier reason` → `net`,
//! `wire` → `upstream`, `stats` → `session` → `threads` → `admin`, `ctl`, `server` → `cli`,
//! `commands`.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::unwrap_used))]

pub mod admin;
pub(crate) mod admission;
pub(crate) mod children;
pub mod cli;
pub(crate) mod clock;
pub mod commands;
pub mod config;
pub mod config_file;
pub mod ctl;
pub mod error;
pub(crate) mod logging;
pub mod metrics;
pub(crate) mod net;
pub(crate) mod notifier;
pub mod reason;
pub mod server;
pub(crate) mod session;
pub mod stats;
pub(crate) mod threads;
pub mod upstream;
pub mod wire;
