//! The command line and the environment. Runs on the main thread, before the balancer starts.
//!
//! Two stages: clap parses the words into [`Args`], and [`ServeArgs::into_config`] turns them into a
//! `Config`, or into an error of one line that names the problem and its fix.

mod backend;
mod backends;
mod ctl;
mod demo;
mod serve;
mod settings;
mod values;

pub use backend::BackendArgs;
pub use ctl::CtlArgs;
pub use demo::DemoArgs;
pub use serve::ServeArgs;

use clap::{Parser, Subcommand};
use std::io;

const EXAMPLES: &str = "\
Examples:
  lb-threads demo                           three demo backends behind a balancer
  lb-threads 10                             balance 127.0.0.1:8080, 8081 and 8082
  lb-threads -b 10.0.0.1:80 -b 10.0.0.2:80  balance these two
  lb-threads --health-path /                for backends without a health page
  lb-threads ctl list                       the backends of a running balancer
  LOGLEVEL=DEBUG lb-threads                 log every head, in both directions

Durations: 250ms, 5s, 1m, 1h; a bare number is seconds. A flag overrides the environment, the environment overrides the default.";

/// A synchronous HTTP/1.1 load balancer: a fixed pool of threads, blocking sockets, no async
/// runtime.
#[derive(Debug, Parser)]
#[command(name = "lb-threads", version, after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub struct Args {
    /// The subcommand; without one, the program balances.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The flags of the balancer.
    #[command(flatten)]
    pub serve: ServeArgs,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start three demo backends and a balancer in front of them
    Demo(DemoArgs),
    /// Run one demo backend, which responds to every path with its name
    Backend(BackendArgs),
    /// List and change the backends of a running balancer
    Ctl(CtlArgs),
}

/// An invalid command line.
#[derive(Debug, PartialEq, Eq)]
pub struct UsageError {
    /// The problem and its fix, in one line.
    pub message: String,
    /// The exit code: 1 could not start, 2 bad command line.
    pub exit_code: u8,
}

impl UsageError {
    fn bad(message: String) -> Self {
        Self { message, exit_code: 2 }
    }

    /// The error for a name that cannot be resolved.
    pub fn unresolved(flag: &str, host: &str, error: &io::Error) -> Self {
        let message =
            format!("cannot resolve `{host}`: {error}; check {flag}, or give it an address");
        Self { message, exit_code: 1 }
    }
}

/// An error of clap in one line.
pub fn in_one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines: Vec<&str> = text
        .lines()
        .take_while(|line| !line.starts_with("Usage:"))
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("For more information"))
        .collect();
    format!("{}; see lb-threads --help", lines.join("; ").trim_start_matches("error: "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }
}
