//! Finding the end of a head that arrives in pieces, in linear time.

use crate::error::Cause;

/// Looks for the empty line that ends a head. Keeps its place between calls: each byte is looked at once, however the head was
/// split. Every line must end in CR LF: a bare LF is refused here (RFC 9112 section 2.2 lets us; accepting it is how heads are
/// smuggled), a bare CR later, by the tokeniser.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeadEnd {
    scanned: usize,
    line_start: usize,
    first_line: Option<usize>,
}

impl HeadEnd {
    /// The length of the head with its empty line, once it is whole. `bytes` must start where it did at the first call.
    pub fn find(&mut self, bytes: &[u8]) -> Result<Option<usize>, Cause> {
        for offset in memchr::memchr_iter(b'\n', &bytes[self.scanned..]) {
            let line_feed = self.scanned + offset;
            let line = &bytes[self.line_start..line_feed];
            if line.last() != Some(&b'\r') {
                return Err(Cause::BadLineEnd);
            }
            self.line_start = line_feed + 1;
            self.first_line.get_or_insert(line.len() - 1);
            if line.len() == 1 {
                return Ok(Some(line_feed + 1));
            }
        }
        self.scanned = bytes.len();
        Ok(None)
    }

    /// Whether nothing was looked at yet.
    pub fn is_at_start(&self) -> bool {
        self.scanned == 0
    }

    /// How long the first line is, or how much of it has been seen.
    pub fn first_line(&self) -> usize {
        self.first_line.unwrap_or(self.scanned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nbody";

    #[test]
    fn the_end_is_found_however_the_head_is_split() {
        for first in 0..HEAD.len() {
            for second in first..HEAD.len() {
                let mut end = HeadEnd::default();
                let found = [first, second, HEAD.len()].into_iter().find_map(|have| end.find(&HEAD[..have]).unwrap());
                assert_eq!(found, Some(HEAD.len() - 4), "split at {first} and {second}");
            }
        }
    }

    #[test]
    fn a_line_without_cr_is_refused() {
        for head in [&b"GET / HTTP/1.1\nHost: a\r\n\r\n"[..], b"GET / HTTP/1.1\r\nHost: a\n\r\n", b"\n"] {
            assert_eq!(HeadEnd::default().find(head), Err(Cause::BadLineEnd));
        }
    }
}
