//! Bodies both ways: whole, by their framing, whatever their size.

use super::{in_chunks, noise, post, post_chunked};
use crate::support::*;
use lb_threads::reason::Reason;

const MEGABYTE: usize = 1_000_000;

#[test]
fn a_body_with_a_length_passes_both_ways_with_its_length() {
    let origin = Origin::echo();
    let lb = Lb::over(&[&origin]);
    let mut client = lb.connect();
    for length in [0, 1, 5, 1_000, 32 * 1024, 65_535, 65_536, 65_537, 200_000] {
        let body = noise(length);
        let response = client.exchange(post(&body));
        assert_eq!(response.framing, Framing::Length(length as u64));
        assert!(response.body == body, "{length} bytes came back changed");
        let request = origin.requests().pop().expect("it came");
        assert_eq!((request.framing, request.body == body), (Framing::Length(length as u64), true));
    }
    assert_eq!(origin.connections(), 1);
}

#[test]
fn a_chunked_body_passes_both_ways_in_chunks() {
    let origin = Origin::echo();
    let lb = Lb::over(&[&origin]);
    let mut client = lb.connect();
    for (length, sizes) in [
        (0, [1, 1]),
        (1, [1, 1]),
        (26, [3, 7]),
        (5_000, [1, 2]),
        (200_000, [10_000, 1]),
        (300_000, [70_000, 33_000]),
    ] {
        let body = noise(length);
        let response = client.exchange(post_chunked(&body, &sizes));
        assert_eq!(response.framing, Framing::Chunked);
        assert!(response.body == body, "{length} bytes in chunks of {sizes:?} came back changed");
        let request = origin.requests().pop().expect("it came");
        assert_eq!((request.framing, request.body == body), (Framing::Chunked, true));
    }
    assert_eq!(origin.connections(), 1);
}

#[test]
fn chunk_extensions_are_dropped_and_sizes_re_encoded_in_both_directions() {
    let raw = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0005;a=b\r\nhello\r\n0A ;c=\"d;e\"\r\n\
                  , world...\r\n000;end\r\n\r\n";
    let origin = Origin::raw(raw, After::Keep);
    let lb = Lb::over(&[&origin]);
    let mut client = lb.connect();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0003;a=b\r\nabc\r\n00;end\r\n\r\n");
    let response = client.read_response();
    assert_eq!(response.raw_body, b"5\r\nhello\r\na\r\n, world...\r\n0\r\n\r\n");
    assert_eq!(origin.only_request().raw_body, b"3\r\nabc\r\n0\r\n\r\n");
}

#[test]
fn trailers_pass_both_ways_in_order() {
    let trailers = "X-Sum: 1\r\nx-b:  2 \r\nX-Sum: 3\r\n";
    let origin = Origin::raw(
        format!(
            "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n{trailers}\r\n"
        ),
        After::Keep,
    );
    let lb = Lb::over(&[&origin]);
    let mut client = lb.connect();
    client.send(format!(
        "POST / HTTP/1.1\r\nHost: h\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n{trailers}\r\n"
    ));
    let response = client.read_response();
    let request = origin.only_request();
    let passed = [("X-Sum", "1"), ("x-b", "2"), ("X-Sum", "3")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(response.trailers, passed);
    assert_eq!(request.trailers, passed);
    assert_eq!(
        (response.header("Trailer"), request.header("Trailer")),
        (Some("X-Sum"), Some("X-Sum"))
    );
    assert_eq!(client.get("/").text(), "ok", "the connection is in step");
}

#[test]
fn trailers_that_frame_route_or_authorise_are_dropped_in_both_directions() {
    let forbidden = "Content-Length: 9\r\nTransfer-Encoding: chunked\r\nHost: evil\r\nConnection: close\r\nKeep-Alive: x\r\n\
                     X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Host: evil\r\nX-Forwarded-Proto: https\r\nForwarded: for=x\r\n\
                     Authorization: Basic eA==\r\nCookie: a=b\r\nSet-Cookie: a=b\r\nContent-Type: x\r\nContent-Encoding: gzip\r\n\
                     Content-Range: x\r\nTrailer: x\r\nTE: x\r\nUpgrade: websocket\r\nExpect: 100-continue\r\n\
                     Cache-Control: no-store\r\nLocation: /evil\r\n\
                     Proxy-Authorization: x\r\nX-Request-Id: evil\r\n";
    let trailers = format!("X-First: 1\r\n{forbidden}X-Last: 2\r\n");
    let origin = Origin::raw(
        format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n{trailers}\r\n"
        ),
        After::Keep,
    );
    let lb = Lb::over(&[&origin]);
    let response = exchange(
        lb.address(),
        format!(
            "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n{trailers}\r\n"
        ),
    );
    let names =
        |trailers: &[Field]| trailers.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&response.trailers), ["X-First", "X-Last"]);
    assert_eq!(names(&origin.only_request().trailers), ["X-First", "X-Last"]);
}

#[test]
fn ten_megabytes_with_a_length_pass_both_ways_unchanged() {
    let origin = Origin::echo();
    let lb = Lb::over(&[&origin]);
    let body = noise(10 * MEGABYTE);
    let response = exchange(lb.address(), post(&body));
    assert!(origin.only_request().body == body, "the upload");
    assert!(response.body == body && !response.truncated, "the response");
}

#[test]
fn ten_megabytes_in_chunks_pass_both_ways_unchanged() {
    let down = noise(10 * MEGABYTE + 1);
    let raw = [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".as_slice(),
        &in_chunks(&down, &[65_536, 100, 9_999]),
    ]
    .concat();
    let origin = Origin::raw(raw, After::Keep);
    let lb = Lb::over(&[&origin]);
    let up = noise(10 * MEGABYTE);
    let response = exchange(lb.address(), post_chunked(&up, &[40_000, 1, 8_191]));
    assert!(origin.only_request().body == up, "the upload");
    assert!(response.body == down && !response.truncated, "the response");
}

#[test]
fn ten_megabytes_that_end_with_the_connection_arrive_whole() {
    let body = noise(10 * MEGABYTE);
    let origin = Origin::raw([b"HTTP/1.1 200 OK\r\n\r\n".as_slice(), &body].concat(), After::Close);
    let lb = Lb::over(&[&origin]);
    let response = exchange(lb.address(), super::GET);
    assert_eq!(response.framing, Framing::Chunked);
    assert!(response.body == body && !response.truncated);
}

#[test]
fn both_directions_flow_at_once() {
    // The origin responds while it reads, and neither side buffers 5 MB.
    let body = noise(5 * MEGABYTE);
    let down = body.clone();
    let origin = Origin::start(Script::serve_heads(move |_, reply| {
        reply.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", down.len()));
        for piece in down.chunks(50_000) {
            reply.read_bytes(piece.len());
            reply.send(piece);
        }
    }));
    let lb = Lb::over(&[&origin]);
    let response = exchange(lb.address(), post(&body));
    assert!(response.body == body && !response.truncated);
    assert!(origin.bytes_received()[0].ends_with(&body));
}

#[test]
fn many_large_responses_on_one_connection_are_counted_and_unchanged() {
    let origin = Origin::serve(|request, reply| {
        let length: usize = request.target.trim_start_matches('/').parse().expect("a number");
        reply.ok(noise(length));
    });
    let lb = Lb::over(&[&origin]);
    let mut client = lb.connect();
    let mut bodies = 0;
    for length in [10, MEGABYTE, 3, 65_535, 2 * MEGABYTE, 65_536, 0, 131_072, 70_000] {
        assert!(client.get(&format!("/{length}")).body == noise(length), "{length}");
        bodies += length as u64;
    }
    assert_eq!((origin.connections(), lb.totals().requests, lb.totals().backend_reuses), (1, 9, 8));
    drop(client);
    lb.wait_for_closed(Reason::ClientClosed, 1);
    // Heads included, and nothing twice.
    assert!(
        (bodies..bodies + 9 * 200).contains(&lb.totals().bytes_sent),
        "{} for {bodies}",
        lb.totals().bytes_sent
    );
}
