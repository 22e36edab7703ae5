//! Name resolution. Blocks for as long as the resolver takes, and so must never run on a worker.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

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

/// The distinct addresses of a backend's host: IPv4 first if its name has both, since servers that
/// listen on one family only mostly choose IPv4.
pub fn resolve_host(host: &str) -> io::Result<Vec<IpAddr>> {
    let mut ips: Vec<IpAddr> = resolve(host, 0)?.iter().map(SocketAddr::ip).collect();
    ips.sort_by_key(IpAddr::is_ipv6);
    Ok(ips)
}
