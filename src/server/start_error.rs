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
