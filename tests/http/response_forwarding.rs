//! Responses at the client: re-serialised heads, and bodies only where the framing allows one.

use super::{GET, IDENTIFIED, get_identified, lines};
use crate::support::*;
use lb_threads::reason::Reason;

/// The head that the client gets for this response, as text.
#[track_caller]
fn forwarded(raw: &str) -> String {
    let origin = Origin::raw(raw, After::Close);
    let lb = Lb::over(&[&origin]);
    String::from_utf8(exchange(lb.address(), IDENTIFIED).raw_head).expect("it is text")
}

#[test]
fn fields_keep_their_order_their_case_and_their_repetitions() {
    let head = forwarded(
        "HTTP/1.1 299 Quite Fine, (really)\r\nSet-Cookie: a=1\r\nDATE: yesterday\r\nx-b:  2 \r\nSet-Cookie: c=3\r\n\
         server: mine\r\n\
         set-cookie: d=4\r\nContent-Length: 2\r\nX-Empty:\r\n\r\nok",
    );
    assert_eq!(
        head,
        "HTTP/1.1 299 Quite Fine, (really)\r\nSet-Cookie: a=1\r\nDATE: yesterday\r\nx-b: 2\r\nSet-Cookie: c=3\r\nserver: mine\r\n\
         set-cookie: d=4\r\nContent-Length: 2\r\nX-Empty: \r\nX-Request-Id: i\r\n\r\n"
    );
}

#[test]
fn hop_by_hop_fields_of_the_backend_are_removed() {
    let head = forwarded(
        "HTTP/1.1 200 OK\r\nConnection: close, X-Mine\r\nX-Mine: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: close\r\n\
         Upgrade: h2c\r\nProxy-Authenticate: Basic\r\nconnection: x-also\r\nX-ALSO: 2\r\nX-Yours: 3\r\nDate: d\r\n\
         Content-Length: 2\r\n\r\nok",
    );
    assert_eq!(
        head,
        "HTTP/1.1 200 OK\r\nX-Yours: 3\r\nDate: d\r\nContent-Length: 2\r\nX-Request-Id: i\r\n\r\n"
    );
}

#[test]
fn a_426_keeps_its_upgrade_field() {
    let rows = [
        ("Connection: Upgrade\r\nUpgrade: TLS/1.0, HTTP/1.1\r\n", "Upgrade: TLS/1.0, HTTP/1.1\r\n"),
        ("Upgrade: a/1\r\nUpgrade: b\r\n", "Upgrade: a/1\r\nUpgrade: b\r\n"),
        (
            "Connection: close, upgrade, x-mine\r\nX-Mine: 1\r\nupgrade: websocket\r\n",
            "upgrade: websocket\r\n",
        ),
    ];
    for (received, kept) in rows {
        let rest = "Date: d\r\nContent-Length: 2\r\n";
        let origin = Origin::raw(
            format!("HTTP/1.1 426 Upgrade Required\r\n{received}{rest}\r\nno"),
            After::Close,
        );
        let lb = Lb::over(&[&origin]);
        let clients = [
            ("HTTP/1.1\r\nHost: h", "Connection: Upgrade\r\n"),
            ("HTTP/1.1\r\nHost: h\r\nConnection: close", "Connection: close, Upgrade\r\n"),
            ("HTTP/1.0", "Connection: close, Upgrade\r\n"),
            ("HTTP/1.0\r\nConnection: keep-alive", "Connection: keep-alive, Upgrade\r\n"),
        ];
        for (version, connection) in clients {
            let head =
                exchange(lb.address(), format!("GET / {version}\r\nX-Request-Id: i\r\n\r\n"))
                    .raw_head;
            let expected = format!(
                "HTTP/1.1 426 Upgrade Required\r\n{kept}{rest}X-Request-Id: i\r\n{connection}\r\n"
            );
            assert_eq!(String::from_utf8_lossy(&head), expected, "{received} for {version}");
        }
    }
    let head = forwarded("HTTP/1.1 426 Upgrade Required\r\nDate: d\r\nContent-Length: 2\r\n\r\nno");
    assert_eq!(
        head,
        "HTTP/1.1 426 Upgrade Required\r\nDate: d\r\nContent-Length: 2\r\nX-Request-Id: i\r\n\r\n",
        "nothing is made up"
    );
}

#[test]
fn connection_options_cannot_remove_the_framing_of_a_response() {
    let origin = Origin::raw(
        "HTTP/1.1 200 OK\r\nConnection: content-length, date\r\nDate: d\r\nContent-Length: 2\r\n\r\nok",
        After::Keep,
    );
    let lb = Lb::over(&[&origin]);
    let mut client = lb.connect();
    for _ in 0..2 {
        let response = client.get("/");
        assert_eq!((response.framing, response.text().as_str()), (Framing::Length(2), "ok"));
        assert_eq!(response.header("Date"), Some("d"));
    }
}

#[test]
fn a_response_without_a_date_gets_one() {
    let head = forwarded("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let lines = lines(head.as_bytes());
    assert_eq!(lines.len(), 3, "{head}");
    assert!(lines[1].starts_with("Date: ") && lines[1].ends_with(" GMT"), "{head}");
}

#[test]
fn a_status_line_needs_no_reason_phrase() {
    assert!(
        forwarded("HTTP/1.1 200 \r\nDate: d\r\nContent-Length: 2\r\n\r\nok")
            .starts_with("HTTP/1.1 200 \r\n")
    );
    assert!(
        forwarded("HTTP/1.0 404 Not\tfound\r\nDate: d\r\nContent-Length: 2\r\n\r\nok")
            .starts_with("HTTP/1.1 404 Not\tfound\r\n")
    );
}

#[test]
fn the_response_to_head_keeps_its_length_and_has_no_body() {
    let origin = Origin::serve(|request, reply| match request.target.as_str() {
        "/sized" => reply.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"),
        "/chunked" => reply.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        "/open" => reply.send("HTTP/1.1 200 OK\r\nX: y\r\n\r\n"),
        _ => reply.ok("after"),
    });
    let lb = Lb::over(&[&origin]);
    let mut client = lb.connect();
    for (target, length) in [("/sized", Some("1000000")), ("/chunked", None), ("/open", None)] {
        client.send(format!("HEAD {target} HTTP/1.1\r\nHost: h\r\n\r\n"));
        let response = client.read_response_to("HEAD");
        assert_eq!(
            (response.status, response.header("Content-Length"), response.announces_close()),
            (200, length, false),
            "{target}"
        );
        assert_eq!(
            client.get("/after").text(),
            "after",
            "the connection is in sync after {target}"
        );
    }
    assert_eq!((origin.connections(), origin.count()), (1, 6), "and so is the backend's");
}

#[test]
fn responses_without_a_body_end_with_their_head() {
    let origin = Origin::serve(|request, reply| match request.target.as_str() {
        "/204" => reply.send("HTTP/1.1 204 No Content\r\nDate: d\r\n\r\n"),
        "/204-length" => {
            reply.send("HTTP/1.1 204 No Content\r\nDate: d\r\nContent-Length: 0\r\n\r\n");
        }
        "/304" => reply.send(
            "HTTP/1.1 304 Not Modified\r\nDate: d\r\nContent-Length: 1000\r\nETag: \"x\"\r\n\r\n",
        ),
        "/304-chunked" => {
            reply
                .send("HTTP/1.1 304 Not Modified\r\nDate: d\r\nTransfer-Encoding: chunked\r\n\r\n");
        }
        "/empty" => reply.send("HTTP/1.1 200 OK\r\nDate: d\r\nContent-Length: 0\r\n\r\n"),
        _ => reply.ok("after"),
    });
    let lb = Lb::over(&[&origin]);
    let mut client = lb.connect();
    for (target, head) in [
        ("/204", "HTTP/1.1 204 No Content\r\nDate: d\r\nX-Request-Id: i\r\n\r\n"),
        ("/204-length", "HTTP/1.1 204 No Content\r\nDate: d\r\nX-Request-Id: i\r\n\r\n"),
        (
            "/304",
            "HTTP/1.1 304 Not Modified\r\nDate: d\r\nContent-Length: 1000\r\nETag: \"x\"\r\n\
             X-Request-Id: i\r\n\r\n",
        ),
        ("/304-chunked", "HTTP/1.1 304 Not Modified\r\nDate: d\r\nX-Request-Id: i\r\n\r\n"),
        ("/empty", "HTTP/1.1 200 OK\r\nDate: d\r\nContent-Length: 0\r\nX-Request-Id: i\r\n\r\n"),
    ] {
        let response = get_identified(&mut client, target);
        assert_eq!(String::from_utf8_lossy(&response.raw_head), head, "{target}");
        assert_eq!(
            client.get("/after").text(),
            "after",
            "the connection is in sync after {target}"
        );
    }
    assert_eq!((origin.connections(), lb.totals().backend_connects), (1, 1));
}

#[test]
fn a_close_delimited_response_is_chunked_and_the_client_stays_connected() {
    let origin = Origin::raw("HTTP/1.1 200 OK\r\nDate: d\r\n\r\nto the end", After::Close);
    let lb = Lb::over(&[&origin]);
    let mut client = lb.connect();
    for _ in 0..3 {
        let response = get_identified(&mut client, "/");
        assert_eq!(
            String::from_utf8_lossy(&response.raw_head),
            "HTTP/1.1 200 OK\r\nDate: d\r\nX-Request-Id: i\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
        assert_eq!((response.text().as_str(), response.truncated), ("to the end", false));
    }
    assert_eq!((origin.connections(), lb.totals().backend_reuses), (3, 0));
    assert!(client.is_open());
}

#[test]
fn connection_close_from_the_client_is_honoured() {
    let origin = Origin::responding("x");
    let lb = Lb::with(&[&origin], |config| config.boot.workers = 1);
    for connection in ["close", "Close", "x, CLOSE", "keep-alive, close"] {
        let mut client = lb.connect();
        client.send(format!("GET / HTTP/1.1\r\nHost: h\r\nConnection: {connection}\r\n\r\n{GET}"));
        let response = client.read_response();
        assert!(response.announces_close() && client.at_end(), "{connection}");
    }
    lb.wait_for_closed(Reason::ClosedAfterResponse, 4);
    assert_eq!(
        (origin.count(), origin.connections()),
        (4, 1),
        "no request after the last one is served; the backend connection stays open"
    );
}

#[test]
fn a_connection_option_that_only_contains_close_closes_nothing() {
    let origin = Origin::responding("x");
    let lb = Lb::over(&[&origin]);
    let mut client = lb.connect();
    client.send("GET / HTTP/1.1\r\nHost: h\r\nConnection: x-close, closed\r\n\r\n");
    assert!(!client.read_response().announces_close());
    assert_eq!(client.get("/").text(), "x");
}

#[test]
fn a_backend_that_closes_its_connection_does_not_close_the_clients() {
    let origin = Origin::raw(
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        After::Close,
    );
    let lb = Lb::over(&[&origin]);
    let mut client = lb.connect();
    for _ in 0..3 {
        let response = client.get("/");
        assert_eq!((response.text().as_str(), response.announces_close()), ("ok", false));
    }
    assert_eq!((origin.connections(), lb.totals().backend_reuses, lb.totals().retries), (3, 0, 0));
}
