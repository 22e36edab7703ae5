//! The configuration of the balancer.
//!
//! Plain values, valid by construction; must never read files, the environment or the network.
//! [`Boot`] cannot change after the start, [`Settings`] can; the constants of `limits` are fixed.

mod algorithm;
mod backend;
mod limits;
mod nearest;
mod settings;
mod table;
mod timeouts;
pub mod values;

pub use algorithm::Algorithm;
pub(crate) use algorithm::algorithms;
pub use backend::{BackendSpec, HostPort, parse_weight};
pub use limits::*;
pub use nearest::nearest;
pub use settings::{HealthSettings, Limits, Settings};
pub use table::{Form, ON, Setting};
pub use timeouts::{Deadline, Timeout, Timeouts};

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The address to listen on if none is given.
pub const DEFAULT_HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// The port to listen on if none is given.
pub const DEFAULT_PORT: u16 = 9090;

/// The configuration at the start.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The part that cannot change while the balancer runs.
    pub boot: Boot,
    /// The backends, in the order given.
    pub backends: Vec<BackendSpec>,
    /// The part that may change while the balancer runs.
    pub settings: Settings,
}

/// The configuration that cannot change while the balancer runs.
#[derive(Clone, Debug)]
pub struct Boot {
    /// The addresses to listen on; port 0 takes a free port.
    pub listen: Vec<SocketAddr>,
    /// The number of workers.
    pub workers: usize,
    /// Connections over a limit that workers hold; descriptors are reserved for them.
    pub max_graceful_rejections: usize,
}

impl Default for Boot {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::new(DEFAULT_HOST, DEFAULT_PORT)],
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            max_graceful_rejections: MAX_GRACEFUL_REJECTIONS,
        }
    }
}
