//! The flags of `lb-threads check`.

use super::UsageError;
use super::serve::SourceArgs;
use crate::config_file::Sources;
use clap::Args;
use std::path::PathBuf;

/// The flags of `lb-threads check`: a file, and the balancer's own.
#[derive(Debug, Args)]
#[command(mut_arg("PERIOD", |arg| arg.long("period").value_name("DURATION")))]
pub struct CheckArgs {
    /// Configuration file (JSON), the same as with -c
    #[arg(value_name = "FILE", conflicts_with = "config")]
    file: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
    /// Print each setting with its value and where that comes from
    #[arg(long)]
    pub origin: bool,
    #[command(flatten)]
    sources: SourceArgs,
}

impl CheckArgs {
    /// The sources of the configuration.
    pub fn into_sources(self) -> Result<Sources, UsageError> {
        self.sources.into_sources(self.file)
    }
}
