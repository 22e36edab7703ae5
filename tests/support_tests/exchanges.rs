//! The bytes between the client and an origin: requests, responses, bodies, and the ends of
//! connections.

use std::thread;

use super::{GET, MS, panic_of};
use crate::support::*;

#[test]
fn a_responding_origin_responds_and_records() {
    let origin = Origin::responding("hello");
    let mut client = Client::connect(origin.address());
    let response =
        client.exchange("GET /a?b HTTP/1.1\r\nHost: x\r\nX-Two: 1\r\nx-two:  2 \r\n\r\n");
    assert_eq!((response.status, response.text().as_str()), (200, "hello"));
    assert_eq!(response.reason, "Scripted");
    assert!(!response.truncated);
    let request = origin.only_request();
    assert_eq!(
        (request.method.as_str(), request.target.as_str(), request.version.as_str()),
        ("GET", "/a?b", "HTTP/1.1")
    );
    assert_eq!(request.header("HOST"), Some("x"));
    assert_eq!(request.headers_named("X-Two"), ["1", "2"]);
    assert_eq!(request.raw_head, b"GET /a?b HTTP/1.1\r\nHost: x\r\nX-Two: 1\r\nx-two:  2 \r\n\r\n");
    assert!(request.complete);
    assert_eq!(client.get("/second").text(), "hello");
    assert_eq!((origin.connections(), origin.open_connections(), origin.count()), (1, 1, 2));
    assert_eq!((origin.requests()[1].connection, origin.requests()[1].index), (0, 1));
    assert!(client.is_open());
    drop(client);
    assert_eq!(origin.wait_for_ending(0), Ending::PeerClosed);
    assert_eq!(origin.open_connections(), 0);
}

#[test]
fn get_closes_after_its_response_and_head_has_no_body() {
    let origin = Origin::named("one");
    let response = get(origin.address(), "/");
    assert!(response.announces_close());
    assert_eq!((response.text().as_str(), response.header("x-origin")), ("one", Some("one")));
    assert_eq!(origin.wait_for_ending(0), Ending::Closed);
    let mut client = Client::connect(origin.address());
    let response = client.exchange("HEAD / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!((response.header("content-length"), response.body.len()), (Some("3"), 0));
    assert_eq!(client.get("/").text(), "one");
}

#[test]
fn an_echo_keeps_the_framing_and_the_trailers() {
    let origin = Origin::echo();
    let mut client = Client::connect(origin.address());
    let sized = client.exchange("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc");
    assert_eq!((sized.framing, sized.text().as_str()), (Framing::Length(3), "abc"));
    let mut request = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    let body = chunked_with_trailers(
        &[b"abc", b"defghijklmnopqrstuvwxyz"],
        &[("X-Sum".to_owned(), "9".to_owned())],
    );
    request.extend_from_slice(&body);
    for size in [1, 2, 3, 7, 50] {
        client.send_in_pieces(&request, std::iter::repeat(size));
        let echoed = client.read_response();
        assert_eq!(
            (echoed.framing, echoed.text().as_str()),
            (Framing::Chunked, "abcdefghijklmnopqrstuvwxyz")
        );
        assert_eq!(echoed.trailers, [("X-Sum".to_owned(), "9".to_owned())]);
        assert_eq!(origin.requests().last().expect("it works").raw_body, body);
    }
    let empty = client
        .exchange("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    assert_eq!((empty.body.len(), empty.raw_body.as_slice()), (0, &b"0\r\n\r\n"[..]));
    assert_eq!(chunked(["ab", "c"]), b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n");
}

#[test]
fn large_bodies_pass_both_ways_at_once() {
    let origin = Origin::start(Script::serve_heads(|_, reply| {
        reply.send(b"HTTP/1.1 200 OK\r\nContent-Length: 20000000\r\n\r\n");
        reply.send(vec![b'x'; 20_000_000]);
    }));
    let mut request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 20000000\r\n\r\n".to_vec();
    request.resize(request.len() + 20_000_000, b'y');
    let mut client = Client::connect(origin.address());
    assert_eq!(client.exchange(&request).body.len(), 20_000_000);
    assert_eq!(client.get("/next").body.len(), 20_000_000);
    assert_eq!(origin.requests()[0].body.len(), 20_000_000);
    assert!(origin.requests()[0].complete);
}

#[test]
fn expect_continue_gets_an_interim_response() {
    let origin = Origin::echo();
    let mut client = Client::connect(origin.address());
    client.send("POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    assert_eq!(client.read_interim().status, 100);
    client.send("ok");
    assert_eq!(client.read_response().text(), "ok");

    let early = b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n";
    let origin = Origin::raw(early, After::Keep);
    let mut client = Client::connect(origin.address());
    let response = client.get("/");
    assert_eq!(
        (response.status, response.interim.len(), response.interim[0].header("link")),
        (204, 1, Some("<a>"))
    );
    assert_eq!(client.get("/again").status, 204);
}

#[test]
fn raw_responses_end_by_their_framing() {
    let close_delimited = Origin::raw("HTTP/1.0 200 OK\r\n\r\nto the end", After::Close);
    let response = exchange(close_delimited.address(), GET);
    assert_eq!(
        (response.framing, response.text().as_str(), response.truncated),
        (Framing::ToEnd, "to the end", false)
    );

    for cut in [
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort",
    ] {
        let origin = Origin::raw(cut, After::Close);
        let response = exchange(origin.address(), GET);
        assert_eq!((response.text().as_str(), response.truncated), ("short", true));
    }
    let origin = Origin::raw("anything", After::Close);
    assert_eq!(raw_exchange(origin.address(), GET), b"anything");
    assert_eq!(origin.bytes_received(), [GET.as_bytes()]);
}

#[test]
fn malformed_responses_fail_the_test_and_show_the_bytes() {
    for (raw, complaint) in [
        ("HTTP/1.1 2x0 OK\r\n\r\n", "not a status line"),
        ("HTTP/1.1 200 OK\r\nA : b\r\n\r\n", "not a field name"),
        ("HTTP/1.1 200 OK\r\nA: b\nC: d\r\n\r\n", "a control character"),
        ("HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n12345", "not a framing"),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "not a framing",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n",
            "not a chunk size",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n",
            "ends with CRLF",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
            "after a chunk's data",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
            "chunk size",
        ),
        ("HTTP/1.1 200 OK\r\nCont", "End instead of a response's head"),
    ] {
        let origin = Origin::raw(raw, After::Close);
        let message = panic_of(|| drop(exchange(origin.address(), GET)));
        assert!(
            message.contains(complaint) && message.contains("HTTP/1.1 2"),
            "{raw:?} gave {message:?}"
        );
    }
}

#[test]
fn the_client_distinguishes_a_reset_from_an_orderly_end() {
    let origin = Origin::start([Step::ReadHead, Step::Reset]);
    let mut client = Client::connect(origin.address());
    client.send(GET);
    assert_eq!(client.comes_next(), Next::Reset);
    assert!(!client.at_end() && !client.is_open());
    assert_eq!(origin.wait_for_ending(0), Ending::Reset);

    let origin = Origin::start([Step::ReadHead, Step::send("abc"), Step::Reset]);
    let mut client = Client::connect(origin.address());
    client.send(GET);
    assert_eq!(client.read_until_closed(), (b"abc".to_vec(), Next::Reset));
    assert_eq!(client.comes_next(), Next::Reset);
    let message = panic_of(|| drop(raw_exchange(origin.address(), GET)));
    assert!(message.contains("was reset") && message.contains("abc"), "{message}");

    let origin = Origin::start([Step::ReadHead, Step::Close]);
    let mut client = Client::connect(origin.address());
    client.send(format!("{GET}and unread bytes"));
    assert!(client.at_end());
    assert!(client.try_response().is_none());
    assert_eq!(origin.wait_for_ending(0), Ending::Closed);
    assert_eq!(origin.bytes_received()[0].len(), GET.len() + "and unread bytes".len());
}

#[test]
fn a_reset_reported_to_the_sending_thread_is_not_lost() {
    let origin = Origin::start([Step::ReadHead, Step::Pause(20 * MS), Step::Reset]);
    let mut request = b"POST / HTTP/1.1\r\nContent-Length: 90000000\r\n\r\n".to_vec();
    request.resize(90_000_000, b'x');
    let message = panic_of(|| drop(raw_exchange(origin.address(), &request)));
    assert!(message.contains("reset"), "{message}");
}

#[test]
fn the_origin_sees_how_its_peer_ends() {
    let origin = Origin::start([Step::ReadHead, Step::Hang]);
    let mut client = Client::connect(origin.address());
    client.send(GET);
    origin.wait_for_requests(1);
    client.send("discarded");
    until("the bytes came", || origin.bytes_received()[0].ends_with(b"discarded"));
    client.reset();
    assert_eq!(origin.wait_for_ending(0), Ending::PeerReset);
    let mut client = Client::connect(origin.address());
    client.send(GET);
    client.shutdown_write();
    assert_eq!(origin.wait_for_ending(1), Ending::PeerClosed);
    assert!(client.at_end());

    let stalled = Origin::start([Step::ReadHead, Step::Stall]);
    for reset in [true, false] {
        let mut client = Client::connect(stalled.address());
        client.send(GET);
        stalled.wait_for_requests(1);
        if reset {
            client.reset();
            assert_eq!(stalled.wait_for_ending(0), Ending::PeerReset);
        } else {
            drop(client);
            assert_eq!(stalled.wait_for_ending(1), Ending::PeerClosed);
        }
    }
}

#[test]
fn two_hundred_clients_at_once_are_all_recorded() {
    let origin = Origin::echo();
    let address = origin.address();
    let clients: Vec<_> = (0..200)
        .map(|number| {
            thread::spawn(move || {
                let body = format!("client {number}");
                let request = format!(
                    "POST / HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                );
                assert_eq!(exchange(address, request).text(), body);
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().expect("it works"));
    assert_eq!((origin.count(), origin.connections()), (200, 200));
    until("all have ended", || origin.open_connections() == 0);
}
