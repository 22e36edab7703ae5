//! Request heads at the backend: re-serialised, complete, and with nothing that was not received.

use super::lines;
use crate::support::*;
use std::net::IpAddr;

/// The head that the backend saw for this request, as text.
#[track_caller]
fn seen(lb: &Lb, origin: &Origin, request: &str) -> String {
    exchange(lb.address(), request).expect_status(200);
    String::from_utf8(origin.requests().pop().expect("it came").raw_head).expect("it is text")
}

#[test]
fn fields_keep_their_order_their_case_and_their_repetitions() {
    let origin = Origin::responding("x");
    let lb = Lb::over(&[&origin]);
    let head = seen(
        &lb,
        &origin,
        "GET /p%41?q=1&r=|{} HTTP/1.1\r\nB: 1\r\nhOST: example.com:81\r\na: 2\r\nCookie: c=1\r\nB: 3\r\nX-Empty:\r\n\
         X-Spaced:   a \t b  \r\nCookie: d=2\r\nX-Request-Id: mine\r\n\r\n",
    );
    assert_eq!(
        head,
        "GET /p%41?q=1&r=|{} HTTP/1.1\r\nHost: example.com:81\r\nB: 1\r\na: 2\r\nCookie: c=1\r\nB: 3\r\nX-Empty: \r\n\
         X-Spaced: a \t b\r\nCookie: d=2\r\nX-Request-Id: mine\r\nX-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\n\
         X-Forwarded-Host: example.com:81\r\n\r\n"
    );
    assert_eq!(origin.connections(), 1);
    assert_eq!(origin.bytes_received()[0], head.as_bytes(), "these bytes and no others");
}

#[test]
fn hop_by_hop_fields_of_the_client_are_removed() {
    let origin = Origin::responding("x");
    let lb = Lb::over(&[&origin]);
    let head = seen(
        &lb,
        &origin,
        "GET / HTTP/1.1\r\nHost: h\r\nConnection: X-Mine, keep-alive\r\nX-Mine: 1\r\nKeep-Alive: timeout=5\r\nTE: trailers\r\n\
         Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic eA==\r\nUpgrade: h2c\r\nconnection: x-also\r\nX-ALSO: 2\r\n\
         x-mine: 3\r\nX-Yours: 4\r\nTrailer: X-Sum\r\nX-Request-Id: i\r\n\r\n",
    );
    let names: Vec<String> = lines(head.as_bytes())
        .iter()
        .map(|line| line.split(':').next().unwrap_or_default().to_owned())
        .collect();
    let kept = [
        "Host",
        "X-Yours",
        "Trailer",
        "X-Request-Id",
        "X-Forwarded-For",
        "X-Forwarded-Proto",
        "X-Forwarded-Host",
    ];
    assert_eq!(names, kept, "{head}");
}

#[test]
fn connection_options_cannot_remove_framing_host_or_added_fields() {
    let origin = Origin::echo();
    let lb = Lb::over(&[&origin]);
    let named = "close, host, content-length, X-Forwarded-For, X-Forwarded-Proto, X-Forwarded-Host, X-Request-Id, transfer-encoding";
    let head = format!("POST / HTTP/1.1\r\nHost: h\r\nConnection: {named}\r\nX-Request-Id: i\r\n");
    let sized = exchange(lb.address(), format!("{head}Content-Length: 5\r\n\r\nhello"));
    let chunked = exchange(
        lb.address(),
        format!("{head}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
    );
    assert_eq!((sized.text().as_str(), chunked.text().as_str()), ("hello", "hello"));
    for request in origin.requests() {
        assert_eq!(
            (request.header("Host"), request.header("X-Forwarded-Host")),
            (Some("h"), Some("h"))
        );
        assert_eq!(
            (request.header("X-Forwarded-For"), request.header("X-Forwarded-Proto")),
            (Some("127.0.0.1"), Some("http"))
        );
        assert_eq!(
            (request.header("X-Request-Id"), request.header("Connection")),
            (Some("i"), None)
        );
        assert_eq!(request.body, b"hello");
    }
}

#[test]
fn forwarded_fields_from_an_untrusted_peer_are_replaced() {
    let origin = Origin::responding("x");
    let lb = Lb::over(&[&origin]);
    let mut client =
        Client::connect_from("127.0.0.9".parse::<IpAddr>().expect("an address"), lb.address());
    client.send(
        "GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 1.2.3.4\r\nx-forwarded-for: 5.6.7.8\r\nX-Forwarded-Proto: https\r\n\
         X-Forwarded-Host: evil\r\nForwarded: for=1.2.3.4\r\n\r\n",
    );
    client.read_response().expect_status(200);
    let request = origin.only_request();
    assert_eq!(request.headers_named("X-Forwarded-For"), ["127.0.0.9"]);
    assert_eq!(request.headers_named("X-Forwarded-Proto"), ["http"]);
    assert_eq!(request.headers_named("X-Forwarded-Host"), ["h"]);
    assert_eq!(request.header("Forwarded"), None);
}

#[test]
fn forwarded_fields_from_a_trusted_proxy_are_kept_and_appended_to() {
    let origin = Origin::responding("x");
    let lb = Lb::with(&[&origin], |config| {
        config.settings.trusted_proxies = vec!["127.0.0.16/28".parse().expect("a network")];
    });
    let request = "GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-For: 5.6.7.8\r\n\
                   X-Forwarded-Proto: https\r\n\
                   X-Forwarded-Host: front\r\nForwarded: for=1.2.3.4\r\n\r\n";
    for (peer, trusted) in [("127.0.0.17", true), ("127.0.0.15", false), ("127.0.0.32", false)] {
        let mut client = Client::connect_from(peer.parse().expect("an address"), lb.address());
        client.send(request);
        client.read_response().expect_status(200);
        let request = origin.requests().pop().expect("it came");
        let chain = request.headers_named("X-Forwarded-For").join(", ");
        let forwarded = (
            request.header("X-Forwarded-Proto"),
            request.header("X-Forwarded-Host"),
            request.header("Forwarded"),
        );
        match trusted {
            true => {
                assert_eq!(chain, format!("1.2.3.4, 5.6.7.8, {peer}"));
                assert_eq!(forwarded, (Some("https"), Some("front"), Some("for=1.2.3.4")));
            }
            false => {
                assert_eq!(chain, peer);
                assert_eq!(forwarded, (Some("http"), Some("h"), None), "{peer} is not trusted");
            }
        }
    }
}

#[test]
fn forwarded_fields_missing_from_a_trusted_proxy_are_added() {
    let origin = Origin::responding("x");
    let lb = Lb::with(&[&origin], |config| {
        config.settings.trusted_proxies = vec!["127.0.0.0/8".parse().expect("a network")];
    });
    exchange(lb.address(), "GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For:\r\n\r\n")
        .expect_status(200);
    let request = origin.only_request();
    assert_eq!(request.headers_named("X-Forwarded-For"), ["127.0.0.1"]);
    assert_eq!(
        (request.header("X-Forwarded-Proto"), request.header("X-Forwarded-Host")),
        (Some("http"), Some("h"))
    );
}

#[test]
fn a_request_without_an_identifier_gets_one_of_its_own() {
    let origin = Origin::responding("x");
    let lb = Lb::over(&[&origin]);
    let mut client = lb.connect();
    client.get("/");
    client.get("/");
    client.send("GET / HTTP/1.1\r\nHost: h\r\nX-Request-Id:\r\n\r\n");
    client.read_response();
    let made: Vec<String> = origin
        .requests()
        .iter()
        .map(|request| request.headers_named("X-Request-Id").join("+"))
        .collect();
    for id in &made {
        assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{made:?}");
    }
    assert!(made[0] != made[1] && made[1] != made[2] && made[0] != made[2], "{made:?}");
}

#[test]
fn an_absolute_target_is_forwarded_in_origin_form_and_its_host_counts() {
    let origin = Origin::responding("x");
    let lb = Lb::over(&[&origin]);
    for (target, path, host) in [
        ("http://real:81/a?b", "/a?b", "real:81"),
        ("HTTP://real", "/", "real"),
        ("http://real?q=1", "/?q=1", "real"),
        ("http://[::1]:8/", "/", "[::1]:8"),
        ("https://real//x", "//x", "real"),
    ] {
        let head = seen(&lb, &origin, &format!("GET {target} HTTP/1.1\r\nHost: other\r\n\r\n"));
        assert!(
            head.starts_with(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n")),
            "{target} became {head}"
        );
        assert!(
            head.contains(&format!("X-Forwarded-Host: {host}\r\n")) && !head.contains("other"),
            "{target} became {head}"
        );
    }
}

#[test]
fn options_for_the_whole_server_keeps_its_asterisk() {
    let origin = Origin::responding("x");
    let lb = Lb::over(&[&origin]);
    assert!(
        seen(&lb, &origin, "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n")
            .starts_with("OPTIONS * HTTP/1.1\r\nHost: h\r\n")
    );
    assert!(
        seen(&lb, &origin, "OPTIONS http://real HTTP/1.1\r\nHost: h\r\n\r\n")
            .starts_with("OPTIONS * HTTP/1.1\r\nHost: real\r\n")
    );
    assert!(
        seen(&lb, &origin, "OPTIONS http://real/ HTTP/1.1\r\nHost: h\r\n\r\n")
            .starts_with("OPTIONS / HTTP/1.1\r\n")
    );
}

#[test]
fn empty_lines_before_a_request_never_reach_a_backend() {
    let origin = Origin::responding("x");
    let lb = Lb::over(&[&origin]);
    let mut client = lb.connect();
    client.send("\r\n\r\nGET /1 HTTP/1.1\r\nHost: h\r\nX-Request-Id: i\r\n\r\n");
    client.read_response();
    client.send("\r\n");
    stays("an empty line is no request", 10 * super::MS, || {
        client.is_open() && origin.count() == 1
    });
    client.send("\r\nGET /2 HTTP/1.1\r\nHost: h\r\nX-Request-Id: i\r\n\r\n");
    client.read_response();
    let end = "HTTP/1.1\r\nHost: h\r\nX-Request-Id: i\r\nX-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\n\
               X-Forwarded-Host: h\r\n\r\n";
    assert_eq!(
        String::from_utf8_lossy(&origin.bytes_received()[0]),
        format!("GET /1 {end}GET /2 {end}")
    );
}

#[test]
fn only_100_continue_is_forwarded_of_expect() {
    let origin = Origin::responding("x");
    let lb = Lb::over(&[&origin]);
    let head = seen(&lb, &origin, "GET / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n\r\n");
    assert!(!head.contains("Expect"), "there is no body to wait for: {head}");
    let rejected = exchange(
        lb.address(),
        "POST / HTTP/1.1\r\nHost: h\r\nExpect: magic\r\nContent-Length: 1\r\n\r\nx",
    );
    assert_eq!(
        (rejected.status, rejected.header("X-LB-Error")),
        (417, Some("expectation_unknown"))
    );
    assert_eq!(origin.count(), 1);
}
