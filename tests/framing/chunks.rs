//! Chunked request bodies: every line is checked strictly, and an invalid one truncates the request
//! at the backend.

use super::Scene;
use crate::support::*;
use lb_threads::reason::Reason;

const HEAD: &str = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";

/// Each of these bodies is rejected, whether it comes together with its head or after the backend
/// has the head.
fn rejects(bodies: &[impl AsRef<[u8]>]) {
    let scene = Scene::new();
    for body in bodies {
        let body = body.as_ref();
        scene.rejects_one(400, "bad_chunk", &[HEAD.as_bytes(), body].concat());
        let seen = scene.origin.count();
        let mut client = scene.lb.connect();
        client.send(format!("{HEAD}3\r\nabc\r\n"));
        until("the first chunk is at the backend", || {
            scene.origin.count() == seen + 1 && scene.origin.requests()[seen].body == b"abc"
        });
        client.send(body);
        let response = client.read_response();
        assert_eq!(
            (response.status, response.header("X-LB-Error")),
            (400, Some("bad_chunk")),
            "{}",
            escaped(body)
        );
        assert!(response.announces_close() && client.at_end(), "{}", escaped(body));
        drop(client);
        scene.rejections.set(scene.rejections.get() + 1);
        scene.lb.wait_for_closed(Reason::Rejected, scene.rejections.get());
    }
    until("the backend's connections are closed", || scene.origin.open_connections() == 0);
    assert!(
        scene.origin.requests().iter().all(|request| !request.complete),
        "{}",
        scene.origin.story()
    );
    assert_eq!(scene.lb.totals().retries, 0);
}

#[test]
fn a_chunk_size_is_plain_hexadecimal() {
    rejects(&[
        "+5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "0X5\r\nhello\r\n0\r\n\r\n",
        "5_0\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "\t5\r\nhello\r\n0\r\n\r\n",
        "5 5\r\nhello\r\n0\r\n\r\n",
        "5h\r\nhello\r\n0\r\n\r\n",
        "g\r\n",
        "\r\n",
        "\r\n5\r\nhello\r\n0\r\n\r\n",
        "-0\r\n\r\n",
        "0x0\r\n\r\n",
        "٥\r\nhello\r\n0\r\n\r\n",
        "5\0\r\nhello\r\n0\r\n\r\n",
        "hello",
    ]);
}

#[test]
fn a_chunk_size_that_overflows_is_rejected() {
    rejects(&[
        "8000000000000000\r\n",
        "ffffffffffffffff\r\n",
        "10000000000000000\r\n",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        "100000000000000000000000000000005\r\nhello\r\n0\r\n\r\n",
        "fffffffffffffffff\r\n",
    ]);
}

#[test]
fn a_chunk_ends_in_cr_lf_after_exactly_its_size() {
    rejects(&[
        "5\nhello\r\n0\r\n\r\n",
        "5\rhello\r\n0\r\n\r\n",
        "5\r\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello\r0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhelloX\r\n0\r\n\r\n",
        "5\r\nhello 0\r\n\r\n",
        "0\r\n\n",
        "0\n\r\n",
        "0\n\n",
        "0\r\n\rX\r\n\r\n",
    ]);
}

#[test]
fn a_chunk_extension_has_no_control_characters_and_a_limit() {
    let long = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(4_100));
    let without_end = format!("5;{}", "x".repeat(4_100));
    rejects(&[
        "5;a\nb\r\nhello\r\n0\r\n\r\n",
        "5;\n\r\nhello\r\n0\r\n\r\n",
        "5;a\rb\r\nhello\r\n0\r\n\r\n",
        "5;a=\"\n\"\r\nhello\r\n0\r\n\r\n",
        "5;\0\r\nhello\r\n0\r\n\r\n",
        "5;\x01\r\nhello\r\n0\r\n\r\n",
        "5 x\r\nhello\r\n0\r\n\r\n",
        ";\r\nhello\r\n0\r\n\r\n",
        "0;a\nGET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n",
        &long,
        &without_end,
    ]);
}

#[test]
fn trailers_are_fields_and_have_a_limit() {
    let many = format!("0\r\n{}\r\n", "a: b\r\n".repeat(101));
    let large = format!("0\r\nX: {}\r\n\r\n", "a".repeat(9_000));
    let without_end = format!("0\r\nX: {}", "a".repeat(9_000));
    rejects(&[
        "0\r\nno colon\r\n\r\n",
        "0\r\nA : b\r\n\r\n",
        "0\r\n: b\r\n\r\n",
        "0\r\nA: b\r\n folded\r\n\r\n",
        "0\r\nA: b\n\r\n",
        "0\r\nA: b\r\n\n",
        "0\r\nA: b\0\r\n\r\n",
        "0\r\nA: b\rc\r\n\r\n",
        "0\r\nGET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n",
        &many,
        &large,
        &without_end,
    ]);
}

#[test]
fn bad_trailers_are_rejected_for_an_http_1_0_backend_too() {
    let origin = Origin::raw(
        "HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nok",
        After::Keep,
    );
    let lb = Lb::over(&[&origin]);
    assert_eq!(get(lb.address(), "/").text(), "ok");
    for trailer in ["no colon", "A : b", "A: b\0"] {
        let response = exchange(lb.address(), format!("{HEAD}2\r\nhi\r\n0\r\n{trailer}\r\n\r\n"));
        assert_eq!(
            (response.status, response.header("X-LB-Error")),
            (400, Some("bad_chunk")),
            "{trailer:?}"
        );
    }
    assert_eq!(origin.count(), 1, "{}", origin.story());
}

#[test]
fn bytes_after_a_bad_chunk_reach_no_backend() {
    let scene = Scene::new();
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n";
    scene.rejects_one(
        400,
        "bad_chunk",
        format!("{HEAD}5\r\nhello\r\n0\r\nX\r\n\r\n{smuggled}{smuggled}").as_bytes(),
    );
    scene.rejects_one(
        400,
        "bad_chunk",
        format!("{HEAD}5\r\nhelloX\r\n0\r\n\r\n{smuggled}").as_bytes(),
    );
    until("the backend's connections are closed", || scene.origin.open_connections() == 0);
    assert!(
        scene.origin.requests().iter().all(|request| request.target == "/" && !request.complete)
    );
}

#[test]
fn valid_chunks_are_accepted_and_re_encoded() {
    let scene = Scene::new();
    scene.serves(&[
        format!("{HEAD}0\r\n\r\n"),
        format!("{HEAD}000\r\n\r\n"),
        format!("{HEAD}00000A\r\nhelloworld\r\n0\r\n\r\n"),
        format!("{HEAD}5;a=b;c=\"d;e\" ;f\r\nhello\r\n0;last\r\n\r\n"),
        format!("{HEAD}5;\u{e9}\t\r\nhello\r\n0\r\nX: 1\r\n\r\n"),
    ]);
    let raw: Vec<String> = scene
        .origin
        .requests()
        .iter()
        .map(|request| String::from_utf8_lossy(&request.raw_body).into_owned())
        .collect();
    assert_eq!(
        raw,
        [
            "0\r\n\r\n",
            "0\r\n\r\n",
            "a\r\nhelloworld\r\n0\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            "5\r\nhello\r\n0\r\nX: 1\r\n\r\n"
        ]
    );
}
