//! The text form of a backend: `HOST:PORT` or a URL, with an optional weight. Pure; names are
//! resolved by `threads::resolver`.

use super::values::{Show, parse_count};
use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// The port of a URL without one.
const DEFAULT_HTTP_PORT: u16 = 80;
/// The largest weight.
pub const MAX_WEIGHT: u32 = 1000;

/// The host and port of a backend: its identity, whatever addresses its name has.
///
/// Normalised: letters in lower case, an address in its shortest form.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    host: String,
    port: u16,
}

/// A backend as an operator specifies it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendSpec {
    /// Its identity; also its name in logs, and the Host of health checks and of requests without
    /// one.
    pub authority: HostPort,
    /// The share of requests relative to other backends, from 1 to 1000.
    pub weight: u32,
    /// The addresses that are known; none until the name is resolved.
    pub addresses: Vec<SocketAddr>,
}

impl HostPort {
    /// Parses `HOST:PORT` or `http://HOST[:PORT][/]`; a URL without a port means 80. The error names
    /// the problem and the right form.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bad = |problem| {
            format!("backend `{text}` {problem}; write it as HOST:PORT or http://HOST:PORT")
        };
        let scheme = text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
        if scheme.as_deref() == Some("https") {
            return Err(format!(
                "backend `{text}`: https to backends is not supported yet; use http://"
            ));
        }
        if scheme.as_deref().is_some_and(|scheme| scheme != "http") {
            return Err(bad("has an unknown scheme"));
        }
        let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
        let authority = rest.strip_suffix('/').filter(|_| rest != text).unwrap_or(rest);
        if authority.contains(['/', '?', '#']) {
            return Err(bad("has a path, which a balancer cannot add to requests"));
        }
        if authority.contains('@') {
            return Err(bad("has a user name, which a balancer cannot add to requests"));
        }
        let (host, port) = split_port(authority);
        let port = match port {
            Some(port) => parse_port(port).ok_or_else(|| bad("has no port between 1 and 65535"))?,
            None if scheme.is_some() => DEFAULT_HTTP_PORT,
            None => return Err(bad("has no port")),
        };
        if !host.starts_with('[') && host.contains(':') {
            return Err(bad("has too many colons (an IPv6 address needs brackets)"));
        }
        let host = parse_host(host).ok_or_else(|| bad("has no valid host"))?;
        Ok(Self { host, port })
    }

    /// Makes the parts of a backend one: a name or an address, with or without brackets, and a port.
    pub fn new(host: &str, port: u16) -> Result<Self, String> {
        let host = if host.contains(':') && !host.starts_with('[') {
            format!("[{host}]")
        } else {
            host.to_owned()
        };
        Self::parse(&format!("{host}:{port}"))
    }

    /// The name, or the address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, never 0.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The normalised URL: no trailing slash, no default port.
    pub fn url(&self) -> String {
        let text = self.to_string();
        let default = format!(":{DEFAULT_HTTP_PORT}");
        format!("http://{}", text.strip_suffix(&default).unwrap_or(&text))
    }

    /// The address, if the host is no name.
    pub fn literal(&self) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.host.parse().ok()?, self.port))
    }
}

impl From<SocketAddr> for HostPort {
    fn from(address: SocketAddr) -> Self {
        Self { host: address.ip().to_string(), port: address.port() }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

impl BackendSpec {
    /// A backend; its address is known if its host is no name.
    pub fn new(authority: HostPort, weight: u32) -> Self {
        let addresses = authority.literal().into_iter().collect();
        Self { authority, weight, addresses }
    }

    /// Parses a backend with an optional weight: `HOST:PORT=3`, or `HOST:PORT*3`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (authority, weight) = match text.split_once(['=', '*']) {
            Some((authority, weight)) => {
                let weight = parse_weight(weight).map_err(|error| {
                    format!("backend `{text}`: {error}; write it as HOST:PORT=3")
                })?;
                (authority, weight)
            }
            None => (text, 1),
        };
        Ok(Self::new(HostPort::parse(authority.trim())?, weight))
    }
}

impl fmt::Display for BackendSpec {
    /// The text that [`BackendSpec::parse`] parses.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.authority)?;
        if self.weight == 1 { Ok(()) } else { write!(f, "={}", self.weight) }
    }
}

impl Show for Vec<BackendSpec> {
    fn show(&self) -> Option<String> {
        let backends: Vec<String> = self.iter().map(ToString::to_string).collect();
        (!backends.is_empty()).then(|| backends.join(","))
    }
}

impl From<SocketAddr> for BackendSpec {
    fn from(address: SocketAddr) -> Self {
        Self { authority: address.into(), weight: 1, addresses: vec![address] }
    }
}

/// Backends, separated by commas. Empty parts are skipped; a repeated backend is an error.
pub(super) fn parse_backends(text: &str) -> Result<Vec<BackendSpec>, String> {
    let (mut backends, mut names) = (Vec::new(), HashSet::new());
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let backend = BackendSpec::parse(part)?;
        if !names.insert(backend.authority.clone()) {
            return Err(format!("backend `{}` is named twice; name it once", backend.authority));
        }
        backends.push(backend);
    }
    Ok(backends)
}

/// A weight: a whole number from 1 to 1000.
pub fn parse_weight(text: &str) -> Result<u32, String> {
    parse_count(text.trim(), 1, MAX_WEIGHT)
        .map_err(|_| format!("weight `{text}` is not a whole number from 1 to {MAX_WEIGHT}"))
}

/// The host and the port of an authority. A colon inside brackets belongs to the address.
fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    }
}

fn parse_port(text: &str) -> Option<u16> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| is_number && *port > 0)
}

/// A host in its normal form: a name in lower case, an address in its shortest form.
fn parse_host(host: &str) -> Option<String> {
    if let Some(address) = host.strip_prefix('[') {
        let address: Ipv6Addr = address.strip_suffix(']')?.parse().ok()?;
        return Some(address.to_string());
    }
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    // A name of these letters is a valid Host.
    let is_name = !host.is_empty() && host.bytes().all(is_allowed);
    is_name.then(|| match host.parse::<IpAddr>() {
        Ok(address) => address.to_string(),
        Err(_) => host.to_ascii_lowercase(),
    })
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
            ("[0:0::1]:80", "[::1]:80"),
            ("HTTP://LocalHost:8001", "localhost:8001"),
            ("http://localhost", "localhost:80"),
            ("http://[::1]/", "[::1]:80"),
        ] {
            assert_eq!(HostPort::parse(text).unwrap().to_string(), name);
        }
        assert_eq!(HostPort::parse("[::1]:80").unwrap().host(), "::1");
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
            ("http://user@localhost:80", "user name"),
        ] {
            let error = HostPort::parse(bad).unwrap_err();
            assert!(error.contains(problem) && error.contains(bad), "{bad}: {error}");
        }
    }

    #[test]
    fn a_url_has_neither_a_default_port_nor_a_trailing_slash() {
        for (text, url) in [
            ("http://LOCALHOST:80/", "http://localhost"),
            ("localhost:8001", "http://localhost:8001"),
            ("[::1]:80", "http://[::1]"),
            ("h:8080", "http://h:8080"),
        ] {
            assert_eq!(HostPort::parse(text).unwrap().url(), url);
        }
    }

    #[test]
    fn a_weight_follows_an_equals_sign_or_an_asterisk() {
        for (text, weight) in [
            ("127.0.0.1:80", 1),
            ("127.0.0.1:80=3", 3),
            ("http://127.0.0.1:80/=1000", 1000),
            ("127.0.0.1:80*2", 2),
        ] {
            let spec = BackendSpec::parse(text).unwrap();
            assert_eq!(
                (spec.authority.to_string().as_str(), spec.weight),
                ("127.0.0.1:80", weight)
            );
            assert_eq!(spec.addresses, ["127.0.0.1:80".parse().unwrap()]);
        }
        for bad in ["h:80=0", "h:80=-1", "h:80=", "h:80=1.5", "h:80=1001", "h:80=2=3"] {
            let error = BackendSpec::parse(bad).unwrap_err();
            assert!(error.contains("from 1 to 1000") && error.contains(bad), "{error}");
        }
    }

    #[test]
    fn an_address_is_known_and_a_name_is_to_be_resolved() {
        assert_eq!(BackendSpec::parse("localhost:80").unwrap().addresses, []);
        let spec = BackendSpec::parse("[::1]:80").unwrap();
        assert_eq!(spec, BackendSpec::from("[::1]:80".parse::<SocketAddr>().unwrap()));
    }
}
