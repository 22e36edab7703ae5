//! The settings, which may change while the balancer runs.
//!
//! Plain values. A change makes a new [`Settings`], which reaches each thread as a message
//! (`Balancer::apply_settings`); a thread must never keep a copy of a single setting.

use super::algorithm::Algorithm;
use super::log::{AccessLog, LogFormat};
use super::timeouts::Timeouts;
use ipnet::IpNet;
use log::LevelFilter;
use std::net::IpAddr;
use std::time::Duration;

/// The timeout of a health check, unless the period is shorter.
const DEFAULT_CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// Every setting that may change at runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The least severe level that is logged.
    pub log_level: LevelFilter,
    /// The format of the log's lines.
    pub log_format: LogFormat,
    /// The exchanges that get an access line.
    pub access_log: AccessLog,
    /// How a backend is chosen for a request.
    pub algorithm: Algorithm,
    /// Time limits.
    pub timeouts: Timeouts,
    /// Limits of number and size.
    pub limits: Limits,
    /// Health checks.
    pub health: HealthSettings,
    /// Networks allowed to set `X-Forwarded-*` fields.
    pub trusted_proxies: Vec<IpNet>,
}

/// Limits of number and size; `None` is no limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Concurrent client connections; more get 503.
    pub max_connections: usize,
    /// Concurrent connections from one client address; more get 429.
    pub max_connections_per_client: Option<usize>,
    /// Concurrent requests at one backend; more are queued.
    pub max_requests_per_backend: Option<usize>,
    /// The largest request body, in bytes; a larger one gets 413.
    pub max_body_bytes: Option<u64>,
}

/// The settings of health checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthSettings {
    /// Whether checks are sent; without them only attempts count.
    pub checks: bool,
    /// The path of a check's request.
    pub path: String,
    /// The time between two checks of one backend.
    pub period: Duration,
    /// The time limit of one check, if it is not the default.
    pub timeout: Option<Duration>,
    /// Consecutive successes that mark a backend up.
    pub rise: u32,
    /// Consecutive failed checks that mark a backend down, or failed connects that eject it.
    pub fall: u32,
}

impl Settings {
    /// Whether a peer may set `X-Forwarded-*` fields.
    pub fn trusts(&self, peer: IpAddr) -> bool {
        // A socket for both families has IPv4 peers inside IPv6.
        let peer = peer.to_canonical();
        self.trusted_proxies.iter().any(|network| network.contains(&peer))
    }
}

impl HealthSettings {
    /// The time limit of one check.
    pub fn check_timeout(&self) -> Duration {
        self.timeout.unwrap_or(DEFAULT_CHECK_TIMEOUT.min(self.period))
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            algorithm: Algorithm::default(),
            log_level: LevelFilter::Info,
            log_format: LogFormat::default(),
            access_log: AccessLog::default(),
            timeouts: Timeouts::default(),
            limits: Limits::default(),
            health: HealthSettings::default(),
            trusted_proxies: Vec::new(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            max_connections_per_client: None,
            max_requests_per_backend: None,
            max_body_bytes: None,
        }
    }
}

impl Default for HealthSettings {
    fn default() -> Self {
        Self {
            checks: true,
            path: "/health".to_owned(),
            period: Duration::from_secs(10),
            timeout: None,
            rise: 1,
            fall: 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trusted_proxy_is_trusted_in_both_forms_of_its_address() {
        let trusted_proxies = vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
        let settings = Settings { trusted_proxies, ..Settings::default() };
        for (peer, is_trusted) in [
            ("10.0.0.1", true),
            ("::ffff:10.0.0.1", true),
            ("2001:db8::1", true),
            ("11.0.0.1", false),
            ("::ffff:11.0.0.1", false),
        ] {
            assert_eq!(settings.trusts(peer.parse().unwrap()), is_trusted, "{peer}");
        }
    }

    #[test]
    fn the_default_timeout_of_a_check_is_two_seconds_or_the_period_if_that_is_shorter() {
        let seconds = Duration::from_secs;
        for (period, timeout, expected) in
            [(10, None, 2), (1, None, 1), (10, Some(5), 5), (1, Some(5), 5)]
        {
            let timeout = timeout.map(seconds);
            let health =
                HealthSettings { period: seconds(period), timeout, ..HealthSettings::default() };
            assert_eq!(health.check_timeout(), seconds(expected), "{health:?}");
        }
    }
}
