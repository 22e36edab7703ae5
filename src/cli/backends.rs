//! The backends of the command line: those that are named, the default ones, or none.

use super::UsageError;
use crate::config::BackendSpec;
use crate::net;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, FromArgMatches};
use std::net::SocketAddr;

/// The backends if none are named.
const DEFAULT_BACKENDS: [&str; 3] = ["127.0.0.1:8080", "127.0.0.1:8081", "127.0.0.1:8082"];

/// The flags, as clap parses them.
#[derive(Debug, Args)]
struct Flags {
    /// A backend, HOST:PORT or URL, with =WEIGHT if others have another weight; may be repeated [default: 127.0.0.1:8080, 8081 and
    /// 8082]
    #[arg(
        short = 'b',
        long = "backend",
        value_name = "BACKEND",
        env = "BACKEND_SERVERS",
        value_delimiter = ','
    )]
    backends: Vec<String>,
    /// Start without backends: 503 until one is added
    #[arg(long)]
    no_backends: bool,
}

/// The backends that the command line or the environment names.
#[derive(Debug)]
pub(super) struct NamedBackends {
    flags: Flags,
    /// Whether the names come from the environment, which a flag overrides.
    is_from_environment: bool,
}

impl NamedBackends {
    /// The named backends, none with `--no-backends`, else the default ones except those on our own
    /// port. Resolves names, so it may wait.
    pub(super) fn specs(&self, listen: &[SocketAddr]) -> Result<Vec<BackendSpec>, UsageError> {
        let names = self.flags.backends.iter().map(|name| name.trim());
        let names: Vec<&str> = names.filter(|name| !name.is_empty()).collect();
        match (self.flags.no_backends, names.first()) {
            (false, None) => defaults(listen),
            (false, Some(_)) => distinct(&names),
            (true, None) => Ok(Vec::new()),
            (true, Some(_)) if self.is_from_environment => {
                log::info!("--no-backends: the backends of BACKEND_SERVERS are ignored");
                Ok(Vec::new())
            }
            (true, Some(name)) => Err(UsageError::bad(format!(
                "--no-backends and --backend {name} exclude each other; drop one of them"
            ))),
        }
    }
}

impl Args for NamedBackends {
    fn augment_args(command: Command) -> Command {
        Flags::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Flags::augment_args_for_update(command)
    }
}

impl FromArgMatches for NamedBackends {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let source = matches.value_source("backends");
        Ok(Self {
            flags: Flags::from_arg_matches(matches)?,
            is_from_environment: source == Some(ValueSource::EnvVariable),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn defaults(listen: &[SocketAddr]) -> Result<Vec<BackendSpec>, UsageError> {
    let mut defaults =
        DEFAULT_BACKENDS.iter().map(|text| backend(text)).collect::<Result<Vec<_>, _>>()?;
    let is_ours = |port| listen.iter().any(|ours| ours.port() == port);
    defaults.retain(|backend| !is_ours(backend.authority.port()));
    Ok(defaults)
}

fn distinct(names: &[&str]) -> Result<Vec<BackendSpec>, UsageError> {
    let mut backends: Vec<BackendSpec> = Vec::new();
    for text in names {
        let backend = backend(text)?;
        if backends.iter().any(|other| other.authority == backend.authority) {
            return Err(UsageError::bad(format!("backend `{text}` is named twice; name it once")));
        }
        backends.push(backend);
    }
    Ok(backends)
}

fn backend(text: &str) -> Result<BackendSpec, UsageError> {
    let mut backend = BackendSpec::parse(text).map_err(UsageError::bad)?;
    backend.addresses = net::resolve_backend(&backend.authority)
        .map_err(|error| UsageError::unresolved("--backend", backend.authority.host(), &error))?;
    Ok(backend)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        backends: NamedBackends,
    }

    fn names(words: &[&str], port: u16) -> Result<Vec<String>, String> {
        let words = std::iter::once("lb-threads").chain(words.iter().copied());
        let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        let specs = line.backends.specs(&[([127, 0, 0, 1], port).into()]);
        let names = specs.map_err(|error| error.message)?.into_iter();
        Ok(names.map(|backend| backend.authority.to_string()).collect())
    }

    #[test]
    fn backends_keep_their_names_and_their_order() {
        let names = names(&["-b", "127.0.0.1:1,http://127.0.0.2:1/", "-b", "[::1]:1"], 9090);
        assert_eq!(names.unwrap(), ["127.0.0.1:1", "127.0.0.2:1", "[::1]:1"]);
    }

    #[test]
    fn without_backends_the_three_python_servers_are_balanced() {
        assert_eq!(names(&[], 9090).unwrap(), DEFAULT_BACKENDS);
        let without_ours = names(&[], 8081).unwrap();
        assert_eq!(without_ours, ["127.0.0.1:8080", "127.0.0.1:8082"], "not our own port");
    }

    #[test]
    fn no_backends_starts_empty_and_excludes_named_ones() {
        assert_eq!(names(&["--no-backends"], 9090), Ok(Vec::new()));
        assert_eq!(names(&["--no-backends", "-b", ""], 9090), Ok(Vec::new()));
        let error = names(&["-b", "h:1,h:2", "--no-backends"], 9090).unwrap_err();
        assert_eq!(error, "--no-backends and --backend h:1 exclude each other; drop one of them");
    }
}
