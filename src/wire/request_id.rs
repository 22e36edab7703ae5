//! The identifier of a request, the value of `X-Request-Id`: the client's, or a generated one.
//! Pure: the caller brings the random bits.

use std::fmt;

/// The maximum length of a client's identifier, in bytes.
const MAX_BYTES: usize = 128;

/// The identifier of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestId {
    /// 32 hexadecimal digits.
    Generated([u8; 32]),
    /// The client's own.
    Received(Box<str>),
}

impl RequestId {
    /// An identifier for a request without a valid one.
    pub fn generate(random: u128) -> Self {
        Self::Generated(hexadecimal(random))
    }

    /// The bytes as they are sent.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Generated(digits) => digits,
            Self::Received(id) => id.as_bytes(),
        }
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(self.as_bytes()).expect("an identifier is ASCII"))
    }
}

/// The identifier that a client has sent, if it is valid: 1 to 128 bytes of visible ASCII. Other
/// values could break or flood the log.
pub(super) fn valid(value: &[u8]) -> Option<&str> {
    let is_valid = (1..=MAX_BYTES).contains(&value.len()) && value.iter().all(u8::is_ascii_graphic);
    std::str::from_utf8(value).ok().filter(|_| is_valid)
}

/// 32 digits. Without a table, so that the compiler makes 16 of them at once: it is on the path of
/// every request (`cargo bench`: rewrite_a_request).
fn hexadecimal(number: u128) -> [u8; 32] {
    let mut digits = [0; 32];
    for (pair, byte) in digits.chunks_exact_mut(2).zip(number.to_be_bytes()) {
        pair.copy_from_slice(&[byte >> 4, byte & 15]);
    }
    for digit in &mut digits {
        *digit += if *digit < 10 { b'0' } else { b'a' - 10 };
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_identifier_is_32_hexadecimal_digits() {
        let id = RequestId::generate(0xabc);
        assert_eq!(id.to_string(), format!("{:032x}", 0xabc));
        assert_eq!(id.as_bytes(), id.to_string().as_bytes());
    }

    #[test]
    fn a_received_identifier_is_at_most_128_bytes_of_visible_ascii() {
        let longest = "x".repeat(MAX_BYTES);
        for id in ["a", "~!{}\"", longest.as_str()] {
            assert_eq!(valid(id.as_bytes()), Some(id));
        }
        let too_long = "x".repeat(MAX_BYTES + 1);
        for bad in ["", "a b", "a\tb", "\u{e9}", "a\x7f", too_long.as_str()] {
            assert_eq!(valid(bad.as_bytes()), None, "{bad:?}");
        }
    }
}
