//! The program's log: lines for stderr, written by a thread of their own.
//!
//! [`install`] runs on the main thread and connects the `log` macros to the log thread
//! ([`LogWriter`]); [`RateLimitedLog`] limits frequent events to one line every few seconds. A
//! thread that logs must never wait for the log.

mod rate_limited;
mod writer;

pub use rate_limited::RateLimitedLog;
pub use writer::LogWriter;

use log::LevelFilter;
use std::io::{self, IsTerminal};

/// Sends the program's log to stderr through a log thread. The lines of libraries are capped at
/// WARN. An error if the thread cannot be started.
pub fn install(level: LevelFilter) -> io::Result<LogWriter> {
    let writer = LogWriter::start(io::stderr())?;
    let is_coloured = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let style =
        if is_coloured { env_logger::WriteStyle::Always } else { env_logger::WriteStyle::Never };
    env_logger::Builder::new()
        .filter_level(LevelFilter::Warn)
        .filter_module("lb_threads", LevelFilter::Trace)
        .format_target(false)
        .format_timestamp_millis()
        .write_style(style)
        .target(env_logger::Target::Pipe(Box::new(writer.clone())))
        .init();
    set_level(level);
    Ok(writer)
}

/// Changes the level of the log.
pub fn set_level(level: LevelFilter) {
    log::set_max_level(level);
}
