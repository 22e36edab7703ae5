//! The table of settings: each is one row here, or one row in the table of timeouts.
//!
//! The flags, `--help`, environment variables, keys of the file, defaults and errors are made from
//! these rows; `tests/docs.rs` checks the tables of the reference against them.

use super::Config;
use super::algorithm::Algorithm;
use super::backend::parse_backends;
use super::control::{Admin, DataPortControl};
use super::limits::{MAX_WORKERS, MIN_HEALTH_PERIOD};
use super::log::{AccessLog, LogFormat};
use super::timeouts::{TimeoutFlag, Timeouts};
use super::values::{
    LEVELS, Show, parse_count, parse_duration, parse_host, parse_level, parse_limit,
    parse_networks, parse_path, parse_port, parse_size, parse_timeout,
};

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The flag without its dashes, or the name of the positional argument.
    pub flag: &'static str,
    /// The flag's letter.
    pub short: Option<char>,
    /// The environment variable.
    pub env: Option<&'static str>,
    /// Older names of the flag, still accepted.
    pub aliases: &'static [&'static str],
    /// Further keys in the file, besides the flag and its aliases with `_`.
    pub more_keys: &'static [&'static str],
    /// The meaning, for `--help`.
    pub help: &'static str,
    /// The section of `--help`.
    pub section: Option<&'static str>,
    /// The form of its value.
    pub form: Form,
    /// The field of `Config`.
    field: &'static str,
    access: Access,
}

/// The form of a setting's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A flag with a value of this kind.
    Value(&'static str),
    /// A flag with one of these names, of this kind; other spellings may be valid too.
    Choice(&'static str, &'static [&'static str]),
    /// A flag of this kind with one of these names, or without a value, which is this one.
    Optional(&'static str, &'static [&'static str], &'static str),
    /// A flag that may be repeated, with a comma-separated list of values of this kind.
    List(&'static str),
    /// A flag without a value.
    Switch,
    /// A value without a flag.
    Positional,
}

/// The functions that set a setting, show its value, and copy it from another configuration.
#[derive(Clone, Copy, Debug)]
enum Access {
    Field(
        fn(&mut Config, &str) -> Result<(), String>,
        fn(&Config) -> Option<String>,
        fn(&mut Config, &Config),
    ),
    Timeout(&'static TimeoutFlag),
}

/// The value of a [`Form::Switch`] that is given.
pub const ON: &str = "true";
/// The value of a [`Form::Switch`] that is off.
pub const OFF: &str = "false";

macro_rules! optional {
    () => {
        None
    };
    ($value:literal) => {
        Some($value)
    };
}

// A row: form, flag, what else it is called, the field of `Config`, its parser, help.
macro_rules! settings {
    ($($section:expr => {
        $($form:expr, $flag:literal $(short $short:literal)? $(env $env:literal)?
            $(or $($alias:literal),+)? $(key $($key:literal),+)?,
            $($field:ident).+ = $parse:expr, $help:literal;)*
    })*) => {
        const SETTINGS: &[Setting] = &[$($(Setting {
            flag: $flag,
            short: optional!($($short)?),
            env: optional!($($env)?),
            aliases: &[$($($alias),+)?],
            more_keys: &[$($($key),+)?],
            help: $help,
            section: $section,
            form: $form,
            field: stringify!($($field).+),
            access: Access::Field(
                |config, text| {
                    config.$($field).+ = $parse(text)?.into();
                    Ok(())
                },
                |config| config.$($field).+.show(),
                |config, other| config.$($field).+ = other.$($field).+.clone(),
            ),
        },)*)*];
    };
}

// A field of `boot` takes effect at the next start; all others may change while it runs.
settings! {
    None => {
        Form::Positional, "PERIOD" key "health_check_interval", settings.health.period = parse_period, "Time between two health checks of a backend; at least 1s";
        Form::List("BACKEND"), "backend" short 'b' env "BACKEND_SERVERS" key "servers", backends = parse_backends, "A backend, HOST:PORT or URL, with =WEIGHT if others have another weight; may be repeated [default: 127.0.0.1:8080, 8081 and 8082]";
        Form::Value("HOST"), "host" env "HOST", boot.host = parse_host, "Address or name to listen on; every address of a name is bound";
        Form::Value("PORT"), "port" env "PORT", boot.port = parse_port, "Port to listen on; 0 takes a free port";
        Form::Value("COUNT"), "workers", boot.workers = parse_workers, "Worker threads [default: one per core]";
        Form::Choice("LEVEL", LEVELS), "log-level" env "LOGLEVEL", settings.log_level = parse_level, "Log level: off, error, warn, info, debug, trace";
        Form::Value("FILE"), "log-file", boot.log_file = parse_file, "Append the log to this file, which may be rotated [default: standard error]";
        Form::Choice("FORMAT", LogFormat::NAMES), "log-format", settings.log_format = LogFormat::parse, "Format of the log: text, json, or combined (access lines as Apache writes them)";
        Form::Choice("WHICH", AccessLog::NAMES), "access-log", settings.access_log = AccessLog::parse, "Requests that get a line at the level info: all, errors (of the balancer and the backends) or off";
        Form::Choice("NAME", Algorithm::NAMES), "algorithm" short 'a' env "ALGORITHM", settings.algorithm = Algorithm::parse, "How a backend is chosen: round_robin, weighted, least_conn, least_response_time, random, p2c or ip_hash";
        Form::Value("PATH"), "health-path" key "health_check_url", settings.health.path = parse_path, "Path of health checks; 2xx and 3xx responses pass";
        Form::Value("DURATION"), "health-timeout", settings.health.timeout = parse_timeout, "Time limit for one health check [default: 2s, or PERIOD if that is shorter]";
        Form::Value("COUNT"), "rise", settings.health.rise = parse_threshold, "Consecutive successes that mark a backend up";
        Form::Value("COUNT"), "fall", settings.health.fall = parse_threshold, "Consecutive failed checks or connects that mark a backend down";
        Form::Switch, "no-health-checks", settings.health.checks = parse_negation, "Send no health checks: rely on passive health checking only";
        Form::List("CIDR"), "trusted-proxies", settings.trusted_proxies = parse_networks, "Networks allowed to set X-Forwarded-* fields: 10.0.0.0/8,192.168.1.7 [default: none]";
    }
    Some("Control API") => {
        Form::Value("ADDRESS"), "admin", boot.admin = Admin::parse, "Address of the control API and the health pages, HOST:PORT, or off [default: 127.0.0.1:9190]";
        Form::Value("FILE"), "admin-token-file", boot.admin_token_file = parse_file, "File with the token that requests to the control API must have; or set LB_ADMIN_TOKEN";
        Form::Optional("REQUESTS", DataPortControl::NAMES, "all"), "control-on-data-port", boot.control.on_data_port = DataPortControl::parse, "Serve /_control/ and /lb/stats on the data port too: read (GET only, any client), or all";
    }
    Some("Limits") => {
        Form::Value("COUNT"), "max-connections", settings.limits.max_connections = parse_limit, "Concurrent client connections, fewer if the limit of open files is low; more get 503";
        Form::Value("COUNT"), "max-connections-per-client", settings.limits.max_connections_per_client = parse_limit, "Concurrent connections from one client address; more get 429 [default: no limit]";
        Form::Value("COUNT"), "backend-max-requests" or "backend-max-connections", "maxconn", settings.limits.max_requests_per_backend = parse_limit, "Concurrent requests per backend; more are queued for up to --queue-timeout, then get 503 [default: no limit]";
        Form::Value("SIZE"), "max-body", settings.limits.max_body_bytes = parse_size, "Largest request body, like 512K, 10M or 1G; a larger one gets 413 [default: no limit]";
    }
}

/// A period, raised to the minimum if it is below.
fn parse_period(text: &str) -> Result<std::time::Duration, String> {
    parse_duration(text).map(|period| period.max(MIN_HEALTH_PERIOD))
}

fn parse_file(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("no file is named".to_owned()) } else { Ok(text.to_owned()) }
}

fn parse_workers(text: &str) -> Result<usize, String> {
    parse_count(text, 1, MAX_WORKERS).map(|count| count as usize)
}

fn parse_threshold(text: &str) -> Result<u32, String> {
    parse_count(text, 1, 1000)
}

/// The value of a switch that turns something off.
fn parse_negation(text: &str) -> Result<bool, String> {
    Ok(text != ON)
}

impl Setting {
    /// Every setting, in the order of `--help`.
    pub fn all() -> impl Iterator<Item = Self> {
        let timeout = |timeout: &'static TimeoutFlag| Self {
            flag: timeout.flag,
            short: None,
            env: None,
            aliases: &[],
            more_keys: &[],
            help: timeout.help,
            section: Some("Timeouts"),
            form: Form::Value("DURATION"),
            field: "settings.timeouts",
            access: Access::Timeout(timeout),
        };
        SETTINGS.iter().copied().chain(Timeouts::FLAGS.iter().map(timeout))
    }

    /// The setting of a key of the file.
    pub fn of_key(key: &str) -> Option<Self> {
        Self::all().find(|setting| setting.keys().any(|other| other == key))
    }

    /// The key in the file: the flag with `_`.
    pub fn key(&self) -> String {
        key(self.flag)
    }

    /// Every key in the file; the first is [`Setting::key`].
    pub fn keys(&self) -> impl Iterator<Item = String> {
        let names = std::iter::once(&self.flag).chain(self.aliases);
        names.map(|name| key(name)).chain(self.more_keys.iter().map(|key| (*key).to_owned()))
    }

    /// The name on the command line: the flag with its dashes, or `PERIOD`.
    pub fn label(&self) -> String {
        match self.form {
            Form::Positional => self.flag.to_owned(),
            _ => format!("--{}", self.flag),
        }
    }

    /// Whether it is the list of backends.
    pub fn is_backends(&self) -> bool {
        self.field == "backends"
    }

    /// Whether it is the path of health checks.
    pub fn is_health_path(&self) -> bool {
        self.field == "settings.health.path"
    }

    /// Whether it is the period of health checks.
    pub fn is_period(&self) -> bool {
        self.field == "settings.health.period"
    }

    /// Whether it may change while the balancer runs; otherwise it takes effect at the next start.
    pub fn may_change(&self) -> bool {
        !self.field.starts_with("boot.")
    }

    /// Parses a value and sets it. The error names the right form.
    pub fn set(&self, config: &mut Config, text: &str) -> Result<(), String> {
        match self.access {
            Access::Field(set, ..) => set(config, text),
            Access::Timeout(timeout) => {
                let parse = if timeout.may_be_zero { parse_duration } else { parse_timeout };
                *(timeout.field)(&mut config.settings.timeouts) = parse(text)?;
                Ok(())
            }
        }
    }

    /// The value as [`Setting::set`] parses it; none for an unset value.
    pub fn show(&self, config: &Config) -> Option<String> {
        match self.access {
            Access::Field(_, show, _) if self.form != Form::Switch => show(config),
            Access::Field(set, ..) => {
                // The field may be the switch or its negation.
                let mut on = config.clone();
                let is_on = set(&mut on, ON).is_ok() && on == *config;
                Some(if is_on { ON } else { OFF }.to_owned())
            }
            Access::Timeout(timeout) => {
                (timeout.field)(&mut config.settings.timeouts.clone()).show()
            }
        }
    }

    /// Copies the value from another configuration.
    pub fn copy(&self, config: &mut Config, other: &Config) {
        match self.access {
            Access::Field(.., copy) => copy(config, other),
            Access::Timeout(timeout) => {
                let value = *(timeout.field)(&mut other.settings.timeouts.clone());
                *(timeout.field)(&mut config.settings.timeouts) = value;
            }
        }
    }

    /// The help with the default.
    pub fn help_with_default(&self) -> String {
        let default = self.show(&Config::default()).filter(|_| self.form != Form::Switch);
        match default {
            Some(default) if !self.help.ends_with(']') => {
                format!("{} [default: {default}]", self.help)
            }
            _ => self.help.to_owned(),
        }
    }
}

/// The key of a flag.
fn key(flag: &str) -> String {
    flag.to_ascii_lowercase().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// A valid value other than the default.
    fn example(row: Setting) -> &'static str {
        match row.form {
            Form::Value("COUNT" | "PORT") => "7",
            Form::Value("DURATION") | Form::Positional => "7s",
            Form::Value("SIZE") => "7M",
            Form::Value("HOST") => "localhost",
            Form::Value("ADDRESS") => "localhost:7",
            Form::Value(_) => "/seven",
            Form::Choice(_, names) => names.last().unwrap(),
            Form::Optional(_, _, default) => default,
            Form::List("BACKEND") => "127.0.0.1:80,app:8000=3",
            Form::List(_) => "10.0.0.0/8, ::1",
            Form::Switch => ON,
        }
    }

    fn assert_distinct<T: std::hash::Hash + Eq + std::fmt::Debug>(names: &[T]) {
        let different: HashSet<&T> = names.iter().collect();
        assert_eq!(names.len(), different.len(), "{names:?}");
    }

    #[test]
    fn no_two_settings_share_a_name() {
        let keys: Vec<String> =
            Setting::all().flat_map(|row| row.keys().collect::<Vec<_>>()).collect();
        assert_distinct(&keys);
        assert_distinct(&Setting::all().filter_map(|row| row.env).collect::<Vec<_>>());
        assert_distinct(&Setting::all().filter_map(|row| row.short).collect::<Vec<_>>());
    }

    #[test]
    fn a_switch_shows_whether_it_is_on() {
        let mut config = Config::default();
        let switch = Setting::of_key("no_health_checks").unwrap();
        assert_eq!(switch.show(&config).unwrap(), OFF);
        switch.set(&mut config, ON).unwrap();
        assert_eq!(switch.show(&config).unwrap(), ON);
    }

    #[test]
    fn what_listens_takes_effect_at_the_next_start_and_all_others_may_change() {
        let fixed = Setting::all().filter(|row| !row.may_change()).map(|row| row.flag);
        assert_eq!(
            fixed.collect::<Vec<_>>(),
            [
                "host",
                "port",
                "workers",
                "log-file",
                "admin",
                "admin-token-file",
                "control-on-data-port"
            ]
        );
    }

    #[test]
    fn every_setting_parses_the_value_that_it_shows_and_sets_no_other() {
        for row in Setting::all() {
            let text = example(row);
            let mut changed = Config::default();
            row.set(&mut changed, text).unwrap();
            assert_ne!(changed, Config::default(), "{}", row.flag);
            let shown = row.show(&changed).unwrap();
            let mut again = Config::default();
            row.set(&mut again, &shown).unwrap();
            assert_eq!(again, changed, "{} shows {shown}", row.flag);
            let mut copied = Config::default();
            row.copy(&mut copied, &changed);
            assert_eq!(copied, changed, "{} is copied", row.flag);
            for other in Setting::all().filter(|other| other.flag != row.flag) {
                let default = other.show(&Config::default());
                assert_eq!(other.show(&changed), default, "{} and {}", row.flag, other.flag);
            }
        }
    }

    #[test]
    fn the_help_lists_every_name_of_a_choice() {
        for row in Setting::all() {
            if let Form::Choice(_, names) = row.form {
                assert!(names.iter().all(|name| row.help.contains(name)), "{}", row.help);
            }
        }
    }

    #[test]
    fn a_period_below_the_minimum_is_raised_to_it() {
        let mut config = Config::default();
        Setting::of_key("period").unwrap().set(&mut config, "0.2").unwrap();
        assert_eq!(config.settings.health.period, MIN_HEALTH_PERIOD);
    }
}
