//! The table of settings: each is one row here, or one row in the table of timeouts.
//!
//! The flags, `--help`, defaults and errors are made from these rows; `tests/docs.rs` checks the
//! tables of the README against them.

use super::algorithm::Algorithm;
use super::limits::MIN_HEALTH_PERIOD;
use super::settings::Settings;
use super::timeouts::{TimeoutFlag, Timeouts};
use super::values::{
    Show, parse_count, parse_duration, parse_limit, parse_networks, parse_path, parse_size,
    parse_timeout,
};

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The flag without its dashes, or the name of the positional argument.
    pub flag: &'static str,
    /// Older names of the flag, still accepted.
    pub aliases: &'static [&'static str],
    /// The flag's letter.
    pub short: Option<char>,
    /// The environment variable.
    pub env: Option<&'static str>,
    /// The meaning, for `--help`.
    pub help: &'static str,
    /// The section of `--help`.
    pub section: Option<&'static str>,
    /// The form on the command line.
    pub form: Form,
    access: Access,
}

/// The form of a setting on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A flag with a value of this kind.
    Value(&'static str),
    /// A flag that may be repeated, with a comma-separated list of values of this kind.
    List(&'static str),
    /// A flag without a value.
    Switch,
    /// A value without a flag.
    Positional,
}

/// The functions that set a setting and show its value.
#[derive(Clone, Copy, Debug)]
enum Access {
    Field(fn(&mut Settings, &str) -> Result<(), String>, fn(&Settings) -> Option<String>),
    Timeout(&'static TimeoutFlag),
}

/// The value of a [`Form::Switch`] that is given.
pub const ON: &str = "true";

macro_rules! optional {
    () => {
        None
    };
    ($value:literal) => {
        Some($value)
    };
}

macro_rules! settings {
    ($($section:expr => {
        $($form:expr, $flag:literal $(short $short:literal)? $(env $env:literal)?
            $(or $($alias:literal),+)?,
            $($field:ident).+ = $parse:expr, $help:literal;)*
    })*) => {
        const SETTINGS: &[Setting] = &[$($(Setting {
            flag: $flag,
            aliases: &[$($($alias),+)?],
            short: optional!($($short)?),
            env: optional!($($env)?),
            help: $help,
            section: $section,
            form: $form,
            access: Access::Field(
                |settings, text| {
                    settings.$($field).+ = $parse(text)?.into();
                    Ok(())
                },
                |settings| settings.$($field).+.show(),
            ),
        },)*)*];
    };
}

settings! {
    None => {
        Form::Positional, "PERIOD", health.period = parse_period, "Time between two health checks of a backend; at least 1s";
        Form::Value("NAME"), "algorithm" short 'a' env "ALGORITHM", algorithm = Algorithm::parse, "How a backend is chosen: round_robin, weighted, least_conn, least_response_time, random, p2c or ip_hash";
        Form::Value("PATH"), "health-path", health.path = parse_path, "Path of health checks; 2xx and 3xx responses pass";
        Form::Value("DURATION"), "health-timeout", health.timeout = parse_timeout, "Time limit for one health check [default: 2s, or PERIOD if that is shorter]";
        Form::Value("COUNT"), "rise", health.rise = parse_threshold, "Consecutive successes that mark a backend up";
        Form::Value("COUNT"), "fall", health.fall = parse_threshold, "Consecutive failed checks or connects that mark a backend down";
        Form::Switch, "no-health-checks", health.checks = parse_negation, "Send no health checks: rely on passive health checking only";
        Form::List("CIDR"), "trusted-proxies", trusted_proxies = parse_networks, "Networks allowed to set X-Forwarded-* fields: 10.0.0.0/8,192.168.1.7 [default: none]";
    }
    Some("Limits") => {
        Form::Value("COUNT"), "max-connections", limits.max_connections = parse_limit, "Concurrent client connections, fewer if the limit of open files is low; more get 503";
        Form::Value("COUNT"), "max-connections-per-client", limits.max_connections_per_client = parse_limit, "Concurrent connections from one client address; more get 429 [default: no limit]";
        Form::Value("COUNT"), "backend-max-requests" or "backend-max-connections", "maxconn", limits.max_requests_per_backend = parse_limit, "Concurrent requests per backend; more are queued for up to --queue-timeout, then get 503 [default: no limit]";
        Form::Value("SIZE"), "max-body", limits.max_body_bytes = parse_size, "Largest request body, like 512K, 10M or 1G; a larger one gets 413 [default: no limit]";
    }
}

/// A period, raised to the minimum if it is below.
fn parse_period(text: &str) -> Result<std::time::Duration, String> {
    parse_duration(text).map(|period| period.max(MIN_HEALTH_PERIOD))
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
            aliases: &[],
            short: None,
            env: None,
            help: timeout.help,
            section: Some("Timeouts"),
            form: Form::Value("DURATION"),
            access: Access::Timeout(timeout),
        };
        SETTINGS.iter().copied().chain(Timeouts::FLAGS.iter().map(timeout))
    }

    /// Parses a value and sets it. The error names the right form.
    pub fn set(&self, settings: &mut Settings, text: &str) -> Result<(), String> {
        match self.access {
            Access::Field(set, _) => set(settings, text),
            Access::Timeout(timeout) => {
                let parse = if timeout.may_be_zero { parse_duration } else { parse_timeout };
                *(timeout.field)(&mut settings.timeouts) = parse(text)?;
                Ok(())
            }
        }
    }

    /// The value as [`Setting::set`] parses it; none for an unset value or a switch.
    pub fn show(&self, settings: &Settings) -> Option<String> {
        match self.access {
            Access::Field(_, show) => show(settings),
            Access::Timeout(timeout) => (timeout.field)(&mut settings.timeouts.clone()).show(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_two_settings_share_a_flag() {
        let flags: Vec<&str> =
            Setting::all().flat_map(|row| row.aliases.iter().copied().chain([row.flag])).collect();
        let different: HashSet<&str> = flags.iter().copied().collect();
        assert_eq!(flags.len(), different.len(), "{flags:?}");
        let envs: Vec<&str> = Setting::all().filter_map(|row| row.env).collect();
        let letters: Vec<char> = Setting::all().filter_map(|row| row.short).collect();
        assert_eq!(envs.len(), envs.iter().collect::<HashSet<_>>().len(), "{envs:?}");
        assert_eq!(letters.len(), letters.iter().collect::<HashSet<_>>().len(), "{letters:?}");
    }

    #[test]
    fn every_setting_parses_the_value_that_it_shows_and_sets_no_other() {
        for row in Setting::all() {
            let text = match row.form {
                Form::Value("COUNT") => "7",
                Form::Value("DURATION") | Form::Positional => "7s",
                Form::Value("SIZE") => "7M",
                Form::Value("NAME") => "p2c",
                Form::Value(_) => "/seven",
                Form::List(_) => "10.0.0.0/8, ::1",
                Form::Switch => ON,
            };
            let mut changed = Settings::default();
            row.set(&mut changed, text).unwrap();
            assert_ne!(changed, Settings::default(), "{}", row.flag);
            if row.form == Form::Switch {
                continue;
            }
            let shown = row.show(&changed).unwrap();
            let mut again = Settings::default();
            row.set(&mut again, &shown).unwrap();
            assert_eq!(again, changed, "{} shows {shown}", row.flag);
            for other in Setting::all().filter(|other| other.flag != row.flag) {
                let default = other.show(&Settings::default());
                assert_eq!(other.show(&changed), default, "{} and {}", row.flag, other.flag);
            }
        }
    }

    #[test]
    fn the_help_lists_every_algorithm() {
        let row = Setting::all().find(|row| row.flag == "algorithm").unwrap();
        for algorithm in Algorithm::ALL {
            assert!(row.help.contains(algorithm.name()), "{algorithm:?}");
        }
    }

    #[test]
    fn a_period_below_the_minimum_is_raised_to_it() {
        let mut settings = Settings::default();
        let period = Setting::all().next().unwrap();
        period.set(&mut settings, "0.2").unwrap();
        assert_eq!(settings.health.period, MIN_HEALTH_PERIOD);
    }
}
