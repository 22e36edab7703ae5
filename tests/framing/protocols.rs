//! Other protocols at the port: they get one readable response, and no byte of them reaches a
//! backend.

use super::Scene;
use crate::support::exchange;

#[test]
fn http_0_9_is_rejected() {
    Scene::new().rejects(
        400,
        "bad_request_line",
        &["GET /\r\n\r\n", "GET / \r\n\r\n", "GET\r\n\r\n"],
    );
}

#[test]
fn the_http_2_preface_is_rejected() {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64".as_slice();
    Scene::new().rejects(505, "version_unknown", &[preface]);
}

/// The start of a TLS 1.2 ClientHello with this random part.
fn client_hello(random: [u8; 32]) -> Vec<u8> {
    let mut hello = vec![0x16, 0x03, 0x01, 0x00, 0x4b, 0x01, 0x00, 0x00, 0x47, 0x03, 0x03];
    hello.extend_from_slice(&random);
    hello.extend_from_slice(
        b"\x00\x00\x02\x13\x01\x01\x00\x00\x1c\x00\x00\x00\x0b\x00\x09\x00\x00\x06a.test",
    );
    hello.extend_from_slice(b"\x00\x2b\x00\x05\x04\x03\x04\x03\x03");
    hello
}

#[test]
fn a_tls_client_hello_is_rejected_at_once() {
    let scene = Scene::new();
    let mut with_line_end = [0x5a; 32];
    with_line_end[6..8].copy_from_slice(b"\r\n");
    scene.rejects(
        400,
        "bad_request_line",
        &[client_hello([0x5a; 32]), client_hello(with_line_end)],
    );
}

#[test]
fn an_invalid_first_line_is_rejected_without_waiting_for_the_head() {
    // An HTTP/0.9 client sends exactly this, and waits; the others wait for a greeting.
    Scene::new().rejects(
        400,
        "bad_request_line",
        &["GET /\r\n", "SSH-2.0-OpenSSH_9.2\r\n", "EHLO mail.test\r\n", "* OK\r\n"],
    );
    Scene::new().rejects(
        505,
        "version_unknown",
        &["PRI * HTTP/2.0\r\n", "GET / HTTP/2.0\r\nHost: h\r\n"],
    );
    Scene::new().rejects(405, "method_not_allowed", &["CONNECT h:80 HTTP/1.1\r\n"]);
}

#[test]
fn a_rejection_is_json_if_the_client_accepts_json_even_for_an_invalid_head() {
    let scene = Scene::new();
    for head in [
        "GET / HTTP/1.1\r\nHost: a b\r\nAccept: application/json",
        "GET / HTTP/1.1\r\nacCept: text/plain, application/json\r\nbad field: x",
    ] {
        let response = exchange(scene.lb.address(), format!("{head}\r\n\r\n"));
        let body: serde_json::Value = serde_json::from_str(&response.text()).expect("it is JSON");
        assert_eq!((response.status, &body["status"]), (400, &400.into()));
    }
}

#[test]
fn a_bare_cr_is_rejected_at_once() {
    let heads = [
        "GET / HTTP/1.1\rHost: h\r\r",
        "GET / HTTP/1.1\r\nHost: h\r\n\r\r\n",
        "GET / HTTP/1.1\r\nHost: h\rA: b",
    ];
    Scene::new().rejects(400, "bad_line_end", &heads);
}

#[test]
fn the_cause_of_a_rejection_does_not_depend_on_how_the_head_is_split() {
    let scene = Scene::new();
    for (head, status) in [
        ("GET / HTTP/2.0\r\nA: b\n\r\n", 505),
        ("CONNECT h:80 HTTP/1.1\r\nbad field: x\r\n\r\n", 405),
        ("GET x HTTP/1.1\r\nHost: h\r\n folded: x\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: h\r\nA: b\rc\r\nbad field: x\r\n\r\n", 400),
    ] {
        let words = [1, 7, head.len()].map(|piece| {
            let mut client = scene.lb.connect();
            client.send_in_pieces(head, std::iter::repeat_n(piece, head.len()));
            let response = client.read_response();
            (response.status, response.header("X-LB-Error").map(str::to_owned))
        });
        assert!(
            words.iter().all(|word| word == &words[0]) && words[0].0 == status,
            "{head:?}: {words:?}"
        );
    }
}

#[test]
fn a_first_byte_that_begins_no_method_is_rejected_at_once() {
    // No line end will ever come: the client should not have to wait for the timeout of the head.
    let socks = b"\x05\x01\x00".to_vec();
    let proxy_v2 = b"\r\n\r\n\x00\r\nQUIT\n".to_vec();
    Scene::new().rejects(
        400,
        "bad_request_line",
        &[vec![0], socks, proxy_v2, b"(".to_vec(), b" ".to_vec(), b"\n".to_vec(), vec![0xff]],
    );
}
