//! Name resolution. Blocks for as long as the resolver takes, and so must never run on a worker.

use crate::config::HostPort;
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

/// The addresses of a backend: IPv4 first if its name has both, since servers that listen on one
/// family only mostly choose IPv4.
pub fn resolve_backend(authority: &HostPort) -> io::Result<Vec<SocketAddr>> {
    let mut addresses = resolve(authority.host(), authority.port())?;
    addresses.sort_by_key(SocketAddr::is_ipv6);
    Ok(addresses)
}
