//! Bugs found by fuzzing and reviews.

use crate::support::{Client, Lb, Origin, Step, exchange, ok, raw_exchange, refused_address};
use lb_threads::reason::Reason;

const CHUNKED_POST: &str = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";

#[test]
fn small_chunks_that_do_not_fill_the_replay_buffer_evenly_are_forwarded() {
    for size in 1..24 {
        let origin = Origin::responding("done");
        let lb = Lb::over(&[&origin]);
        let chunk = format!("{size:x}\r\n{}\r\n", "a".repeat(size));
        let count = 200_000 / chunk.len();
        let mut client = lb.connect();
        client.send(CHUNKED_POST);
        origin.wait_for_requests(1);
        let response = client.exchange(format!("{}0\r\n\r\n", chunk.repeat(count)));
        assert_eq!(response.status, 200, "chunks of {size}");
        assert_eq!(origin.only_request().body.len(), count * size);
    }
}

#[test]
fn trailers_after_a_full_replay_buffer_are_forwarded() {
    for body in 65_500..65_540 {
        let origin = Origin::responding("done");
        let lb = Lb::over(&[&origin]);
        let trailers = format!("X-Long: {}\r\n", "t".repeat(4000));
        let request =
            format!("{CHUNKED_POST}{body:x}\r\n{}\r\n0\r\n{trailers}\r\n", "a".repeat(body));
        assert_eq!(exchange(lb.address(), request).status, 200);
        assert_eq!(origin.only_request().trailers.len(), 1, "a body of {body}");
    }
}

#[test]
fn pipelined_requests_that_fill_more_than_one_buffer_are_all_served() {
    let origin = Origin::responding("x");
    let lb = Lb::over(&[&origin]);
    let requests = "GET /aaaaaaaaa HTTP/1.1\r\nHost: h\r\n\r\n".repeat(2000);
    let last = "GET /last HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    let responses = raw_exchange(lb.address(), format!("{requests}{last}"));
    assert_eq!(String::from_utf8_lossy(&responses).matches("HTTP/1.1 200").count(), 2001);
    assert_eq!(origin.count(), 2001);
    lb.wait_for_closed(Reason::ClosedAfterResponse, 1);
}

#[test]
fn large_early_hints_one_after_the_other_are_forwarded() {
    let hints =
        |size: usize| format!("HTTP/1.1 103 Early Hints\r\nLink: {}\r\n\r\n", "x".repeat(size));
    let bytes = [hints(50_000), hints(30_000), hints(60_000)].concat().into_bytes();
    let origin = Origin::start([Step::ReadRequest, Step::Send([bytes, ok("late")].concat())]);
    let lb = Lb::over(&[&origin]);
    let response = lb.connect().get("/");
    assert_eq!((response.status, response.text().as_str()), (200, "late"));
    assert_eq!(response.interim.len(), 3);
}

#[test]
fn an_error_response_has_its_body_whatever_follows_the_request() {
    let lb = Lb::start(crate::support::config(&[refused_address()]));
    let mut client = lb.connect();
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\nHEAD / HTTP/1.1\r\nHost: h\r\n\r\n");
    let first = client.read_response();
    assert_eq!(first.status, 503);
    assert!(!first.body.is_empty());
    assert_eq!(client.read_response_to("HEAD").status, 503);
}

#[test]
fn empty_lines_before_a_request_are_counted_however_they_are_split() {
    let origin = Origin::responding("x");
    let lb = Lb::over(&[&origin]);
    let status = |lines: usize, sizes: &[usize]| {
        let mut client: Client = lb.connect();
        client.send_in_pieces(
            format!("{}GET / HTTP/1.1\r\nHost: h\r\n\r\n", "\r\n".repeat(lines)),
            sizes.iter().copied(),
        );
        client.read_response().status
    };
    for sizes in [&[1000][..], &[2, 2, 2, 2, 2, 2, 2, 2, 2, 1000], &[1, 1, 1, 1, 1, 1000]] {
        assert_eq!(status(8, sizes), 200, "{sizes:?}");
    }
    assert_eq!(status(9, &[1000]), 400);
}
