//! Bodies in small pieces: received bytes are forwarded at once, in both directions, and responses
//! may come early.

use super::wait_until_free;
use crate::support::*;
use lb_threads::reason::Reason;
use std::time::{Duration, Instant};

/// Sends a piece, waits for the gate, sends the rest. The client must see the piece while the
/// origin waits.
fn piece_leaves_at_once(head: &str, first: &str, rest: &str, seen: &str) {
    let gate = Gate::new();
    let mut steps = vec![
        Step::ReadRequest,
        Step::send(format!("{head}\r\n\r\n{first}")),
        Step::WaitFor(gate.clone()),
        Step::send(rest),
    ];
    if !head.contains("Transfer") && !head.contains("Length") {
        steps.push(Step::Close);
    }
    let origin = Origin::start(steps);
    let lb = Lb::over(&[&origin]);
    let mut client = lb.connect();
    client.send(super::GET);
    client.read_until(seen);
    gate.open();
    client.read_until("second");
}

#[test]
fn a_small_piece_of_a_chunked_response_is_forwarded_at_once() {
    piece_leaves_at_once(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked",
        "7\r\nfirst\r\n\r\n",
        "6\r\nsecond\r\n0\r\n\r\n",
        "7\r\nfirst\r\n\r\n",
    );
}

#[test]
fn half_a_chunk_is_forwarded_at_once() {
    piece_leaves_at_once(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked",
        "b\r\nfirst",
        "second\r\n0\r\n\r\n",
        "5\r\nfirst\r\n",
    );
}

#[test]
fn a_small_piece_of_a_response_with_a_length_is_forwarded_at_once() {
    piece_leaves_at_once(
        "HTTP/1.1 200 OK\r\nContent-Length: 11",
        "first",
        "second",
        "\r\n\r\nfirst",
    );
    piece_leaves_at_once(
        "HTTP/1.1 200 OK\r\nContent-Length: 1000000",
        "first",
        "second",
        "\r\n\r\nfirst",
    );
}

#[test]
fn a_small_piece_of_a_close_delimited_response_is_forwarded_at_once() {
    piece_leaves_at_once("HTTP/1.1 200 OK", "first", "second", "5\r\nfirst\r\n");
}

#[test]
fn the_head_alone_is_forwarded_at_once() {
    piece_leaves_at_once(
        "HTTP/1.1 200 OK\r\nContent-Length: 6",
        "",
        "second",
        "Content-Length: 6\r\n",
    );
    piece_leaves_at_once(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked",
        "",
        "6\r\nsecond\r\n0\r\n\r\n",
        "\r\n\r\n",
    );
}

#[test]
fn server_sent_events_arrive_one_by_one() {
    let gates: Vec<Gate> = (0..5).map(|_| Gate::new()).collect();
    let waited = gates.clone();
    let origin = Origin::serve(move |_, reply| {
        reply.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
        for (number, gate) in waited.iter().enumerate() {
            reply.step(&Step::WaitFor(gate.clone()));
            reply.send(format!("9\r\ndata: {number}\n\n\r\n"));
        }
        reply.send("0\r\n\r\n");
    });
    let lb = Lb::over(&[&origin]);
    let mut client = lb.connect();
    client.send(super::GET);
    client.read_until("\r\n\r\n");
    for (number, gate) in gates.iter().enumerate() {
        gate.open();
        assert_eq!(
            client.read_until("\n\n\r\n"),
            format!("9\r\ndata: {number}\n\n\r\n").as_bytes()
        );
    }
    assert_eq!(client.read_until("\r\n\r\n"), b"0\r\n\r\n");
}

#[test]
fn small_pieces_of_an_upload_reach_the_backend_at_once() {
    let origin = Origin::echo();
    let lb = Lb::over(&[&origin]);
    for (head, pieces) in [
        ("Content-Length: 11", ["first", "second"]),
        ("Transfer-Encoding: chunked", ["5\r\nfirst\r\n", "6\r\nsecond\r\n0\r\n\r\n"]),
        ("Transfer-Encoding: chunked", ["b\r\nfirst", "second\r\n0\r\n\r\n"]),
    ] {
        let before = origin.count();
        let mut client = lb.connect();
        client.send(format!("POST / HTTP/1.1\r\nHost: h\r\n{head}\r\n\r\n"));
        origin.wait_for_requests(before + 1);
        client.send(pieces[0]);
        until("the piece is at the backend", || origin.requests()[before].body == b"first");
        client.send(pieces[1]);
        assert_eq!(client.read_response().text(), "firstsecond");
    }
}

#[test]
fn an_early_response_is_forwarded_at_once_and_the_connection_closed() {
    let origin = Origin::start(Script::serve_heads(|_, reply| {
        reply.respond(413, &[("Connection", "close")], "too much");
        reply.step(&Step::Close);
    }));
    let lb = Lb::over(&[&origin]);
    for head in ["Content-Length: 1000000", "Transfer-Encoding: chunked"] {
        let mut client = lb.connect();
        client.send(format!("POST / HTTP/1.1\r\nHost: h\r\n{head}\r\n\r\n"));
        let response = client.read_response();
        assert_eq!(
            (response.status, response.text().as_str(), response.announces_close()),
            (413, "too much", true)
        );
        assert!(client.at_end());
    }
    lb.wait_for_closed(Reason::EarlyResponse, 2);
    wait_until_free(&lb);
    assert_eq!(lb.totals().retries, 0);
}

#[test]
fn an_early_response_is_not_lost_while_the_client_still_sends() {
    let origin = Origin::start(Script::serve_heads(|_, reply| {
        reply.respond(403, &[], "forbidden");
        reply.step(&Step::Close);
    }));
    let lb = Lb::over(&[&origin]);
    for length in [10, 10_000, 200_000] {
        let mut client = lb.connect();
        let request = super::post(&super::noise(length));
        let (first, second) = request.split_at(request.len() - 10);
        client.send(first);
        assert_eq!(client.read_response().expect_status(403).text(), "forbidden");
        // Panics after a reset.
        client.send_in_pieces(second, [1; 10]);
        assert!(client.at_end(), "{length} bytes");
    }
    lb.wait_for_closed(Reason::EarlyResponse, 3);
}

#[test]
fn a_response_sent_before_the_backend_closed_wins_over_the_error() {
    // The origin responds, and resets the connection during the upload.
    let origin = Origin::start([
        Step::ReadHead,
        Step::send(response(400, &[("Connection", "close")], "bad form")),
        Step::Reset,
    ]);
    let lb = Lb::over(&[&origin]);
    for _ in 0..10 {
        let response = exchange(lb.address(), super::post(&super::noise(150_000)));
        assert_eq!((response.status, response.text().as_str()), (400, "bad form"));
    }
    assert_eq!(lb.totals().retries, 0);
}

#[test]
fn an_upload_continues_while_an_early_response_streams() {
    let origin = Origin::start([
        Step::ReadHead,
        Step::send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n"),
        Step::ReadBody,
        Step::send("6\r\nsecond\r\n0\r\n\r\n"),
    ]);
    let lb = Lb::over(&[&origin]);
    let body = super::noise(400_000);
    let mut client = lb.connect();
    let request = super::post(&body);
    client.send(&request[..1_000]);
    let mut response = client.read_head();
    assert!(response.announces_close());
    assert_eq!(client.read_exactly(10), b"5\r\nfirst\r\n");
    client.send(&request[1_000..]);
    client.read_body_to("GET", &mut response);
    assert_eq!((response.text().as_str(), response.truncated), ("second", false));
    assert!(origin.only_request().body == body);
    assert!(client.at_end());
    drop(client);
    lb.wait_for_closed(Reason::ClosedAfterResponse, 1);
}

/// The limit for a hundred exchanges in two pieces each: less than a hundred delayed
/// acknowledgements (40 ms each), which every second piece would wait for if a socket on the way
/// held it back, and far more than they need.
const HUNDRED_EXCHANGES: Duration = Duration::from_millis(2_500);

#[test]
fn no_piece_of_a_response_waits_for_a_delayed_acknowledgement() {
    let origin = Origin::serve(|_, reply| {
        reply.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na");
        reply.step(&Step::Pause(super::MS));
        reply.send("b");
    });
    let lb = Lb::over(&[&origin]);
    let mut client = lb.connect();
    let since = Instant::now();
    for _ in 0..100 {
        assert_eq!(client.get("/").text(), "ab");
    }
    assert!(since.elapsed() < HUNDRED_EXCHANGES, "they took {:?}", since.elapsed());
}

#[test]
fn no_piece_of_an_upload_waits_for_a_delayed_acknowledgement() {
    let origin = Origin::echo();
    let lb = Lb::over(&[&origin]);
    let mut client = lb.connect();
    let since = Instant::now();
    for number in 1..=100 {
        client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\na");
        origin.wait_for_requests(number);
        client.send("b");
        assert_eq!(client.read_response().text(), "ab");
    }
    assert!(since.elapsed() < HUNDRED_EXCHANGES, "they took {:?}", since.elapsed());
}
