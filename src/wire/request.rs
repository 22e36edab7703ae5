//! Request heads: tokenised by httparse, validated here. Pure.

use super::fields::{self, ConnectionOptions, Field, FieldStorage, Name};
use super::framing::{BadFraming, Framing};
use super::head_end::HeadEnd;
use super::target::{self, Target};
use super::{Body, Version, request_id};
use crate::config;
use crate::error::Cause;
use httparse::Status;

/// A valid request head. Borrows the bytes it was parsed from.
#[derive(Debug)]
pub struct RequestHead<'h, 'b> {
    /// The method, a token.
    pub method: &'b str,
    /// The target.
    pub target: Target<'b>,
    /// The client's version.
    pub version: Version,
    /// All fields, in their original order and case.
    pub fields: &'h [Field<'b>],
    /// The host: the target's authority if it has one, else the Host field. HTTP/1.0 may have none.
    pub host: Option<&'b str>,
    /// Where the body ends. Never [`Body::UntilClose`].
    pub body: Body,
    /// The client's connection options.
    pub connection: ConnectionOptions,
    /// Whether the client awaits a 100 before it sends the body.
    pub expects_continue: bool,
    /// Whether the client asks for an upgrade to `websocket`.
    pub websocket: bool,
    /// Whether the client accepts JSON.
    pub accepts_json: bool,
    /// The client's first valid `X-Request-Id`, if there is one.
    pub request_id: Option<&'b str>,
    /// The `Max-Forwards` of an OPTIONS request: the number of times that it may be forwarded. With
    /// other methods the field is ignored.
    pub max_forwards: Option<u64>,
}

impl RequestHead<'_, '_> {
    /// Whether the client wants the connection to stay open (RFC 9112 section 9.3).
    pub fn is_persistent(&self) -> bool {
        match self.version {
            Version::Http11 => !self.connection.close,
            Version::Http10 => self.connection.keep_alive && !self.connection.close,
        }
    }

    /// Whether the method is idempotent (RFC 9110 section 9.2.2).
    pub fn is_idempotent(&self) -> bool {
        matches!(self.method, "GET" | "HEAD" | "OPTIONS" | "PUT" | "DELETE")
    }
}

/// The number of complete empty lines before the request line, which are skipped (RFC 9112 section
/// 2.2).
pub fn leading_empty_lines(bytes: &[u8]) -> usize {
    bytes.chunks_exact(2).take_while(|line| line == b"\r\n").count()
}

/// The result of [`find_end`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FoundEnd {
    /// The bytes of empty lines before the head, which are to be consumed before the next call.
    pub skipped: usize,
    /// The length of the head after them, once it is complete.
    pub length: Option<usize>,
}

/// Searches for the end of a head that arrives in pieces, and counts the empty lines before it. The
/// limits do not depend on how the head was split.
pub fn find_end(bytes: &[u8], end: &mut HeadEnd, empty_lines: &mut u8) -> Result<FoundEnd, Cause> {
    let (mut skipped, mut bytes) = (0, bytes);
    if end.is_at_start() {
        let count = leading_empty_lines(bytes);
        skipped = 2 * count;
        bytes = &bytes[skipped..];
        *empty_lines = empty_lines.saturating_add(u8::try_from(count).unwrap_or(u8::MAX));
        if usize::from(*empty_lines) > config::MAX_LEADING_EMPTY_LINES {
            return Err(Cause::BadRequestLine);
        }
        match bytes {
            [] | [b'\r'] => return Ok(FoundEnd { skipped, length: None }),
            // TLS and other garbage is rejected at once, not after the head timeout.
            [first, ..] if !fields::is_token(&[*first]) => return Err(Cause::BadRequestLine),
            _ => {}
        }
    }
    let had_first_line = end.first_line(bytes).is_some();
    let searched = end.find(bytes);
    let first_line = end.first_line(bytes);
    let length = match searched {
        Ok(Some(length)) if length <= config::MAX_REQUEST_HEAD_BYTES => {
            return Ok(FoundEnd { skipped, length: Some(length) });
        }
        Ok(None) if first_line.is_none() && has_too_long_target(bytes) => Err(Cause::TargetTooLong),
        Ok(None) if bytes.len() < config::MAX_REQUEST_HEAD_BYTES => Ok(None),
        Ok(_) => Err(Cause::HeadTooLarge),
        Err(cause) => Err(cause),
    };
    // The first line is validated at once: a client of another protocol may await a response before
    // it sends more.
    if let (false, Some(line)) = (had_first_line, first_line) {
        check_line(line)?;
    }
    Ok(FoundEnd { skipped, length: length? })
}

/// Replaces a higher minor version in a request line by HTTP/1.1, in place. To be called before
/// [`parse`].
pub fn lower_minor_version(line: &mut [u8]) {
    if let Some(version) = line.last_chunk_mut() {
        super::lower_minor_version(version);
    }
}

/// Parses a complete head, including its empty line.
pub fn parse<'h, 'b>(
    head: &'b [u8],
    storage: &'h mut FieldStorage<'b>,
) -> Result<RequestHead<'h, 'b>, Cause> {
    let mut parsed = httparse::Request::new(&mut []);
    match parsed.parse_with_uninit_headers(head, storage) {
        Ok(Status::Complete(length)) if length == head.len() => {}
        // The tokeniser has found another end: the head is ambiguous.
        Ok(_) => return Err(Cause::BadRequestLine),
        Err(error) => return Err(bad_head(head, error)),
    }
    let (method, target) = validate_line(&parsed)?;
    let version = Version::from_minor(parsed.version.unwrap_or_default());
    let gathered = HeadFields::gather(parsed.headers, version)?;
    let host = match (gathered.host, version) {
        (None, Version::Http11) => return Err(Cause::BadHost),
        (host, _) => target.authority.or(host),
    };
    if gathered.unknown_expectation && version == Version::Http11 {
        return Err(Cause::ExpectationUnknown);
    }
    let body = match gathered.framing {
        Framing { chunked: true, .. } => Body::Chunked,
        Framing { length: Some(length @ 1..), .. } => Body::Length(length),
        _ => Body::None,
    };
    let max_forwards = if method == "OPTIONS" { max_forwards(parsed.headers)? } else { None };
    let upgrades = gathered.connection.upgrade && gathered.asks_for_websocket;
    Ok(RequestHead {
        method,
        target,
        version,
        fields: parsed.headers,
        host,
        body,
        connection: gathered.connection,
        expects_continue: gathered.expects_continue
            && version == Version::Http11
            && body != Body::None,
        websocket: upgrades && version == Version::Http11 && method == "GET" && body == Body::None,
        accepts_json: gathered.accepts_json,
        request_id: gathered.request_id,
        max_forwards,
    })
}

/// The value of `Max-Forwards` (RFC 9110 section 7.6.2): digits, on one line. An overflow counts as
/// the maximum.
fn max_forwards(fields: &[Field<'_>]) -> Result<Option<u64>, Cause> {
    let mut values = fields
        .iter()
        .filter(|field| Name::of(field.name) == Name::MaxForwards)
        .map(|field| field.value);
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(digits), None) if !digits.is_empty() && digits.iter().all(u8::is_ascii_digit) => {
            let add = |number: u64, digit: &u8| {
                number.saturating_mul(10).saturating_add(u64::from(digit - b'0'))
            };
            Ok(Some(digits.iter().fold(0, add)))
        }
        _ => Err(Cause::BadField),
    }
}

/// Validates a request line alone, without its CR LF, so that its errors need not wait for the rest
/// of the head.
pub fn check_line(line: &[u8]) -> Result<(), Cause> {
    let mut head = [line, b"\r\n\r\n"].concat();
    lower_minor_version(&mut head[..line.len()]);
    let mut parsed = httparse::Request::new(&mut []);
    match parsed.parse(&head) {
        Ok(Status::Complete(length)) if length == head.len() => validate_line(&parsed).map(|_| ()),
        Ok(_) => Err(Cause::BadRequestLine),
        Err(error) => Err(bad_line(line, error)),
    }
}

/// Whether the target of an incomplete request line is too long already.
pub fn has_too_long_target(line: &[u8]) -> bool {
    let target = line.split(|byte| *byte == b' ').nth(1);
    line.len() > config::MAX_TARGET_BYTES
        && target.is_none_or(|target| target.len() > config::MAX_TARGET_BYTES)
}

fn validate_line<'b>(parsed: &httparse::Request<'_, 'b>) -> Result<(&'b str, Target<'b>), Cause> {
    let (method, path) = (parsed.method.unwrap_or_default(), parsed.path.unwrap_or_default());
    if path.len() > config::MAX_TARGET_BYTES {
        return Err(Cause::TargetTooLong);
    }
    if matches!(method, "CONNECT" | "TRACE") {
        return Err(Cause::MethodNotAllowed);
    }
    let target = target::parse(path, method).ok_or(Cause::BadTarget)?;
    Ok((method, target))
}

/// The values that one pass over the fields has found.
#[derive(Default)]
struct HeadFields<'b> {
    host: Option<&'b str>,
    framing: Framing,
    connection: ConnectionOptions,
    expects_continue: bool,
    unknown_expectation: bool,
    asks_for_websocket: bool,
    accepts_json: bool,
    request_id: Option<&'b str>,
}

impl<'b> HeadFields<'b> {
    fn gather(fields: &[Field<'b>], version: Version) -> Result<Self, Cause> {
        let mut gathered = Self::default();
        for field in fields {
            match Name::of(field.name) {
                Name::Host => gathered.add_host(field.value)?,
                Name::ContentLength => {
                    gathered.framing.add_length(field.value).map_err(Cause::from)?;
                }
                // RFC 9112 section 6.1: the framing of such an HTTP/1.0 message is faulty.
                Name::TransferEncoding if version == Version::Http10 => {
                    return Err(Cause::BadCoding);
                }
                Name::TransferEncoding => {
                    gathered.framing.add_transfer_encoding(field.value).map_err(Cause::from)?;
                }
                Name::Connection => gathered.connection.add(field.value),
                Name::Expect => gathered.add_expectations(field.value),
                Name::Upgrade => {
                    let mut protocols = fields::list(field.value);
                    gathered.asks_for_websocket |=
                        protocols.any(|protocol| protocol.eq_ignore_ascii_case(b"websocket"));
                }
                Name::Accept => gathered.accepts_json |= fields::list(field.value).any(is_json),
                Name::RequestId => {
                    gathered.request_id = gathered.request_id.or(request_id::valid(field.value));
                }
                _ => {}
            }
        }
        gathered.framing.check()?;
        Ok(gathered)
    }

    fn add_host(&mut self, value: &'b [u8]) -> Result<(), Cause> {
        if !target::is_host(value) {
            return Err(Cause::BadHost);
        }
        let host = std::str::from_utf8(value).map_err(|_| Cause::BadHost)?;
        match self.host.replace(host) {
            None => Ok(()),
            Some(_) => Err(Cause::BadHost),
        }
    }

    fn add_expectations(&mut self, value: &[u8]) {
        for expectation in fields::list(value) {
            if expectation.eq_ignore_ascii_case(b"100-continue") {
                self.expects_continue = true;
            } else {
                self.unknown_expectation = true;
            }
        }
    }
}

/// Whether an invalid head has an Accept line with JSON: sufficient to choose the format of an
/// error response.
pub fn seems_to_accept_json(bytes: &[u8]) -> bool {
    bytes.split(|byte| *byte == b'\n').any(|line| {
        let Some(colon) = memchr::memchr(b':', line) else {
            return false;
        };
        line[..colon].eq_ignore_ascii_case(b"accept")
            && fields::list(&line[colon + 1..]).any(is_json)
    })
}

/// Whether a media range is JSON, with any parameters.
fn is_json(range: &[u8]) -> bool {
    let kind = range.split(|byte| *byte == b';').next().unwrap_or_default();
    kind.trim_ascii().eq_ignore_ascii_case(b"application/json")
}

impl From<BadFraming> for Cause {
    fn from(bad: BadFraming) -> Self {
        match bad {
            BadFraming::Length => Self::BadLength,
            BadFraming::Coding => Self::BadCoding,
            BadFraming::CodingUnknown => Self::CodingUnknown,
            BadFraming::Both => Self::LengthAndCoding,
        }
    }
}

/// The cause of a tokeniser error. An error in the request line takes precedence, so that the cause
/// does not depend on how the head was split.
fn bad_head(head: &[u8], error: httparse::Error) -> Cause {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    match (check_line(line), error) {
        (Err(cause), _) => cause,
        (Ok(()), httparse::Error::TooManyHeaders) => Cause::HeadTooLarge,
        (Ok(()), httparse::Error::NewLine) => Cause::BadLineEnd,
        (Ok(()), _) => Cause::BadField,
    }
}

fn bad_line(line: &[u8], error: httparse::Error) -> Cause {
    match error {
        _ if has_too_long_target(line) => Cause::TargetTooLong,
        httparse::Error::Version if is_other_version(line) => Cause::VersionUnknown,
        httparse::Error::Token if is_request_line(line) => Cause::BadTarget,
        _ => Cause::BadRequestLine,
    }
}

/// Whether the line ends in a well-formed version, which is an unsupported one.
fn is_other_version(line: &[u8]) -> bool {
    let mut parts = line.split(|byte| *byte == b' ').skip(2);
    let (version, rest) = (parts.next().unwrap_or_default(), parts.next());
    rest.is_none()
        && matches!(version, [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit())
}

/// Whether the line has the form `method SP target SP HTTP/1.x`.
fn is_request_line(line: &[u8]) -> bool {
    let mut parts = line.split(|byte| *byte == b' ');
    let (method, target, version) = (parts.next(), parts.next(), parts.next());
    method.is_some_and(fields::is_token)
        && target.is_some_and(|target| !target.is_empty())
        && version.is_some_and(|version| matches!(version, b"HTTP/1.1" | b"HTTP/1.0"))
        && parts.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn validate(head: &str) -> Result<(String, Body), Cause> {
        let mut storage = fields::field_storage();
        parse(head.as_bytes(), &mut storage).map(|head| (head.target.path.to_owned(), head.body))
    }

    #[test]
    fn a_plain_request_is_accepted() {
        assert_eq!(
            validate("GET /a HTTP/1.1\r\nHost: h\r\n\r\n"),
            Ok(("/a".to_owned(), Body::None))
        );
        assert_eq!(validate("GET /a HTTP/1.0\r\n\r\n"), Ok(("/a".to_owned(), Body::None)));
        assert_eq!(
            validate("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n"),
            Ok(("/".to_owned(), Body::Length(3)))
        );
        assert_eq!(
            validate("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"),
            Ok(("/".to_owned(), Body::Chunked))
        );
    }

    #[test]
    fn each_rejection_names_its_cause() {
        let rows: &[(&str, Cause)] = &[
            ("GET\r\n\r\n", Cause::BadRequestLine),
            ("GET /\r\n\r\n", Cause::BadRequestLine),
            ("GET  / HTTP/1.1\r\nHost: h\r\n\r\n", Cause::BadRequestLine),
            ("GET /  HTTP/1.1\r\nHost: h\r\n\r\n", Cause::BadRequestLine),
            ("G(T / HTTP/1.1\r\nHost: h\r\n\r\n", Cause::BadRequestLine),
            (" GET / HTTP/1.1\r\nHost: h\r\n\r\n", Cause::BadRequestLine),
            ("GET / http/1.1\r\nHost: h\r\n\r\n", Cause::BadRequestLine),
            ("GET / HTTP/1.1 \r\nHost: h\r\n\r\n", Cause::BadRequestLine),
            ("GET / HTTP/1.10\r\nHost: h\r\n\r\n", Cause::BadRequestLine),
            ("GET / HTTP/2.0\r\nHost: h\r\n\r\n", Cause::VersionUnknown),
            ("PRI * HTTP/2.0\r\n\r\n", Cause::VersionUnknown),
            ("GET a HTTP/1.1\r\nHost: h\r\n\r\n", Cause::BadTarget),
            ("GET /a#b HTTP/1.1\r\nHost: h\r\n\r\n", Cause::BadTarget),
            ("GET /\u{e9} HTTP/1.1\r\nHost: h\r\n\r\n", Cause::BadTarget),
            ("GET /\x01 HTTP/1.1\r\nHost: h\r\n\r\n", Cause::BadTarget),
            ("GET / HTTP/1.1\r\n\r\n", Cause::BadHost),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", Cause::BadHost),
            ("GET / HTTP/1.0\r\nHost: a@b\r\n\r\n", Cause::BadHost),
            ("GET / HTTP/1.1\r\nHost : h\r\n\r\n", Cause::BadField),
            ("GET / HTTP/1.1\r\nHost: h\r\n folded: x\r\n\r\n", Cause::BadField),
            ("GET / HTTP/1.1\r\nHost: h\r\n: x\r\n\r\n", Cause::BadField),
            ("GET / HTTP/1.1\r\nHost: h\r\nA: x\0y\r\n\r\n", Cause::BadField),
            (
                "GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
                Cause::LengthAndCoding,
            ),
            (
                "GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: identity\r\n\r\n",
                Cause::LengthAndCoding,
            ),
            ("CONNECT h:80 HTTP/1.1\r\nbad field: x\r\n\r\n", Cause::MethodNotAllowed),
            ("GET / HTTP/2.0\r\n folded\r\n\r\n", Cause::VersionUnknown),
            ("GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", Cause::BadCoding),
            ("GET / HTTP/1.0\r\nTransfer-Encoding: gzip\r\n\r\n", Cause::BadCoding),
            ("GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n", Cause::CodingUnknown),
            ("GET / HTTP/1.1\r\nHost: h\r\nContent-Length: +3\r\n\r\n", Cause::BadLength),
            ("GET / HTTP/1.1\r\nHost: h\r\nExpect: magic\r\n\r\n", Cause::ExpectationUnknown),
            ("CONNECT h:80 HTTP/1.1\r\nHost: h\r\n\r\n", Cause::MethodNotAllowed),
            ("TRACE / HTTP/1.1\r\nHost: h\r\n\r\n", Cause::MethodNotAllowed),
        ];
        for (head, cause) in rows {
            assert_eq!(validate(head), Err(*cause), "{head:?}");
        }
        let long =
            format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "a".repeat(config::MAX_TARGET_BYTES));
        assert_eq!(validate(&long), Err(Cause::TargetTooLong));
        let many = format!(
            "GET / HTTP/1.1\r\nHost: h\r\n{}\r\n",
            "a: b\r\n".repeat(config::MAX_HEAD_FIELDS)
        );
        assert_eq!(validate(&many), Err(Cause::HeadTooLarge));
    }

    #[test]
    fn an_invalid_head_may_still_accept_json() {
        assert!(seems_to_accept_json(
            b"GET / HTTP/1.1\r\nbad field\r\naccept: text/html, application/json;q=1\r\n"
        ));
        assert!(!seems_to_accept_json(b"GET /application/json HTTP/1.1\r\nAccept: */*\r\n"));
    }

    #[test]
    fn a_request_line_alone_has_the_same_cause_as_with_its_head() {
        let rows = [
            ("GET / HTTP/1.1", Ok(())),
            ("OPTIONS * HTTP/1.0", Ok(())),
            ("GET / HTTP/1.2", Ok(())),
            ("GET /", Err(Cause::BadRequestLine)),
            ("SSH-2.0-OpenSSH", Err(Cause::BadRequestLine)),
            ("EHLO mail", Err(Cause::BadRequestLine)),
            ("PRI * HTTP/2.0", Err(Cause::VersionUnknown)),
            ("CONNECT h:80 HTTP/1.1", Err(Cause::MethodNotAllowed)),
            ("GET x HTTP/1.1", Err(Cause::BadTarget)),
            ("GET /\u{e9} HTTP/1.1", Err(Cause::BadTarget)),
        ];
        for (line, expected) in rows {
            assert_eq!(check_line(line.as_bytes()), expected, "{line:?}");
            let mut head = format!("{line}\r\nHost: h\r\n\r\n").into_bytes();
            lower_minor_version(&mut head[..line.len()]);
            assert_eq!(
                validate(std::str::from_utf8(&head).unwrap()).map(|_| ()),
                expected,
                "{line:?}"
            );
        }
    }

    #[test]
    fn a_bare_cr_is_rejected_everywhere() {
        for head in [
            "GET /\r HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: h\rA: b\r\n\r\n",
            "GET / HTTP/1.1\rHost: h\r\n\r\n",
        ] {
            assert!(validate(head).is_err(), "{head:?}");
        }
    }

    #[test]
    fn persistence_follows_the_version() {
        let persistent = |head: &str| {
            let mut storage = fields::field_storage();
            parse(head.as_bytes(), &mut storage).unwrap().is_persistent()
        };
        assert!(persistent("GET / HTTP/1.1\r\nHost: h\r\n\r\n"));
        assert!(!persistent("GET / HTTP/1.1\r\nHost: h\r\nConnection: x, Close\r\n\r\n"));
        assert!(!persistent("GET / HTTP/1.0\r\n\r\n"));
        assert!(persistent("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"));
    }

    #[test]
    fn empty_lines_before_the_request_are_counted() {
        assert_eq!(leading_empty_lines(b"\r\n\r\nGET"), 2);
        assert_eq!(leading_empty_lines(b"\r"), 0);
    }
}
