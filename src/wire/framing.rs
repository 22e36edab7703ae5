//! Message framing: Content-Length and Transfer-Encoding, parsed strictly (RFC 9112 section 6).
//!
//! Pure. Request smuggling needs two parties that disagree about the length of a body, so each
//! field has exactly one accepted form.

use super::fields::is_token;

/// The maximum valid length: some implementations store lengths in a signed number.
const MAX_LENGTH: u64 = i64::MAX as u64;

/// The framing fields of a head, collected line by line.
#[derive(Clone, Copy, Debug, Default)]
pub struct Framing {
    /// The Content-Length, if there is one.
    pub length: Option<u64>,
    /// Whether the body is chunked.
    pub chunked: bool,
    has_unknown_coding: bool,
}

/// An error of the framing fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadFraming {
    /// A Content-Length that is not one plain number, or is repeated.
    Length,
    /// A Transfer-Encoding that is malformed, or where chunked is repeated or not the last coding.
    Coding,
    /// A well-formed unknown transfer coding.
    CodingUnknown,
    /// Both fields.
    Both,
}

impl Framing {
    /// Adds a Content-Length line. A second line is rejected even with the same value: two lines
    /// are a list.
    pub fn add_length(&mut self, value: &[u8]) -> Result<(), BadFraming> {
        let length = parse_length(value).ok_or(BadFraming::Length)?;
        if self.length.replace(length).is_some() {
            return Err(BadFraming::Length);
        }
        Ok(())
    }

    /// Adds a Transfer-Encoding line.
    pub fn add_transfer_encoding(&mut self, value: &[u8]) -> Result<(), BadFraming> {
        if self.chunked {
            return Err(BadFraming::Coding);
        }
        match is_chunked(value)? {
            true => self.chunked = true,
            false => self.has_unknown_coding = true,
        }
        Ok(())
    }

    /// Validates the combination of all lines. Both fields together take precedence over an unknown
    /// coding.
    pub fn check(self) -> Result<(), BadFraming> {
        let has_coding = self.chunked || self.has_unknown_coding;
        match self.length {
            Some(_) if has_coding => Err(BadFraming::Both),
            _ if self.has_unknown_coding => Err(BadFraming::CodingUnknown),
            _ => Ok(()),
        }
    }
}

/// Parses digits; none for anything else, or above [`MAX_LENGTH`].
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
    (length <= MAX_LENGTH).then_some(length)
}

/// True for `chunked` alone, false for well-formed unknown codings; anything else is an error.
fn is_chunked(value: &[u8]) -> Result<bool, BadFraming> {
    if value.eq_ignore_ascii_case(b"chunked") {
        return Ok(true);
    }
    let codings: Vec<&[u8]> = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).collect();
    let (last, before) = codings.split_last().expect("a split has at least one part");
    let names_chunked = |coding: &[u8]| name(coding).eq_ignore_ascii_case(b"chunked");
    let is_misplaced = before.iter().any(|coding| names_chunked(coding));
    // The one valid form was accepted above, so a lone `chunked` has parameters or space here.
    let is_invalid =
        names_chunked(last) && (before.is_empty() || !last.eq_ignore_ascii_case(b"chunked"));
    if is_misplaced || is_invalid || !codings.iter().all(|coding| is_coding(coding)) {
        return Err(BadFraming::Coding);
    }
    Ok(false)
}

fn name(coding: &[u8]) -> &[u8] {
    coding.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii()
}

/// Whether this is `token *( ; token=token )`. A quoted value could contain a comma, but no client
/// sends one.
fn is_coding(coding: &[u8]) -> bool {
    let mut parts = coding.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let is_parameter = |part: &[u8]| {
        part.split(|byte| *byte == b'=').count() == 2
            && part.split(|byte| *byte == b'=').all(is_token)
    };
    parts.next().is_some_and(is_token) && parts.all(is_parameter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_plain_digits() {
        assert_eq!(parse_length(b"0"), Some(0));
        assert_eq!(parse_length(b"007"), Some(7));
        assert_eq!(parse_length(b"9223372036854775807"), Some(MAX_LENGTH));
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
    fn a_second_length_is_rejected_even_if_it_agrees() {
        let mut framing = Framing::default();
        framing.add_length(b"5").unwrap();
        assert_eq!(framing.add_length(b"5"), Err(BadFraming::Length));
    }

    #[test]
    fn length_and_coding_are_rejected_in_either_order() {
        let mut framing = Framing::default();
        framing.add_length(b"5").unwrap();
        framing.add_transfer_encoding(b"chunked").unwrap();
        assert_eq!(framing.check(), Err(BadFraming::Both));
        for coding in ["Chunked", "gzip"] {
            let mut framing = Framing::default();
            framing.add_transfer_encoding(coding.as_bytes()).unwrap();
            framing.add_length(b"5").unwrap();
            assert_eq!(framing.check(), Err(BadFraming::Both), "{coding}");
        }
    }

    #[test]
    fn chunked_alone_is_the_only_known_coding() {
        for unknown in [
            "gzip",
            "identity",
            "xchunked",
            "gzip, chunked",
            "deflate,gzip",
            "gzip;level=9",
            "gzip ; a=b;c=d , chunked",
        ] {
            let mut framing = Framing::default();
            assert_eq!(framing.add_transfer_encoding(unknown.as_bytes()), Ok(()), "{unknown:?}");
            assert_eq!(framing.check(), Err(BadFraming::CodingUnknown), "{unknown:?}");
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
            "gzip, chunked;q=1",
            "gzip;level",
            "gzip;a=b=c",
            "gzip;",
        ] {
            assert_eq!(is_chunked(bad.as_bytes()), Err(BadFraming::Coding), "{bad:?}");
        }
    }

    #[test]
    fn nothing_may_follow_chunked_on_another_line() {
        for second in ["chunked", "gzip"] {
            let mut framing = Framing::default();
            framing.add_transfer_encoding(b"chunked").unwrap();
            assert_eq!(framing.add_transfer_encoding(second.as_bytes()), Err(BadFraming::Coding));
        }
    }

    #[test]
    fn chunked_after_an_unknown_coding_is_an_unknown_coding() {
        let mut framing = Framing::default();
        framing.add_transfer_encoding(b"gzip").unwrap();
        framing.add_transfer_encoding(b"chunked").unwrap();
        assert_eq!(framing.check(), Err(BadFraming::CodingUnknown));
    }
}
