//! What the balancer is started with, and what may change while it runs.
//!
//! Plain values, valid by construction; nothing here reads files, the environment or the network.
//! [`Boot`] cannot change after the start, [`Settings`] can. `limits` holds what neither can
//! change.

mod backend_spec;
mod limits;
mod settings;
mod table;
mod timeouts;
pub mod values;

pub use backend_spec::{BackendAddress, BackendSpec};
pub use limits::*;
pub use settings::{HealthSettings, Limits, Settings};
pub use table::{Form, ON, Setting};
pub use timeouts::{Deadline, Timeout, Timeouts};

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The address to listen on if none is given.
pub const DEFAULT_HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// The port to listen on if none is given.
pub const DEFAULT_PORT: u16 = 9090;

/// What the balancer is started with.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// What cannot change while the balancer runs.
    pub boot: Boot,
    /// The backends, in the order given.
    pub backends: Vec<BackendAddress>,
    /// What may change while the balancer runs.
    pub settings: Settings,
}

/// What cannot change while the balancer runs.
#[derive(Clone, Debug)]
pub struct Boot {
    /// The addresses to listen on; port 0 takes a free one.
    pub listen: Vec<SocketAddr>,
    /// The size of the worker pool.
    pub workers: usize,
    /// Connections over a limit that the workers hold: descriptors are set aside for them.
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
