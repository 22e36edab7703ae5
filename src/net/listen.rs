//! Listening sockets and the machine's own addresses.
//!
//! Runs on the thread that starts the balancer or changes its backends, and must never run on a
//! worker: some calls block.

use super::is_unavailable_address;
use crate::config;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with, sockopt};
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
                log::warn!(
                    event = "start";
                    "not listening on {address}: this machine does not have that address"
                );
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

/// Opens a listening socket on an address that no other socket has.
fn listen_on(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address)?;
    set_up(&listener)?;
    let bound = listener.local_addr()?;
    Ok((listener, bound))
}

/// Our own backlog: `TcpListener::bind` alone leaves it at 128.
fn set_up(listener: &TcpListener) -> io::Result<()> {
    set_modes(listener)?;
    Ok(rustix::net::listen(listener, config::BACKLOG)?)
}

/// Accepted sockets inherit `TCP_NODELAY`, which saves a system call for each; they are in blocking
/// mode.
fn set_modes(listener: &TcpListener) -> io::Result<()> {
    sockopt::set_tcp_nodelay(listener, true)?;
    listener.set_nonblocking(true)
}

/// Shuts a listening socket down, whichever threads have it: its address is free, and what is in
/// its backlog is reset.
pub fn shutdown_listener(listener: &TcpListener) {
    // Fails only if the socket is not listening any more, which is the purpose.
    let _ = rustix::net::shutdown(listener, rustix::net::Shutdown::Both);
}

/// The listening sockets of all workers.
#[derive(Debug)]
pub struct WorkerSockets {
    by_worker: Vec<Vec<TcpListener>>,
    are_inherited: bool,
}

impl WorkerSockets {
    /// Sockets that are ours alone, a list per worker.
    pub fn new(by_worker: Vec<Vec<TcpListener>>) -> Self {
        Self { by_worker, are_inherited: false }
    }

    /// Sockets that a service manager has opened and keeps open. Workers share them, each with
    /// duplicates of its own: only the manager's user may open more sockets on their addresses
    /// (`SO_REUSEPORT`), and its network namespace may be another one.
    pub fn inherited(sockets: Vec<TcpListener>, workers: usize) -> io::Result<Self> {
        for socket in &sockets {
            set_modes(socket)?;
        }
        let duplicate = |_| sockets.iter().map(TcpListener::try_clone).collect::<io::Result<_>>();
        let mut by_worker = (1..workers).map(duplicate).collect::<io::Result<Vec<Vec<_>>>>()?;
        by_worker.push(sockets);
        Ok(Self { by_worker, are_inherited: true })
    }

    /// Whether they are shared with each other and with the program that has opened them.
    pub fn are_inherited(&self) -> bool {
        self.are_inherited
    }

    /// The sockets of a worker.
    pub fn of(&self, worker: usize) -> &[TcpListener] {
        &self.by_worker[worker]
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &TcpListener> {
        self.by_worker.iter().flatten()
    }

    /// Shuts the sockets of a worker down. Inherited ones go on listening for the next program.
    pub fn shut_down(&self, worker: usize) {
        if !self.are_inherited {
            self.of(worker).iter().for_each(shutdown_listener);
        }
    }
}

/// Opens a listening socket per worker on each address; the kernel spreads new connections over
/// those of one address. The result has a list per worker, with a socket per address.
///
/// The first socket of an address was bound without `SO_REUSEPORT`, so an address that another
/// program listens on is an error, and so is ours for a program that starts later. Only one of the
/// same user that sets the option itself could join: the kernel has no way to close the group.
pub fn listen_per_worker(first: Vec<TcpListener>, workers: usize) -> io::Result<WorkerSockets> {
    let mut sockets: Vec<Vec<TcpListener>> = Vec::new();
    for _ in 1..workers {
        sockets.push(first.iter().map(open_sibling).collect::<io::Result<_>>()?);
    }
    sockets.push(first);
    Ok(WorkerSockets::new(sockets))
}

/// Another listening socket on the same address.
fn open_sibling(first: &TcpListener) -> io::Result<TcpListener> {
    sockopt::set_socket_reuseport(first, true)?;
    let address = first.local_addr()?;
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // As std does for the first one: connections of a process that has just ended are no obstacle.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    let listener = TcpListener::from(socket);
    set_up(&listener)?;
    Ok(listener)
}

/// Waits until one of these sockets has a connection, or was shut down.
pub fn wait_for_connections(sockets: &[&TcpListener]) -> io::Result<()> {
    let readable = |socket| PollFd::new(socket, PollFlags::IN);
    let mut waiting: Vec<PollFd<'_>> = sockets.iter().map(readable).collect();
    rustix::io::retry_on_intr(|| poll(&mut waiting, None))?;
    Ok(())
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

    #[test]
    fn the_workers_sockets_share_addresses_that_no_other_program_can_listen_on() {
        let first = ["127.0.0.1:0", "[::1]:0"].map(|address| address.parse().unwrap());
        let first = listen_on_all(&first).unwrap();
        let addresses: Vec<_> = first.iter().map(|one| one.local_addr().unwrap()).collect();
        let sockets = listen_per_worker(first, 3).unwrap();
        for worker in 0..3 {
            let theirs: Vec<_> =
                sockets.of(worker).iter().map(|one| one.local_addr().unwrap()).collect();
            assert_eq!(theirs, addresses);
        }
        for address in addresses {
            assert_eq!(TcpListener::bind(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
            let (_, error) = listen_on_all(&[address]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        }
    }
}
