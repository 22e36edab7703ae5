//! The flags of the balancer, and the sources of its configuration that they name.

use super::UsageError;
use super::control::resolve_control;
use super::settings::SettingArgs;
use crate::config::{Boot, Given, Origin, Setting};
use crate::config_file::Sources;
use crate::net;
use clap::Args;
use std::path::{Path, PathBuf};

/// The name of a file that is mentioned if it is there, but not loaded.
const USUAL_NAME: &str = "config.json";

/// The flags of the balancer.
#[derive(Debug, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    sources: SourceArgs,
    /// Print the whole configuration as a file for --config, and exit
    #[arg(long)]
    pub print_config: bool,
}

/// The flags that a configuration is made from.
#[derive(Debug, Args)]
pub(super) struct SourceArgs {
    /// Configuration file (JSON); flags and environment override it
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Start without backends: 503 until one is added
    #[arg(long)]
    no_backends: bool,
    #[command(flatten)]
    settings: SettingArgs,
}

impl ServeArgs {
    /// The sources of the configuration.
    pub fn into_sources(self) -> Result<Sources, UsageError> {
        self.sources.into_sources(None)
    }
}

impl SourceArgs {
    /// The sources of the configuration; the file may have been named without `-c`.
    pub(super) fn into_sources(self, file: Option<PathBuf>) -> Result<Sources, UsageError> {
        let mut given = self.settings.into_given()?;
        let mut notes = Vec::new();
        if self.no_backends {
            notes.extend(remove_backends(&mut given)?);
        }
        let path = self.config.or(file);
        if path.is_none() && Path::new(USUAL_NAME).exists() {
            notes.push(format!("{USUAL_NAME} found, not loaded; use -c {USUAL_NAME}"));
        }
        Ok(Sources { given, path, notes, inherited: Vec::new() })
    }
}

/// Makes the list of backends empty: as a flag, which wins over a variable and the file. Returns the
/// note about the variable.
fn remove_backends(given: &mut Vec<Given>) -> Result<Option<String>, UsageError> {
    let mut note = None;
    for Given { text, origin, .. } in given.iter().filter(|one| one.setting.is_backends()) {
        match origin {
            Origin::Environment(variable) => {
                note = Some(format!("--no-backends: the backends of {variable} are ignored"));
            }
            _ => {
                let name = text.split(',').next().unwrap_or_default();
                return Err(UsageError::bad(format!(
                    "--no-backends and --backend {name} exclude each other; drop one of them"
                )));
            }
        }
    }
    given.retain(|one| !one.setting.is_backends());
    let origin = Origin::Flag("--no-backends".to_owned());
    let none = Setting::all().filter(Setting::is_backends);
    given.extend(none.map(|setting| Given {
        setting,
        text: String::new(),
        origin: origin.clone(),
    }));
    Ok(note)
}

/// Resolves the names to listen on and reads the token's file, so it may wait; names of backends are
/// resolved while the balancer runs.
pub fn resolve_boot(boot: &mut Boot) -> Result<(), UsageError> {
    if boot.listen.is_empty() {
        boot.listen = net::resolve(&boot.host, boot.port)
            .map_err(|error| UsageError::unresolved("--host", &boot.host, &error))?;
    }
    resolve_control(boot)
}

#[cfg(test)]
mod tests {
    use super::super::{Args, in_one_line};
    use super::*;
    use crate::config::{Algorithm, Config, MIN_HEALTH_PERIOD, Settings};
    use clap::Parser;
    use std::time::Duration;

    fn config(words: &[&str]) -> Result<Config, UsageError> {
        config_on(words, &[])
    }

    fn config_on(words: &[&str], inherited: &[&str]) -> Result<Config, UsageError> {
        let inherited = inherited.iter().map(|address| address.parse().unwrap()).collect();
        let words = std::iter::once("lb-threads").chain(words.iter().copied());
        let args =
            Args::try_parse_from(words).map_err(|error| UsageError::bad(in_one_line(&error)))?;
        let mut sources = args.serve.into_sources()?;
        sources.inherited = inherited;
        let mut config = sources.load().unwrap().config;
        resolve_boot(&mut config.boot)?;
        Ok(config)
    }

    fn names(config: &Config) -> Vec<String> {
        config.backends.iter().map(|backend| backend.authority.to_string()).collect()
    }

    #[test]
    fn no_backends_starts_empty_and_excludes_named_ones() {
        assert_eq!(names(&config(&["--no-backends"]).unwrap()), Vec::<String>::new());
        assert_eq!(names(&config(&["--no-backends", "-b", ""]).unwrap()), Vec::<String>::new());
        let error = config(&["-b", "h:1,h:2", "--no-backends"]).unwrap_err();
        let expected = "--no-backends and --backend h:1 exclude each other; drop one of them";
        assert_eq!(error.message, expected);
    }

    #[test]
    fn without_flags_every_setting_has_its_default() {
        let config = config(&[]).unwrap();
        assert_eq!(config.settings, Settings::default());
        assert_eq!(config.boot.listen, Boot::default().listen);
        assert_eq!(config.boot.workers, Boot::default().workers);
    }

    #[test]
    fn a_flag_changes_its_setting() {
        let settings = |words: &[&str]| config(words).unwrap().settings;
        assert_eq!(settings(&["--rise", "3"]).health.rise, 3);
        assert!(!settings(&["--no-health-checks"]).health.checks);
        assert_eq!(settings(&["-a", "WRR"]).algorithm, Algorithm::Weighted);
        assert_eq!(settings(&["--body-timeout", "250ms"]).timeouts.body.as_millis(), 250);
        assert_eq!(settings(&["--drain-timeout", "0"]).timeouts.drain, Duration::ZERO);
        let proxies = ["--trusted-proxies", "10.0.0.0/8, ::1", "--trusted-proxies", "192.0.2.1"];
        assert_eq!(settings(&proxies).trusted_proxies.len(), 3);
    }

    #[test]
    fn the_limit_of_requests_per_backend_has_its_older_flags_too() {
        for flag in ["--backend-max-requests", "--backend-max-connections", "--maxconn"] {
            let limits = config(&[flag, "7"]).unwrap().settings.limits;
            assert_eq!(limits.max_requests_per_backend, Some(7), "{flag}");
        }
    }

    #[test]
    fn backends_keep_their_names_and_their_order() {
        let config = config(&["-b", "127.0.0.1:1,http://127.0.0.2:1/", "-b", "[::1]:1"]).unwrap();
        assert_eq!(names(&config), ["127.0.0.1:1", "127.0.0.2:1", "[::1]:1"]);
    }

    #[test]
    fn without_backends_the_three_python_servers_are_balanced() {
        let default = ["127.0.0.1:8080", "127.0.0.1:8081", "127.0.0.1:8082"];
        assert_eq!(names(&config(&["10"]).unwrap()), default);
        let without_ours = config(&["--port", "8081"]).unwrap();
        assert_eq!(names(&without_ours), ["127.0.0.1:8080", "127.0.0.1:8082"], "not our own port");
    }

    #[test]
    fn with_inherited_sockets_host_and_port_are_not_used() {
        let config =
            config_on(&["--host", "no.such.host.invalid"], &["127.0.0.1:8081", "[::1]:8082"]);
        let config = config.unwrap();
        assert_eq!(names(&config), ["127.0.0.1:8080"], "not our own ports");
        assert_eq!(config.boot.listen.len(), 2);
    }

    #[test]
    fn the_period_has_a_minimum_and_bounds_the_timeout_of_a_check() {
        let health = |words: &[&str]| config(words).unwrap().settings.health;
        assert_eq!(health(&["0.2"]).period, MIN_HEALTH_PERIOD);
        let short = health(&["1.5"]);
        assert_eq!((short.period, short.check_timeout()), (short.check_timeout(), short.period));
        assert_eq!(short.period.as_millis(), 1500);
        assert_eq!(health(&["30"]).check_timeout().as_secs(), 2);
        assert_eq!(health(&["30", "--health-timeout", "9"]).check_timeout().as_secs(), 9);
    }

    #[test]
    fn an_error_is_one_line_that_names_the_flag_or_the_value() {
        for (words, expected) in [
            (&["ten"][..], "`ten` is not a duration"),
            (&["--workers", "0"], "--workers"),
            (&["--rise", "0"], "--rise"),
            (&["--fall", "1001"], "from 1 to 1000"),
            (&["--max-connections", "0"], "--max-connections"),
            (&["--prot", "1"], "--port"),
            (&["--admin", "127.0.0.1"], "HOST:PORT"),
            (&["--admin", "127.0.0.1:99999"], "`127.0.0.1:99999`"),
            (&["--control-on-data-port=write"], "read"),
            (&["--admin-token-file", "/"], "--admin-token-file"),
            (&["-b", "localhost:1", "-b", "localhost:1"], "named twice"),
            (&["-b", "localhost"], "`localhost` has no port"),
            (&["--no-backends", "-b", "localhost:1"], "drop one of them"),
            (&["--head-timeout", "0"], "would reject every request"),
            (&["--max-body", "1.5M"], "--max-body"),
            (&["--trusted-proxies", "10.0.0.0/33"], "is not a network"),
            (&["--health-path", "health"], "starts with /"),
            (&["-a", "least-con"], "did you mean least_conn?"),
            (&["--algorithm", "quantum"], "use one of: round_robin, weighted, least_conn"),
        ] {
            let error = config(words).unwrap_err();
            assert!(error.message.contains(expected), "{words:?}: {}", error.message);
            assert!(!error.message.contains('\n') && error.exit_code == 2);
        }
    }

    #[test]
    fn a_health_path_is_valid_if_it_is_valid_in_a_request() {
        for letter in (0..=127_u8).map(char::from) {
            let path = format!("/{letter}");
            let is_target = crate::wire::target::parse(&path, "GET").is_some();
            assert_eq!(crate::config::values::parse_path(&path).is_ok(), is_target, "{path:?}");
        }
    }
}
