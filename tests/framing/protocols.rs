//! Other protocols that knock at the port: they get one answer that their users can read, and no backend hears of them.

use super::Scene;

#[test]
fn http_0_9_is_refused() {
    Scene::new().refuses(400, "bad_request_line", &["GET /\r\n\r\n", "GET / \r\n\r\n", "GET\r\n\r\n"]);
}

#[test]
fn the_preface_of_http_2_is_refused() {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64".as_slice();
    Scene::new().refuses(505, "version_unknown", &[preface]);
}

/// The start of a TLS 1.2 ClientHello with this random part.
fn client_hello(random: [u8; 32]) -> Vec<u8> {
    let mut hello = vec![0x16, 0x03, 0x01, 0x00, 0x4b, 0x01, 0x00, 0x00, 0x47, 0x03, 0x03];
    hello.extend_from_slice(&random);
    hello.extend_from_slice(b"\x00\x00\x02\x13\x01\x01\x00\x00\x1c\x00\x00\x00\x0b\x00\x09\x00\x00\x06a.test");
    hello.extend_from_slice(b"\x00\x2b\x00\x05\x04\x03\x04\x03\x03");
    hello
}

#[test]
fn a_tls_client_hello_is_refused_at_once() {
    let scene = Scene::new();
    let mut with_line_end = [0x5a; 32];
    with_line_end[6..8].copy_from_slice(b"\r\n");
    scene.refuses(400, "bad_request_line", &[client_hello([0x5a; 32]), client_hello(with_line_end)]);
}

#[test]
fn a_first_byte_that_begins_no_method_is_refused_at_once_and_not_waited_on() {
    // No line end will ever come: whoever sent this should not have to wait for the head's timeout.
    let socks = b"\x05\x01\x00".to_vec();
    let proxy_v2 = b"\r\n\r\n\x00\r\nQUIT\n".to_vec();
    Scene::new().refuses(
        400,
        "bad_request_line",
        &[vec![0], socks, proxy_v2, b"(".to_vec(), b" ".to_vec(), b"\n".to_vec(), vec![0xff]],
    );
}
