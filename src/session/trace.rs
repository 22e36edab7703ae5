//! The traces of `LOGLEVEL=DEBUG`: heads and the first bytes of bodies, escaped, with secrets
//! masked.

use super::client::Client;
use crate::wire::Body;
use std::fmt;

/// The maximum number of logged bytes of a body.
const BODY_BYTES: usize = 256;
/// Fields whose values are secrets.
const SECRET: [&str; 4] = ["authorization", "proxy-authorization", "cookie", "set-cookie"];

/// Logs a head and the received part of its body at DEBUG, in one line: fields are separated by ` | `.
/// Bytes after the body are not logged: they may be another head, with secrets.
pub(super) fn head(client: &Client, direction: &str, head: &[u8], body: Body, following: &[u8]) {
    if log::log_enabled!(log::Level::Debug) {
        log::debug!(
            "{} {direction} {}{}",
            client.peer(),
            Head(head),
            Start(body.part_of(following))
        );
    }
}

struct Head<'b>(&'b [u8]);

impl fmt::Display for Head<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = self.0.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end);
        for (number, line) in lines.filter(|line| !line.is_empty()).enumerate() {
            let separator = if number == 0 { "" } else { " | " };
            let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
            if SECRET.iter().any(|secret| name.eq_ignore_ascii_case(secret.as_bytes())) {
                write!(f, "{separator}{}: ***", name.escape_ascii())?;
            } else {
                write!(f, "{separator}{}", line.escape_ascii())?;
            }
        }
        Ok(())
    }
}

struct Start<'b>(&'b [u8]);

impl fmt::Display for Start<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.0[..self.0.len().min(BODY_BYTES)];
        match shown {
            [] => Ok(()),
            _ => write!(
                f,
                " | body: {}{}",
                shown.escape_ascii(),
                if shown.len() < self.0.len() { " …" } else { "" }
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_masked_and_the_rest_is_escaped() {
        let shown = Head(b"GET /\x1b HTTP/1.1\r\nCookie: a=b\r\nX: \xff\r\n\r\n").to_string();
        assert_eq!(shown, "GET /\\x1b HTTP/1.1 | Cookie: *** | X: \\xff");
    }

    #[test]
    fn a_long_body_is_truncated() {
        let shown = Start(&[b'x'; BODY_BYTES + 1]).to_string();
        assert!(shown.ends_with(" …") && shown.len() < BODY_BYTES + 20);
    }
}
