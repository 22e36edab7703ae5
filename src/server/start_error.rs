//! The errors of the start, each with its fix. Plain values.

use crate::net;
use std::fmt;
use std::io;
use std::net::SocketAddr;

/// An error of the start.
#[derive(Debug)]
pub enum StartError {
    /// Listening on an address failed.
    Listen(SocketAddr, io::Error),
    /// Listening on an address for the control API failed.
    ListenAdmin(SocketAddr, io::Error),
    /// The control API would be reachable from other machines without a token.
    NoToken {
        /// The address.
        address: SocketAddr,
        /// The flag that makes it reachable there.
        flag: &'static str,
    },
    /// This backend is one of our own listeners.
    Loop(String),
    /// Not enough threads or descriptors.
    Resources(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(address, error) => {
                write!(f, "cannot listen on {address}: ")?;
                match error.kind() {
                    io::ErrorKind::AddrInUse => f.write_str(
                        "the port is in use; stop the program that listens there, or choose \
                         another with --port",
                    ),
                    io::ErrorKind::PermissionDenied => {
                        f.write_str("ports below 1024 need privileges; choose another with --port")
                    }
                    _ if net::is_unavailable_address(error) => f.write_str(
                        "this machine does not have that address; choose another with --host",
                    ),
                    _ => write!(f, "{error}; choose another with --host and --port"),
                }
            }
            Self::ListenAdmin(address, error) => {
                write!(f, "cannot listen on {address} for the control API: ")?;
                match error.kind() {
                    io::ErrorKind::AddrInUse => f.write_str(
                        "the port is in use; choose another with --admin, or --admin off",
                    ),
                    _ => write!(f, "{error}; choose another address with --admin, or --admin off"),
                }
            }
            Self::NoToken { address, flag } => write!(
                f,
                "{flag} makes the control API reachable from other machines at {address}, so it \
                 needs a token: write one to a file and name it with --admin-token-file, or set \
                 LB_ADMIN_TOKEN; or listen on 127.0.0.1"
            ),
            Self::Loop(name) => write!(
                f,
                "backend {name} is the balancer itself, so requests would loop; name another with \
                 --backend"
            ),
            Self::Resources(error) => write!(
                f,
                "cannot start: {error}; raise the limits of open files and processes (ulimit -n, \
                 -u)"
            ),
        }
    }
}

impl std::error::Error for StartError {}
