//! Content-Length and Transfer-Encoding: one accepted spelling of each, never both.

use super::Scene;

#[test]
fn a_content_length_is_one_plain_number_given_once() {
    let scene = Scene::new();
    let values = [
        "", "+5", "-5", "-0", "0x5", "5_0", "5.0", "1e3", "5 5", "5,5", "5, 5", ",5", "5,", "5;x",
        "\"5\"", "five", "٥", "5\u{a0}",
    ];
    let lines: Vec<String> =
        values.iter().map(|value| format!("Content-Length: {value}")).collect();
    scene.rejects_fields(
        400,
        "bad_content_length",
        &lines.iter().map(String::as_str).collect::<Vec<_>>(),
    );
}

#[test]
fn a_second_content_length_is_rejected_even_if_it_agrees() {
    Scene::new().rejects_fields(
        400,
        "bad_content_length",
        &[
            "Content-Length: 5\r\nContent-Length: 5",
            "Content-Length: 5\r\nContent-Length: 6",
            "Content-Length: 0\r\ncontent-length: 36",
            "CONTENT-LENGTH: 36\r\nX-Between: 1\r\nContent-Length: 0",
            "Content-Length: 5\r\nContent-Length:",
        ],
    );
}

#[test]
fn a_content_length_that_overflows_is_rejected() {
    // 2^63, 2^64, 2^64 + 5, 2 * 2^64 + 5, 2^128 + 5 and a hundred digits: a wrapped result would be
    // 0 or 5.
    let hundred = "9".repeat(100);
    let values = [
        "9223372036854775808",
        "18446744073709551615",
        "18446744073709551616",
        "18446744073709551621",
        "36893488147419103237",
        "340282366920938463463374607431768211461",
        &hundred,
    ];
    let lines: Vec<String> =
        values.iter().map(|value| format!("Content-Length: {value}")).collect();
    Scene::new().rejects_fields(
        400,
        "bad_content_length",
        &lines.iter().map(String::as_str).collect::<Vec<_>>(),
    );
}

#[test]
fn content_length_beside_transfer_encoding_is_rejected_in_any_order_and_case() {
    let scene = Scene::new();
    scene.rejects_fields(
        400,
        "length_and_coding",
        &[
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 5",
            "Transfer-Encoding: chunked\r\nContent-Length: 0",
            "content-length: 5\r\nX-Between: 1\r\nTRANSFER-ENCODING: Chunked",
            "Connection: content-length\r\nContent-Length: 5\r\nTransfer-Encoding: chunked",
        ],
    );
    scene.rejects(
        400,
        "length_and_coding",
        &["POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n\
        GET /b HTTP/1.1\r\nHost: h\r\n\r\n"],
    );
}

#[test]
fn a_transfer_encoding_other_than_exactly_one_chunked_is_rejected() {
    Scene::new().rejects_fields(
        400,
        "bad_transfer_encoding",
        &[
            "Transfer-Encoding:",
            "Transfer-Encoding: ,",
            "Transfer-Encoding: chunked,",
            "Transfer-Encoding: ,chunked",
            "Transfer-Encoding: chunked, chunked",
            "Transfer-Encoding: chunked, gzip",
            "Transfer-Encoding: gzip, chunked, gzip",
            "Transfer-Encoding: gzip, , chunked",
            "Transfer-Encoding: chunked;q=1",
            "Transfer-Encoding: chunked gzip",
            "Transfer-Encoding: \"chunked\"",
            "Transfer-Encoding: chunked\u{a0}",
            "Transfer-Encoding: (chunked)",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\ntransfer-encoding: chunked",
        ],
    );
}

#[test]
fn a_coding_after_chunked_is_rejected_alike_on_one_line_or_two() {
    // RFC 9110 section 5.3: two lines mean the same as one list.
    Scene::new().rejects_fields(
        400,
        "bad_transfer_encoding",
        &[
            "Transfer-Encoding: chunked, identity",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip",
        ],
    );
}

#[test]
fn a_well_formed_unknown_coding_gets_501() {
    Scene::new().rejects_fields(
        501,
        "transfer_encoding_unknown",
        &[
            "Transfer-Encoding: gzip",
            "Transfer-Encoding: identity",
            "Transfer-Encoding: xchunked",
            "Transfer-Encoding: chunked-",
            "Transfer-Encoding: 'chunked'",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
        ],
    );
}

#[test]
fn http_1_0_has_no_transfer_encoding() {
    Scene::new().rejects(
        400,
        "bad_transfer_encoding",
        &[
            "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n",
        ],
    );
}

#[test]
fn valid_framing_is_accepted() {
    Scene::new().serves(&[
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length:  5\t\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: CHUNKED\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "POST / HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello",
    ]);
}

#[test]
fn a_length_is_forwarded_without_leading_zeros() {
    // A backend may read them as octal.
    let scene = Scene::new();
    for (written, passed_on) in
        [("0000011", "11"), ("011", "11"), ("11", "11"), ("0", "0"), ("000", "0")]
    {
        let body = if passed_on == "0" { "" } else { "hello world" };
        scene.serves(&[format!(
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {written}\r\n\r\n{body}"
        )]);
        let request = scene.origin.requests().pop().expect("it came");
        assert_eq!(
            (request.headers_named("Content-Length"), request.text().as_str()),
            (vec![passed_on], body)
        );
    }
}
