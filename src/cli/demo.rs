//! The flags of `lb-threads demo`.

use crate::config::values::parse_level;
use crate::config::{DEFAULT_HOST, DEFAULT_PORT};
use clap::Args;
use log::LevelFilter;

/// The flags of `lb-threads demo`.
#[derive(Clone, Debug, Args)]
pub struct DemoArgs {
    /// Address to listen on
    #[arg(long, default_value_t = DEFAULT_HOST.to_string())]
    pub host: String,
    /// Port to listen on; 0 takes a free port
    #[arg(long, default_value_t = DEFAULT_PORT)]
    pub port: u16,
    /// Log level: off, error, warn, info, debug, trace
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "LOGLEVEL", value_parser = parse_level)]
    pub log_level: LevelFilter,
}
