//! The program's log: lines for stderr or a file, written by a thread of their own.
//!
//! [`install`] runs on the main thread and connects the `log` macros to the log thread
//! ([`LogWriter`]) through env_logger, which filters; `event` formats their lines. Access lines go
//! to the log thread directly ([`LogWriter::send`]); `session` makes them of records. The log
//! thread writes to an `output`, which may be a `file` that is reopened. [`RateLimitedLog`] limits
//! frequent events to one line every few seconds. A thread that logs must never wait for the log.
//!
//! Level and format are the only globals, as the logger itself is one.

pub(crate) mod escape;
mod event;
mod file;
mod json;
mod number;
mod output;
mod rate_limited;
mod stamp;
mod writer;

pub(crate) use event::push_text_prefix;
pub use event::set_format;
pub use file::LogFile;
pub(crate) use json::{JsonLine, Value};
pub(crate) use number::push_number;
pub use output::Output;
pub use rate_limited::RateLimitedLog;
pub use stamp::Stamp;
pub use writer::LogWriter;

use log::LevelFilter;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal, Write};
use std::path::Path;

/// Sends the program's log to stderr, or to a file, through a log thread. The lines of libraries are
/// capped at WARN. An error if the file cannot be opened, or the thread cannot be started.
pub fn install(level: LevelFilter, file: Option<&str>) -> Result<LogWriter, String> {
    let output = match file {
        Some(path) => Output::file(LogFile::open(Path::new(path))?),
        None => Output::stream(io::stderr(), is_coloured()),
    };
    let writer = LogWriter::start(output)
        .map_err(|error| format!("cannot start the log thread: {error}"))?;
    let is_coloured = writer.is_coloured();
    env_logger::Builder::new()
        .filter_level(LevelFilter::Warn)
        .filter_module("lb_threads", LevelFilter::Trace)
        .format(move |line, record| line.write_all(&event::of_record(record, is_coloured)))
        .target(env_logger::Target::Pipe(Box::new(writer.clone())))
        .init();
    set_level(level);
    log_panics();
    Ok(writer)
}

/// Changes the level of the log.
pub fn set_level(level: LevelFilter) {
    log::set_max_level(level);
}

fn is_coloured() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// Has panics reported by the log: a write to stderr may wait for ever, and is not a line of the
/// format.
fn log_panics() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !log::log_enabled!(log::Level::Error) {
            return default(panic);
        }
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("without a name");
        let place = panic.location().map_or(String::new(), |place| format!(" at {place}"));
        let message = panic.payload_as_str().unwrap_or("no message");
        let backtrace = Backtrace::capture();
        let backtrace = match backtrace.status() {
            BacktraceStatus::Captured => format!("\n{backtrace}"),
            _ => String::new(),
        };
        log::error!("thread {name} panicked{place}: {message}{backtrace}");
    }));
}
