//! The control API: JSON over HTTP on threads of its own, beside the data path.
//!
//! [`ControlSockets`] listen before anything else of the balancer runs. [`Admin`] owns the thread
//! that accepts; each connection has a thread, up to a limit. No worker waits for them, and they
//! reach the balancer through [`Balancer`] alone. They respond while the balancer drains.

mod acceptor;
mod access;
mod body;
mod connection;
mod control;
mod health;
mod http;
mod message;
mod metrics;
mod open;
mod problem;
mod routes;
mod rows;
mod statistics;

pub use control::{Control, ControlError};
pub use metrics::{FAMILIES, Family, Kind};
pub use rows::{List, Row};
pub use statistics::{Numbers, Ordered, Overview, OverviewRow, PeriodNumbers, Statistics};

use crate::config::{AdminPort, Boot, DataPortControl};
use crate::net;
use crate::server::Balancer;
use crate::server::StartError;
use acceptor::{Acceptor, Port};
use access::{ControlAccess, Policy};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

/// The listening sockets of the control API.
#[derive(Debug)]
pub struct ControlSockets {
    ports: Vec<Port>,
    /// The addresses of the admin port; none if it is off.
    pub admin: Vec<SocketAddr>,
    /// The internal address to which workers forward requests for the control API.
    pub data_port: Option<SocketAddr>,
}

impl ControlSockets {
    /// Listens. `data` are the addresses of the data port. Without a token, no address may be
    /// reachable from other machines.
    pub fn open(boot: &Boot, data: &[SocketAddr]) -> Result<Self, StartError> {
        let mut opened = Self { ports: Vec::new(), admin: Vec::new(), data_port: None };
        if let Some(admin) = &boot.control.admin {
            opened.open_admin(boot, admin)?;
        }
        if let Some(requests) = boot.control.on_data_port {
            opened.open_for_data_port(boot, requests, data)?;
        }
        Ok(opened)
    }

    fn open_admin(&mut self, boot: &Boot, admin: &AdminPort) -> Result<(), StartError> {
        require_token(boot, "--admin", &admin.addresses)?;
        let sockets = match net::listen_on_all(&admin.addresses) {
            Ok(sockets) => sockets,
            Err((address, error)) if admin.is_optional => {
                let reason = match error.kind() {
                    io::ErrorKind::AddrInUse => "it is in use".to_owned(),
                    _ => error.to_string(),
                };
                log::warn!(
                    event = "start";
                    "no control API on {address}: {reason}; choose another address with --admin, \
                     or --admin off"
                );
                return Ok(());
            }
            Err((address, error)) => return Err(StartError::ListenAdmin(address, error)),
        };
        self.admin = addresses(&sockets);
        let (names, token) = (admin.host.clone(), boot.control.token.clone());
        let policy = Policy::new(ControlAccess::Admin, names, self.admin.iter().copied(), token);
        self.ports.push(Port { sockets, policy });
        Ok(())
    }

    fn open_for_data_port(
        &mut self,
        boot: &Boot,
        requests: DataPortControl,
        data: &[SocketAddr],
    ) -> Result<(), StartError> {
        let access = match requests {
            DataPortControl::Read => ControlAccess::DataRead,
            DataPortControl::All => {
                require_token(boot, "--control-on-data-port", data)?;
                ControlAccess::DataAll
            }
        };
        let sockets = net::listen_on_all(&[(Ipv4Addr::LOCALHOST, 0).into()])
            .map_err(|(_, error)| StartError::Resources(error))?;
        self.data_port = addresses(&sockets).first().copied();
        let names = boot.control.admin.as_ref().and_then(|admin| admin.host.clone());
        let ours = self.admin.iter().chain(data).copied();
        let policy = Policy::new(access, names, ours, boot.control.token.clone());
        self.ports.push(Port { sockets, policy });
        Ok(())
    }
}

fn addresses(sockets: &[TcpListener]) -> Vec<SocketAddr> {
    sockets.iter().filter_map(|socket| socket.local_addr().ok()).collect()
}

/// An error if one of these addresses is reachable from other machines, and there is no token.
fn require_token(
    boot: &Boot,
    flag: &'static str,
    addresses: &[SocketAddr],
) -> Result<(), StartError> {
    let open = addresses.iter().find(|address| !address.ip().to_canonical().is_loopback());
    match open {
        Some(address) if boot.control.token.is_none() => {
            Err(StartError::NoToken { address: *address, flag })
        }
        _ => Ok(()),
    }
}

/// The threads of the control API; they end when this is dropped.
#[derive(Debug)]
pub struct Admin {
    ports: Arc<[Port]>,
    balancer: Arc<Balancer>,
    is_stopping: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl Admin {
    /// Starts to accept, at most `limit` connections at once on each port; none if there is no port.
    pub fn start(
        sockets: ControlSockets,
        balancer: &Arc<Balancer>,
        limit: usize,
    ) -> io::Result<Option<Self>> {
        if sockets.ports.is_empty() {
            return Ok(None);
        }
        let (ports, balancer): (Arc<[Port]>, _) = (sockets.ports.into(), Arc::clone(balancer));
        let is_stopping = Arc::new(AtomicBool::new(false));
        let acceptor = Acceptor {
            ports: Arc::clone(&ports),
            control: Control::new(Arc::clone(&balancer), Arc::clone(&is_stopping)),
            is_stopping: Arc::clone(&is_stopping),
            limit,
        };
        let thread = thread::Builder::new().name("admin".to_owned());
        let acceptor = Some(thread.spawn(move || acceptor.run())?);
        Ok(Some(Self { ports, balancer, is_stopping, acceptor }))
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.is_stopping.store(true, Ordering::SeqCst);
        for socket in self.ports.iter().flat_map(|port| &port.sockets) {
            net::shutdown_listener(socket);
        }
        self.balancer.registry().notify_waiting();
        if let Some(acceptor) = self.acceptor.take() {
            // An error means a panic, which is in the log already.
            let _ = acceptor.join();
        }
    }
}
