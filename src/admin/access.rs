//! The access to the control API: Host, token, and the rules for writes. Pure.
//!
//! A page in a browser must not reach the API through a name that its owner points at this machine
//! (DNS rebinding), so Host must be a loopback name or an address of ours, unless the request has
//! the token. It must not write either, so writes are JSON and not from another site. There are no
//! CORS fields.

use super::message::Request;
use super::problem::Problem;
use crate::config::Token;
use std::net::{IpAddr, SocketAddr};

/// The kind of access that a listening socket gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ControlAccess {
    /// The admin port.
    Admin,
    /// The data port, for GET and HEAD of any client.
    DataRead,
    /// The data port, by the rules of the admin port.
    DataAll,
}

/// The rules of a listening socket.
#[derive(Debug)]
pub(super) struct Policy {
    pub(super) access: ControlAccess,
    /// Allowed in Host besides loopback names; normalised, without ports.
    hosts: Vec<String>,
    token: Option<Token>,
}

impl Policy {
    /// Rules with these names and addresses of our own.
    pub(super) fn new(
        access: ControlAccess,
        names: impl IntoIterator<Item = String>,
        addresses: impl IntoIterator<Item = SocketAddr>,
        token: Option<Token>,
    ) -> Self {
        let addresses = addresses.into_iter().map(|address| address.ip().to_string());
        let names = names.into_iter().map(|name| normal(&name));
        Self { access, hosts: names.chain(addresses).collect(), token }
    }

    /// Whether the request may be served at all, whatever its path. The health pages need no check.
    pub(super) fn check(&self, request: &Request) -> Result<(), Problem> {
        if self.access == ControlAccess::DataRead {
            return if is_read(request) { Ok(()) } else { Err(read_only()) };
        }
        match &self.token {
            Some(token) => check_token(token, request),
            None => self.check_host(request.host.as_deref()),
        }
    }

    fn check_host(&self, authority: Option<&str>) -> Result<(), Problem> {
        let host = normal(host_of(authority.unwrap_or_default()));
        if is_loopback(&host) || self.hosts.contains(&host) {
            return Ok(());
        }
        let error = "this Host may not reach the control API: use http://localhost or the \
                     address of --admin, or set a token with --admin-token-file";
        Err(Problem::new(403, "host_not_allowed", error)
            .field("Host")
            .value(authority.unwrap_or_default())
            .expected("a loopback name or address, or the address of --admin"))
    }
}

/// Whether a write may be served: it is JSON, and not from a page of another site.
pub(super) fn check_write(request: &Request) -> Result<(), Problem> {
    check_origin(request)?;
    let mut types = request.values("content-type");
    let is_json = |value: &[u8]| {
        let kind = value.split(|byte| *byte == b';').next().unwrap_or_default();
        kind.trim_ascii().eq_ignore_ascii_case(b"application/json")
    };
    match (types.next(), types.next()) {
        (Some(kind), None) if is_json(kind) => Ok(()),
        (kind, _) => {
            let error = "writes need the field Content-Type: application/json, once";
            let sent = String::from_utf8_lossy(kind.unwrap_or_default()).into_owned();
            Err(Problem::new(415, "unsupported_content_type", error)
                .field("Content-Type")
                .value(sent)
                .expected("application/json"))
        }
    }
}

/// Browsers name the page that sends a request in these two fields, other clients have neither.
fn check_origin(request: &Request) -> Result<(), Problem> {
    let host = request.host.as_deref().unwrap_or_default();
    let is_ours = |origin: &[u8]| {
        let origin = std::str::from_utf8(origin).unwrap_or_default();
        let authority = origin.split_once("://").map(|(_, authority)| authority);
        authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
    };
    let is_same = |site: &[u8]| matches!(site, b"same-origin" | b"none");
    let foreign =
        request.values("origin").find(|origin| !is_ours(origin)).map(|value| ("Origin", value));
    let foreign = foreign.or_else(|| {
        let site = request.values("sec-fetch-site").find(|site| !is_same(site))?;
        Some(("Sec-Fetch-Site", site))
    });
    let Some((field, value)) = foreign else { return Ok(()) };
    let error = "a page of another site must not change backends; use curl or lb-threads itself";
    Err(Problem::new(403, "cross_site", error)
        .field(field)
        .value(String::from_utf8_lossy(value).into_owned()))
}

fn check_token(token: &Token, request: &Request) -> Result<(), Problem> {
    let mut values = request.values("authorization");
    let bearer = |value: &[u8]| {
        let (scheme, rest) = value.split_at_checked(6)?;
        let is_bearer = scheme.eq_ignore_ascii_case(b"bearer") && rest.starts_with(b" ");
        is_bearer.then(|| rest.trim_ascii().to_vec())
    };
    let (first, second) = (values.next(), values.next());
    let sent = first.and_then(bearer);
    if second.is_none() && sent.is_some_and(|sent| token.is(&sent)) {
        return Ok(());
    }
    let problem = if first.is_some() { "the token is wrong" } else { "a token is required" };
    let error = format!(
        "{problem}: send Authorization: Bearer TOKEN, with the token of --admin-token-file or \
         LB_ADMIN_TOKEN"
    );
    Err(Problem::new(401, "unauthorized", error)
        .field("Authorization")
        .header("WWW-Authenticate", "Bearer"))
}

/// Whether the method only reads.
pub(super) fn is_read(request: &Request) -> bool {
    matches!(request.method.as_str(), "GET" | "HEAD")
}

fn read_only() -> Problem {
    let error = "the data port only reads here: use the admin port, or start with \
                 --control-on-data-port=all";
    Problem::new(403, "read_only", error).expected("GET or HEAD")
}

/// The host of `host[:port]`, which is valid.
fn host_of(authority: &str) -> &str {
    match authority.rfind(']') {
        Some(end) => &authority[..=end],
        None => authority.split(':').next().unwrap_or_default(),
    }
}

/// A name in lower case without a final dot, or an address in its shortest form without brackets.
fn normal(host: &str) -> String {
    let host = host.trim_matches(['[', ']']);
    match host.parse::<IpAddr>() {
        Ok(address) => address.to_string(),
        Err(_) => host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase(),
    }
}

fn is_loopback(host: &str) -> bool {
    match host.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => host == "localhost" || host.ends_with(".localhost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(access: ControlAccess) -> Policy {
        let ours = ["192.0.2.7:9190", "[2001:db8::1]:9190"].map(|text| text.parse().unwrap());
        Policy::new(access, ["LB.internal".to_owned()], ours, None)
    }

    #[test]
    fn a_host_is_a_loopback_name_or_an_address_of_ours_with_any_port() {
        let policy = policy(ControlAccess::Admin);
        for host in [
            "localhost",
            "LOCALHOST:9190",
            "localhost.",
            "a.b.localhost:1",
            "127.0.0.1",
            "127.9.9.9:80",
            "[::1]:9190",
            "[0:0::1]",
            "[::ffff:127.0.0.1]",
            "lb.internal:9190",
            "192.0.2.7",
            "[2001:DB8::1]:1",
        ] {
            assert!(policy.check_host(Some(host)).is_ok(), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "notlocalhost",
            "127.0.0.1.evil.example",
            "127.1",
            "2130706433",
            "0.0.0.0",
            "192.0.2.8",
            "[::2]",
            "lb.internal.evil.example",
        ] {
            assert!(policy.check_host(Some(host)).is_err(), "{host}");
        }
        assert!(policy.check_host(None).is_err(), "HTTP/1.0 may have none");
    }
}
