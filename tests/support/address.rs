//! Addresses without a server: one refuses connects, the other leaves them pending.
//!
//! A port that was bound and dropped may be given to any other test a moment later. So these
//! addresses stay reserved: a bound socket that never listens refuses every connect, and the kernel
//! never assigns its port to a bind to port 0. Only a listener that names the port (as a restarted
//! origin does) gets it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

/// An address on 127.0.0.1 that refuses every connect for as long as the test process lives.
pub fn refused_address() -> SocketAddr {
    static RESERVED: Mutex<Vec<Reservation>> = Mutex::new(Vec::new());

    let reservation = Reservation::any();
    let address = reservation.address;
    RESERVED.lock().expect("no holder of this lock panics").push(reservation);
    address
}

/// A port that is held without listening: connects to it are refused, and the kernel assigns it to
/// no other socket.
pub(super) struct Reservation {
    pub(super) address: SocketAddr,
    _socket: OwnedFd,
}

impl Reservation {
    /// Holds a free port of 127.0.0.1.
    pub(super) fn any() -> Self {
        Self::of((Ipv4Addr::LOCALHOST, 0).into()).expect("a free port on 127.0.0.1 can be bound")
    }

    /// Holds this port: fails while another socket listens there.
    pub(super) fn of(address: SocketAddr) -> io::Result<Self> {
        let socket = tcp_socket(address)?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        rustix::net::bind(&socket, &address)?;
        let address = SocketAddr::try_from(rustix::net::getsockname(&socket)?)?;
        Ok(Self { address, _socket: socket })
    }
}

/// A TCP socket of the address's family, neither bound nor connected.
pub(super) fn tcp_socket(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    Ok(socket)
}

/// An address whose connects hang: they are neither accepted nor refused while this lives.
///
/// It is a listener that accepts nothing and whose backlog is full, so that Linux drops each
/// further SYN.
pub struct Blackhole {
    address: SocketAddr,
    _listener: TcpListener,
    _fillers: Vec<TcpStream>,
}

impl Blackhole {
    /// Long enough for a loopback handshake even on a busy machine, and paid once for each black
    /// hole.
    const HANDSHAKE: Duration = Duration::from_millis(100);

    /// More connects than any kernel queues for a backlog of zero.
    const MOST_FILLERS: usize = 16;

    /// Fills the backlog, so that further connects hang. Takes about 100 ms: it makes sure that a
    /// connect really hangs.
    #[track_caller]
    pub fn start() -> Self {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port can be bound");
        rustix::net::listen(&listener, 0).expect("a listener takes a new backlog");
        let address = listener.local_addr().expect("a bound socket has an address");

        let mut fillers = Vec::new();
        loop {
            match TcpStream::connect_timeout(&address, Self::HANDSHAKE) {
                Ok(filler) => fillers.push(filler),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => break,
                Err(error) => panic!("a connect to a black hole ended with: {error}"),
            }
            assert!(
                fillers.len() < Self::MOST_FILLERS,
                "a backlog of 0 took {} connections: this kernel drops no SYN",
                fillers.len()
            );
        }
        Self { address, _listener: listener, _fillers: fillers }
    }

    /// The address at which connects hang.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}
