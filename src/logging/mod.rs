//! The program's log: lines for stderr, written by a thread of their own.
//!
//! [`install`] connects the `log` macros to that thread ([`LogWriter`]); [`RateLimitedLog`] keeps
//! frequent events to a line every few seconds. Must never hold up a thread that logs.

mod rate_limited;
mod writer;

pub use rate_limited::RateLimitedLog;
pub use writer::LogWriter;

use log::LevelFilter;
use std::io::{self, IsTerminal};

/// Sends the program's log to stderr through a log thread. The libraries' own lines are capped at
/// WARN. Fails if the machine refuses the thread.
pub fn install(level: LevelFilter) -> io::Result<LogWriter> {
    let writer = LogWriter::start(io::stderr())?;
    let is_coloured = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let style =
        if is_coloured { env_logger::WriteStyle::Always } else { env_logger::WriteStyle::Never };
    env_logger::Builder::new()
        .filter_level(level.min(LevelFilter::Warn))
        .filter_module("lb_threads", level)
        .format_target(false)
        .format_timestamp_millis()
        .write_style(style)
        .target(env_logger::Target::Pipe(Box::new(writer.clone())))
        .init();
    Ok(writer)
}
