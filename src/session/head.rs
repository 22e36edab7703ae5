//! The time between two requests, and the head of the next one.
//!
//! A head may arrive in any pieces; the reader keeps its offset. Bytes stay in the client's input.

use super::client::Client;
use super::context::Context;
use super::stop::Stop;
use crate::config::{Deadline, Timeout};
use crate::error::Cause;
use crate::net::{Buffer, Read};
use crate::reason::Reason;
use crate::wire::head_end::HeadEnd;
use crate::wire::request;
use std::time::Instant;

/// Waits for a request and reads its head. An idle session is this, a socket and empty buffers.
#[derive(Debug)]
pub(super) struct HeadReader {
    end: HeadEnd,
    /// The number of empty lines since the last request.
    empty_lines: u8,
    /// The deadline of the idle time, or of the head once a part of it was received.
    until: Instant,
    has_begun: bool,
}

/// The result of reading a head.
pub(super) enum Head {
    /// The head is complete and has this length.
    Complete(usize),
    /// More bytes are awaited.
    Wait(Deadline),
}

impl HeadReader {
    /// The head of the first request of a connection.
    pub(super) fn first(idle_until: Instant) -> Self {
        Self { end: HeadEnd::default(), empty_lines: 0, until: idle_until, has_begun: false }
    }

    /// The head of the request after the one that has just ended.
    pub(super) fn next(cx: &Context<'_>) -> Self {
        Self::first(cx.deadline(Timeout::Idle).at)
    }

    /// The first line without its CR LF, once it is complete.
    pub(super) fn first_line<'b>(&self, head: &'b [u8]) -> &'b [u8] {
        self.end.first_line(head).unwrap_or_default()
    }

    /// Reads until the head is complete or the client's socket blocks.
    pub(super) fn read(&mut self, client: &mut Client, cx: &mut Context<'_>) -> Result<Head, Stop> {
        loop {
            if let Some(length) = self.find_end(&mut client.input)? {
                return Ok(Head::Complete(length));
            }
            match client.read(&mut cx.local.buffers)? {
                Read::Bytes(_) => {}
                // Empty lines, and the CR of one, do not begin a head.
                Read::Blocked if self.end.is_at_start() => {
                    if let Some(deadline) = self.wait_idle(client, cx)? {
                        return Ok(Head::Wait(deadline));
                    }
                }
                Read::Blocked => return self.wait_for_more(client, cx),
                Read::End if client.input.is_empty() => return Err(Reason::ClientClosed.into()),
                Read::End => return Err(Reason::ClientAborted.into()),
            }
        }
    }

    /// The deadline of an idle connection; none if bytes have arrived meanwhile. A connection over
    /// a limit is rejected even if it stays silent. When the balancer stops, an idle connection
    /// gets a grace period: a request may be on its way.
    fn wait_idle(
        &mut self,
        client: &mut Client,
        cx: &Context<'_>,
    ) -> Result<Option<Deadline>, Stop> {
        let (timeout, late) = match (client.rejection(), cx.draining) {
            (Some(cause), _) => (Timeout::Rejection, Stop::Reject(cause)),
            (None, true) => (Timeout::Grace, Stop::Close(Reason::Drained)),
            (None, false) => (Timeout::Idle, Stop::Close(Reason::IdleTimeout)),
        };
        if cx.draining {
            self.until = self.until.min(cx.deadline(Timeout::Grace).at);
        }
        let deadline = Deadline { timeout, at: self.until };
        if deadline.has_passed(cx.now)
            && client.rejection().is_none()
            && !client.stream.is_idle_and_open()
        {
            return Ok(None);
        }
        deadline.unless_passed(cx.now, late).map(Some)
    }

    /// The deadline of a head that has begun.
    fn wait_for_more(&mut self, client: &Client, cx: &Context<'_>) -> Result<Head, Stop> {
        let timeout = if client.rejection().is_some() { Timeout::Rejection } else { Timeout::Head };
        if !std::mem::replace(&mut self.has_begun, true) {
            self.until = cx.deadline(timeout).at;
        }
        let late = client.rejection().unwrap_or(Cause::HeadTimeout);
        Ok(Head::Wait(Deadline { timeout, at: self.until }.unless_passed(cx.now, late)?))
    }

    /// The length of the head, once it is complete.
    fn find_end(&mut self, input: &mut Buffer) -> Result<Option<usize>, Cause> {
        let found = request::find_end(input.unread(), &mut self.end, &mut self.empty_lines)?;
        input.consume(found.skipped);
        Ok(found.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::net::Buffers;

    const HEAD: &[u8] = b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n";

    fn find(pieces: &[&[u8]]) -> Result<Option<usize>, Cause> {
        let (mut reader, mut input) = (HeadReader::first(Instant::now()), Buffers::default().get());
        let mut found = Ok(None);
        for piece in pieces {
            input.append(piece);
            found = reader.find_end(&mut input);
            if found != Ok(None) {
                return found;
            }
        }
        found
    }

    #[test]
    fn a_head_is_found_after_empty_lines_however_it_is_split() {
        for split in 0..HEAD.len() {
            assert_eq!(
                find(&[&HEAD[..split], &HEAD[split..]]),
                Ok(Some(HEAD.len() - 4)),
                "split at {split}"
            );
        }
    }

    #[test]
    fn bytes_that_cannot_become_a_head_are_rejected_early() {
        let long_target = format!("GET /{}", "a".repeat(config::MAX_TARGET_BYTES));
        let long_head =
            format!("GET / HTTP/1.1\r\nA: {}", "a".repeat(config::MAX_REQUEST_HEAD_BYTES));
        for (start, cause) in [
            (&b"\x16\x03\x01"[..], Cause::BadRequestLine),
            (b"SSH-2.0-x\r\n", Cause::BadRequestLine),
            (b"GET / HTTP/2.0\r\n", Cause::VersionUnknown),
            (b"GET / HTTP/1.1\n", Cause::BadLineEnd),
            (long_target.as_bytes(), Cause::TargetTooLong),
            (long_head.as_bytes(), Cause::HeadTooLarge),
        ] {
            assert_eq!(find(&[start]), Err(cause));
            let split = start.len() / 2;
            assert_eq!(find(&[&start[..split], &start[split..]]), Err(cause), "in two pieces");
        }
        assert_eq!(
            find(&["\r\n".repeat(config::MAX_LEADING_EMPTY_LINES + 1).as_bytes()]),
            Err(Cause::BadRequestLine)
        );
    }
}
