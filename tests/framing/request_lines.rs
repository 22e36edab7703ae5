//! The request line: method, target, version, and exactly one space between them.

use super::Scene;
use crate::support::{After, Lb, Origin, get};

/// A request with this first line and otherwise valid.
fn lines(lines: &[&str]) -> Vec<String> {
    lines.iter().map(|line| format!("{line}\r\nHost: h\r\n\r\n")).collect()
}

#[test]
fn a_method_is_a_token() {
    Scene::new().rejects(
        400,
        "bad_request_line",
        &lines(&[
            "G(T / HTTP/1.1",
            "G/T / HTTP/1.1",
            "\"GET\" / HTTP/1.1",
            "G\tT / HTTP/1.1",
            "G\0T / HTTP/1.1",
            "GÉT / HTTP/1.1",
            "G\x7fT / HTTP/1.1",
            "GET: / HTTP/1.1",
            " / HTTP/1.1",
            " GET / HTTP/1.1",
            "\tGET / HTTP/1.1",
            "GE T / HTTP/1.1",
        ]),
    );
}

#[test]
fn a_request_line_has_three_parts_and_one_space_between_them() {
    Scene::new().rejects(
        400,
        "bad_request_line",
        &lines(&[
            "GET",
            "GET ",
            "GET /",
            "GET / ",
            "GET  / HTTP/1.1",
            "GET /  HTTP/1.1",
            "GET / HTTP/1.1 ",
            "GET / HTTP/1.1 x",
            "GET /a b HTTP/1.1",
            "GET\t/ HTTP/1.1",
            "GET /\tHTTP/1.1",
            "GET\x0b/ HTTP/1.1",
            "GET / HTTP/1.1\t",
            "/ HTTP/1.1",
            "hello",
        ]),
    );
}

#[test]
fn a_version_is_spelled_exactly() {
    Scene::new().rejects(
        400,
        "bad_request_line",
        &lines(&[
            "GET / http/1.1",
            "GET / HTTP/1",
            "GET / HTTP/1.",
            "GET / HTTP/.1",
            "GET / HTTP/1.10",
            "GET / HTTP/01.1",
            "GET / HTTP/11",
            "GET / HTTP1.1",
            "GET / XTTP/1.1",
            "GET / HTTP/1,1",
            "GET / HTTP/1.1\x0b",
            "GET / HTTP/a.b",
            "GET / HTTP/+1.1",
            "GET / HTTPS/1.1",
        ]),
    );
}

#[test]
fn another_major_version_is_not_supported() {
    Scene::new().rejects(
        505,
        "version_unknown",
        &lines(&[
            "GET / HTTP/0.9",
            "GET / HTTP/2.0",
            "GET / HTTP/2.1",
            "GET / HTTP/3.0",
            "GET / HTTP/9.9",
        ]),
    );
}

#[test]
fn a_higher_minor_version_is_served_as_1_1() {
    let scene = Scene::new();
    let mut client = scene.lb.connect();
    for version in ["HTTP/1.2", "HTTP/1.9"] {
        let response = client.exchange(format!("GET / {version}\r\nHost: h\r\n\r\n"));
        assert_eq!(
            (response.status, response.version.as_str(), response.announces_close()),
            (200, "HTTP/1.1", false)
        );
    }
    assert!(scene.origin.requests().iter().all(|request| request.version == "HTTP/1.1"));
    let origin = Origin::raw("HTTP/1.2 200 OK\r\nContent-Length: 2\r\n\r\nok", After::Keep);
    let response = get(Lb::over(&[&origin]).address(), "/");
    assert_eq!(
        (response.status, response.version.as_str(), response.text().as_str()),
        (200, "HTTP/1.1", "ok")
    );
}

#[test]
fn a_target_has_no_invalid_characters() {
    Scene::new().rejects(
        400,
        "bad_target",
        &lines(&[
            "GET /a#b HTTP/1.1",
            "GET /a\"b HTTP/1.1",
            "GET /a<b HTTP/1.1",
            "GET /a>b HTTP/1.1",
            "GET /é HTTP/1.1",
            "GET /\x01 HTTP/1.1",
            "GET /\0 HTTP/1.1",
            "GET /\x7f HTTP/1.1",
            "GET /a\x0bb HTTP/1.1",
            "GET /?\x1b HTTP/1.1",
        ]),
    );
}

#[test]
fn a_target_has_one_of_the_four_forms() {
    Scene::new().rejects(
        400,
        "bad_target",
        &lines(&[
            "GET a HTTP/1.1",
            "GET * HTTP/1.1",
            "OPTIONS *a HTTP/1.1",
            "GET ?a HTTP/1.1",
            "GET h:80 HTTP/1.1",
            "GET ftp://h/ HTTP/1.1",
            "GET http:/x HTTP/1.1",
            "GET http:///x HTTP/1.1",
            "GET http://?x HTTP/1.1",
            "GET http://u@h/ HTTP/1.1",
            "GET http://u:p@h/ HTTP/1.1",
            "GET http://[::1/ HTTP/1.1",
            "GET http://h:x/ HTTP/1.1",
            "GET http://h:65536/ HTTP/1.1",
            "GET ://h/ HTTP/1.1",
            "GET h/ HTTP/1.1",
        ]),
    );
}

#[test]
fn connect_and_trace_get_405_with_allow() {
    let scene = Scene::new();
    scene.rejects(
        405,
        "method_not_allowed",
        &lines(&[
            "CONNECT h:443 HTTP/1.1",
            "CONNECT / HTTP/1.1",
            "TRACE / HTTP/1.1",
            "TRACE * HTTP/1.1",
        ]),
    );
    scene.rejects(
        405,
        "method_not_allowed",
        &["TRACE / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody"],
    );
    let response =
        crate::support::exchange(scene.lb.address(), "TRACE / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(
        response
            .header("Allow")
            .is_some_and(|allow| allow.contains("GET") && !allow.contains("TRACE")),
        "{response:?}"
    );
}

#[test]
fn any_other_method_is_forwarded_case_sensitively() {
    let scene = Scene::new();
    for method in [
        "GET",
        "POST",
        "PUT",
        "PATCH",
        "DELETE",
        "OPTIONS",
        "get",
        "PROPFIND",
        "M-SEARCH",
        "connect",
        "X!#$%&'*+.^_`|~",
    ] {
        scene.serves(&[format!("{method} / HTTP/1.1\r\nHost: h\r\n\r\n")]);
        assert_eq!(scene.origin.requests().pop().expect("it came").method, method);
    }
}
