//! Listening sockets that a service manager has opened (`LISTEN_FDS`, systemd's socket activation).
//!
//! Runs on the main thread, before any other thread is started and any descriptor is opened: the
//! protocol counts from descriptor 3, and only an early look can rely on nothing else being there.
//! The manager keeps its own reference, so these sockets must never be shut down.

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{AddressFamily, SocketType, sockopt};
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd};

/// The most sockets: a higher count is a mistake in the environment.
const MAX_SOCKETS: u32 = 256;
/// The number of the first descriptor.
const FIRST_DESCRIPTOR: usize = 3;

/// Takes the listening sockets that were passed to this process, if any were. To be called once. An
/// error is one line that names the variable and the fix.
pub fn take_inherited() -> Result<Vec<TcpListener>, String> {
    check_count(std::env::var("LISTEN_FDS").ok().as_deref())?;
    let passed = sd_listen_fds::get().map_err(|_| {
        "LISTEN_PID is not a process number; have the service manager set it, or unset LISTEN_FDS"
            .to_owned()
    })?;
    let (mut sockets, mut problem) = (Vec::new(), None);
    for (number, (name, descriptor)) in (FIRST_DESCRIPTOR..).zip(passed) {
        let descriptor = descriptor.into_std();
        if fcntl_setfd(&descriptor, FdFlags::CLOEXEC).is_err() {
            // There is nothing to close.
            std::mem::forget(descriptor);
            problem.get_or_insert((number, name, "is not open"));
        } else if let Err(kind) = check_socket(descriptor.as_fd()) {
            problem.get_or_insert((number, name, kind));
        } else {
            sockets.push(TcpListener::from(descriptor));
        }
    }
    match problem {
        None => Ok(sockets),
        Some((number, name, problem)) => Err(format!(
            "LISTEN_FDS: descriptor {number}{} {problem}; pass listening TCP sockets (ListenStream= \
             with a port, and Accept=no), or unset LISTEN_FDS to use --host and --port",
            name.map_or_else(String::new, |name| format!(" ({name})"))
        )),
    }
}

/// Checks the count before anything is allocated for it.
fn check_count(count: Option<&str>) -> Result<(), String> {
    match count {
        Some(text) if !text.parse().is_ok_and(|count: u32| count <= MAX_SOCKETS) => Err(format!(
            "LISTEN_FDS=`{text}` is not a count from 0 to {MAX_SOCKETS}; have the service manager set \
             it, or unset it to use --host and --port"
        )),
        _ => Ok(()),
    }
}

fn check_socket(descriptor: BorrowedFd<'_>) -> Result<(), &'static str> {
    let Ok(kind) = sockopt::socket_type(descriptor) else {
        return Err("is not a socket");
    };
    let family = sockopt::socket_domain(descriptor);
    let is_ip = family.is_ok_and(|one| one == AddressFamily::INET || one == AddressFamily::INET6);
    if kind != SocketType::STREAM || !is_ip {
        return Err("is not a TCP socket");
    }
    if !sockopt::socket_acceptconn(descriptor).unwrap_or(false) {
        return Err("is not listening");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpStream, UdpSocket};
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_count_is_a_small_number() {
        for fine in [None, Some("0"), Some("1"), Some("256")] {
            assert_eq!(check_count(fine), Ok(()));
        }
        for bad in ["", "-1", "two", "257", "4294967295", "99999999999"] {
            let error = check_count(Some(bad)).unwrap_err();
            assert!(error.starts_with(&format!("LISTEN_FDS=`{bad}`")), "{error}");
        }
    }

    #[test]
    fn only_listening_tcp_sockets_are_taken() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            assert_eq!(check_socket(listener.as_fd()), Ok(()));
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert_eq!(check_socket(client.as_fd()), Err("is not listening"));
        let datagram = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(check_socket(datagram.as_fd()), Err("is not a TCP socket"));
        let path = std::env::temp_dir().join(format!("lb-threads-{}-unix", std::process::id()));
        let local = UnixListener::bind(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(check_socket(local.as_fd()), Err("is not a TCP socket"));
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(check_socket(file.as_fd()), Err("is not a socket"));
    }
}
