//! The flags of `lb-threads backend`.

use super::values::parse_share;
use crate::config::DEFAULT_HOST;
use crate::config::values::parse_duration;
use clap::Args;
use std::time::Duration;

/// The flags of `lb-threads backend`.
#[derive(Clone, Debug, Args)]
pub struct BackendArgs {
    /// Address to listen on
    #[arg(long, default_value_t = DEFAULT_HOST.to_string())]
    pub host: String,
    /// Port to listen on; 0 takes a free port
    #[arg(long, default_value_t = 8080)]
    pub port: u16,
    /// Name of the backend in its responses [default: the port]
    #[arg(long, value_name = "NAME", env = "SERVER_ID")]
    pub id: Option<String>,
    /// Share of requests that get 500, from 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, env = "FAILURE_RATE", value_parser = parse_share)]
    pub failure_rate: f64,
    /// Shortest delay before a response
    #[arg(long, value_name = "DURATION", default_value = "0s", env = "MIN_LATENCY", value_parser = parse_duration)]
    pub min_latency: Duration,
    /// Longest delay before a response
    #[arg(long, value_name = "DURATION", default_value = "0s", env = "MAX_LATENCY", value_parser = parse_duration)]
    pub max_latency: Duration,
    /// End with standard input: for a parent process that must not leave it behind
    #[arg(long, hide = true)]
    pub until_stdin_ends: bool,
}
