//! Access lines: one per exchange, made of its record in the format of the log.
//!
//! Runs on the worker, which formats a line and hands it to the log thread; it must never wait for
//! that. The record is data up to here: no line is parsed back.

mod lines;

use super::record::AccessRecord;
use crate::config::{AccessLog, LogFormat, Settings};
use crate::logging::{LogWriter, Stamp, push_text_prefix};
use log::Level;
use std::time::SystemTime;

/// The usual length of a line, or a bit more.
const LINE_BYTES: usize = 256;

/// Writes the access line of an exchange that is over, if it gets one.
pub(super) fn write(
    record: &AccessRecord<'_>,
    settings: &Settings,
    log: Option<&LogWriter>,
    stamp: &mut Stamp,
) {
    if settings.access_log == AccessLog::Errors && !record.is_error() {
        return;
    }
    match log {
        Some(log) => {
            let at = SystemTime::now();
            log.send(line(record, settings, (stamp, at), log.is_coloured()));
        }
        None => log::info!(event = "access"; "{record}"),
    }
}

fn line(
    record: &AccessRecord<'_>,
    settings: &Settings,
    (stamp, at): (&mut Stamp, SystemTime),
    is_coloured: bool,
) -> Vec<u8> {
    let mut line = Vec::with_capacity(LINE_BYTES);
    match settings.log_format {
        LogFormat::Text => {
            let push_time = |line: &mut Vec<u8>| stamp.push_rfc3339(line, at);
            push_text_prefix(&mut line, push_time, Level::Info, is_coloured);
            record.push_text(&mut line);
            line.push(b'\n');
        }
        LogFormat::Json => {
            let push_time = |line: &mut Vec<u8>| stamp.push_rfc3339(line, at);
            lines::json(&mut line, push_time, record, settings.algorithm);
        }
        LogFormat::Combined => {
            let push_time = |line: &mut Vec<u8>| stamp.push_apache(line, at);
            lines::combined(&mut line, push_time, record);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Cause;
    use crate::reason::Reason;
    use crate::session::record::ExchangeData;
    use crate::session::request_text::{Details, RequestText};
    use crate::upstream::backend::Backend;
    use crate::wire::Version;
    use crate::wire::request_id::RequestId;
    use serde_json::{Value, json};
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    const MS: Duration = Duration::from_millis(1);

    fn line_in(
        log_format: LogFormat,
        change: impl FnOnce(&mut ExchangeData, &mut AccessRecord<'_>),
    ) -> String {
        let started = Instant::now();
        let peer = ([192, 0, 2, 1], 5000).into();
        let mut data = ExchangeData::new(peer, RequestId::Received("a\"b".into()), started);
        let details = Details {
            version: Some(Version::Http11),
            host: b"example.com",
            user_agent: b"a \"b\" \\ \xff",
            referer: b"",
        };
        data.request = Some(RequestText::new("GET", "/a\\b", details));
        (data.queued, data.connecting, data.bytes_in) = (2 * MS, MS / 2, 60);
        data.record_response(200, started + MS);
        let backend = Arc::new(Backend::at(7, ([127, 0, 0, 1], 80).into()));
        let gathered = ExchangeData::new(peer, RequestId::generate(1), started);
        let mut record = AccessRecord {
            data: &gathered,
            stage: "response body",
            reason: None,
            backend: Some(&backend),
            is_reused: true,
            attempts: 2,
            bytes_out: 300,
            ended: started + 3 * MS,
        };
        change(&mut data, &mut record);
        let settings = Settings { log_format, ..Settings::default() };
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_738_580_007);
        let record = AccessRecord { data: &data, ..record };
        let line = line(&record, &settings, (&mut Stamp::default(), at), false);
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn a_line_of_text_has_the_time_and_the_record() {
        let line = line_in(LogFormat::Text, |_, _| ());
        let expected = "[2026-11-27T00:16:20.007Z INFO ] 192.0.2.1:5000 \"GET /a\\b\" 200 from b7:80 \
                        in 1.0 ms, done in 3.0 ms, queued 2.0 ms, connect 0.5 ms, 2 attempts, 300 \
                        bytes, id a\"b\n";
        assert_eq!(line, expected);
    }

    #[test]
    fn a_line_of_json_has_every_fact() {
        let line = line_in(LogFormat::Json, |_, _| ());
        let parsed: Value = serde_json::from_str(&line).unwrap();
        let expected = json!({
            "ts": "2026-11-27T00:16:20.007Z", "level": "info", "event": "access",
            "request_id": "a\"b", "client_ip": "192.0.2.1", "client_port": 5000,
            "peer_ip": "192.0.2.1", "method": "GET", "host": "example.com", "path": "/a\\b",
            "proto": "HTTP/1.1", "status": 200, "bytes_in": 60, "bytes_out": 300, "dur_ms": 3.0,
            "queue_ms": 2.0, "connect_ms": 0.5, "ttfb_ms": 1.0, "backend": "b7:80",
            "algorithm": "round_robin", "attempts": 2, "reused": true, "ua": "a \"b\" \\ \u{fffd}",
        });
        assert_eq!(parsed, expected);
    }

    #[test]
    fn a_failure_has_its_cause_and_its_stage_and_the_client_behind_proxies_no_port() {
        let line = line_in(LogFormat::Json, |data, record| {
            data.record_rejection(Cause::ConnectTimeout);
            (data.client, data.request) = ([203, 0, 113, 9].into(), None);
            (record.stage, record.backend) = ("connect", None);
        });
        let parsed: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(parsed["status"], 504);
        assert_eq!(
            (&parsed["cause"], &parsed["stage"]),
            (&"connect_timeout".into(), &"connect".into())
        );
        assert_eq!(parsed["client_ip"], "203.0.113.9");
        assert_eq!(parsed["peer_ip"], "192.0.2.1");
        for missing in
            ["client_port", "method", "path", "backend", "algorithm", "reused", "ttfb_ms"]
        {
            assert!(parsed.get(missing).is_none(), "{missing}: {line}");
        }
    }

    #[test]
    fn a_combined_line_is_the_one_of_apache() {
        assert_eq!(
            line_in(LogFormat::Combined, |_, _| ()),
            "192.0.2.1 - - [27/Nov/2026:00:16:20 +0000] \"GET /a\\\\b HTTP/1.1\" 200 300 \"-\" \
             \"a \\\"b\\\" \\\\ \\xff\"\n"
        );
        let aborted = line_in(LogFormat::Combined, |data, record| {
            (data.request, data.status, record.bytes_out) = (None, None, 0);
        });
        assert_eq!(aborted, "192.0.2.1 - - [27/Nov/2026:00:16:20 +0000] \"-\" - - \"-\" \"-\"\n");
    }

    #[test]
    fn errors_are_those_of_a_backend_of_the_balancer_and_of_the_connection() {
        let is_error = |status, cause, reason| {
            let started = Instant::now();
            let peer = ([192, 0, 2, 1], 5000).into();
            let mut data = ExchangeData::new(peer, RequestId::generate(1), started);
            (data.status, data.cause) = (status, cause);
            let record = AccessRecord {
                data: &data,
                stage: "head",
                reason,
                backend: None,
                is_reused: false,
                attempts: 0,
                bytes_out: 0,
                ended: started,
            };
            record.is_error()
        };
        for status in [101, 200, 304, 404] {
            assert!(!is_error(Some(status), None, None), "{status}");
        }
        assert!(is_error(Some(500), None, None));
        assert!(is_error(Some(400), Some(Cause::BadRequestLine), None));
        assert!(is_error(Some(200), None, Some(Reason::ResponseTruncated)));
        assert!(is_error(None, None, None));
    }
}
