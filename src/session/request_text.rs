//! The text of a request that access lines have, kept until its exchange is over.

use crate::config::LogFormat;
use crate::wire::Version;
use crate::wire::request::RequestHead;

/// Parts of a request's head, in one allocation.
#[derive(Debug)]
pub struct RequestText {
    bytes: Box<[u8]>,
    /// Where the parts end, but for the last: method, path, host, user agent. A head is shorter than
    /// 64 KiB.
    ends: [u16; 4],
    version: Option<Version>,
}

/// The parts that not every format has.
#[derive(Clone, Copy, Debug, Default)]
pub struct Details<'h> {
    /// The client's version.
    pub version: Option<Version>,
    /// The host.
    pub host: &'h [u8],
    /// The value of `User-Agent`.
    pub user_agent: &'h [u8],
    /// The value of `Referer`.
    pub referer: &'h [u8],
}

impl RequestText {
    /// The parts of a head that this format has.
    pub(super) fn of(head: &RequestHead<'_, '_>, format: LogFormat) -> Self {
        let details = match format {
            LogFormat::Text => Details::default(),
            LogFormat::Json | LogFormat::Combined => {
                let value = |name: &str| {
                    let found =
                        head.fields.iter().find(|field| field.name.eq_ignore_ascii_case(name));
                    found.map_or(&b""[..], |field| field.value)
                };
                Details {
                    version: Some(head.version),
                    host: head.host.unwrap_or_default().as_bytes(),
                    user_agent: value("user-agent"),
                    referer: value("referer"),
                }
            }
        };
        Self::new(head.method, head.target.path_without_query(), details)
    }

    /// The text of a request.
    pub fn new(method: &str, path: &str, details: Details<'_>) -> Self {
        let parts =
            [method.as_bytes(), path.as_bytes(), details.host, details.user_agent, details.referer];
        let mut bytes = Vec::with_capacity(parts.iter().map(|part| part.len()).sum());
        let mut ends = [0; 4];
        for (number, part) in parts.into_iter().enumerate() {
            bytes.extend_from_slice(part);
            if let Some(end) = ends.get_mut(number) {
                *end = u16::try_from(bytes.len()).expect("a head is shorter than 64 KiB");
            }
        }
        Self { bytes: bytes.into_boxed_slice(), ends, version: details.version }
    }

    /// The method.
    pub fn method(&self) -> &str {
        std::str::from_utf8(self.part(0)).expect("a method is ASCII")
    }

    /// The path without its query, or another form of target.
    pub fn path(&self) -> &str {
        std::str::from_utf8(self.part(1)).expect("a target is ASCII")
    }

    /// The host; empty if there is none, or if the format does not have it.
    pub(super) fn host(&self) -> &[u8] {
        self.part(2)
    }

    /// The value of `User-Agent`; empty as the host is.
    pub(super) fn user_agent(&self) -> &[u8] {
        self.part(3)
    }

    /// The value of `Referer`; empty as the host is.
    pub(super) fn referer(&self) -> &[u8] {
        self.part(4)
    }

    /// The client's version as it is sent.
    pub(super) fn protocol(&self) -> &'static str {
        match self.version {
            Some(Version::Http10) => "HTTP/1.0",
            Some(Version::Http11) | None => "HTTP/1.1",
        }
    }

    fn part(&self, number: usize) -> &[u8] {
        let start = if number == 0 { 0 } else { usize::from(self.ends[number - 1]) };
        let end = self.ends.get(number).map_or(self.bytes.len(), |end| usize::from(*end));
        &self.bytes[start..end]
    }
}
