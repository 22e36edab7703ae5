//! The configuration of the balancer.
//!
//! Plain values, valid by construction; must never read files, the environment or the network.
//! [`Boot`] cannot change after the start, [`Settings`] can; the constants of `limits` are fixed.
//! The table of settings (`table`) has a row per setting; [`load()`] makes a [`Config`] of what was
//! typed, the environment and the text of a file, and can be called again for a reload.

mod algorithm;
mod backend;
mod control;
mod file;
mod json;
mod limits;
mod load;
mod log;
mod nearest;
mod node;
mod problem;
mod reload;
mod servers;
mod settings;
mod syntax;
mod table;
mod timeouts;
pub mod values;

pub use algorithm::Algorithm;
pub(crate) use algorithm::algorithms;
pub use backend::{BackendSpec, HostPort, MAX_WEIGHT, parse_weight};
pub use control::{Admin, AdminPort, ControlBoot, DEFAULT_ADMIN, DataPortControl, Token};
pub use file::{ConfigFile, Entry};
pub use json::to_json;
pub use limits::*;
pub use load::{Given, Loaded, Origin, load};
pub use log::{AccessLog, LogFormat};
pub use nearest::nearest;
pub use node::Item;
pub use problem::{FileText, MAX_PROBLEMS, Position, Problem, Severity, Span};
pub use reload::{Effects, Servers, merge_servers, merge_settings};
pub use settings::{HealthSettings, Limits, Settings};
pub use table::{Form, OFF, ON, Setting};
pub use timeouts::{Deadline, Timeout, Timeouts};

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The address to listen on if none is given.
pub const DEFAULT_HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// The port to listen on if none is given.
pub const DEFAULT_PORT: u16 = 9090;

/// The configuration at the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The part that cannot change while the balancer runs.
    pub boot: Boot,
    /// The backends, in the order given.
    pub backends: Vec<BackendSpec>,
    /// The part that may change while the balancer runs.
    pub settings: Settings,
}

/// The configuration that cannot change while the balancer runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot {
    /// The address or name to listen on.
    pub host: String,
    /// The port to listen on; 0 takes a free port.
    pub port: u16,
    /// The addresses of host and port, once they are resolved.
    pub listen: Vec<SocketAddr>,
    /// The number of workers.
    pub workers: usize,
    /// Connections over a limit that workers hold; descriptors are reserved for them.
    pub max_graceful_rejections: usize,
    /// The address of the control API.
    pub admin: Admin,
    /// The file with the token of the control API.
    pub admin_token_file: Option<String>,
    /// The file for the log's lines; none for standard error.
    pub log_file: Option<String>,
    /// The ways to the control API, once they are resolved; by default there are none.
    pub control: ControlBoot,
}

impl Boot {
    /// The address to listen on, if the host is no name.
    pub fn literal(&self) -> Option<SocketAddr> {
        let host = self.host.trim_matches(['[', ']']);
        Some(SocketAddr::new(host.parse().ok()?, self.port))
    }
}

impl Default for Boot {
    fn default() -> Self {
        Self {
            host: DEFAULT_HOST.to_string(),
            port: DEFAULT_PORT,
            listen: vec![SocketAddr::new(DEFAULT_HOST, DEFAULT_PORT)],
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            max_graceful_rejections: MAX_GRACEFUL_REJECTIONS,
            admin: Admin::default(),
            admin_token_file: None,
            log_file: None,
            control: ControlBoot::default(),
        }
    }
}
