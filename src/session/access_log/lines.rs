//! Access lines in the formats `json` and `combined`; the one of `text` is the record's `Display`.

use crate::config::Algorithm;
use crate::logging::{self, JsonLine, Value, escape};
use crate::session::record::AccessRecord;
use crate::session::request_text::RequestText;
use log::Level;
use std::io::Write;
use std::net::IpAddr;

/// An object with every fact that there is; keys without a fact are left out.
pub(super) fn json(
    line: &mut Vec<u8>,
    push_time: impl FnOnce(&mut Vec<u8>),
    record: &AccessRecord<'_>,
    algorithm: Algorithm,
) {
    let data = record.data;
    let mut json = JsonLine::begin(line, push_time, Level::Info, "access");
    json.push("request_id", Value::Text(data.request_id.as_bytes()));
    push_addresses(&mut json, record);
    if let Some(request) = &data.request {
        push_request(&mut json, request);
    }
    if let Some(status) = data.status {
        json.push("status", Value::Number(status.into()));
    }
    json.push("bytes_in", Value::Number(data.bytes_in));
    json.push("bytes_out", Value::Number(record.bytes_out));
    json.push("dur_ms", Value::Milliseconds(record.duration()));
    if !data.queued.is_zero() {
        json.push("queue_ms", Value::Milliseconds(data.queued));
    }
    if !data.connecting.is_zero() {
        json.push("connect_ms", Value::Milliseconds(data.connecting));
    }
    if let Some(first_byte) = data.first_byte {
        json.push("ttfb_ms", Value::Milliseconds(first_byte));
    }
    if let Some(backend) = record.backend {
        json.push("backend", Value::Text(backend.name.as_bytes()));
        json.push("algorithm", Value::Text(algorithm.name().as_bytes()));
        json.push("attempts", Value::Number(record.attempts.into()));
        json.push("reused", Value::Flag(record.is_reused));
    }
    if let Some(code) = record.code() {
        json.push("cause", Value::Text(code.as_bytes()));
        json.push("stage", Value::Text(record.stage.as_bytes()));
    }
    if let Some(request) = &data.request {
        for (key, value) in [("ua", request.user_agent()), ("referer", request.referer())] {
            if !value.is_empty() {
                json.push(key, Value::Text(value));
            }
        }
    }
    json.end();
}

/// The port is the one of the client only if there is no proxy in between.
fn push_addresses(json: &mut JsonLine<'_>, record: &AccessRecord<'_>) {
    let (client, peer) = (record.data.client, record.data.peer);
    push_address(json, "client_ip", client);
    if client == peer.ip() {
        json.push("client_port", Value::Number(peer.port().into()));
    }
    push_address(json, "peer_ip", peer.ip());
}

fn push_address(json: &mut JsonLine<'_>, key: &str, address: IpAddr) {
    let mut text = [0_u8; 46];
    let mut rest = &mut text[..];
    let _ = write!(rest, "{address}");
    let left = rest.len();
    json.push(key, Value::Text(&text[..text.len() - left]));
}

fn push_request(json: &mut JsonLine<'_>, request: &RequestText) {
    json.push("method", Value::Text(request.method().as_bytes()));
    if !request.host().is_empty() {
        json.push("host", Value::Text(request.host()));
    }
    json.push("path", Value::Text(request.path().as_bytes()));
    json.push("proto", Value::Text(request.protocol().as_bytes()));
}

/// `%h - - %t "%r" %s %O "%{Referer}i" "%{User-Agent}i"` of Apache: the size has the head, and the
/// request line no query.
pub(super) fn combined(
    line: &mut Vec<u8>,
    push_time: impl FnOnce(&mut Vec<u8>),
    record: &AccessRecord<'_>,
) {
    let data = record.data;
    let _ = write!(line, "{} - - [", data.client);
    push_time(line);
    line.extend_from_slice(b"] \"");
    match &data.request {
        Some(request) => {
            line.extend_from_slice(request.method().as_bytes());
            line.push(b' ');
            escape::combined(line, request.path().as_bytes());
            line.push(b' ');
            line.extend_from_slice(request.protocol().as_bytes());
        }
        None => line.push(b'-'),
    }
    line.extend_from_slice(b"\" ");
    push_size(line, data.status.unwrap_or(0).into());
    line.push(b' ');
    push_size(line, record.bytes_out);
    let request = data.request.as_ref();
    for value in [request.map(RequestText::referer), request.map(RequestText::user_agent)] {
        line.extend_from_slice(b" \"");
        escape::combined(line, value.filter(|value| !value.is_empty()).unwrap_or(b"-"));
        line.push(b'"');
    }
    line.push(b'\n');
}

/// A number, or `-` for 0.
fn push_size(line: &mut Vec<u8>, number: u64) {
    match number {
        0 => line.push(b'-'),
        _ => logging::push_number(line, number, 1),
    }
}
