//! The flags of the balancer, and the [`Config`] that is made from them.

use super::UsageError;
use super::backends::NamedBackends;
use super::settings::SettingArgs;
use super::values::parse_level;
use crate::config::values::parse_duration;
use crate::config::{Boot, Config, DEFAULT_HOST, DEFAULT_PORT, MIN_HEALTH_PERIOD};
use crate::net;
use clap::{Args, ValueEnum};
use log::LevelFilter;
use std::net::SocketAddr;

/// The flags of the balancer.
#[derive(Debug, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    backends: NamedBackends,
    /// Address or name to listen on; every address of a name is bound
    #[arg(long, default_value_t = DEFAULT_HOST.to_string(), env = "HOST")]
    host: String,
    /// Port to listen on; 0 takes a free port
    #[arg(long, default_value_t = DEFAULT_PORT, env = "PORT")]
    port: u16,
    /// Worker threads [default: one per core]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: Option<u16>,
    /// Log level: off, error, warn, info, debug, trace
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "LOGLEVEL", value_parser = parse_level)]
    pub log_level: LevelFilter,
    /// Address of the control API; only off for now
    #[arg(long, value_name = "ADDRESS", default_value = "off")]
    admin: Admin,
    #[command(flatten)]
    settings: SettingArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Admin {
    Off,
}

impl ServeArgs {
    /// Makes the configuration. Resolves names, so it may wait. With `inherited` addresses, which a
    /// service manager listens on, host and port are not used.
    pub fn into_config(self, inherited: Vec<SocketAddr>) -> Result<Config, UsageError> {
        let Admin::Off = self.admin;
        let listen = if inherited.is_empty() {
            net::resolve(&self.host, self.port)
                .map_err(|error| UsageError::unresolved("--host", &self.host, &error))?
        } else {
            inherited
        };
        let backends = self.backends.specs(&listen)?;
        let settings = self.settings.settings()?;
        let period = self.settings.text("PERIOD").and_then(|text| parse_duration(text).ok());
        if let Some(period) = period.filter(|period| *period < MIN_HEALTH_PERIOD) {
            log::warn!("a health period of {period:?} is too short: using {MIN_HEALTH_PERIOD:?}");
        }
        let default = Boot::default();
        let workers = self.workers.map_or(default.workers, usize::from);
        Ok(Config { boot: Boot { listen, workers, ..default }, backends, settings })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Args, in_one_line};
    use super::*;
    use crate::config::{Algorithm, Settings};
    use clap::Parser;
    use std::time::Duration;

    fn config(words: &[&str]) -> Result<Config, UsageError> {
        config_on(words, &[])
    }

    fn config_on(words: &[&str], inherited: &[&str]) -> Result<Config, UsageError> {
        let inherited = inherited.iter().map(|address| address.parse().unwrap()).collect();
        let words = std::iter::once("lb-threads").chain(words.iter().copied());
        Args::try_parse_from(words)
            .map_err(|error| UsageError::bad(in_one_line(&error)))?
            .serve
            .into_config(inherited)
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
    fn with_inherited_sockets_host_and_port_are_not_used() {
        let config =
            config_on(&["--host", "no.such.host.invalid"], &["127.0.0.1:8081", "[::1]:8082"]);
        let config = config.unwrap();
        let names = config.backends.iter().map(|backend| backend.authority.to_string());
        assert_eq!(names.collect::<Vec<_>>(), ["127.0.0.1:8080"], "not our own ports");
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
            (&["--admin", "127.0.0.1:1"], "off"),
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
