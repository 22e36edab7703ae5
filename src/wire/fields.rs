//! Header fields: the names with a meaning for a proxy, and list values. Pure.

use crate::config;
use std::mem::MaybeUninit;

/// A field as httparse returns it: a valid name, and a value without control characters and without
/// space around it.
pub type Field<'b> = httparse::Header<'b>;

/// Storage for the fields of one head. A head with more fields is rejected.
pub type FieldStorage<'b> = [MaybeUninit<Field<'b>>];

/// Empty storage for the maximum number of fields of a request. Uninitialised, so it costs nothing.
pub fn field_storage<'b>() -> [MaybeUninit<Field<'b>>; config::MAX_HEAD_FIELDS] {
    [const { MaybeUninit::uninit() }; config::MAX_HEAD_FIELDS]
}

/// Empty storage for a response with more fields than fit into [`field_storage`], up to the limit
/// for responses; no storage for fewer `lines`.
pub fn large_field_storage<'b>(lines: usize) -> Vec<MaybeUninit<Field<'b>>> {
    let fields = if lines > config::MAX_HEAD_FIELDS {
        lines.min(config::MAX_RESPONSE_HEAD_FIELDS)
    } else {
        0
    };
    std::iter::repeat_with(MaybeUninit::uninit).take(fields).collect()
}

/// The fields with a meaning for a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// `Host`.
    Host,
    /// `Content-Length`.
    ContentLength,
    /// `Transfer-Encoding`.
    TransferEncoding,
    /// `Connection`: options of this connection, and the names of further fields that belong to it.
    Connection,
    /// `Keep-Alive`: parameters of this connection.
    KeepAlive,
    /// `Upgrade`.
    Upgrade,
    /// Another field that belongs to one connection: `Proxy-Connection`, `TE`,
    /// `Proxy-Authenticate`, `Proxy-Authorization`.
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
    /// `Forwarded` (RFC 7239): the same information as the three above, so the same rules apply.
    Forwarded,
    /// `X-Request-Id`.
    RequestId,
    /// Any other field, which is forwarded unchanged.
    Other,
}

impl Name {
    /// Classifies a field by its name, case-insensitively. The name must be a token.
    pub fn of(name: &str) -> Self {
        // In a token, this bit distinguishes only the case of letters from the bytes of known names.
        // No early end, so that the compiler compares many bytes at once.
        let is = |known: &str| {
            let pairs = name.bytes().zip(known.bytes());
            pairs.fold(0, |different, (byte, known)| different | (byte | 0x20) ^ known) == 0
        };
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

    /// Whether this field is forwarded even if `Connection` names it: framing, routing, and fields
    /// that the balancer writes.
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

/// The elements of a comma-separated list, without space around them; empty ones are skipped (RFC
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
    /// Any other option: the name of a field that belongs to this connection too.
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

/// Whether a `Connection` line names this field, which must not be forwarded then.
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
    fn a_name_with_another_byte_at_any_place_is_another_name() {
        for known in ["TE", "Host", "keep-alive", "X-Request-Id", "content-length"] {
            for place in 0..known.len() {
                for byte in (0..=127).filter(|byte| is_token(&[*byte])) {
                    let mut name = known.as_bytes().to_vec();
                    name[place] = byte;
                    let is_same = name.eq_ignore_ascii_case(known.as_bytes());
                    let name = str::from_utf8(&name).unwrap();
                    assert_eq!(Name::of(name) == Name::of(known), is_same, "{name}");
                }
            }
        }
    }

    #[test]
    fn a_list_is_split_at_commas_and_trimmed() {
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
    fn connection_cannot_remove_framing_fields() {
        let fields = [Field { name: "Connection", value: b"content-length, x-secret" }];
        assert!(!is_connection_option(&fields, "Content-Length", Name::ContentLength));
        assert!(is_connection_option(&fields, "X-Secret", Name::Other));
    }
}
