//! A balancer under test: the real server, in this process, on a free port.

use super::client::Client;
use super::origin::Origin;
use super::wait;
use lb_threads::config::{AdminPort, Boot, Config, HealthSettings, Settings};
use lb_threads::metrics::Totals;
use lb_threads::reason::Reason;
use lb_threads::server::{Balancer, Drained, Server, StartOptions};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// A running balancer. Stops when dropped, aborting open connections.
pub struct Lb {
    server: Option<Server>,
    address: SocketAddr,
}

/// Settings for tests: a free port, two workers, checks every second.
pub fn config(backends: &[SocketAddr]) -> Config {
    Config {
        boot: Boot { listen: vec![([127, 0, 0, 1], 0).into()], workers: 2, ..Boot::default() },
        backends: backends.iter().map(|address| (*address).into()).collect(),
        settings: Settings {
            health: HealthSettings {
                period: Duration::from_secs(1),
                timeout: Some(Duration::from_secs(2)),
                ..HealthSettings::default()
            },
            ..Settings::default()
        },
    }
}

/// Adds a control API on a free port.
pub fn with_admin(config: &mut Config) {
    config.boot.control.admin = Some(AdminPort::at(([127, 0, 0, 1], 0).into()));
}

impl Lb {
    /// Starts a balancer; panics if it cannot.
    #[track_caller]
    pub fn start(config: Config) -> Self {
        Self::of(Server::start(config).expect("the balancer starts"))
    }

    /// Starts a balancer with options; panics if it cannot.
    #[track_caller]
    pub fn start_with(config: Config, options: StartOptions) -> Self {
        Self::of(Server::start_with(config, options).expect("the balancer starts"))
    }

    /// A balancer in front of these origins that forwards requests to the control API to `control`.
    #[track_caller]
    pub fn with_control(
        origins: &[&Origin],
        control: SocketAddr,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let addresses: Vec<SocketAddr> = origins.iter().map(|origin| origin.address()).collect();
        let mut config = config(&addresses);
        change(&mut config);
        Self::of(Server::start_with_control(config, control).expect("the balancer starts"))
    }

    fn of(server: Server) -> Self {
        let address = server.balancer().addresses()[0];
        Self { server: Some(server), address }
    }

    /// A balancer in front of these origins.
    #[track_caller]
    pub fn over(origins: &[&Origin]) -> Self {
        Self::with(origins, |_| {})
    }

    /// A balancer in front of these origins, with settings changed.
    #[track_caller]
    pub fn with(origins: &[&Origin], change: impl FnOnce(&mut Config)) -> Self {
        let addresses: Vec<SocketAddr> = origins.iter().map(|origin| origin.address()).collect();
        let mut config = config(&addresses);
        change(&mut config);
        Self::start(config)
    }

    /// A balancer in front of these origins, with a control API.
    #[track_caller]
    pub fn controlled(origins: &[&Origin]) -> Self {
        Self::with(origins, with_admin)
    }

    /// The address of its control API.
    #[track_caller]
    pub fn admin(&self) -> SocketAddr {
        self.balancer().admin_addresses()[0]
    }

    /// The address on which it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A new connection to it.
    #[track_caller]
    pub fn connect(&self) -> Client {
        Client::connect(self.address)
    }

    /// The balancer itself.
    pub fn balancer(&self) -> &Arc<Balancer> {
        let server = self.server.as_ref();
        server.expect("a balancer under test runs until it is dropped").balancer()
    }

    /// Changes settings while it serves. Connections opened from now on have the new ones.
    #[track_caller]
    pub fn change(&self, change: impl FnOnce(&mut Settings)) {
        let mut settings = Settings::clone(&self.balancer().settings());
        change(&mut settings);
        self.balancer().apply_settings(settings).expect("the settings can be applied");
    }

    /// Its counters.
    pub fn totals(&self) -> Totals {
        self.balancer().totals()
    }

    /// How many backends are up.
    pub fn up(&self) -> usize {
        self.balancer().cluster().up()
    }

    /// Waits until so many backends are up.
    #[track_caller]
    pub fn wait_for_up(&self, count: usize) {
        wait::until("that many backends are up", || self.up() == count);
    }

    /// Waits until so many client connections have ended for this reason.
    #[track_caller]
    pub fn wait_for_closed(&self, reason: Reason, count: u64) {
        wait::until(&format!("{count} connection(s) ended as {}", reason.code()), || {
            self.totals().closed(reason) == count
        });
    }

    /// Stops accepting; requests in flight have this long to finish.
    pub fn begin_drain(&mut self, timeout: Duration) {
        if let Some(server) = &mut self.server {
            server.balancer().begin_drain(Some(timeout));
        }
    }

    /// Waits until a drain has ended. No permit is left then, however the connections ended.
    #[track_caller]
    pub fn wait_for_end(mut self) -> Drained {
        let mut server = self.server.take().expect("it runs");
        let drained = server.wait();
        assert_eq!(server.balancer().open_connections(), 0, "a stopped balancer holds no permit");
        drained
    }
}
