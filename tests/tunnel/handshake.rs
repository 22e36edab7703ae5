//! The upgrade handshake: requests that are not forwarded as upgrades, and responses that reject
//! one.

use super::{ASK, agreeing};
use crate::support::*;
use lb_threads::error::Cause;

#[test]
fn a_rejected_upgrade_is_an_ordinary_response() {
    let origin = Origin::serve(|request, reply| match request.target.as_str() {
        "/chat" => reply.respond(400, &[("Sec-WebSocket-Version", "99")], "not now"),
        _ => reply.ok("plain"),
    });
    let lb = Lb::over(&[&origin]);
    let mut client = lb.connect();
    for _ in 0..2 {
        client.send(ASK);
        let response = client.read_response();
        assert_eq!(
            (response.status, response.text().as_str(), response.announces_close()),
            (400, "not now", false)
        );
        assert_eq!(client.get("/").text(), "plain");
    }
    client.send(ASK.replace("/chat", "/other"));
    assert_eq!(client.read_response().expect_status(200).text(), "plain");
    assert_eq!((origin.connections(), origin.count()), (1, 5));
    assert!(origin.requests()[1].header("Upgrade").is_none());
}

#[test]
fn an_upgrade_to_another_protocol_is_not_forwarded() {
    let origin = Origin::responding("plain");
    let lb = Lb::over(&[&origin]);
    let mut client = lb.connect();
    for fields in [
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
        "Connection: upgrade\r\nUpgrade: TLS/1.2\r\n",
        "Connection: upgrade\r\nUpgrade: websocketx\r\n",
        // Named in one field only: that is no request to switch.
        "Upgrade: websocket\r\n",
        "Connection: upgrade\r\n",
    ] {
        client.send(format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n"));
        assert_eq!(client.read_response().expect_status(200).text(), "plain");
        let request = origin.requests().pop().expect("it came");
        for name in ["Connection", "Upgrade", "HTTP2-Settings"] {
            assert_eq!(request.header(name), None, "{fields:?}");
        }
    }
}

#[test]
fn only_a_get_of_http_1_1_without_a_body_can_be_upgraded() {
    let origin = Origin::responding("plain");
    let lb = Lb::over(&[&origin]);
    let upgrade = "Host: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n";
    for (line, rest) in [
        ("GET / HTTP/1.0", "\r\n"),
        ("POST / HTTP/1.1", "\r\n"),
        ("POST / HTTP/1.1", "Content-Length: 2\r\n\r\nhi"),
        ("GET / HTTP/1.1", "Content-Length: 2\r\n\r\nhi"),
        ("GET / HTTP/1.1", "Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"),
    ] {
        let response = exchange(lb.address(), format!("{line}\r\n{upgrade}{rest}"));
        assert_eq!(response.expect_status(200).text(), "plain");
        let request = origin.requests().pop().expect("it came");
        assert_eq!(
            (request.header("Upgrade"), request.header("Connection")),
            (None, None),
            "{line} {rest:?}"
        );
    }
}

#[test]
fn of_several_protocols_only_websocket_is_forwarded() {
    let origin = agreeing([Step::Hang]);
    let lb = Lb::over(&[&origin]);
    let mut client = lb.connect();
    client.send(
        "GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: h2c, WebSocket\r\n\r\n",
    );
    client.read_head().expect_status(101);
    assert_eq!(origin.only_request().headers_named("Upgrade"), ["websocket"]);
}

#[test]
fn a_101_for_another_protocol_is_a_bad_response() {
    for head in [
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket, h2c\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nUpgrade: websocket\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\n\r\n",
    ] {
        let origin =
            Origin::start([Step::ReadHead, Step::send(format!("{head}tunnel")), Step::Hang]);
        let lb = Lb::over(&[&origin]);
        let response = exchange(lb.address(), ASK);
        assert_eq!(
            (response.status, response.header("X-LB-Error")),
            (502, Some("bad_response")),
            "{head:?}"
        );
        origin.wait_for_ending(0);
        assert_eq!(lb.totals().failed(Cause::BadResponse), 1);
    }
}
