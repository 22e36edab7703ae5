//! Heads of answers: found, parsed, written anew for the client and parsed again.
//!
//! Holds: a head's end is found in the same place however its bytes are split. What is accepted is
//! accepted by httparse alone too, with the same words, and has no line end that could be read
//! differently. What is written for a client means the same, frames the body for the client's
//! version, and comes out unchanged when it is read and written once more.
//!
//! Flags: 1 it answers a HEAD, 2 the client speaks HTTP/1.0, 4 and 8 what is said about the
//! client's connection.

#![no_main]

use lb_threads::config;
use lb_threads::wire::fields::{self, ConnectionOptions, Name};
use lb_threads::wire::response::{self, ResponseHead};
use lb_threads::wire::request_id::RequestId;
use lb_threads::wire::rewrite::{self, ConnectionLine, Delivery, ResponseFields};
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
        "where the head ends depends on how it was split"
    );
    let Ok(Some(length)) = found else { return };
    let (head, to_head) = (&input.bytes[..length], input.flags & 1 != 0);
    let mut room = fields::room();
    if let Ok(answer) = response::parse(head, &mut room, to_head) {
        assert_unambiguous(head);
        assert_httparse_agrees(head, &answer);
        if answer.fields.len() + ADDED <= config::MAX_HEAD_FIELDS {
            assert_written_means_the_same(&answer, input.flags);
        }
    }
});

fn assert_httparse_agrees(head: &[u8], answer: &ResponseHead<'_, '_>) {
    let mut room = [httparse::EMPTY_HEADER; config::MAX_HEAD_FIELDS];
    let mut other = httparse::Response::new(&mut room);
    assert_eq!(
        other.parse(head),
        Ok(httparse::Status::Complete(head.len())),
        "httparse refuses what we accept"
    );
    assert_eq!(other.code, Some(answer.status));
    assert_eq!(other.version, Some(u8::from(answer.version == Version::Http11)));
    assert_eq!(other.reason.unwrap_or_default(), answer.reason);
    assert_eq!(other.headers, answer.fields);
}

fn assert_written_means_the_same(answer: &ResponseHead<'_, '_>, flags: u8) {
    let (to_head, client) =
        (flags & 1 != 0, if flags & 2 != 0 { Version::Http10 } else { Version::Http11 });
    let delivery = rewrite::delivery(answer.body, client);
    let (line, mut said) = connection_line(answer.status, flags);
    let offers_upgrade = answer.status == 426
        && answer.fields.iter().any(|field| Name::of(field.name) == Name::Upgrade);
    said.upgrade |= offers_upgrade;
    let written = written(answer, delivery, line);
    assert_unambiguous(&written);
    let mut room = fields::room();
    let again =
        response::parse(&written, &mut room, to_head).expect("what we write is what we accept");
    assert_eq!(again.version, Version::Http11);
    assert_eq!((again.status, again.reason), (answer.status, answer.reason));
    let body = match delivery {
        Delivery::Plain => answer.body,
        Delivery::Chunked => Body::Chunked,
        Delivery::UntilClose => Body::UntilClose,
    };
    assert_eq!(again.body, body, "the client reads another body");
    assert!(
        client == Version::Http11 || again.body != Body::Chunked,
        "chunks to an HTTP/1.0 client"
    );
    assert!(again.has_date || again.is_interim());
    assert_eq!(again.connection, said);
    assert!(offers_upgrade || again.websocket == (line == ConnectionLine::WebSocket));
    let stays_here = |name: &str| matches!(Name::of(name), Name::KeepAlive | Name::HopByHop);
    assert!(
        !again.fields.iter().any(|field| stays_here(field.name)),
        "something of the backend's connection went on"
    );
    assert_eq!(passing(again.fields), passing(answer.fields), "a field was lost, changed or moved");
    assert_eq!(self::written(&again, delivery, line), written, "the canonical form is not stable");
}

fn connection_line(status: u16, flags: u8) -> (ConnectionLine, ConnectionOptions) {
    let said = ConnectionOptions::default();
    match flags >> 2 & 3 {
        _ if status == 101 => {
            (ConnectionLine::WebSocket, ConnectionOptions { upgrade: true, ..said })
        }
        0 | 1 => (ConnectionLine::Silent, said),
        2 => (ConnectionLine::Close, ConnectionOptions { close: true, ..said }),
        _ => (ConnectionLine::KeepAlive, ConnectionOptions { keep_alive: true, ..said }),
    }
}

fn written(answer: &ResponseHead<'_, '_>, delivery: Delivery, line: ConnectionLine) -> Vec<u8> {
    let mut out = Vec::new();
    let date = "Fri, 20 Nov 2026 00:00:00 GMT";
    let request_id = &RequestId::Generated([b'7'; 32]);
    let fields = ResponseFields { connection: line, date, request_id };
    rewrite::response(&mut out, answer, delivery, fields);
    out
}
