//! Name resolution. Blocks for as long as the resolver takes, and so must never run on a worker.

use crate::config::{BackendAddress, HostPort};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

/// The distinct addresses of a name, at least one. An IPv6 address may have brackets.
pub fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for address in (host.trim_matches(['[', ']']), port).to_socket_addrs()? {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(addresses) }
}

/// A backend's address: IPv4 if its name has both, since servers that listen on one family only
/// mostly choose IPv4.
pub fn resolve_backend(backend: &HostPort) -> io::Result<BackendAddress> {
    let addresses = resolve(&backend.host, backend.port)?;
    let address = addresses.iter().find(|address| address.is_ipv4()).unwrap_or(&addresses[0]);
    Ok(BackendAddress { name: backend.to_string(), address: *address })
}
