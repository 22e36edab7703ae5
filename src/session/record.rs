//! The record of an exchange, for the access log and statistics.
//!
//! An exchange collects [`ExchangeData`]. At its end, it passes one [`AccessRecord`] to
//! [`Context::record`](super::Context::record), the only reader. [`Sample`] defines its numbers.

use super::request_text::RequestText;
use crate::error::Cause;
use crate::logging::push_number;
use crate::reason::Reason;
use crate::stats::Sample;
use crate::upstream::backend::Backend;
use crate::wire::request_id::RequestId;
use std::fmt;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The data that an exchange collects for its record.
#[derive(Debug)]
pub struct ExchangeData {
    /// The other end of the connection: the client, or a proxy in front of it.
    pub peer: SocketAddr,
    /// The client's address: the peer's, or the one that trusted proxies have recorded.
    pub client: IpAddr,
    /// The value of `X-Request-Id`.
    pub request_id: RequestId,
    /// Method and target, if the head was valid and there are access lines.
    pub request: Option<RequestText>,
    /// When the request's head was complete.
    pub started: Instant,
    /// When the request's last byte was received; none before.
    pub request_ended: Option<Instant>,
    /// The number of received bytes: the head, and the body without the framing of chunks.
    pub bytes_in: u64,
    /// The status code of the final response, forwarded or our own.
    pub status: Option<u16>,
    /// Why the request was rejected.
    pub cause: Option<Cause>,
    /// The time from the request's head to the backend's final head.
    pub first_byte: Option<Duration>,
    /// The time in the queue for a slot.
    pub queued: Duration,
    /// The time spent in connects.
    pub connecting: Duration,
}

impl ExchangeData {
    /// The data of an exchange whose head was read.
    pub(super) fn new(peer: SocketAddr, request_id: RequestId, now: Instant) -> Self {
        Self {
            peer,
            client: peer.ip(),
            request_id,
            request: None,
            started: now,
            request_ended: None,
            bytes_in: 0,
            status: None,
            cause: None,
            first_byte: None,
            queued: Duration::ZERO,
            connecting: Duration::ZERO,
        }
    }

    /// Adds a valid head of this length.
    pub(super) fn with_head(
        self,
        bytes: usize,
        client: IpAddr,
        request: Option<RequestText>,
    ) -> Self {
        Self { request, client, bytes_in: bytes as u64, ..self }
    }

    /// Records the final head of the response.
    pub(super) fn record_response(&mut self, status: u16, now: Instant) {
        self.status = Some(status);
        self.first_byte = Some(now.saturating_duration_since(self.started));
    }

    /// Records a rejection, which replaces any response.
    pub(super) fn record_rejection(&mut self, cause: Cause) {
        (self.status, self.cause, self.first_byte) = (Some(cause.status()), Some(cause), None);
    }
}

/// The record of one exchange, which is over.
#[derive(Clone, Copy, Debug)]
pub struct AccessRecord<'r> {
    /// The data of the exchange.
    pub data: &'r ExchangeData,
    /// The stage in which it ended.
    pub stage: &'static str,
    /// Why the client's connection ended inside the exchange, if it did.
    pub reason: Option<Reason>,
    /// The backend of the last attempt.
    pub backend: Option<&'r Arc<Backend>>,
    /// Whether its connection had served other requests before.
    pub is_reused: bool,
    /// The number of attempts.
    pub attempts: u32,
    /// The number of bytes sent to the client, heads included. An error response counts in full.
    pub bytes_out: u64,
    /// When the exchange ended.
    pub ended: Instant,
}

impl AccessRecord<'_> {
    /// The code of what ended it other than a complete response, if anything did.
    pub(super) fn code(&self) -> Option<&'static str> {
        self.data.cause.map(Cause::code).or(self.reason.map(Reason::code))
    }

    /// Whether it ended with an error, of the client, a backend or the balancer.
    pub(super) fn is_error(&self) -> bool {
        self.code().is_some() || self.data.status.is_none_or(|status| status >= 500)
    }

    /// The time from the request's head to the end.
    pub(super) fn duration(&self) -> Duration {
        self.ended.saturating_duration_since(self.data.started)
    }

    /// The exchange as statistics count it.
    pub(super) fn sample(&self) -> Sample {
        let data = self.data;
        Sample {
            status: data.status,
            reason: self.reason,
            request_ended: data.request_ended,
            responded: data.first_byte.map(|first_byte| data.started + first_byte),
            ended: self.ended,
            queued: data.queued,
            bytes_in: data.bytes_in,
            bytes_out: self.bytes_out,
        }
    }

    /// Appends the access line as text, without its end. Pieces are appended one by one, because
    /// `write!` takes twice the instructions. Nothing to escape: methods are tokens, paths and
    /// identifiers visible ASCII.
    pub(super) fn push_text(&self, line: &mut Vec<u8>) {
        let data = self.data;
        let _ = write!(line, "{} \"", data.peer);
        match &data.request {
            Some(request) => {
                line.extend_from_slice(request.method().as_bytes());
                line.push(b' ');
                line.extend_from_slice(request.path().as_bytes());
            }
            None => line.push(b'-'),
        }
        line.extend_from_slice(b"\" ");
        match data.status {
            Some(status) => push_number(line, status.into(), 1),
            None => line.push(b'-'),
        }
        self.push_end(line);
        line.extend_from_slice(b", done in ");
        push_milliseconds(line, self.duration());
        for (name, span) in [(", queued ", data.queued), (", connect ", data.connecting)] {
            if !span.is_zero() {
                line.extend_from_slice(name.as_bytes());
                push_milliseconds(line, span);
            }
        }
        if self.attempts > 1 {
            line.extend_from_slice(b", ");
            push_number(line, self.attempts.into(), 1);
            line.extend_from_slice(b" attempts");
        }
        line.extend_from_slice(b", ");
        push_number(line, self.bytes_out, 1);
        line.extend_from_slice(b" bytes, id ");
        line.extend_from_slice(data.request_id.as_bytes());
    }

    /// Appends where the response came from, and why it ended other than complete.
    fn push_end(&self, line: &mut Vec<u8>) {
        let backend = self.backend.map_or("-", |backend| backend.name.as_str());
        if let Some(first_byte) = self.data.first_byte {
            line.extend_from_slice(b" from ");
            line.extend_from_slice(backend.as_bytes());
            line.extend_from_slice(b" in ");
            push_milliseconds(line, first_byte);
        }
        if let Some(code) = self.code() {
            let comma = if self.data.first_byte.is_some() { "," } else { "" };
            let _ = write!(line, "{comma} {code} in stage {}", self.stage);
            if self.data.first_byte.is_none() {
                let _ = write!(line, ", backend {backend}");
            }
        }
    }
}

/// For a program with a logger of its own.
impl fmt::Display for AccessRecord<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = Vec::new();
        self.push_text(&mut line);
        f.write_str(&String::from_utf8_lossy(&line))
    }
}

/// Milliseconds with one decimal place.
fn push_milliseconds(line: &mut Vec<u8>, span: Duration) {
    let tenths = u64::try_from((span.as_micros() + 50) / 100).unwrap_or(u64::MAX);
    push_number(line, tenths / 10, 1);
    line.push(b'.');
    push_number(line, tenths % 10, 1);
    line.extend_from_slice(b" ms");
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// The line of an exchange of 2 ms with the backend `b7` that ended in this stage.
    fn line(
        stage: &'static str,
        change: impl FnOnce(&mut ExchangeData, &mut AccessRecord<'_>),
    ) -> String {
        let started = Instant::now();
        let client = ([192, 0, 2, 1], 5000).into();
        let mut data = ExchangeData::new(client, RequestId::Received("abc".into()), started);
        data.request = Some(RequestText::new("GET", "/", Default::default()));
        let backend = Arc::new(Backend::at(7, ([127, 0, 0, 1], 80).into()));
        let gathered = ExchangeData::new(client, RequestId::Received("abc".into()), started);
        let mut record = AccessRecord {
            data: &gathered,
            stage,
            reason: None,
            backend: Some(&backend),
            is_reused: false,
            attempts: 1,
            bytes_out: 300,
            ended: started + 2 * MS,
        };
        change(&mut data, &mut record);
        AccessRecord { data: &data, ..record }.to_string()
    }

    #[test]
    fn a_served_request_is_logged_with_its_backend_and_its_times() {
        let served = |data: &mut ExchangeData, _: &mut AccessRecord<'_>| {
            data.record_response(200, data.started + MS);
        };
        assert_eq!(
            line("response body", served),
            "192.0.2.1:5000 \"GET /\" 200 from b7:80 in 1.0 ms, done in 2.0 ms, 300 bytes, id abc"
        );
        let retried = |data: &mut ExchangeData, record: &mut AccessRecord<'_>| {
            served(data, record);
            (data.queued, data.connecting, record.attempts) = (MS, MS / 2, 2);
        };
        assert_eq!(
            line("response body", retried),
            "192.0.2.1:5000 \"GET /\" 200 from b7:80 in 1.0 ms, done in 2.0 ms, queued 1.0 ms, \
             connect 0.5 ms, 2 attempts, 300 bytes, id abc"
        );
    }

    #[test]
    fn a_failure_is_logged_with_its_code_and_its_stage() {
        let rejected = |data: &mut ExchangeData, _: &mut AccessRecord<'_>| {
            data.record_rejection(Cause::ConnectTimeout);
        };
        assert_eq!(
            line("connect", rejected),
            "192.0.2.1:5000 \"GET /\" 504 connect_timeout in stage connect, backend b7:80, \
             done in 2.0 ms, 300 bytes, id abc"
        );
        let aborted = |_: &mut ExchangeData, record: &mut AccessRecord<'_>| {
            (record.reason, record.backend) = (Some(Reason::ClientReset), None);
        };
        assert_eq!(
            line("queue", aborted),
            "192.0.2.1:5000 \"GET /\" - client_reset in stage queue, backend -, done in 2.0 ms, \
             300 bytes, id abc"
        );
        let truncated = |data: &mut ExchangeData, record: &mut AccessRecord<'_>| {
            data.record_response(200, data.started + MS);
            record.reason = Some(Reason::ResponseTruncated);
        };
        assert_eq!(
            line("response body", truncated),
            "192.0.2.1:5000 \"GET /\" 200 from b7:80 in 1.0 ms, response_truncated in stage \
             response body, done in 2.0 ms, 300 bytes, id abc"
        );
    }

    #[test]
    fn a_rejection_replaces_the_response() {
        let rejected = |data: &mut ExchangeData, _: &mut AccessRecord<'_>| {
            data.record_response(200, data.started + MS);
            data.record_rejection(Cause::BadResponse);
        };
        assert_eq!(
            line("response body", rejected),
            "192.0.2.1:5000 \"GET /\" 502 bad_response in stage response body, backend b7:80, \
             done in 2.0 ms, 300 bytes, id abc"
        );
    }
}
