//! Where a body ends: Content-Length and Transfer-Encoding, read strictly (RFC 9112 section 6).
//!
//! Two parties that disagree about the length of a body are how requests are smuggled. So there is one accepted spelling of each.

use super::fields::is_token;

/// The largest length that is believed: some implementations keep it in a signed number.
const LARGEST_LENGTH: u64 = i64::MAX as u64;

/// The framing fields of a head, gathered line by line.
#[derive(Clone, Copy, Debug, Default)]
pub struct Framing {
    /// The Content-Length, if there is one.
    pub length: Option<u64>,
    /// Whether the body is chunked.
    pub chunked: bool,
}

/// What is wrong with the framing fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadFraming {
    /// A Content-Length that is not one plain number, given once.
    Length,
    /// A Transfer-Encoding that is not well-formed, or where chunked is not the last and only one.
    Coding,
    /// A well-formed transfer coding that we do not know.
    CodingUnknown,
    /// Both fields.
    Both,
}

impl Framing {
    /// Adds a Content-Length line. A second one is refused even if it says the same: it is a list on two lines.
    pub fn add_length(&mut self, value: &[u8]) -> Result<(), BadFraming> {
        let length = parse_length(value).ok_or(BadFraming::Length)?;
        if self.length.replace(length).is_some() {
            return Err(BadFraming::Length);
        }
        self.not_both()
    }

    /// Adds a Transfer-Encoding line.
    pub fn add_coding(&mut self, value: &[u8]) -> Result<(), BadFraming> {
        if self.chunked {
            return Err(BadFraming::Coding);
        }
        check_coding(value)?;
        self.chunked = true;
        self.not_both()
    }

    fn not_both(self) -> Result<(), BadFraming> {
        if self.chunked && self.length.is_some() {
            return Err(BadFraming::Both);
        }
        Ok(())
    }
}

/// Digits only, without overflow.
fn parse_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    let mut length: u64 = 0;
    for byte in value {
        if !byte.is_ascii_digit() {
            return None;
        }
        length = length.checked_mul(10)?.checked_add(u64::from(byte - b'0'))?;
    }
    (length <= LARGEST_LENGTH).then_some(length)
}

/// Accepts `chunked` alone; tells an unknown coding from a malformed list.
fn check_coding(value: &[u8]) -> Result<(), BadFraming> {
    if value.eq_ignore_ascii_case(b"chunked") {
        return Ok(());
    }
    let codings: Vec<&[u8]> = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).collect();
    let is_chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
    let (last, before) = codings.split_last().expect("a split has at least one part");
    let misplaced = before.iter().any(|coding| is_chunked(coding));
    let known_alone = is_chunked(last) && before.is_empty();
    if misplaced || known_alone || !codings.iter().all(|coding| is_token(coding)) {
        return Err(BadFraming::Coding);
    }
    Err(BadFraming::CodingUnknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_plain_digits() {
        assert_eq!(parse_length(b"0"), Some(0));
        assert_eq!(parse_length(b"007"), Some(7));
        assert_eq!(parse_length(b"9223372036854775807"), Some(LARGEST_LENGTH));
        for bad in [
            "",
            "+5",
            "-1",
            "5,5",
            "5 5",
            "0x5",
            "5_0",
            "1e3",
            "9223372036854775808",
            "18446744073709551616",
            "36893488147419103232",
        ] {
            assert_eq!(parse_length(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn a_second_length_is_refused_even_if_it_agrees() {
        let mut framing = Framing::default();
        framing.add_length(b"5").unwrap();
        assert_eq!(framing.add_length(b"5"), Err(BadFraming::Length));
    }

    #[test]
    fn length_and_coding_are_refused_in_either_order() {
        let mut framing = Framing::default();
        framing.add_length(b"5").unwrap();
        assert_eq!(framing.add_coding(b"chunked"), Err(BadFraming::Both));
        let mut framing = Framing::default();
        framing.add_coding(b"Chunked").unwrap();
        assert_eq!(framing.add_length(b"5"), Err(BadFraming::Both));
    }

    #[test]
    fn only_chunked_alone_is_a_known_coding() {
        for unknown in ["gzip", "identity", "xchunked", "gzip, chunked", "deflate,gzip"] {
            assert_eq!(check_coding(unknown.as_bytes()), Err(BadFraming::CodingUnknown), "{unknown:?}");
        }
        for bad in [
            "",
            ",",
            "chunked,",
            ",chunked",
            "chunked, chunked",
            "chunked, gzip",
            "chunked;q=1",
            "\"chunked\"",
            "chunked gzip",
            "chunked\x0b",
        ] {
            assert_eq!(check_coding(bad.as_bytes()), Err(BadFraming::Coding), "{bad:?}");
        }
    }

    #[test]
    fn a_second_coding_line_is_refused() {
        let mut framing = Framing::default();
        framing.add_coding(b"chunked").unwrap();
        assert_eq!(framing.add_coding(b"chunked"), Err(BadFraming::Coding));
    }
}
