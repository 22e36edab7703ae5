//! The client's address in `X-Forwarded-For`, as trusted proxies have recorded it. Pure.
//!
//! Each proxy appends the address of its peer, so the field is to be read from the right: up to the
//! first address that is no trusted proxy. Further left is only what that client has sent itself.

use super::fields::{Field, Name};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// The right-most address that is not trusted, or the left-most if all are; none if there is no
/// address, or a malformed entry is reached first. All fields of this name are one list.
pub fn client(fields: &[Field<'_>], is_trusted: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
    let values = fields.iter().rev().filter(|field| Name::of(field.name) == Name::ForwardedFor);
    let entries = values.flat_map(|field| field.value.rsplit(|byte| *byte == b','));
    let mut left_most = None;
    for entry in entries.map(<[u8]>::trim_ascii).filter(|entry| !entry.is_empty()) {
        let address = address(entry)?;
        left_most = Some(address);
        if !is_trusted(address) {
            break;
        }
    }
    left_most
}

/// The address of an entry: with or without a port, an IPv6 address with or without brackets. IPv4
/// inside IPv6 is IPv4.
fn address(entry: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(entry).ok()?;
    let in_brackets = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok();
    let address = text
        .parse::<IpAddr>()
        .ok()
        .or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
        .or_else(|| in_brackets().map(IpAddr::from))?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The client of these fields, behind proxies in 10.0.0.0/8.
    fn client_of(values: &[&str]) -> Option<String> {
        let fields: Vec<Field<'_>> = values
            .iter()
            .map(|value| Field { name: "x-forwarded-for", value: value.as_bytes() })
            .chain([Field { name: "Forwarded", value: b"for=192.0.2.9" }])
            .collect();
        let is_proxy = |address| matches!(address, IpAddr::V4(v4) if v4.octets()[0] == 10);
        client(&fields, is_proxy).map(|address| address.to_string())
    }

    #[test]
    fn the_client_is_the_right_most_address_that_is_no_trusted_proxy() {
        for (values, client) in [
            (&["192.0.2.1"][..], Some("192.0.2.1")),
            (&["192.0.2.7, 192.0.2.1"], Some("192.0.2.1")),
            (&["192.0.2.1, 10.0.0.1,10.0.0.2"], Some("192.0.2.1")),
            (&["192.0.2.1", "10.0.0.1"], Some("192.0.2.1")),
            (&["192.0.2.7", "192.0.2.1"], Some("192.0.2.1")),
            (&["10.0.0.1", "192.0.2.1, ::ffff:10.0.0.2"], Some("192.0.2.1")),
            (&["10.0.0.3, 10.0.0.1"], Some("10.0.0.3")),
            (&["192.0.2.1, ,", ""], Some("192.0.2.1")),
            (&[""], None),
            (&[], None),
        ] {
            assert_eq!(client_of(values).as_deref(), client, "{values:?}");
        }
    }

    #[test]
    fn ports_and_brackets_are_accepted() {
        for (entry, client) in [
            ("192.0.2.1:5", "192.0.2.1"),
            ("::1", "::1"),
            ("[::1]", "::1"),
            ("[2001:DB8::1]:80", "2001:db8::1"),
            ("[::ffff:192.0.2.1]:80", "192.0.2.1"),
        ] {
            assert_eq!(client_of(&[entry]).as_deref(), Some(client), "{entry}");
        }
    }

    #[test]
    fn a_malformed_entry_left_of_the_client_does_not_matter_and_any_other_hides_it() {
        assert_eq!(client_of(&["unknown, 192.0.2.1"]).as_deref(), Some("192.0.2.1"));
        for bad in ["unknown", "_hidden", "192.0.2.256", "192.0.2.1:x", "[::1", "for=::1", "\u{e9}"]
        {
            assert_eq!(client_of(&[&format!("192.0.2.1, {bad}, 10.0.0.1")]), None, "{bad}");
        }
    }
}
