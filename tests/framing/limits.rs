//! The limits of a head and of a body: a request at the limit is served, one more byte is rejected,
//! however it is split.

use super::{Scene, head_of};
use crate::support::*;
use lb_threads::config;
use lb_threads::reason::Reason;

/// A GET with this many fields.
fn fields(count: usize) -> String {
    format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "a: b\r\n".repeat(count - 1))
}

/// A GET whose target is exactly this long.
fn target(length: usize) -> String {
    format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "a".repeat(length - 1))
}

#[test]
fn requests_at_the_limits_are_served() {
    let scene = Scene::new();
    scene.serves(&[head_of(16 * 1024), fields(100), target(8 * 1024)]);
    assert_eq!(scene.origin.requests()[2].target.len(), 8 * 1024);
}

#[test]
fn a_head_over_its_limit_is_rejected() {
    Scene::new().rejects(
        431,
        "head_too_large",
        &[head_of(16 * 1024 + 1), head_of(40_000), fields(101), fields(1_000)],
    );
}

#[test]
fn a_target_over_its_limit_is_rejected() {
    let absolute = format!("GET http://h/{} HTTP/1.1\r\nHost: h\r\n\r\n", "a".repeat(8 * 1024));
    Scene::new().rejects(
        414,
        "target_too_long",
        &[target(8 * 1024 + 1), target(12_000), target(30_000), absolute],
    );
}

#[test]
fn an_endless_head_is_rejected_at_the_limit() {
    let scene = Scene::new();
    scene.rejects(
        431,
        "head_too_large",
        &[format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}", "a".repeat(17_000))],
    );
    scene.rejects(
        431,
        "head_too_large",
        &[format!("GET / HTTP/1.1\r\nHost: h\r\n{}", "a: b\r\n".repeat(3_000))],
    );
    scene.rejects(414, "target_too_long", &[format!("GET /{}", "a".repeat(17_000))]);
}

#[test]
fn the_limits_are_the_same_for_a_head_in_pieces() {
    let scene = Scene::new();
    let in_pieces = |request: &str| {
        let mut client = scene.lb.connect();
        client.send_in_pieces(request, std::iter::repeat_n(777, 30));
        client.read_response().status
    };
    assert_eq!(in_pieces(&head_of(16 * 1024)), 200);
    assert_eq!(in_pieces(&head_of(16 * 1024 + 1)), 431);
    assert_eq!(in_pieces(&target(8 * 1024)), 200);
    assert_eq!(in_pieces(&target(8 * 1024 + 1)), 414);
    assert_eq!(in_pieces(&fields(101)), 431);
}

#[test]
fn a_content_length_over_the_limit_is_rejected_before_any_backend_is_connected() {
    let origin = Origin::echo();
    let lb = Lb::with(&[&origin], |config| config.settings.limits.max_body_bytes = Some(10));
    let mut client = lb.connect();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 11\r\n\r\nhello world");
    let response = client.read_response();
    assert_eq!((response.status, response.header("X-LB-Error")), (413, Some("body_too_large")));
    assert!(response.announces_close() && client.at_end());
    assert_eq!((lb.totals().backend_connects, origin.count()), (0, 0));
    let fits = exchange(
        lb.address(),
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nhelloworld",
    );
    assert_eq!(fits.text(), "helloworld");
    drop(client);
    lb.wait_for_closed(Reason::Rejected, 1);
}

#[test]
fn a_chunked_body_is_rejected_when_it_passes_the_limit() {
    let origin = Origin::echo();
    let lb = Lb::with(&[&origin], |config| config.settings.limits.max_body_bytes = Some(10));
    let head = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut client = lb.connect();
    client.send(format!("{head}5\r\nhello\r\n"));
    origin.wait_for_requests(1);
    client.send("6\r\n world\r\n0\r\n\r\n");
    let response = client.read_response();
    assert_eq!((response.status, response.header("X-LB-Error")), (413, Some("body_too_large")));
    assert!(client.at_end());
    origin.wait_for_ending(0);
    assert!(!origin.only_request().complete, "the backend sees a truncated request");
    assert_eq!(
        exchange(lb.address(), format!("{head}a\r\nhelloworld\r\n0\r\n\r\n")).text(),
        "helloworld"
    );
}

#[test]
fn a_chunk_size_over_the_limit_is_rejected_without_waiting_for_its_data() {
    let origin = Origin::echo();
    let lb = Lb::with(&[&origin], |config| config.settings.limits.max_body_bytes = Some(10));
    let response = exchange(
        lb.address(),
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5000000\r\n",
    );
    assert_eq!((response.status, response.header("X-LB-Error")), (413, Some("body_too_large")));
}

#[test]
fn empty_lines_before_a_request_are_skipped_up_to_a_limit() {
    let scene = Scene::new();
    let request = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
    let with = |count: usize| format!("{}{request}", "\r\n".repeat(count));
    scene.serves(&[with(1), with(config::MAX_LEADING_EMPTY_LINES), format!("{request}\r\n")]);
    for count in [config::MAX_LEADING_EMPTY_LINES + 1, 50, 5_000] {
        let response = exchange(scene.lb.address(), with(count));
        assert_eq!(response.status, 400, "{count} empty lines");
    }
    assert_eq!(scene.origin.count(), 3);
}

#[test]
fn the_limit_of_empty_lines_holds_however_they_are_split() {
    let scene = Scene::new();
    let mut client = scene.lb.connect();
    let request = format!("{}GET / HTTP/1.1\r\nHost: h\r\n\r\n", "\r\n".repeat(50));
    client.send_in_pieces(request, std::iter::repeat_n(3, 30));
    assert_eq!(client.read_response().status, 400);
    assert_eq!(scene.origin.count(), 0);
}
