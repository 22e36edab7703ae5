//! The flags of `lb-threads ctl`. The words of the command are for `ctl::grammar`.

use super::UsageError;
use super::control::{TOKEN_VARIABLE, read_token};
use crate::config::values::parse_timeout;
use crate::config::{DEFAULT_ADMIN, HostPort};
use crate::ctl::client::Client;
use crate::ctl::grammar::{self, Command};
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  lb-threads ctl list                           all backends
  lb-threads ctl stats --periods 5m,1h          requests, errors, response times
  lb-threads ctl add 10.0.0.3 8080 2            with twice the weight of the others
  lb-threads ctl drain http://10.0.0.1 --wait 30s && lb-threads ctl remove http://10.0.0.1
  lb-threads ctl algorithm least_conn
  lb-threads ctl health --admin 10.0.0.9:9190   for HEALTHCHECK: exit status 0 or 1

Exit status: 0 done; 1 not ready, not reachable, or requests left by drain --wait; 2 bad command line; 4 rejected, or no such backend.";

/// The flags of `lb-threads ctl`.
#[derive(Debug, Args)]
#[command(
    override_usage = "lb-threads ctl COMMAND [FLAGS]",
    help_template = template(),
    after_help = EXAMPLES
)]
pub struct CtlArgs {
    /// The command and its words
    #[arg(value_name = "COMMAND", allow_negative_numbers = true, hide = true)]
    words: Vec<String>,
    /// Address of the balancer's control API
    #[arg(long, value_name = "HOST:PORT", env = "LB_ADMIN", default_value_t = DEFAULT_ADMIN.into(), value_parser = parse_admin)]
    admin: HostPort,
    /// File with the token of the control API; LB_ADMIN_TOKEN holds the token itself
    #[arg(long, value_name = "FILE")]
    admin_token_file: Option<PathBuf>,
    /// Time limit of a request [default: 5s; 30s for add and reload, 2s for health]
    #[arg(long, value_name = "DURATION", value_parser = parse_timeout)]
    timeout: Option<Duration>,
    /// For drain: wait until no request is in flight, so long at most
    #[arg(long, value_name = "DURATION")]
    wait: Option<String>,
    /// For stats: the periods, of 5m,30m,1h,6h,24h,all
    #[arg(long, value_name = "PERIODS")]
    periods: Option<String>,
    /// Print the API's JSON instead of text
    #[arg(long)]
    pub json: bool,
}

impl CtlArgs {
    /// The command that the words form.
    pub fn command(&self) -> Result<Command, UsageError> {
        let mut words: Vec<&str> = self.words.iter().map(String::as_str).collect();
        if let Some(wait) = &self.wait {
            words.extend(["--wait", wait]);
        }
        if let Some(periods) = &self.periods {
            words.extend(["--periods", periods]);
        }
        grammar::parse(&words)
            .map_err(|error| UsageError::bad(format!("ctl: {error}; see lb-threads ctl --help")))
    }

    /// The client of the named balancer.
    pub fn client(&self) -> Result<Client, UsageError> {
        let token = match &self.admin_token_file {
            Some(path) => Some(read_token(path).map_err(UsageError::bad)?.secret().to_owned()),
            None => std::env::var(TOKEN_VARIABLE).ok(),
        };
        let token = token.as_deref().map(str::trim).filter(|token| !token.is_empty());
        Client::new(self.admin.clone(), token, self.timeout).map_err(UsageError::bad)
    }
}

fn template() -> String {
    let commands = grammar::help();
    format!("{{about}}\n\n{{usage-heading}} {{usage}}\n\n{commands}\n{{all-args}}{{after-help}}")
}

fn parse_admin(text: &str) -> Result<HostPort, String> {
    HostPort::parse(text)
        .map_err(|_| format!("`{text}` is not an address; write it like 127.0.0.1:9190"))
}
