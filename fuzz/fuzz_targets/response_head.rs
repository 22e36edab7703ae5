//! Response heads: found, parsed, re-serialised for the client and parsed again.
//!
//! Holds: a head's end is found in the same place however its bytes are split. Accepted heads are
//! accepted by httparse alone too, with the same parts, and has no line end that could be read
//! differently. The head for a client means the same, frames the body for the client's version, and
//! does not change when it is parsed and serialised once more.
//!
//! Flags: 1 the response to a HEAD, 2 an HTTP/1.0 client, 4 and 8 the client's connection field.

#![no_main]

use lb_threads::config;
use lb_threads::wire::fields::{self, ConnectionOptions, Name};
use lb_threads::wire::request_id::RequestId;
use lb_threads::wire::response::{self, ResponseHead};
use lb_threads::wire::rewrite::{self, ConnectionHeader, ResponseFields, ResponseFraming};
use lb_threads::wire::{Body, Version};
use lb_threads_fuzz::{Input, assert_unambiguous, find_head_end, passing};
use libfuzzer_sys::fuzz_target;

/// The fields that writing a head can add.
const ADDED: usize = 4;

fuzz_target!(|input: &[u8]| {
    let Some(input) = Input::of(input) else { return };
    let found = find_head_end(input.bytes, [u8::MAX; 3]);
    assert_eq!(
        found,
        find_head_end(input.bytes, input.cuts),
        "the end of the head depends on the split"
    );
    let Ok(Some(length)) = found else { return };
    let (bytes, to_head) = (&input.bytes[..length], input.flags & 1 != 0);
    let mut room = fields::field_storage();
    if let Ok(head) = response::parse(bytes, &mut room, to_head) {
        assert_unambiguous(bytes);
        assert_httparse_agrees(bytes, &head);
        if head.fields.len() + ADDED <= config::MAX_HEAD_FIELDS {
            assert_written_means_the_same(&head, input.flags);
        }
    }
});

fn assert_httparse_agrees(bytes: &[u8], head: &ResponseHead<'_, '_>) {
    let mut room = [httparse::EMPTY_HEADER; config::MAX_HEAD_FIELDS];
    let mut other = httparse::Response::new(&mut room);
    assert_eq!(
        other.parse(bytes),
        Ok(httparse::Status::Complete(bytes.len())),
        "httparse rejects an accepted head"
    );
    assert_eq!(other.code, Some(head.status));
    assert_eq!(other.version, Some(u8::from(head.version == Version::Http11)));
    assert_eq!(other.reason.unwrap_or_default(), head.reason);
    assert_eq!(other.headers, head.fields);
}

fn assert_written_means_the_same(head: &ResponseHead<'_, '_>, flags: u8) {
    let (to_head, client) =
        (flags & 1 != 0, if flags & 2 != 0 { Version::Http10 } else { Version::Http11 });
    let framing = rewrite::response_framing(head.body, client);
    let (line, mut connection_fields) = connection_line(head.status, flags);
    let offers_upgrade =
        head.status == 426 && head.fields.iter().any(|field| Name::of(field.name) == Name::Upgrade);
    connection_fields.upgrade |= offers_upgrade;
    let written = written(head, framing, line);
    assert_unambiguous(&written);
    let mut room = fields::field_storage();
    let again = response::parse(&written, &mut room, to_head).expect("our own output is accepted");
    assert_eq!(again.version, Version::Http11);
    assert_eq!((again.status, again.reason), (head.status, head.reason));
    let body = match framing {
        ResponseFraming::Plain => head.body,
        ResponseFraming::Chunked => Body::Chunked,
        ResponseFraming::UntilClose => Body::UntilClose,
    };
    assert_eq!(again.body, body, "the client reads another body");
    assert!(
        client == Version::Http11 || again.body != Body::Chunked,
        "chunks to an HTTP/1.0 client"
    );
    assert!(again.has_date || again.is_interim());
    assert_eq!(again.connection, connection_fields);
    assert!(offers_upgrade || again.websocket == (line == ConnectionHeader::WebSocket));
    let stays_here = |name: &str| matches!(Name::of(name), Name::KeepAlive | Name::HopByHop);
    assert!(
        !again.fields.iter().any(|field| stays_here(field.name)),
        "something of the backend's connection went on"
    );
    assert_eq!(passing(again.fields), passing(head.fields), "a field was lost, changed or moved");
    assert_eq!(self::written(&again, framing, line), written, "the canonical form is not stable");
}

fn connection_line(status: u16, flags: u8) -> (ConnectionHeader, ConnectionOptions) {
    let connection_fields = ConnectionOptions::default();
    match flags >> 2 & 3 {
        _ if status == 101 => {
            (ConnectionHeader::WebSocket, ConnectionOptions { upgrade: true, ..connection_fields })
        }
        0 | 1 => (ConnectionHeader::Omit, connection_fields),
        2 => (ConnectionHeader::Close, ConnectionOptions { close: true, ..connection_fields }),
        _ => (
            ConnectionHeader::KeepAlive,
            ConnectionOptions { keep_alive: true, ..connection_fields },
        ),
    }
}

fn written(
    head: &ResponseHead<'_, '_>,
    framing: ResponseFraming,
    line: ConnectionHeader,
) -> Vec<u8> {
    let mut out = Vec::new();
    let date = "Fri, 20 Nov 2026 00:00:00 GMT";
    let request_id = &RequestId::Generated([b'7'; 32]);
    let fields = ResponseFields { connection: line, date, request_id };
    rewrite::response(&mut out, head, framing, fields);
    out
}
