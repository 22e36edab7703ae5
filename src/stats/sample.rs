//! One exchange as statistics see it, and the definitions of its numbers. Pure.
//!
//! The definitions, for the README, the metrics and every report:
//!
//! - An **error** is a response with a 5xx status, from the backend or our own, or a response that
//!   the client did not get in full because of the backend or the balancer: truncated, too slow,
//!   aborted by a drain or a panic. 4xx is none; nor is a client that went away, or read too slowly.
//! - The **response time** is that from the request's last byte to the response's last byte. A
//!   request without one of the two has none: it was invalid or rejected before its end, the client
//!   went away, the response was truncated. Nor has a tunnel, whose end is no response's.
//! - The **time to the first byte** is that from the request's last byte to the head of the
//!   backend's response; zero for a response that came before the request's end.
//! - A request counts once, when it is over, for the backend that responded, or else the last one
//!   that was tried. A tunnel is one request; a request to the control API is none. Bytes are those
//!   of the client's side, heads included, as in the access log.

use crate::reason::Reason;
use std::time::{Duration, Instant};

/// The status of a tunnel (RFC 9110 section 15.2.2).
const SWITCHING_PROTOCOLS: u16 = 101;

/// One exchange, which is over.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// The status code of the final response, 100 to 599, if one was begun.
    pub status: Option<u16>,
    /// Why the client's connection ended inside the exchange, if it did, and that is an error.
    pub reason: Option<Reason>,
    /// When the last byte of the request was received; none if it never was.
    pub request_ended: Option<Instant>,
    /// When the head of the backend's final response was received.
    pub responded: Option<Instant>,
    /// When the exchange ended.
    pub ended: Instant,
    /// The time in the queue for a slot.
    pub queued: Duration,
    /// The number of bytes from the client.
    pub bytes_in: u64,
    /// The number of bytes to the client.
    pub bytes_out: u64,
}

impl Sample {
    /// Whether the exchange counts as an error.
    pub fn is_error(&self) -> bool {
        let was_cut_off = matches!(
            self.reason,
            Some(
                Reason::ResponseTruncated
                    | Reason::ResponseTimeout
                    | Reason::DrainAborted
                    | Reason::Panicked
            )
        );
        self.status.is_some_and(|status| status >= 500) || was_cut_off && !self.is_tunnel()
    }

    /// The response time, if there is one.
    pub fn response_time(&self) -> Option<Duration> {
        let has_whole_response = self.status.is_some() && self.reason.is_none();
        let began = self.request_ended.filter(|_| has_whole_response && !self.is_tunnel());
        began.map(|began| self.ended.saturating_duration_since(began))
    }

    /// The time to the first byte, if a backend responded.
    pub fn first_byte(&self) -> Option<Duration> {
        let began = self.request_ended.or(self.responded)?;
        self.responded.map(|responded| responded.saturating_duration_since(began))
    }

    fn is_tunnel(&self) -> bool {
        self.status == Some(SWITCHING_PROTOCOLS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// An exchange of 5 ms after the request's end, with the backend's head after 2 ms.
    fn sample(status: u16, reason: Option<Reason>) -> Sample {
        let began = Instant::now();
        Sample {
            status: Some(status),
            reason,
            request_ended: Some(began),
            responded: Some(began + 2 * MS),
            ended: began + 5 * MS,
            queued: Duration::ZERO,
            bytes_in: 0,
            bytes_out: 0,
        }
    }

    #[test]
    fn what_counts_as_an_error_row_by_row() {
        for (status, reason, is_error) in [
            (200, None, false),
            (304, None, false),
            (404, None, false),
            (429, None, false),
            (500, None, true),
            (503, None, true),
            (200, Some(Reason::ResponseTruncated), true),
            (200, Some(Reason::ResponseTimeout), true),
            (200, Some(Reason::DrainAborted), true),
            (200, Some(Reason::Panicked), true),
            (200, Some(Reason::ClientReset), false),
            (200, Some(Reason::ClientAborted), false),
            (200, Some(Reason::SlowReader), false),
            (502, Some(Reason::ClientReset), true),
            (101, None, false),
            (101, Some(Reason::TunnelBroken), false),
            (101, Some(Reason::DrainAborted), false),
        ] {
            assert_eq!(sample(status, reason).is_error(), is_error, "{status} {reason:?}");
        }
        let went_away = Sample { status: None, ..sample(200, Some(Reason::ClientReset)) };
        assert!(!went_away.is_error());
    }

    #[test]
    fn times_begin_with_the_end_of_the_request() {
        let whole = sample(200, None);
        assert_eq!((whole.response_time(), whole.first_byte()), (Some(5 * MS), Some(2 * MS)));
        let rejected = Sample { responded: None, ..sample(503, None) };
        assert_eq!((rejected.response_time(), rejected.first_byte()), (Some(5 * MS), None));
        let early = Sample { request_ended: None, ..sample(413, None) };
        assert_eq!((early.response_time(), early.first_byte()), (None, Some(Duration::ZERO)));
    }

    #[test]
    fn tunnels_and_parts_of_responses_have_no_response_time() {
        assert_eq!(sample(101, None).response_time(), None);
        assert_eq!(sample(101, None).first_byte(), Some(2 * MS));
        assert_eq!(sample(200, Some(Reason::ResponseTruncated)).response_time(), None);
        assert_eq!(sample(200, Some(Reason::ClientReset)).response_time(), None);
        assert_eq!(Sample { status: None, ..sample(200, None) }.response_time(), None);
    }
}
