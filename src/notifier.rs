//! Messages to a service manager (`NOTIFY_SOCKET`, the protocol of systemd's `sd_notify`).
//!
//! One datagram per message, sent by the main thread (start, reload, stop) and by the thread
//! `notifier` (status, watchdog). Must never be used by a worker: a send waits for a manager that
//! does not read, for a second at most.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The longest wait for a manager that does not read.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// The way to the service manager.
#[derive(Debug)]
pub struct Notifier {
    socket: UnixDatagram,
    address: SocketAddr,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// The notifier that the environment asks for, if it does. `variable` looks a variable up, and
    /// `own_pid` is this process: a watchdog for another one is not ours. An error is one line that
    /// names the variable.
    pub fn from_environment(
        variable: impl Fn(&str) -> Option<OsString>,
        own_pid: u32,
    ) -> Result<Option<Self>, String> {
        let Some(name) = variable("NOTIFY_SOCKET") else {
            return Ok(None);
        };
        let fail = |problem: &dyn std::fmt::Display| {
            format!(
                "NOTIFY_SOCKET=`{}` cannot be used: {problem}; set it to the path or the @name of a \
                 datagram socket, or unset it",
                name.to_string_lossy()
            )
        };
        let address = address(&name).map_err(|error| fail(&error))?;
        let socket = UnixDatagram::unbound().map_err(|error| fail(&error))?;
        socket.set_write_timeout(Some(SEND_TIMEOUT)).map_err(|error| fail(&error))?;
        let watchdog = watchdog(variable, own_pid)?;
        Ok(Some(Self { socket, address, watchdog }))
    }

    /// The time after which the manager ends this process if it gets no sign of life.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// The start, or a reload, is over.
    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={status}"));
    }

    /// One line about the state, for people.
    pub fn status(&self, status: &str) {
        self.send(&format!("STATUS={status}"));
    }

    /// A reload begins; [`Notifier::ready`] must follow. The time shows the manager that this is the
    /// reload that it has asked for.
    pub fn reloading(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1000;
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    /// The stop begins. The manager expects no sign of life from now on.
    pub fn stopping(&self, status: &str) {
        self.send(&format!("STOPPING=1\nSTATUS={status}"));
    }

    /// A sign of life.
    pub fn feed_watchdog(&self) {
        self.send("WATCHDOG=1");
    }

    fn send(&self, message: &str) {
        if let Err(error) = self.socket.send_to_addr(message.as_bytes(), &self.address) {
            let first = message.lines().next().unwrap_or_default();
            log::warn!("cannot send {first} to NOTIFY_SOCKET: {error}");
        }
    }
}

/// The address of a path, or of an abstract name after an @.
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'@', rest @ ..] if !rest.is_empty() => SocketAddr::from_abstract_name(rest),
        [b'/', _, ..] => SocketAddr::from_pathname(name),
        _ => {
            Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a path nor an abstract name"))
        }
    }
}

fn watchdog(
    variable: impl Fn(&str) -> Option<OsString>,
    own_pid: u32,
) -> Result<Option<Duration>, String> {
    let number = |name: &str| {
        let Some(value) = variable(name) else {
            return Ok(None);
        };
        let text = value.to_string_lossy();
        text.parse::<u64>()
            .map(Some)
            .map_err(|_| format!("{name}=`{text}` is not a number; correct it, or unset it"))
    };
    let (micros, pid) = (number("WATCHDOG_USEC")?, number("WATCHDOG_PID")?);
    let is_ours = pid.is_none_or(|pid| pid == u64::from(own_pid));
    Ok(micros.filter(|micros| *micros > 0 && is_ours).map(Duration::from_micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: u32 = 42;

    fn notifier(variables: &[(&str, &str)]) -> Result<Option<Notifier>, String> {
        let variable = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| OsString::from(value))
        };
        Notifier::from_environment(variable, OURS)
    }

    #[test]
    fn without_a_socket_there_is_no_notifier() {
        assert!(notifier(&[("WATCHDOG_USEC", "1000000")]).unwrap().is_none());
    }

    #[test]
    fn the_watchdog_of_another_process_is_not_ours() {
        let interval = |variables: &[(&str, &str)]| {
            let socket = ("NOTIFY_SOCKET", "@lb-threads-test-unused");
            notifier(&[&[socket], variables].concat()).unwrap().unwrap().watchdog()
        };
        let second = ("WATCHDOG_USEC", "1000000");
        assert_eq!(interval(&[]), None);
        assert_eq!(interval(&[second]), Some(Duration::from_secs(1)));
        assert_eq!(interval(&[second, ("WATCHDOG_PID", "42")]), Some(Duration::from_secs(1)));
        assert_eq!(interval(&[second, ("WATCHDOG_PID", "43")]), None);
        assert_eq!(interval(&[("WATCHDOG_USEC", "0")]), None);
    }

    #[test]
    fn an_error_names_the_variable_and_its_value() {
        let socket = ("NOTIFY_SOCKET", "/run/notify");
        for (bad, problem) in [
            (("NOTIFY_SOCKET", "vsock:2:1234"), "neither a path nor an abstract name"),
            (("NOTIFY_SOCKET", ""), "neither a path"),
            (("NOTIFY_SOCKET", "@"), "neither a path"),
            (("WATCHDOG_USEC", "soon"), "is not a number"),
            (("WATCHDOG_PID", "-1"), "is not a number"),
        ] {
            let error = notifier(&[bad, socket]).unwrap_err();
            let shown = format!("{}=`{}`", bad.0, bad.1);
            assert!(error.starts_with(&shown) && error.contains(problem), "{error}");
        }
    }

    #[test]
    fn a_reload_is_announced_with_the_time_of_the_monotonic_clock() {
        let name = format!("lb-threads-{}-reload", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        let notifier = notifier(&[("NOTIFY_SOCKET", &format!("@{name}"))]).unwrap().unwrap();
        let micros = || {
            let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
            now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000
        };
        let before = micros();
        notifier.reloading();
        let mut message = [0; 100];
        let length = manager.recv(&mut message).unwrap();
        let message = std::str::from_utf8(&message[..length]).unwrap();
        let sent = message.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect(message);
        let sent: u64 = sent.parse().unwrap();
        assert!((before..=micros()).contains(&sent), "{sent}");
    }
}
