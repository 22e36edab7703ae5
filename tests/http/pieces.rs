//! The meaning of a message does not depend on its packets.

use super::{MS, get_identified};
use crate::support::*;
use lb_threads::reason::Reason;
use std::iter::repeat;

const PIECE_PAUSE: std::time::Duration = std::time::Duration::from_micros(300);

const REQUESTS: [&str; 3] = [
    "GET /a HTTP/1.1\r\nHost: h\r\nX-Request-Id: i\r\nX: y\r\n\r\n",
    "POST /b HTTP/1.1\r\nHost: h\r\nX-Request-Id: i\r\nContent-Length: 11\r\n\r\nhello\r\n\r\n0\r",
    "POST /c HTTP/1.1\r\nHost: h\r\nX-Request-Id: i\r\nTransfer-Encoding: chunked\r\n\r\n5;x=\"y\"\r\nhello\r\n00A\r\n\
     , world...\r\n0\r\nX-Sum: 1\r\n\r\n",
];

#[test]
fn a_request_means_the_same_wherever_it_is_split() {
    let origin = Origin::responding("x");
    let lb = Lb::over(&[&origin]);
    let mut client = lb.connect();
    for request in REQUESTS {
        let whole = {
            client.send(request);
            client.read_response().expect_status(200);
            origin.requests().pop().expect("it came")
        };
        for split in 1..request.len() {
            client.send_in_pieces(request, [split]);
            client.read_response().expect_status(200);
            let came = origin.requests().pop().expect("it came");
            assert_eq!(
                String::from_utf8_lossy(&came.raw_head),
                String::from_utf8_lossy(&whole.raw_head),
                "split at {split}"
            );
            assert_eq!(
                (came.body, came.trailers),
                (whole.body.clone(), whole.trailers.clone()),
                "split at {split}"
            );
        }
    }
    assert_eq!((origin.connections(), lb.totals().backend_connects), (1, 1));
}

#[test]
fn requests_sent_byte_by_byte_are_served() {
    let origin = Origin::echo();
    let lb = Lb::over(&[&origin]);
    let mut client = lb.connect();
    for (request, body) in REQUESTS.iter().zip(["", "hello\r\n\r\n0\r", "hello, world..."]) {
        client.send_in_pieces(request, repeat(1));
        assert_eq!(client.read_response().text(), body);
    }
    drop(client);
    lb.wait_for_closed(Reason::ClientClosed, 1);
}

#[test]
fn a_pipeline_sent_byte_by_byte_is_served_in_order() {
    let origin =
        Origin::serve(|request, reply| reply.ok(format!("{} {}", request.target, request.text())));
    let lb = Lb::over(&[&origin]);
    let mut client = lb.connect();
    client.send_in_pieces(REQUESTS.concat(), repeat(1));
    for expected in ["/a ", "/b hello\r\n\r\n0\r", "/c hello, world..."] {
        assert_eq!(client.read_response().text(), expected);
    }
}

#[test]
fn rejections_are_the_same_for_a_request_sent_byte_by_byte() {
    let origin = Origin::responding("x");
    let lb = Lb::over(&[&origin]);
    for (request, status, word) in [
        ("GET / HTTP/1.1\nHost: h\r\n\r\n", 400, "bad_line_end"),
        ("GET / HTTP/1.1\r\nHost : h\r\n\r\n", 400, "bad_field"),
        (
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
            "length_and_coding",
        ),
        ("GET / HTTP/2.0\r\nHost: h\r\n\r\n", 505, "version_unknown"),
        (
            "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello0\r\n\r\n",
            400,
            "bad_chunk",
        ),
        (
            "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA : b\r\n\r\n",
            400,
            "bad_chunk",
        ),
    ] {
        let mut client = lb.connect();
        client.send_in_pieces(request, repeat(1));
        let response = client.read_response();
        assert_eq!(
            (response.status, response.header("X-LB-Error")),
            (status, Some(word)),
            "{request:?}"
        );
        assert!(client.at_end());
    }
    assert!(origin.requests().iter().all(|request| !request.complete), "{}", origin.story());
}

const RESPONSES: [&str; 4] = [
    "HTTP/1.1 200 OK\r\nDate: d\r\nContent-Length: 11\r\n\r\nhello\r\n\r\n0\r",
    "HTTP/1.1 200 OK\r\nDate: d\r\nTransfer-Encoding: chunked\r\n\r\n5;x=\"y\"\r\nhello\r\n00A\r\n, world...\r\n0\r\n\
     X-Sum: 1\r\n\r\n",
    "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: <a>\r\n\r\nHTTP/1.1 204 Nothing\r\nDate: d\r\n\r\n",
    "HTTP/1.0 200 OK\r\nDate: d\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
];

/// Responds to `/a/s` with response `a` split at byte `s`.
fn cutting_origin() -> Origin {
    Origin::serve(|request, reply| {
        let mut numbers = request
            .target
            .split('/')
            .skip(1)
            .map(|number| number.parse::<usize>().expect("a number"));
        let raw = RESPONSES[numbers.next().expect("which response")];
        let (first, second) = raw.split_at(numbers.next().expect("where"));
        reply.send(first);
        reply.step(&Step::Pause(PIECE_PAUSE));
        reply.send(second);
    })
}

#[test]
fn a_response_means_the_same_wherever_it_is_split() {
    let origin = cutting_origin();
    let lb = Lb::over(&[&origin]);
    let mut client = lb.connect();
    for (number, raw) in RESPONSES.iter().enumerate() {
        let whole = get_identified(&mut client, &format!("/{number}/{}", raw.len()));
        for split in 0..raw.len() {
            let response = get_identified(&mut client, &format!("/{number}/{split}"));
            assert_eq!(
                String::from_utf8_lossy(&response.raw_head),
                String::from_utf8_lossy(&whole.raw_head),
                "split at {split}"
            );
            assert_eq!(
                (&response.body, &response.trailers),
                (&whole.body, &whole.trailers),
                "{raw:?} split at {split}"
            );
            assert_eq!((response.interim.len(), response.truncated), (whole.interim.len(), false));
        }
    }
    assert_eq!((origin.connections(), lb.totals().retries), (1, 0));
}

#[test]
fn responses_sent_byte_by_byte_are_forwarded() {
    for raw in RESPONSES {
        let origin = Origin::start([Step::ReadRequest, Step::send_slowly(raw, 1, PIECE_PAUSE)]);
        let lb = Lb::over(&[&origin]);
        let mut client = lb.connect();
        let first = client.get("/");
        let second = client.get("/");
        assert_eq!(
            (first.status, &first.body, &first.trailers),
            (second.status, &second.body, &second.trailers)
        );
        assert!(
            matches!(first.text().as_str(), "hello\r\n\r\n0\r" | "hello, world..." | "" | "ok"),
            "{first:?}"
        );
        assert_eq!(origin.connections(), 1);
    }
}

#[test]
fn a_close_delimited_response_sent_byte_by_byte_is_complete() {
    let origin = Origin::start([
        Step::ReadRequest,
        Step::send_slowly("HTTP/1.0 200 OK\r\n\r\nhello", 1, PIECE_PAUSE),
        Step::Pause(MS),
        Step::Close,
    ]);
    let lb = Lb::over(&[&origin]);
    let response = exchange(lb.address(), super::GET);
    assert_eq!((response.text().as_str(), response.truncated), ("hello", false));
}
