//! Header fields: the names with a meaning for a proxy, and list values.

use crate::config;
use std::mem::MaybeUninit;

/// A field as httparse hands it out: a valid name, and a value without control characters or space
/// around it.
pub type Field<'b> = httparse::Header<'b>;

/// Storage for the fields of one head. A head with more fields is rejected.
pub type FieldStorage<'b> = [MaybeUninit<Field<'b>>];

/// Empty room for as many as a request may have; costs nothing.
pub fn field_storage<'b>() -> [MaybeUninit<Field<'b>>; config::MAX_HEAD_FIELDS] {
    [const { MaybeUninit::uninit() }; config::MAX_HEAD_FIELDS]
}

/// Empty storage for a response with more fields than [`field_storage`] has, up to a limit of its
/// own; else none.
pub fn large_field_storage<'b>(lines: usize) -> Vec<MaybeUninit<Field<'b>>> {
    let fields = if lines > config::MAX_HEAD_FIELDS {
        lines.min(config::MAX_RESPONSE_HEAD_FIELDS)
    } else {
        0
    };
    std::iter::repeat_with(MaybeUninit::uninit).take(fields).collect()
}

/// The fields that mean something to a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// Names the site.
    Host,
    /// The length of the body.
    ContentLength,
    /// The coding of the body: its framing, if it is `chunked`.
    TransferEncoding,
    /// Options of this connection and further fields that belong to it.
    Connection,
    /// Parameters of this connection: `Keep-Alive`.
    KeepAlive,
    /// The new protocol asked for or granted.
    Upgrade,
    /// Belongs to one connection: `Proxy-Connection`, `TE`, `Proxy-Authenticate`,
    /// `Proxy-Authorization`.
    HopByHop,
    /// `Expect`.
    Expect,
    /// `Accept`.
    Accept,
    /// `Max-Forwards`.
    MaxForwards,
    /// `Date`.
    Date,
    /// `X-Forwarded-For`.
    ForwardedFor,
    /// `X-Forwarded-Proto`.
    ForwardedProto,
    /// `X-Forwarded-Host`.
    ForwardedHost,
    /// RFC 7239's `Forwarded`: means the same as the three above, so it is kept or dropped with
    /// them.
    Forwarded,
    /// `X-Request-Id`.
    RequestId,
    /// Any other: forwarded unchanged.
    Other,
}

impl Name {
    /// The name of this field, case-insensitive.
    pub fn of(name: &str) -> Self {
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        match name.len() {
            2 if is("te") => Self::HopByHop,
            4 if is("host") => Self::Host,
            4 if is("date") => Self::Date,
            6 if is("expect") => Self::Expect,
            6 if is("accept") => Self::Accept,
            7 if is("upgrade") => Self::Upgrade,
            9 if is("forwarded") => Self::Forwarded,
            10 if is("connection") => Self::Connection,
            10 if is("keep-alive") => Self::KeepAlive,
            12 if is("x-request-id") => Self::RequestId,
            12 if is("max-forwards") => Self::MaxForwards,
            14 if is("content-length") => Self::ContentLength,
            15 if is("x-forwarded-for") => Self::ForwardedFor,
            16 if is("x-forwarded-host") => Self::ForwardedHost,
            16 if is("proxy-connection") => Self::HopByHop,
            17 if is("transfer-encoding") => Self::TransferEncoding,
            17 if is("x-forwarded-proto") => Self::ForwardedProto,
            18 if is("proxy-authenticate") => Self::HopByHop,
            19 if is("proxy-authorization") => Self::HopByHop,
            _ => Self::Other,
        }
    }

    /// Whether a `Connection` line may not take this field away: framing, routing, and what we
    /// write ourselves.
    fn is_protected(self) -> bool {
        matches!(
            self,
            Self::Host
                | Self::ContentLength
                | Self::TransferEncoding
                | Self::Date
                | Self::Expect
                | Self::ForwardedFor
                | Self::ForwardedProto
                | Self::ForwardedHost
                | Self::RequestId
        )
    }
}

/// The elements of a comma-separated list, without space around them; empty ones are left out (RFC
/// 9110 section 5.6.1).
pub fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
}

/// Whether the bytes are a token (RFC 9110 section 5.6.2).
pub fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty()
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

/// The options of all `Connection` lines of a head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionOptions {
    /// `close`.
    pub close: bool,
    /// `keep-alive`.
    pub keep_alive: bool,
    /// `upgrade`.
    pub upgrade: bool,
    /// Further fields are named, which belong to this connection too.
    pub has_connection_options: bool,
}

impl ConnectionOptions {
    /// Adds the options of one `Connection` line.
    pub fn add(&mut self, value: &[u8]) {
        for option in list(value) {
            if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if option.eq_ignore_ascii_case(b"upgrade") {
                self.upgrade = true;
            } else {
                self.has_connection_options = true;
            }
        }
    }
}

/// Whether one of the `Connection` lines names this field, so that it must not be forwarded.
pub fn is_connection_option(fields: &[Field<'_>], name: &str, known: Name) -> bool {
    !known.is_protected()
        && fields.iter().any(|field| {
            Name::of(field.name) == Name::Connection
                && list(field.value).any(|option| option.eq_ignore_ascii_case(name.as_bytes()))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_case_insensitive() {
        assert_eq!(Name::of("HOST"), Name::Host);
        assert_eq!(Name::of("transfer-encoding"), Name::TransferEncoding);
        assert_eq!(Name::of("Transfer_Encoding"), Name::Other);
        assert_eq!(Name::of("X-Forwarded-For"), Name::ForwardedFor);
    }

    #[test]
    fn a_list_is_split_at_commas_whatever_the_space() {
        let elements: Vec<_> = list(b" a,\tb ,, c").collect();
        assert_eq!(elements, [b"a", b"b", b"c"]);
    }

    #[test]
    fn connection_options_are_whole_words() {
        let mut options = ConnectionOptions::default();
        options.add(b"x-close, Keep-Alive");
        assert!(!options.close);
        assert!(options.keep_alive);
        assert!(options.has_connection_options);
    }

    #[test]
    fn connection_cannot_name_framing_away() {
        let fields = [Field { name: "Connection", value: b"content-length, x-secret" }];
        assert!(!is_connection_option(&fields, "Content-Length", Name::ContentLength));
        assert!(is_connection_option(&fields, "X-Secret", Name::Other));
    }
}
