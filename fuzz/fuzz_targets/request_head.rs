//! Request heads: found, parsed, re-serialised and parsed again.
//!
//! Holds: a head's end is found in the same place however its bytes are split. Accepted heads are
//! accepted by httparse alone too, with the same parts, and has no line end that could be read
//! differently. The head for a backend means the same, has no hop-by-hop field of the client, and
//! does not change when it is parsed and serialised once more.
//!
//! Flags: 1 the client is trusted, 2 the backend supports only HTTP/1.0.

#![no_main]

use lb_threads::config;
use lb_threads::wire::fields::{self, ConnectionOptions, Name};
use lb_threads::wire::request::{self, RequestHead};
use lb_threads::wire::request_id::RequestId;
use lb_threads::wire::rewrite::{self, ForwardingInfo, RequestFraming};
use lb_threads::wire::{Body, Version};
use lb_threads_fuzz::{Input, assert_unambiguous, find_head_end, passing};
use libfuzzer_sys::fuzz_target;
use std::net::{IpAddr, Ipv4Addr};

/// The Host of an HTTP/1.0 request without one.
const BACKEND: &str = "backend:80";
/// The length of a chunked body that was buffered for an HTTP/1.0 backend.
const COLLECTED: u64 = 5;
/// The fields that writing a head can add.
const ADDED: usize = 8;

fuzz_target!(|input: &[u8]| {
    let Some(input) = Input::of(input) else { return };
    let bytes = &input.bytes[2 * request::leading_empty_lines(input.bytes)..];
    let found = find_head_end(bytes, [u8::MAX; 3]);
    assert_eq!(found, find_head_end(bytes, input.cuts), "the end of the head depends on the split");
    let Ok(Some(length)) = found else { return };
    let head = &bytes[..length];
    let mut room = fields::field_storage();
    if let Ok(request) = request::parse(head, &mut room) {
        assert_unambiguous(head);
        assert_httparse_agrees(head, &request);
        if request.fields.len() + ADDED <= config::MAX_HEAD_FIELDS {
            assert_written_means_the_same(&request, input.flags);
        }
    }
});

fn assert_httparse_agrees(head: &[u8], request: &RequestHead<'_, '_>) {
    let mut room = [httparse::EMPTY_HEADER; config::MAX_HEAD_FIELDS];
    let mut other = httparse::Request::new(&mut room);
    assert_eq!(
        other.parse(head),
        Ok(httparse::Status::Complete(head.len())),
        "httparse rejects an accepted head"
    );
    assert_eq!(other.method, Some(request.method));
    assert_eq!(other.version, Some(u8::from(request.version == Version::Http11)));
    assert!(other.path.is_some_and(
        |path| path.ends_with(request.target.path) || matches!(request.target.path, "/" | "*")
    ));
    assert_eq!(other.headers, request.fields);
}

fn assert_written_means_the_same(request: &RequestHead<'_, '_>, flags: u8) {
    let (trusted, end) = (flags & 1 != 0, request_framing(request, flags));
    let written = written(request, trusted, end);
    assert_unambiguous(&written);
    let mut room = fields::field_storage();
    let again = request::parse(&written, &mut room).expect("our own output is accepted");
    assert_eq!(again.version, Version::Http11);
    assert_eq!(again.method, request.method);
    let slash = if request.target.path.starts_with('?') { "/" } else { "" };
    assert_eq!(again.target.path, format!("{slash}{}", request.target.path));
    assert_eq!(again.host, request.host.or(Some(BACKEND)));
    assert_eq!(
        again.body,
        if end == RequestFraming::Length(COLLECTED) {
            Body::Length(COLLECTED)
        } else {
            request.body
        }
    );
    assert_eq!(again.websocket, request.websocket);
    assert_eq!(again.expects_continue, request.expects_continue);
    assert_eq!(again.max_forwards, request.max_forwards.map(|left| left.saturating_sub(1)));
    assert_eq!(
        again.connection,
        ConnectionOptions { upgrade: request.websocket, ..Default::default() }
    );
    let stays_here = |name: &str| matches!(Name::of(name), Name::KeepAlive | Name::HopByHop);
    assert!(
        !again.fields.iter().any(|field| stays_here(field.name)),
        "something of the client's connection went on"
    );
    assert!(
        passing(again.fields).starts_with(&passing(request.fields)),
        "a field was lost, changed or moved"
    );
    assert!(again.request_id.is_some());
    // A decremented field changes each time.
    if !trusted && again.max_forwards.unwrap_or(0) == 0 {
        assert_is_fixpoint(&again);
    }
}

/// The first serialisation moves the added fields to the end; after it nothing moves.
fn assert_is_fixpoint(request: &RequestHead<'_, '_>) {
    let mut room = fields::field_storage();
    let second = written(request, false, request_framing(request, 0));
    let second_head = request::parse(&second, &mut room).expect("our own output is accepted");
    assert_eq!(
        written(&second_head, false, request_framing(&second_head, 0)),
        second,
        "the canonical form is not stable"
    );
}

fn request_framing(request: &RequestHead<'_, '_>, flags: u8) -> RequestFraming {
    match request.body {
        Body::Chunked if flags & 2 != 0 => RequestFraming::Length(COLLECTED),
        Body::Chunked => RequestFraming::Chunked,
        _ => RequestFraming::Plain,
    }
}

fn written(request: &RequestHead<'_, '_>, trusted: bool, end: RequestFraming) -> Vec<u8> {
    let mut out = Vec::new();
    let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
    rewrite::request(
        &mut out,
        request,
        ForwardingInfo { address, trusted, request_id: &RequestId::generate(7) },
    );
    rewrite::request_framing(&mut out, request.host.is_none().then_some(BACKEND), end);
    out
}
