//! Serialisation of heads from parsed parts, for backends and for clients. Pure.
//!
//! Order and case of fields and repeated fields are kept. Hop-by-hop fields are removed, and the
//! balancer's own fields are added. Received head bytes are never copied as a block.

use super::fields::{self, Field, Name};
use super::request::RequestHead;
use super::request_id::RequestId;
use super::response::ResponseHead;
use super::{Body, Version};
use std::io::Write;
use std::net::IpAddr;

/// The fields about the client that the balancer adds to a request.
#[derive(Clone, Copy, Debug)]
pub struct ForwardingInfo<'a> {
    /// The peer's address.
    pub address: IpAddr,
    /// Whether the peer is a trusted proxy, whose own forwarding fields are kept.
    pub trusted: bool,
    /// The identifier of the request: the client's, or a generated one.
    pub request_id: &'a RequestId,
}

/// The framing of a request's body for one backend, as the end of its head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestFraming {
    /// The received Content-Length, or no body: the head has the framing already.
    Plain,
    /// Chunks.
    Chunked,
    /// This length of a body that was chunked, because the backend supports only HTTP/1.0.
    Length(u64),
}

/// The framing of a response's body for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseFraming {
    /// The backend's Content-Length, or no body.
    Plain,
    /// Chunks.
    Chunked,
    /// The end of the connection.
    UntilClose,
}

/// Appends `name: value CR LF`.
pub fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Appends `X-Request-Id`. Separate from [`field`] for speed: every exchange needs it twice.
pub fn request_id(out: &mut Vec<u8>, id: &RequestId) {
    out.extend_from_slice(b"X-Request-Id: ");
    match id {
        RequestId::Generated(digits) => out.extend_from_slice(digits),
        RequestId::Received(id) => out.extend_from_slice(id.as_bytes()),
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes the part of a request's head that is the same for every backend. [`request_framing`] adds
/// the rest.
pub fn request(out: &mut Vec<u8>, head: &RequestHead<'_, '_>, client: ForwardingInfo<'_>) {
    out.extend_from_slice(head.method.as_bytes());
    out.push(b' ');
    if head.target.path.starts_with('?') {
        out.push(b'/');
    }
    out.extend_from_slice(head.target.path.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    if let Some(host) = head.host {
        field(out, "Host", host.as_bytes());
    }
    for received in head.fields {
        let name = Name::of(received.name);
        if let (Name::MaxForwards, Some(count)) = (name, head.max_forwards) {
            write!(out, "{}: {}\r\n", received.name, count.saturating_sub(1))
                .expect("a write to a vector succeeds");
        } else if passes_to_backend(head, received, name, client.trusted) {
            field(out, received.name, canonical(name, received.value));
        }
    }
    if head.websocket {
        out.extend_from_slice(b"Connection: Upgrade\r\nUpgrade: websocket\r\n");
    }
    forwarded_fields(out, head, client);
    if head.request_id.is_none() {
        request_id(out, client.request_id);
    }
}

/// The canonical value of a field: a length without leading zeros, any other value unchanged.
fn canonical(name: Name, value: &[u8]) -> &[u8] {
    if name != Name::ContentLength {
        return value;
    }
    let zeros = value.iter().take_while(|digit| **digit == b'0').count();
    &value[zeros.min(value.len() - 1)..]
}

fn passes_to_backend(
    head: &RequestHead<'_, '_>,
    received: &Field<'_>,
    name: Name,
    trusted: bool,
) -> bool {
    let passes = match name {
        // Written once, before all others.
        Name::Host => false,
        Name::Connection
        | Name::KeepAlive
        | Name::Upgrade
        | Name::HopByHop
        | Name::TransferEncoding => false,
        // Written after all others, with the client's address.
        Name::ForwardedFor => false,
        Name::ForwardedProto | Name::ForwardedHost | Name::Forwarded => trusted,
        // Only the line that was chosen.
        Name::RequestId => {
            head.request_id.is_some_and(|id| std::ptr::eq(id.as_bytes(), received.value))
        }
        Name::Expect => head.expects_continue,
        _ => true,
    };
    passes
        && !(head.connection.has_connection_options
            && fields::is_connection_option(head.fields, received.name, name))
}

/// Appends the forwarding fields. `X-Forwarded-For` extends a trusted peer's and replaces any
/// other; the other two are set unless a trusted peer has set them.
fn forwarded_fields(out: &mut Vec<u8>, head: &RequestHead<'_, '_>, client: ForwardingInfo<'_>) {
    let named = |wanted: Name| {
        head.fields.iter().filter(move |field| client.trusted && Name::of(field.name) == wanted)
    };
    out.extend_from_slice(b"X-Forwarded-For: ");
    for earlier in named(Name::ForwardedFor).filter(|field| !field.value.is_empty()) {
        out.extend_from_slice(earlier.value);
        out.extend_from_slice(b", ");
    }
    write_address(out, client.address);
    out.extend_from_slice(b"\r\n");
    if named(Name::ForwardedProto).next().is_none() {
        out.extend_from_slice(b"X-Forwarded-Proto: http\r\n");
    }
    if let (Some(host), None) = (head.host, named(Name::ForwardedHost).next()) {
        field(out, "X-Forwarded-Host", host.as_bytes());
    }
}

/// Three digits. `write!` costs 450 instructions for a status and 1,100 for an address, on the path
/// of every request.
fn digits(number: u16) -> [u8; 3] {
    [number / 100 % 10, number / 10 % 10, number % 10].map(|digit| b'0' + digit as u8)
}

/// Appends an address.
fn write_address(out: &mut Vec<u8>, address: IpAddr) {
    let IpAddr::V4(address) = address else {
        return write!(out, "{address}").expect("a write to a vector succeeds");
    };
    for (index, octet) in address.octets().into_iter().enumerate() {
        if index > 0 {
            out.push(b'.');
        }
        let leading_zeros = usize::from(octet < 100) + usize::from(octet < 10);
        out.extend_from_slice(&digits(octet.into())[leading_zeros..]);
    }
}

/// Writes the end of a request's head for one backend. `host` is the value of `Host` if an HTTP/1.0
/// client has sent none.
pub fn request_framing(out: &mut Vec<u8>, host: Option<&str>, framing: RequestFraming) {
    if let Some(host) = host {
        field(out, "Host", host.as_bytes());
    }
    match framing {
        RequestFraming::Plain => {}
        RequestFraming::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        RequestFraming::Length(length) => {
            write!(out, "Content-Length: {length}\r\n").expect("a write to a vector succeeds");
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// The framing of a response for a client of this version.
pub fn response_framing(body: Body, client: Version) -> ResponseFraming {
    match (body, client) {
        (Body::None | Body::Length(_), _) => ResponseFraming::Plain,
        (Body::Chunked | Body::UntilClose, Version::Http11) => ResponseFraming::Chunked,
        (Body::Chunked | Body::UntilClose, Version::Http10) => ResponseFraming::UntilClose,
    }
}

/// The `Connection` field of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionHeader {
    /// No field: the connection stays open by default.
    Omit,
    /// `close`.
    Close,
    /// `keep-alive`, for HTTP/1.0 clients that have asked for it.
    KeepAlive,
    /// `Upgrade`, and an `Upgrade` field with the protocol.
    WebSocket,
}

impl ConnectionHeader {
    /// The `Connection` field for a client of this version.
    pub fn after_response(keeps_open: bool, client: Version) -> Self {
        match (keeps_open, client) {
            (false, _) => Self::Close,
            (true, Version::Http11) => Self::Omit,
            (true, Version::Http10) => Self::KeepAlive,
        }
    }
}

/// The fields that the balancer adds to a response, forwarded or its own.
#[derive(Clone, Copy, Debug)]
pub struct ResponseFields<'a> {
    /// The response's `Connection` field.
    pub connection: ConnectionHeader,
    /// The value of `Date`, if the backend has sent none.
    pub date: &'a str,
    /// The value of `X-Request-Id`, for final responses and 101.
    pub request_id: &'a RequestId,
}

/// Writes a response's head for the client.
pub fn response(
    out: &mut Vec<u8>,
    head: &ResponseHead<'_, '_>,
    framing: ResponseFraming,
    fields: ResponseFields<'_>,
) {
    let connection = fields.connection;
    status_line(out, head.status, head.reason);
    let mut offers_upgrade = false;
    for received in head.fields {
        let name = Name::of(received.name);
        if passes_to_client(head, received, name) {
            offers_upgrade |= name == Name::Upgrade;
            field(out, received.name, canonical(name, received.value));
        }
    }
    if !head.has_date && !head.is_interim() {
        field(out, "Date", fields.date.as_bytes());
    }
    if !head.is_interim() || head.status == 101 {
        request_id(out, fields.request_id);
    }
    if framing == ResponseFraming::Chunked {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    match offers_upgrade {
        true => connection_field_with_upgrade(out, connection),
        false => connection_field(out, connection),
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes a status line; a status has three digits.
pub fn status_line(out: &mut Vec<u8>, status: u16, reason: &str) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(&digits(status));
    out.push(b' ');
    out.extend_from_slice(reason.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Writes the `Connection` field, if there is one.
pub fn connection_field(out: &mut Vec<u8>, connection: ConnectionHeader) {
    out.extend_from_slice(match connection {
        ConnectionHeader::Omit => b"",
        ConnectionHeader::Close => b"Connection: close\r\n",
        ConnectionHeader::KeepAlive => b"Connection: keep-alive\r\n",
        ConnectionHeader::WebSocket => b"Connection: Upgrade\r\nUpgrade: websocket\r\n",
    });
}

/// Writes the `Connection` field of a response with `Upgrade`, which it must name (RFC 9110 section
/// 7.8).
fn connection_field_with_upgrade(out: &mut Vec<u8>, connection: ConnectionHeader) {
    match connection {
        ConnectionHeader::Omit => field(out, "Connection", b"Upgrade"),
        ConnectionHeader::Close => field(out, "Connection", b"close, Upgrade"),
        ConnectionHeader::KeepAlive => field(out, "Connection", b"keep-alive, Upgrade"),
        ConnectionHeader::WebSocket => connection_field(out, connection),
    }
}

fn passes_to_client(head: &ResponseHead<'_, '_>, received: &Field<'_>, name: Name) -> bool {
    let passes = match name {
        // RFC 9110 section 15.5.22: a 426 must have the field.
        Name::Upgrade if head.status == 426 => return true,
        Name::Connection
        | Name::KeepAlive
        | Name::Upgrade
        | Name::HopByHop
        | Name::TransferEncoding => false,
        // Replaced by the request's, which is also in the log.
        Name::RequestId => false,
        // RFC 9110 section 8.6: not in 1xx and 204.
        Name::ContentLength => !head.is_interim() && head.status != 204,
        _ => true,
    };
    passes
        && !(head.connection.has_connection_options
            && fields::is_connection_option(head.fields, received.name, name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{request, response};
    use std::net::Ipv4Addr;

    const CLIENT: ForwardingInfo<'_> = ForwardingInfo {
        address: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        trusted: false,
        request_id: &RequestId::Generated([b'7'; 32]),
    };

    fn rewritten(head: &str, client: ForwardingInfo<'_>) -> String {
        let mut storage = fields::field_storage();
        let head = request::parse(head.as_bytes(), &mut storage).unwrap();
        let mut out = Vec::new();
        request(&mut out, &head, client);
        String::from_utf8(out).unwrap()
    }

    fn responded(head: &str, framing: ResponseFraming, line: ConnectionHeader) -> String {
        let mut storage = fields::field_storage();
        let head = response::parse(head.as_bytes(), &mut storage, false).unwrap();
        let mut out = Vec::new();
        let fields =
            ResponseFields { connection: line, date: "today", request_id: CLIENT.request_id };
        response(&mut out, &head, framing, fields);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_status_is_written_with_its_digits() {
        for status in 100..=599 {
            let mut out = Vec::new();
            status_line(&mut out, status, "Why");
            assert_eq!(out, format!("HTTP/1.1 {status} Why\r\n").as_bytes());
        }
    }

    #[test]
    fn addresses_are_written_as_by_the_standard_library() {
        let all = (0..=255).map(|octet| IpAddr::from([octet, 255 - octet, 7, octet / 3]));
        for address in all.chain(["::1".parse().unwrap(), "2001:db8::7".parse().unwrap()]) {
            let mut out = Vec::new();
            write_address(&mut out, address);
            assert_eq!(String::from_utf8(out).unwrap(), address.to_string());
        }
    }

    #[test]
    fn order_case_and_repeated_fields_are_kept() {
        let out = rewritten("GET /p HTTP/1.1\r\nB: 1\r\nhOST: h\r\na: 2\r\nB: 3\r\n\r\n", CLIENT);
        assert_eq!(
            out,
            "GET /p HTTP/1.1\r\nHost: h\r\nB: 1\r\na: 2\r\nB: 3\r\nX-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: http\r\n\
             X-Forwarded-Host: h\r\nX-Request-Id: 77777777777777777777777777777777\r\n"
        );
    }

    #[test]
    fn a_length_is_written_without_leading_zeros() {
        for (length, written) in [("007", "7"), ("0", "0"), ("000", "0"), ("10", "10")] {
            let out = rewritten(
                &format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n"),
                CLIENT,
            );
            assert!(out.contains(&format!("Content-Length: {written}\r\n")), "{out}");
        }
    }

    #[test]
    fn hop_by_hop_fields_are_removed() {
        let out = rewritten(
            "GET / HTTP/1.1\r\nHost: h\r\nConnection: X-Mine, keep-alive, host\r\nX-Mine: 1\r\nKeep-Alive: timeout=1\r\nTE: trailers\r\n\
             Proxy-Connection: close\r\nUpgrade: h2c\r\nX-Yours: 2\r\n\r\n",
            CLIENT,
        );
        for gone in ["X-Mine", "Keep-Alive", "TE:", "Proxy-", "Upgrade", "h2c", "Connection"] {
            assert!(!out.contains(gone), "{gone} in {out}");
        }
        assert!(out.contains("Host: h\r\n") && out.contains("X-Yours: 2\r\n"));
    }

    #[test]
    fn forwarded_fields_of_an_untrusted_peer_are_replaced() {
        let head = "GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Proto: https\r\nForwarded: for=x\r\n\r\n";
        let out = rewritten(head, CLIENT);
        assert!(out.contains("X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: http\r\n"), "{out}");
        assert!(!out.contains("10.0.0.1") && !out.contains("https") && !out.contains("for=x"));
    }

    #[test]
    fn forwarded_fields_of_a_trusted_peer_are_kept_and_appended_to() {
        let head = "GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: o\r\n\r\n";
        let out = rewritten(head, ForwardingInfo { trusted: true, ..CLIENT });
        assert!(out.contains("X-Forwarded-For: 10.0.0.1, 192.0.2.1\r\n"), "{out}");
        assert!(out.contains("X-Forwarded-Proto: https\r\n") && !out.contains("Proto: http\r\n"));
        assert!(
            out.contains("X-Forwarded-Host: o\r\n") && !out.contains("X-Forwarded-Host: h\r\n")
        );
    }

    #[test]
    fn a_request_has_one_valid_identifier() {
        let ids = |lines: &str| {
            let out = rewritten(&format!("GET / HTTP/1.1\r\nHost: h\r\n{lines}\r\n"), CLIENT);
            let ids = out.lines().filter_map(|line| line.strip_prefix("X-Request-Id: "));
            ids.map(str::to_owned).collect::<Vec<_>>()
        };
        let ours = "77777777777777777777777777777777";
        let (longest, too_long) = ("x".repeat(128), "x".repeat(129));
        assert_eq!(ids(""), [ours]);
        assert_eq!(ids(&format!("X-Request-Id: {longest}\r\n")), [longest.as_str()]);
        for bad in ["", "a b", "\u{e9}", too_long.as_str()] {
            assert_eq!(ids(&format!("X-Request-Id: {bad}\r\n")), [ours], "{bad:?}");
        }
        assert_eq!(ids("X-Request-Id: a b\r\nX-Request-Id: c\r\nX-Request-Id: d\r\n"), ["c"]);
    }

    #[test]
    fn an_absolute_target_is_forwarded_in_origin_form_with_its_own_host() {
        let out = rewritten("GET http://real?q HTTP/1.1\r\nHost: other\r\n\r\n", CLIENT);
        assert!(out.starts_with("GET /?q HTTP/1.1\r\nHost: real\r\n"), "{out}");
        assert!(!out.contains("other"));
    }

    #[test]
    fn only_a_websocket_upgrade_is_forwarded() {
        let head = "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Key: k\r\n\r\n";
        let out = rewritten(head, CLIENT);
        assert!(
            out.contains("Connection: Upgrade\r\nUpgrade: websocket\r\n")
                && out.contains("Sec-WebSocket-Key: k")
        );
    }

    #[test]
    fn the_end_of_a_request_head_depends_on_the_backend() {
        let mut out = Vec::new();
        request_framing(&mut out, Some("b:1"), RequestFraming::Length(5));
        assert_eq!(out, b"Host: b:1\r\nContent-Length: 5\r\n\r\n");
        out.clear();
        request_framing(&mut out, None, RequestFraming::Chunked);
        assert_eq!(out, b"Transfer-Encoding: chunked\r\n\r\n");
    }

    #[test]
    fn a_response_keeps_its_fields_without_the_hop_by_hop_ones() {
        let head = "HTTP/1.0 200 Fine\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nDate: now\r\n\r\n";
        let out = responded(head, ResponseFraming::Chunked, ConnectionHeader::Omit);
        assert_eq!(
            out,
            "HTTP/1.1 200 Fine\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nDate: now\r\n\
             X-Request-Id: 77777777777777777777777777777777\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
    }

    #[test]
    fn a_response_without_date_gets_one_and_204_loses_its_length() {
        let out = responded(
            "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
            ResponseFraming::Plain,
            ConnectionHeader::Close,
        );
        assert_eq!(
            out,
            "HTTP/1.1 204 No Content\r\nDate: today\r\n\
             X-Request-Id: 77777777777777777777777777777777\r\nConnection: close\r\n\r\n"
        );
    }

    #[test]
    fn a_response_has_the_identifier_of_its_request_and_no_other() {
        let count = |head: &str, line| {
            let out = responded(head, ResponseFraming::Plain, line);
            assert!(!out.contains("theirs"), "{out}");
            out.matches("X-Request-Id: 7777").count()
        };
        let theirs = "X-Request-Id: theirs\r\n\r\n";
        let omit = ConnectionHeader::Omit;
        assert_eq!(count(&format!("HTTP/1.1 200 OK\r\n{theirs}"), omit), 1);
        assert_eq!(count(&format!("HTTP/1.1 103 Early Hints\r\n{theirs}"), omit), 0);
        let switching = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                         Upgrade: websocket\r\n\r\n";
        assert_eq!(count(switching, ConnectionHeader::WebSocket), 1);
    }

    #[test]
    fn chunks_never_go_to_an_http10_client() {
        assert_eq!(response_framing(Body::Chunked, Version::Http10), ResponseFraming::UntilClose);
        assert_eq!(response_framing(Body::UntilClose, Version::Http11), ResponseFraming::Chunked);
        assert_eq!(response_framing(Body::Length(1), Version::Http10), ResponseFraming::Plain);
    }
}
