//! Listening sockets and the machine's own addresses.
//!
//! Runs on the thread that starts the balancer or changes its backends, and must never run on a
//! worker: some calls block.

use super::is_unavailable_address;
use crate::config;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

/// Listens on every address. An address that this machine does not have is skipped if another one
/// remains: `localhost` resolves to `::1` even without IPv6. With port 0, all sockets get the same
/// free port. An error comes with its address.
pub fn listen_on_all(listen: &[SocketAddr]) -> Result<Vec<TcpListener>, (SocketAddr, io::Error)> {
    let (mut sockets, mut port_of_first) = (Vec::new(), 0);
    let mut unavailable = None;
    for address in listen {
        let port = if address.port() == 0 { port_of_first } else { address.port() };
        let address = SocketAddr::new(address.ip(), port);
        match listen_on(address) {
            Ok((socket, bound)) => {
                if sockets.is_empty() {
                    port_of_first = bound.port();
                }
                sockets.push(socket);
            }
            Err(error) if is_unavailable_address(&error) => {
                log::warn!("not listening on {address}: this machine does not have that address");
                unavailable = Some((address, error));
            }
            Err(error) => return Err((address, error)),
        }
    }
    match unavailable {
        Some(unavailable) if sockets.is_empty() => Err(unavailable),
        _ => Ok(sockets),
    }
}

/// Opens a listening socket with our own backlog: `TcpListener::bind` alone leaves it at 128.
/// Accepted sockets inherit `TCP_NODELAY`, which saves a system call for each.
fn listen_on(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address)?;
    rustix::net::sockopt::set_tcp_nodelay(&listener, true)?;
    rustix::net::listen(&listener, config::BACKLOG)?;
    let bound = listener.local_addr()?;
    Ok((listener, bound))
}

/// Whether a connect to `address` ends at one of our own listeners: a backend there is a loop.
pub fn is_own_listener(address: SocketAddr, listening: &[SocketAddr]) -> bool {
    let ip = address.ip();
    // A connect to 0.0.0.0 or [::] ends at this machine, like one to loopback.
    let is_here = || ip.is_unspecified() || ip.is_loopback() || is_own_address(ip);
    listening.iter().filter(|ours| ours.port() == address.port()).any(|ours| {
        let ours = ours.ip();
        let is_same = ours == ip || ip.is_unspecified() && ours.is_loopback();
        is_same || ours.is_unspecified() && is_here()
    })
}

/// Whether this machine has the address: the route to a local address uses that address as its
/// source. Nothing is sent.
fn is_own_address(ip: IpAddr) -> bool {
    let any: IpAddr =
        if ip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let source = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect((ip, 9))?;
        socket.local_addr()
    });
    source.is_ok_and(|source| source.ip() == ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listening_on(addresses: &[&str]) -> Result<Vec<SocketAddr>, io::Error> {
        let listen: Vec<_> = addresses.iter().map(|address| address.parse().unwrap()).collect();
        let sockets = listen_on_all(&listen).map_err(|(_, error)| error)?;
        Ok(sockets.iter().map(|socket| socket.local_addr().unwrap()).collect())
    }

    #[test]
    fn all_addresses_of_a_name_get_the_same_free_port() {
        let addresses = listening_on(&["127.0.0.1:0", "127.0.0.2:0"]).unwrap();
        assert_eq!(addresses.len(), 2);
        assert_eq!(addresses[0].port(), addresses[1].port());
    }

    #[test]
    fn an_unavailable_address_is_skipped_if_another_one_remains() {
        // 192.0.2.0/24 is for documentation: no machine has it.
        let addresses = listening_on(&["192.0.2.1:0", "127.0.0.1:0"]).unwrap();
        assert_eq!(addresses.len(), 1);
        let error = listening_on(&["192.0.2.1:0"]).unwrap_err();
        assert!(is_unavailable_address(&error), "{error}");
    }

    #[test]
    fn a_port_in_use_is_never_skipped() {
        let holder = TcpListener::bind("127.0.0.2:0").unwrap();
        let taken = holder.local_addr().unwrap().to_string();
        let error = listening_on(&["127.0.0.1:0", &taken]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn a_backend_is_a_loop_if_a_connect_to_it_ends_at_a_listener_of_ours() {
        for (backend, ours, is_loop) in [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:81", "127.0.0.1:80", false),
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("127.0.0.2:80", "127.0.0.1:80", false),
            ("127.0.0.2:80", "0.0.0.0:80", true),
            ("[::1]:80", "[::]:80", true),
            ("192.0.2.1:80", "0.0.0.0:80", false),
        ] {
            let (address, listening) = (backend.parse().unwrap(), [ours.parse().unwrap()]);
            assert_eq!(is_own_listener(address, &listening), is_loop, "{backend} at {ours}");
        }
    }
}
