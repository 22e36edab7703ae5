//! HTTP/1.1 as bytes: heads, framing, chunks, rewriting.
//!
//! Pure functions and incremental parsers over byte slices: no I/O, no clock, no lock, no log.
//! Strict in, canonical out: malformed input is rejected and never repaired, and a head is always
//! re-serialised from its parsed parts.

pub mod body;
pub mod chunked;
pub mod error_response;
pub mod fields;
pub mod forwarded_for;
pub mod framing;
pub mod head_end;
pub mod reply;
pub mod request;
pub mod request_id;
pub mod response;
pub mod rewrite;
pub mod target;

/// The supported versions of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0: closes after each exchange unless it has keep-alive; no chunked coding.
    Http10,
    /// HTTP/1.1.
    Http11,
}

impl Version {
    /// The version with this minor number.
    fn from_minor(minor: u8) -> Self {
        if minor == 0 { Self::Http10 } else { Self::Http11 }
    }
}

/// Where a body ends (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// There is none.
    None,
    /// After this many bytes, at least one.
    Length(u64),
    /// After the last chunk and its trailers.
    Chunked,
    /// At the end of the connection: responses only.
    UntilClose,
}

impl Body {
    /// The part of the bytes after a head that belongs to this body.
    pub fn part_of(self, bytes: &[u8]) -> &[u8] {
        match self {
            Self::None => &[],
            Self::Length(length) => {
                &bytes[..bytes.len().min(usize::try_from(length).unwrap_or(usize::MAX))]
            }
            Self::Chunked => chunked::part_of(bytes),
            Self::UntilClose => bytes,
        }
    }
}

/// Makes HTTP/1.1 of a higher minor version: its sender supports HTTP/1.1 as well (RFC 9110 section
/// 2.5).
fn lower_minor_version(version: &mut [u8; 8]) {
    if let [b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor @ b'2'..=b'9'] = version {
        *minor = b'1';
    }
}
