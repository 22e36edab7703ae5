//! Header lines: their ends, their names, their values.

use super::Scene;

#[test]
fn every_line_of_a_head_ends_in_cr_lf() {
    Scene::new().rejects(
        400,
        "bad_line_end",
        &[
            "GET / HTTP/1.1\nHost: h\n\n",
            "GET / HTTP/1.1\nHost: h\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: h\n\r\n",
            "GET / HTTP/1.1\r\nHost: h\r\n\n",
            "GET / HTTP/1.1\r\nHost: h\nX: y\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: h\r\nX: a\nTransfer-Encoding: chunked\r\n\r\n",
        ],
    );
}

#[test]
fn an_empty_line_before_a_request_ends_in_cr_lf_too() {
    let request = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
    Scene::new().rejects(
        400,
        "bad_request_line",
        &["\n".to_owned(), format!("\n{request}"), format!("\r\n\n{request}")],
    );
}

#[test]
fn a_bare_cr_is_rejected_everywhere() {
    let scene = Scene::new();
    for request in [
        "GET / HTTP/1.1\r\nHost: h\r\nX: a\rb\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nX: a\r\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nX: \ra\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nX: a\rContent-Length: 5\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\n\rX: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nX\r: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nX:\r a\r\n\r\n",
        "GET / HTTP/1.1\rHost: h\r\n\r\n",
        "GET / HTTP/1.1\r\r\nHost: h\r\n\r\n",
        "GET /\r HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET\r / HTTP/1.1\r\nHost: h\r\n\r\n",
        "\rGET / HTTP/1.1\r\nHost: h\r\n\r\n",
    ] {
        // The code depends on its position; the rejection does not.
        let response = crate::support::exchange(scene.lb.address(), request);
        assert_eq!(response.status, 400, "{request:?} gave {response:?}");
    }
    assert_eq!(scene.lb.totals().backend_connects, 0);
}

#[test]
fn a_folded_line_is_rejected() {
    Scene::new().rejects_fields(
        400,
        "bad_field",
        &[
            "X: a\r\n b",
            "X: a\r\n\tb",
            "Content-Length:\r\n 5",
            "X: a\r\n \r\nY: b",
            "Transfer-Encoding:\r\n chunked",
            "X: a\r\n  ",
        ],
    );
}

#[test]
fn a_line_that_begins_with_a_space_is_rejected() {
    let scene = Scene::new();
    scene.rejects_fields(400, "bad_field", &[" X: a", "\tX: a"]);
    scene.rejects(
        400,
        "bad_field",
        &[
            "GET / HTTP/1.1\r\n Host: h\r\nHost: h\r\n\r\n",
            "GET / HTTP/1.1\r\n \r\nHost: h\r\n\r\n",
        ],
    );
}

#[test]
fn a_space_before_the_colon_is_rejected() {
    Scene::new().rejects_fields(
        400,
        "bad_field",
        &[
            "X : a",
            "X\t: a",
            "Content-Length : 5",
            "Transfer-Encoding : chunked",
            "Transfer-Encoding\x0b: chunked",
            "Host : h",
        ],
    );
}

#[test]
fn a_field_name_is_a_token() {
    Scene::new().rejects_fields(
        400,
        "bad_field",
        &[
            ": a",
            "X",
            "X a",
            "na me: a",
            "na(me: a",
            "n)ame: a",
            "\"name\": a",
            "na/me: a",
            "na@me: a",
            "na=me: a",
            "na?me: a",
            "na,me: a",
            "na;me: a",
            "na<me: a",
            "na\\me: a",
            "[name]: a",
            "{name}: a",
            "näme: a",
            "na\x01me: a",
            "na\x7fme: a",
            "na\0me: a",
            "Content-Length\0: 5",
        ],
    );
}

#[test]
fn a_field_value_has_no_control_characters() {
    Scene::new().rejects_fields(
        400,
        "bad_field",
        &[
            "X: a\0b",
            "X: \0",
            "X: a\x01b",
            "X: a\x08b",
            "X: a\x0bb",
            "X: a\x0cb",
            "X: a\x1bb",
            "X: a\x7fb",
            "Transfer-Encoding: \x0bchunked",
        ],
    );
}

#[test]
fn tabs_and_bytes_beyond_ascii_are_allowed_in_a_value_and_forwarded_unchanged() {
    let scene = Scene::new();
    scene.serves(&[b"GET / HTTP/1.1\r\nHost: h\r\nX-Odd: a\tb \xff\xfe \xc3\xa9\r\n\r\n"]);
    let head = scene.origin.only_request().raw_head;
    let line = b"\r\nX-Odd: a\tb \xff\xfe \xc3\xa9\r\n";
    assert!(head.windows(line.len()).any(|window| window == line), "{}", head.escape_ascii());
}
