//! Response heads: tokenised by httparse, validated as strictly as requests. Pure. There is one
//! error, because the client gets the same 502 for all.

use super::fields::{ConnectionOptions, Field, FieldStorage, Name};
use super::framing::Framing;
use super::{Body, Version};
use httparse::Status;
use std::time::Duration;

/// A valid response head. Borrows the bytes it was parsed from.
#[derive(Debug)]
pub struct ResponseHead<'h, 'b> {
    /// The backend's version.
    pub version: Version,
    /// The status code, 100 to 599.
    pub status: u16,
    /// The reason phrase, which may be empty.
    pub reason: &'b str,
    /// All fields, in their original order and case.
    pub fields: &'h [Field<'b>],
    /// Where the body ends.
    pub body: Body,
    /// The backend's connection options.
    pub connection: ConnectionOptions,
    /// The backend's idle timeout (`Keep-Alive: timeout=`).
    pub keep_alive: Option<Duration>,
    /// Whether there is a `Date`.
    pub has_date: bool,
    /// Whether the backend upgrades to `websocket` alone.
    pub websocket: bool,
}

/// The response is not valid HTTP/1.x, or its framing is ambiguous.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadResponse;

impl ResponseHead<'_, '_> {
    /// Whether this is a 1xx, which a final response follows (except after a 101).
    pub fn is_interim(&self) -> bool {
        self.status < 200
    }

    /// Whether the connection may carry another request after this response.
    pub fn is_persistent(&self) -> bool {
        let wanted = match self.version {
            Version::Http11 => !self.connection.close,
            Version::Http10 => self.connection.keep_alive && !self.connection.close,
        };
        wanted && self.body != Body::UntilClose
    }
}

/// Replaces a higher minor version by HTTP/1.1, in place. To be called before [`parse`].
pub fn lower_minor_version(head: &mut [u8]) {
    if let Some(version) = head.first_chunk_mut() {
        super::lower_minor_version(version);
    }
}

/// Parses a complete head, including its empty line. `to_head`: the request was a HEAD.
pub fn parse<'h, 'b>(
    head: &'b [u8],
    storage: &'h mut FieldStorage<'b>,
    to_head: bool,
) -> Result<ResponseHead<'h, 'b>, BadResponse> {
    let mut parsed = httparse::Response::new(&mut []);
    let end = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut parsed,
        head,
        storage,
    );
    if end != Ok(Status::Complete(head.len())) {
        return Err(BadResponse);
    }
    let version = Version::from_minor(parsed.version.unwrap_or_default());
    let status = parsed.code.unwrap_or_default();
    if !(100..=599).contains(&status) {
        return Err(BadResponse);
    }
    let gathered = HeadFields::gather(parsed.headers)?;
    if gathered.framing.chunked && version == Version::Http10 {
        return Err(BadResponse);
    }
    let body = match gathered.framing {
        _ if to_head || status < 200 || matches!(status, 204 | 304) => Body::None,
        Framing { chunked: true, .. } => Body::Chunked,
        Framing { length: Some(0), .. } => Body::None,
        Framing { length: Some(length), .. } => Body::Length(length),
        Framing { length: None, .. } => Body::UntilClose,
    };
    Ok(ResponseHead {
        version,
        status,
        reason: parsed.reason.unwrap_or_default(),
        fields: parsed.headers,
        body,
        connection: gathered.connection,
        keep_alive: gathered.keep_alive,
        has_date: gathered.has_date,
        websocket: gathered.connection.upgrade && gathered.websocket,
    })
}

/// The values that one pass over the fields has found.
#[derive(Default)]
struct HeadFields {
    framing: Framing,
    connection: ConnectionOptions,
    keep_alive: Option<Duration>,
    has_date: bool,
    has_upgrade: bool,
    websocket: bool,
}

impl HeadFields {
    fn gather(fields: &[Field<'_>]) -> Result<Self, BadResponse> {
        let mut gathered = Self::default();
        for field in fields {
            match Name::of(field.name) {
                Name::ContentLength => {
                    gathered.framing.add_length(field.value).map_err(|_| BadResponse)?;
                }
                Name::TransferEncoding => {
                    gathered.framing.add_transfer_encoding(field.value).map_err(|_| BadResponse)?;
                }
                Name::Connection => gathered.connection.add(field.value),
                Name::KeepAlive => {
                    gathered.keep_alive = keep_alive_timeout(field.value).or(gathered.keep_alive);
                }
                Name::Date => gathered.has_date = true,
                Name::Upgrade => {
                    gathered.websocket =
                        !gathered.has_upgrade && field.value.eq_ignore_ascii_case(b"websocket");
                    gathered.has_upgrade = true;
                }
                _ => {}
            }
        }
        gathered.framing.check().map_err(|_| BadResponse)?;
        Ok(gathered)
    }
}

/// The `timeout` parameter, in seconds.
fn keep_alive_timeout(value: &[u8]) -> Option<Duration> {
    let value = std::str::from_utf8(value).ok()?;
    let mut parameters = value.split(',').filter_map(|parameter| parameter.split_once('='));
    let (_, seconds) = parameters.find(|(name, _)| name.trim().eq_ignore_ascii_case("timeout"))?;
    seconds.trim().parse::<u32>().ok().map(|seconds| Duration::from_secs(u64::from(seconds)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::fields;

    fn validate(head: &str) -> Result<(u16, Body), BadResponse> {
        let mut storage = fields::field_storage();
        parse(head.as_bytes(), &mut storage, false).map(|head| (head.status, head.body))
    }

    #[test]
    fn the_framing_fields_delimit_the_body() {
        let rows = [
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", Body::Length(3)),
            ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Body::None),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Body::Chunked),
            ("HTTP/1.0 200 OK\r\n\r\n", Body::UntilClose),
            ("HTTP/1.1 204 No Content\r\n\r\n", Body::None),
            ("HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n", Body::None),
            ("HTTP/1.1 103 Early Hints\r\n\r\n", Body::None),
        ];
        for (head, body) in rows {
            assert_eq!(validate(head).unwrap().1, body, "{head:?}");
        }
        let mut storage = fields::field_storage();
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n";
        assert_eq!(parse(head, &mut storage, true).unwrap().body, Body::None);
    }

    #[test]
    fn a_bad_response_is_rejected() {
        for head in [
            "HTTP/2.0 200 OK\r\n\r\n",
            "HTTP/1.1 99 Low\r\n\r\n",
            "HTTP/1.1 099 Low\r\n\r\n",
            "HTTP/1.1 600 High\r\n\r\n",
            "HTTP/1.1 2OO OK\r\n\r\n",
            "ICY 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 3, 3\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
        ] {
            assert_eq!(validate(head), Err(BadResponse), "{head:?}");
        }
    }

    #[test]
    fn the_keep_alive_timeout_is_parsed() {
        assert_eq!(keep_alive_timeout(b"timeout=5, max=100"), Some(Duration::from_secs(5)));
        assert_eq!(keep_alive_timeout(b"max=100"), None);
        assert_eq!(keep_alive_timeout(b"timeout=-1"), None);
    }

    #[test]
    fn a_connection_that_delimits_the_body_is_not_persistent() {
        let mut storage = fields::field_storage();
        let head = b"HTTP/1.1 200 OK\r\n\r\n";
        assert!(!parse(head, &mut storage, false).unwrap().is_persistent());
    }
}
