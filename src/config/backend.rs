//! The text form of a backend: `HOST:PORT` or `http://HOST:PORT`. Pure; `net::resolve` resolves
//! names.

use std::fmt;
use std::net::{Ipv6Addr, SocketAddr};

/// The host and port of a backend, as an operator writes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// A name or an address; an IPv6 address without its brackets.
    pub host: String,
    /// The port, never 0.
    pub port: u16,
}

/// A backend with a resolved name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendAddress {
    /// `host:port` as it was written: its name in logs, and the Host of health checks and of
    /// requests without one.
    pub name: String,
    /// The address to which the name was resolved.
    pub address: SocketAddr,
}

impl HostPort {
    /// Parses `HOST:PORT` or `http://HOST:PORT`. The error names the problem and the right form.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bad = |problem| {
            format!("backend `{text}` {problem}; write it as HOST:PORT or http://HOST:PORT")
        };
        if text.starts_with("https://") {
            return Err(format!(
                "backend `{text}`: https to backends is not supported yet; use http://"
            ));
        }
        let rest = text.strip_prefix("http://").unwrap_or(text);
        if rest.contains("://") {
            return Err(bad("has an unknown scheme"));
        }
        let authority = rest.strip_suffix('/').filter(|_| rest != text).unwrap_or(rest);
        if authority.contains(['/', '?', '#']) {
            return Err(bad("has a path, which a balancer cannot add to requests"));
        }
        let (host, port) = authority.rsplit_once(':').ok_or_else(|| bad("has no port"))?;
        let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        if address.is_none() && host.contains(':') {
            return Err(bad("has too many colons (an IPv6 address needs brackets)"));
        }
        let is_host = match address {
            Some(address) => address.parse::<Ipv6Addr>().is_ok(),
            None => is_host_name(host),
        };
        if !is_host {
            return Err(bad("has no valid host"));
        }
        let is_number = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse::<u16>().ok().filter(|port| is_number && *port > 0);
        let port = port.ok_or_else(|| bad("has no port between 1 and 65535"))?;
        Ok(Self { host: address.unwrap_or(host).to_owned(), port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// Whether a name has only letters, digits, `-`, `_` and dots: such a name is a valid Host.
fn is_host_name(host: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !host.is_empty() && host.bytes().all(is_allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_is_a_host_and_a_port_with_or_without_http() {
        for (text, name) in [
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("http://127.0.0.1:80", "127.0.0.1:80"),
            ("http://app_1.internal:8080/", "app_1.internal:8080"),
            ("[::1]:80", "[::1]:80"),
        ] {
            assert_eq!(HostPort::parse(text).unwrap().to_string(), name);
        }
        assert_eq!(HostPort::parse("[::1]:80").unwrap().host, "::1");
    }

    #[test]
    fn an_error_names_the_backend_and_the_problem() {
        for (bad, problem) in [
            ("localhost", "has no port"),
            ("localhost:", "no port between"),
            ("localhost:0", "no port between"),
            ("localhost:+80", "no port between"),
            ("localhost:99999", "no port between"),
            ("https://localhost:80", "https"),
            ("ftp://localhost:80", "scheme"),
            ("http://localhost:80/app", "path"),
            (":80", "no valid host"),
            ("a b:80", "no valid host"),
            ("[::g]:80", "no valid host"),
            ("::1:80", "brackets"),
        ] {
            let error = HostPort::parse(bad).unwrap_err();
            assert!(error.contains(problem) && error.contains(bad), "{bad}: {error}");
        }
    }
}
