//! Request targets and Host, parsed strictly by their grammar (RFC 9112 section 3.2, RFC 3986
//! section 3.2). Pure.

use std::net::Ipv6Addr;

/// The target of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'b> {
    /// Path and query: starts with `/`, is `*`, or starts with `?` if an absolute-form target has
    /// no path. Its path is `/` then (RFC 9110 section 4.2.3).
    pub path: &'b str,
    /// The authority of an absolute-form target, which replaces Host.
    pub authority: Option<&'b str>,
}

impl<'b> Target<'b> {
    /// The path alone, for the log: a query may hold secrets.
    pub fn path_without_query(self) -> &'b str {
        match self.path.split('?').next() {
            Some("") | None => "/",
            Some(path) => path,
        }
    }

    /// Whether the control API serves it: the path is below `/_control/` or is `/lb/stats`, byte by
    /// byte. Nothing is decoded or normalised here or there, so that both sides agree.
    pub fn is_control(self) -> bool {
        let path = self.path;
        path.starts_with("/_control/")
            || path
                .strip_prefix("/lb/stats")
                .is_some_and(|rest| matches!(rest.as_bytes(), [] | [b'?', ..]))
    }
}

/// Parses a target in origin-form, absolute-form or asterisk-form (OPTIONS only); none if it is
/// invalid.
pub fn parse<'b>(target: &'b str, method: &str) -> Option<Target<'b>> {
    if !target.bytes().all(is_target_byte) {
        return None;
    }
    if target.starts_with('/') {
        return Some(Target { path: target, authority: None });
    }
    if target == "*" {
        return (method == "OPTIONS").then_some(Target { path: "*", authority: None });
    }
    let (scheme, rest) = target.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return None;
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if !is_host(authority.as_bytes()) {
        return None;
    }
    let path = match path {
        // RFC 9112 section 3.2.4: OPTIONS for the whole server.
        "" if method == "OPTIONS" => "*",
        "" => "/",
        path => path,
    };
    Some(Target { path, authority: Some(authority) })
}

/// Whether a target may contain this byte: visible ASCII that need not be percent-encoded.
/// `\ ^ { | }` and the backtick are not in RFC 3986 either, but browsers send them in queries, and
/// no server reads them as structure.
fn is_target_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && !b"\"<>#".contains(&byte)
}

/// Whether this is `host[:port]`: a name, an IPv4 address, or an IPv6 address in brackets.
pub fn is_host(value: &[u8]) -> bool {
    let (host, port) = split_port(value);
    port.is_none_or(is_port) && is_uri_host(host)
}

fn split_port(value: &[u8]) -> (&[u8], Option<&[u8]>) {
    let after_bracket = value.iter().rposition(|byte| *byte == b']').map_or(0, |at| at + 1);
    match value[after_bracket..].iter().position(|byte| *byte == b':') {
        Some(at) => (&value[..after_bracket + at], Some(&value[after_bracket + at + 1..])),
        None => (value, None),
    }
}

/// Whether these are digits, up to 65535. RFC 3986 allows an empty port.
fn is_port(port: &[u8]) -> bool {
    port.len() <= 5
        && port.iter().all(u8::is_ascii_digit)
        && port.iter().fold(0_u32, |number, digit| number * 10 + u32::from(digit - b'0')) <= 65_535
}

fn is_uri_host(host: &[u8]) -> bool {
    if let Some(rest) = host.strip_prefix(b"[") {
        return rest
            .strip_suffix(b"]")
            .and_then(|address| std::str::from_utf8(address).ok())
            .is_some_and(|address| address.parse::<Ipv6Addr>().is_ok());
    }
    !host.is_empty() && is_reg_name(host)
}

/// `*( unreserved / pct-encoded / sub-delims )` (RFC 3986 section 3.2.2).
fn is_reg_name(host: &[u8]) -> bool {
    let mut rest = host;
    while let [first, tail @ ..] = rest {
        rest = match (first, tail) {
            (b'%', [high, low, tail @ ..])
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                tail
            }
            (byte, tail) if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(byte) => {
                tail
            }
            _ => return false,
        };
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_for_the_log_has_no_query() {
        for (target, path) in [("/a/b?c=d", "/a/b"), ("/?", "/"), ("http://h?q", "/"), ("/a", "/a")]
        {
            assert_eq!(parse(target, "GET").unwrap().path_without_query(), path, "{target}");
        }
        assert_eq!(parse("*", "OPTIONS").unwrap().path_without_query(), "*");
    }

    #[test]
    fn targets_of_the_control_api_are_literal() {
        let control = [
            "/_control/",
            "/_control/list",
            "/_control/../x",
            "/lb/stats",
            "/lb/stats?",
            "/lb/stats?a=/",
            "http://h/_control/list",
            "HTTP://h:1/lb/stats",
        ];
        let others = [
            "/",
            "/_control",
            "/_control?/",
            "/_controlx/",
            "/_Control/list",
            "/%5fcontrol/list",
            "/_control%2flist",
            "/_control\\list",
            "//_control/list",
            "/./_control/list",
            "/x/../_control/list",
            "/x/_control/list",
            "/lb/stats/",
            "/lb/stats;a",
            "/lb/statsx",
            "/lb//stats",
            "/LB/stats",
            "/lb",
            "http://h?/_control/list",
            "http://h//_control/list",
            "http://_control/list",
        ];
        for (targets, is_control) in [(&control[..], true), (&others, false)] {
            for target in targets {
                assert_eq!(parse(target, "GET").unwrap().is_control(), is_control, "{target}");
            }
        }
        assert!(!parse("*", "OPTIONS").unwrap().is_control());
    }

    #[test]
    fn hosts_follow_their_grammar() {
        for good in [
            "a",
            "example.com",
            "example.com:80",
            "a:",
            "127.0.0.1:8080",
            "[::1]",
            "[::1]:80",
            "a_b",
            "%41",
            "a,b",
        ] {
            assert!(is_host(good.as_bytes()), "{good:?}");
        }
        for bad in [
            "",
            ":80",
            "user@host",
            "[::1",
            "::1",
            "host:1a",
            "host:65536",
            "host:123456",
            "a b",
            "a/b",
            "[a]",
            "[::1]x",
            "a%4",
            "a:b:c",
            "é",
            "a:-1",
            "a#b",
            "[::1]:x",
        ] {
            assert!(!is_host(bad.as_bytes()), "{bad:?}");
        }
    }

    #[test]
    fn origin_form_is_kept_unchanged() {
        for good in ["/", "/a?b=c", "//a", "/a|b", "/%zz", "/?{}"] {
            assert_eq!(
                parse(good, "GET"),
                Some(Target { path: good, authority: None }),
                "{good:?}"
            );
        }
    }

    #[test]
    fn absolute_form_is_split_into_authority_and_path() {
        let target = parse("http://h:8/x?y", "GET").unwrap();
        assert_eq!((target.path, target.authority), ("/x?y", Some("h:8")));
        assert_eq!(parse("HTTP://h", "GET").unwrap().path, "/");
        assert_eq!(parse("http://h?q", "GET").unwrap().path, "?q");
        assert_eq!(parse("http://h", "OPTIONS").unwrap().path, "*");
    }

    #[test]
    fn anything_else_is_rejected() {
        for bad in [
            "",
            "a",
            "*",
            "h:80",
            "ftp://h/",
            "http:///x",
            "http://u@h/",
            "/a#b",
            "/a\"",
            "/é",
            "/\x7f",
            "/a<b",
            "http:/x",
            "http://[::1/",
        ] {
            assert_eq!(parse(bad, "GET"), None, "{bad:?}");
        }
        assert!(parse("*", "OPTIONS").is_some());
    }
}
