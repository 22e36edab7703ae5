//! The search for the end of a head that arrives in pieces, in linear time. Pure.

use crate::error::Cause;

/// A search for the empty line that ends a head. It keeps its offset between calls, so each byte is
/// scanned once. Every line must end in CR LF: a bare LF or CR is rejected at once, as RFC 9112
/// section 2.2 allows, because accepting it enables request smuggling.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeadEnd {
    // 32 bits suffice for a head, and every idle connection has a `HeadEnd`.
    scanned: u32,
    line_start: u32,
    first_line: Option<u32>,
    lines: u32,
}

impl HeadEnd {
    /// The length of the head with its empty line, once it is complete. Each call must pass the
    /// head from its first byte.
    pub fn find(&mut self, bytes: &[u8]) -> Result<Option<usize>, Cause> {
        while let Some(offset) = memchr::memchr2(b'\r', b'\n', &bytes[self.scanned as usize..]) {
            let end = self.scanned + offset as u32;
            match bytes[end as usize..] {
                [b'\r', b'\n', ..] => {}
                [b'\r'] => {
                    self.scanned = end;
                    return Ok(None);
                }
                _ => return Err(Cause::BadLineEnd),
            }
            let length = end - self.line_start;
            self.first_line.get_or_insert(length);
            self.lines += 1;
            self.line_start = end + 2;
            self.scanned = self.line_start;
            if length == 0 {
                return Ok(Some(self.scanned as usize));
            }
        }
        self.scanned = bytes.len() as u32;
        Ok(None)
    }

    /// The first line without its CR LF, once it is complete.
    pub fn first_line<'b>(&self, bytes: &'b [u8]) -> Option<&'b [u8]> {
        self.first_line.map(|length| &bytes[..length as usize])
    }

    /// The number of complete lines.
    pub fn lines(&self) -> usize {
        self.lines as usize
    }

    /// Whether no byte was scanned yet.
    pub fn is_at_start(&self) -> bool {
        self.scanned == 0
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
                let found = [first, second, HEAD.len()]
                    .into_iter()
                    .find_map(|have| end.find(&HEAD[..have]).unwrap());
                assert_eq!(found, Some(HEAD.len() - 4), "split at {first} and {second}");
            }
        }
    }

    #[test]
    fn a_line_without_cr_is_rejected() {
        for head in
            [&b"GET / HTTP/1.1\nHost: a\r\n\r\n"[..], b"GET / HTTP/1.1\r\nHost: a\n\r\n", b"\n"]
        {
            assert_eq!(HeadEnd::default().find(head), Err(Cause::BadLineEnd));
        }
    }

    #[test]
    fn a_bare_cr_is_rejected_as_soon_as_it_cannot_become_a_line_end() {
        for head in [
            &b"GET / HTTP/1.1\rH"[..],
            b"GET / HTTP/1.1\r\nHost: a\r\r",
            b"\rG",
            b"GET /\rx HTTP/1.1\r\n\r\n",
        ] {
            let mut end = HeadEnd::default();
            let found = (0..=head.len()).find_map(|have| end.find(&head[..have]).err());
            assert_eq!(found, Some(Cause::BadLineEnd), "in pieces");
            assert_eq!(HeadEnd::default().find(head), Err(Cause::BadLineEnd), "at once");
        }
        assert_eq!(
            HeadEnd::default().find(b"GET / HTTP/1.1\r"),
            Ok(None),
            "a line feed may follow"
        );
    }
}
