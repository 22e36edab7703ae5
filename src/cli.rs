//! The command line and the environment: what was typed, and what it means.
//!
//! Two stages: clap takes the words apart into [`Args`], and [`ServeArgs::into_config`] turns them
//! into a [`Config`] or into one sentence that says what is wrong and how to fix it.

mod values;

use crate::config::{BackendAddress, Config, HealthConfig, Timeouts};
use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;
use log::LevelFilter;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;
use values::{
    parse_duration, parse_level, parse_network, parse_path, parse_share, parse_size, parse_timeout,
};

/// What is balanced if no backend is named.
const DEFAULT_BACKENDS: [&str; 3] = ["127.0.0.1:8080", "127.0.0.1:8081", "127.0.0.1:8082"];
/// The shortest time between two checks of a backend.
const SHORTEST_PERIOD: Duration = Duration::from_secs(1);

const EXAMPLES: &str = "\
Examples:
  lb-threads demo                           three demo backends and a balancer in front of them
  lb-threads 10                             balance 127.0.0.1:8080, 8081 and 8082, check them every 10 s
  lb-threads -b 10.0.0.1:80 -b 10.0.0.2:80  balance these two
  lb-threads --health-path /                for backends without a health page
  LOGLEVEL=DEBUG lb-threads                 show every head, both ways

Durations: 250ms, 5s, 1m, 1h; a bare number is seconds. A flag wins over the environment, the environment over the default.";

/// A synchronous HTTP/1.1 load balancer: a fixed pool of threads, blocking sockets, no async
/// runtime.
#[derive(Debug, Parser)]
#[command(name = "lb-threads", version, after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub struct Args {
    /// What to do other than balance.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to balance.
    #[command(flatten)]
    pub serve: ServeArgs,
}

/// What else the program does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start three demo backends and balance them: the one-command start
    Demo(DemoArgs),
    /// Run one demo backend, which answers every path and names itself
    Backend(BackendArgs),
}

/// The balancer's flags.
#[derive(Debug, ClapArgs)]
pub struct ServeArgs {
    /// Time between two health checks of a backend; at least 1 s
    #[arg(value_name = "PERIOD", default_value = "10", value_parser = parse_duration)]
    period: Duration,
    /// A backend, HOST:PORT or http://HOST:PORT; may be repeated [default: 127.0.0.1:8080, 8081 and
    /// 8082]
    #[arg(
        short = 'b',
        long = "backend",
        value_name = "BACKEND",
        env = "BACKEND_SERVERS",
        value_delimiter = ','
    )]
    backends: Vec<String>,
    /// Address or name to listen on; every address of a name is bound
    #[arg(long, default_value = "127.0.0.1", env = "HOST")]
    host: String,
    /// Port to listen on; 0 takes a free one
    #[arg(long, default_value_t = 9090, env = "PORT")]
    port: u16,
    /// Worker threads [default: one a core]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: Option<u16>,
    /// Path that health checks ask for
    #[arg(long, value_name = "PATH", default_value = "/health", value_parser = parse_path)]
    health_path: String,
    /// How long a health check may take [default: 2s, or the period if that is shorter]
    #[arg(long, value_name = "DURATION", value_parser = parse_timeout)]
    health_timeout: Option<Duration>,
    /// Passed checks in a row that bring a backend up
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rise: u32,
    /// Failed checks or failed connects in a row that take a backend down
    #[arg(long, value_name = "COUNT", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1000))]
    fall: u32,
    /// Send no health checks: only failed requests take a backend out
    #[arg(long)]
    no_health_checks: bool,
    /// Peers whose X-Forwarded-* fields are believed, as networks: 10.0.0.0/8,192.168.1.7 [default:
    /// none]
    #[arg(long, value_name = "CIDR", value_delimiter = ',', value_parser = parse_network)]
    trusted_proxies: Vec<IpNet>,
    #[command(flatten)]
    limits: LimitArgs,
    /// What to log: off, error, warn, info, debug, trace
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "LOGLEVEL", value_parser = parse_level)]
    pub log_level: LevelFilter,
    /// The control API's address; for now it can only be off
    #[arg(long, value_name = "ADDRESS", default_value = "off")]
    admin: Admin,
    #[command(flatten)]
    timeouts: TimeoutArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Admin {
    Off,
}

#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Limits")]
struct LimitArgs {
    /// Client connections at once, or what the limit of open files allows; beyond it 503
    #[arg(long, value_name = "COUNT", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    max_connections: u32,
    /// ConnectionPool from one client address at once; beyond it 429 [default: no limit]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    max_connections_per_client: Option<u32>,
    /// Requests at one backend at once; what is beyond waits its turn [default: no limit]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    backend_max_connections: Option<u32>,
    /// Largest request body, like 512K, 10M, 1G; beyond it 413 [default: no limit]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    max_body: Option<u64>,
}

#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Timeouts")]
struct TimeoutArgs {
    /// For a request's head, from its first byte
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_timeout)]
    head_timeout: Duration,
    /// For a client between two requests
    #[arg(long, value_name = "DURATION", default_value = "75s", value_parser = parse_timeout)]
    idle_timeout: Duration,
    /// For a place at a backend, when all are full
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_timeout)]
    queue_timeout: Duration,
    /// For connecting to a backend
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse_timeout)]
    connect_timeout: Duration,
    /// For the head of a backend's answer, over all attempts
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_timeout)]
    first_byte_timeout: Duration,
    /// For a body that makes no progress, either way
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_timeout)]
    body_timeout: Duration,
    /// For silence after an upgrade
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = parse_timeout)]
    tunnel_timeout: Duration,
    /// For requests in flight when the balancer stops
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    drain_timeout: Duration,
}

/// The demo's flags.
#[derive(Clone, Debug, ClapArgs)]
pub struct DemoArgs {
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1")]
    pub host: String,
    /// Port to listen on; 0 takes a free one
    #[arg(long, default_value_t = 9090)]
    pub port: u16,
    /// What to log: off, error, warn, info, debug, trace
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "LOGLEVEL", value_parser = parse_level)]
    pub log_level: LevelFilter,
}

/// A demo backend's flags.
#[derive(Clone, Debug, ClapArgs)]
pub struct BackendArgs {
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1")]
    pub host: String,
    /// Port to listen on; 0 takes a free one
    #[arg(long, default_value_t = 8080)]
    pub port: u16,
    /// Name that the answers carry [default: the port]
    #[arg(long, value_name = "NAME", env = "SERVER_ID")]
    pub id: Option<String>,
    /// Share of requests answered with 500, 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, env = "FAILURE_RATE", value_parser = parse_share)]
    pub failure_rate: f64,
    /// Shortest delay before an answer
    #[arg(long, value_name = "DURATION", default_value = "0s", env = "MIN_LATENCY", value_parser = parse_duration)]
    pub min_latency: Duration,
    /// Longest delay before an answer
    #[arg(long, value_name = "DURATION", default_value = "0s", env = "MAX_LATENCY", value_parser = parse_duration)]
    pub max_latency: Duration,
    /// End when standard input does: for a parent that must not leave it behind
    #[arg(long, hide = true)]
    pub until_stdin_ends: bool,
}

/// What was typed is wrong: one line, and the exit code that goes with it.
#[derive(Debug, PartialEq, Eq)]
pub struct UsageError {
    /// What is wrong and how to fix it.
    pub message: String,
    /// 1: could not start; 2: bad command line.
    pub exit_code: u8,
}

impl UsageError {
    fn bad(message: String) -> Self {
        Self { message, exit_code: 2 }
    }

    fn unknown_host(host: &str, error: &std::io::Error) -> Self {
        Self {
            message: format!("cannot resolve `{host}`: {error}; check the name or give an address"),
            exit_code: 1,
        }
    }
}

impl ServeArgs {
    /// What the words mean.
    pub fn into_config(self) -> Result<Config, UsageError> {
        let listen = resolve(&self.host, self.port)?;
        let period = if self.period < SHORTEST_PERIOD {
            log::warn!(
                "a health period of {:?} is too short: using {SHORTEST_PERIOD:?}",
                self.period
            );
            SHORTEST_PERIOD
        } else {
            self.period
        };
        let defaults = HealthConfig::default();
        let health = HealthConfig {
            checks: !self.no_health_checks,
            path: self.health_path,
            period,
            timeout: self.health_timeout.unwrap_or(defaults.timeout.min(period)),
            rise: self.rise,
            fall: self.fall,
            ..defaults
        };
        let Admin::Off = self.admin;
        let config = Config {
            backends: backends(&self.backends, &listen)?,
            listen,
            health,
            timeouts: self.timeouts.into_timeouts(),
            connections: self.limits.max_connections as usize,
            connections_a_client: self
                .limits
                .max_connections_per_client
                .map(|limit| limit as usize),
            backend_connections: self.limits.backend_max_connections.map(|limit| limit as usize),
            body_bytes: self.limits.max_body,
            trusted_proxies: self.trusted_proxies,
            ..Config::default()
        };
        Ok(Config { workers: self.workers.map_or(config.workers, usize::from), ..config })
    }
}

impl TimeoutArgs {
    fn into_timeouts(self) -> Timeouts {
        Timeouts {
            head: self.head_timeout,
            idle: self.idle_timeout,
            queue: self.queue_timeout,
            connect: self.connect_timeout,
            first_byte: self.first_byte_timeout,
            body: self.body_timeout,
            tunnel: self.tunnel_timeout,
            drain: self.drain_timeout,
            ..Timeouts::default()
        }
    }
}

/// The backends that were named, or the default ones without our own port.
fn backends(named: &[String], listen: &[SocketAddr]) -> Result<Vec<BackendAddress>, UsageError> {
    let named: Vec<&str> =
        named.iter().map(|name| name.trim()).filter(|name| !name.is_empty()).collect();
    if named.is_empty() {
        let defaults: Result<Vec<_>, _> =
            DEFAULT_BACKENDS.iter().map(|name| parse_backend(name)).collect();
        return Ok(defaults?
            .into_iter()
            .filter(|backend| !listen.iter().any(|ours| ours.port() == backend.address.port()))
            .collect());
    }
    let mut backends: Vec<BackendAddress> = Vec::new();
    for name in named {
        let backend = parse_backend(name)?;
        if backends.iter().any(|earlier| earlier.address == backend.address) {
            return Err(UsageError::bad(format!("backend `{name}` is named twice; name it once")));
        }
        backends.push(backend);
    }
    Ok(backends)
}

/// Reads `HOST:PORT` or `http://HOST:PORT` and resolves the name.
fn parse_backend(text: &str) -> Result<BackendAddress, UsageError> {
    let bad = |why: &str| {
        UsageError::bad(format!(
            "backend `{text}` {why}; write it as HOST:PORT or http://HOST:PORT"
        ))
    };
    if text.starts_with("https://") {
        return Err(UsageError::bad(format!(
            "backend `{text}`: https to backends is not supported yet; use http://"
        )));
    }
    let rest = text.strip_prefix("http://").unwrap_or(text);
    if rest.contains("://") {
        return Err(bad("has an unknown scheme"));
    }
    let authority = rest.strip_suffix('/').filter(|_| rest != text).unwrap_or(rest);
    if authority.contains(['/', '?', '#']) {
        return Err(bad("has a path, which a balancer cannot add to requests"));
    }
    let (host, port) = authority.rsplit_once(':').ok_or_else(|| bad("has no port"))?;
    let is_bracketed = host.starts_with('[') && host.ends_with(']');
    if !is_bracketed && host.contains(':') {
        return Err(bad("has too many colons (an IPv6 address stands in brackets)"));
    }
    if !crate::wire::target::is_host(host.as_bytes()) {
        return Err(bad("has no valid host"));
    }
    let is_number = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse::<u16>().ok().filter(|port| is_number && *port > 0);
    let port = port.ok_or_else(|| bad("has no port between 1 and 65535"))?;
    let addresses = resolve(host.trim_matches(['[', ']']), port)?;
    // Servers that listen on one family only are mostly IPv4.
    let address = addresses.iter().find(|address| address.is_ipv4()).unwrap_or(&addresses[0]);
    Ok(BackendAddress { name: format!("{host}:{port}"), address: *address })
}

/// Every address of a name, at least one.
fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, UsageError> {
    let found = (host.trim_matches(['[', ']']), port)
        .to_socket_addrs()
        .map_err(|error| UsageError::unknown_host(host, &error))?;
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for address in found {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        return Err(UsageError::unknown_host(host, &std::io::ErrorKind::NotFound.into()));
    }
    Ok(addresses)
}

/// Turns clap's report into one line.
pub fn in_one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let said: Vec<&str> = text
        .lines()
        .take_while(|line| !line.starts_with("Usage:"))
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let told: Vec<&str> =
        said.into_iter().filter(|line| !line.starts_with("For more information")).collect();
    format!("{}; see lb-threads --help", told.join("; ").trim_start_matches("error: "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(words: &[&str]) -> Result<Config, UsageError> {
        let words = std::iter::once("lb-threads").chain(words.iter().copied());
        Args::try_parse_from(words)
            .map_err(|error| UsageError::bad(in_one_line(&error)))?
            .serve
            .into_config()
    }

    #[test]
    fn backends_are_host_and_port_with_or_without_http() {
        for text in ["127.0.0.1:80", "http://127.0.0.1:80", "http://127.0.0.1:80/"] {
            let backend = parse_backend(text).unwrap();
            assert_eq!(
                (backend.name.as_str(), backend.address.to_string().as_str()),
                ("127.0.0.1:80", "127.0.0.1:80")
            );
        }
        assert_eq!(parse_backend("[::1]:80").unwrap().address.to_string(), "[::1]:80");
        for (bad, why) in [
            ("localhost", "has no port"),
            ("localhost:", "no port between"),
            ("localhost:0", "no port between"),
            ("localhost:+80", "no port between"),
            ("localhost:99999", "no port between"),
            ("https://localhost:80", "https"),
            ("ftp://localhost:80", "scheme"),
            ("http://localhost:80/app", "path"),
            (":80", "no valid host"),
            ("a b:80", "no valid host"),
            ("::1:80", "brackets"),
        ] {
            let error = parse_backend(bad).unwrap_err();
            assert!(error.message.contains(why) && error.exit_code == 2, "{bad}: {error:?}");
        }
    }

    #[test]
    fn without_backends_the_three_python_servers_are_balanced() {
        let names = |config: Config| {
            config.backends.into_iter().map(|backend| backend.name).collect::<Vec<_>>()
        };
        assert_eq!(names(config(&["10"]).unwrap()), DEFAULT_BACKENDS);
        assert_eq!(
            names(config(&["--port", "8081"]).unwrap()),
            ["127.0.0.1:8080", "127.0.0.1:8082"],
            "not our own port"
        );
    }

    #[test]
    fn the_period_has_a_floor() {
        assert_eq!(config(&["0.2"]).unwrap().health.period, SHORTEST_PERIOD);
        let health = config(&["1.5"]).unwrap().health;
        assert_eq!(
            (health.period, health.timeout),
            (Duration::from_millis(1500), Duration::from_millis(1500))
        );
        assert_eq!(config(&["30"]).unwrap().health.timeout, Duration::from_secs(2));
    }

    #[test]
    fn what_is_wrong_is_said_in_one_line() {
        for (words, said) in [
            (&["ten"][..], "`ten` is not a duration"),
            (&["--workers", "0"], "--workers"),
            (&["--prot", "1"], "--port"),
            (&["--admin", "127.0.0.1:1"], "off"),
            (&["-b", "localhost:1", "-b", "localhost:1"], "named twice"),
            (&["--head-timeout", "0"], "would refuse everything"),
            (&["--health-path", "health"], "starts with /"),
        ] {
            let error = config(words).unwrap_err();
            assert!(error.message.contains(said), "{words:?}: {}", error.message);
            assert!(!error.message.contains('\n') && error.exit_code == 2);
        }
    }

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }
}
