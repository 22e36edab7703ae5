//! Where our own buffers end: messages laid exactly across their limits must not stall, break or
//! change.
//!
//! A stall shows because the client's timeout is shorter than the balancer's for a body.

use super::{noise, post, post_chunked};
use crate::support::*;
use lb_threads::config;

#[test]
fn a_pipeline_longer_than_a_buffer_is_served_to_its_end() {
    let origin = Origin::serve(|request, reply| reply.ok(&request.target));
    let lb = Lb::over(&[&origin]);
    for padding in [900, 1_000, 5_000, 15_000] {
        let count = 150_000 / padding;
        let request = |number: usize| {
            format!("GET /{number} HTTP/1.1\r\nHost: h\r\nX-Pad: {}\r\n\r\n", "p".repeat(padding))
        };
        let mut client = lb.connect();
        client.send((0..count).map(request).collect::<String>());
        for number in 0..count {
            assert_eq!(
                client.read_response().text(),
                format!("/{number}"),
                "{count} heads of {padding} bytes"
            );
        }
    }
}

#[test]
fn a_pipeline_of_requests_with_bodies_longer_than_a_buffer_is_served_to_its_end() {
    let origin = Origin::echo();
    let lb = Lb::over(&[&origin]);
    let bodies: Vec<Vec<u8>> = (0..60).map(|number| noise(100 + 97 * number)).collect();
    let requests: Vec<u8> = bodies
        .iter()
        .enumerate()
        .flat_map(
            |(number, body)| {
                if number % 2 == 0 { post(body) } else { post_chunked(body, &[1_000, 10]) }
            },
        )
        .collect();
    let mut client = lb.connect();
    client.send(&requests);
    for (number, body) in bodies.iter().enumerate() {
        assert!(client.read_response().body == *body, "request {number}");
    }
    assert_eq!(origin.connections(), 1);
}

#[test]
fn a_chunked_upload_whose_last_lines_meet_the_end_of_the_replay_buffer_does_not_stall() {
    // Each chunk is one write that the origin has received before the next, so that the replay
    // buffer is filled to a known byte: 65 chunks of 1,007 bytes and a last one leave 2 bytes, or
    // 5, or 1 of 64 KiB for `0 CR LF CR LF`.
    let origin = Origin::echo();
    let lb = Lb::over(&[&origin]);
    for left in [1, 2, 4, 5] {
        let before = origin.count();
        let last = config::MAX_REPLAY_BYTES - 65 * 1_007 - left - 6;
        assert!((16..256).contains(&last), "its size has two digits");
        let mut client = lb.connect();
        client.send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
        let mut sent = 0;
        for size in std::iter::repeat_n(1_000, 65).chain([last]) {
            client.send(format!("{size:x}\r\n{}\r\n", "x".repeat(size)));
            sent += size;
            until("the chunk is at the origin", || {
                origin.requests().get(before).is_some_and(|request| request.body.len() == sent)
            });
        }
        client.send("0\r\n\r\n");
        let response = client.read_response();
        assert_eq!((response.status, response.body.len()), (200, sent), "{left} bytes left");
    }
}

#[test]
fn trailers_larger_than_the_rest_of_the_replay_buffer_do_not_stall() {
    let origin = Origin::echo();
    let lb = Lb::over(&[&origin]);
    let trailer = "t".repeat(7_000);
    for length in [50_000, 58_000, 60_000, 65_000, 65_500, 130_000] {
        let body = "x".repeat(length);
        let request = format!(
            "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{length:x}\r\n{body}\r\n0\r\nX-T: {trailer}\r\n\r\n"
        );
        let response = exchange(lb.address(), request);
        assert_eq!(
            (response.status, response.body.len(), response.trailers.len()),
            (200, length, 1),
            "{length}"
        );
    }
}

#[test]
fn a_large_head_and_many_small_chunks_in_one_piece_do_not_stall() {
    // Together they fill a buffer of 64 KiB to the last bytes; re-serialised they are a little
    // longer.
    let origin = Origin::serve(|request, reply| {
        let total: usize = request.target.trim_start_matches('/').parse().expect("a number");
        let head = format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Pad: {}\r\n\r\n",
            "a".repeat(40_000)
        );
        let chunks = (total - head.len() - 5) / 6;
        reply.send(format!("{head}{}0\r\n\r\n", "1\r\nx\r\n".repeat(chunks)));
    });
    let lb = Lb::over(&[&origin]);
    let mut client = lb.connect();
    for total in [60_000, 65_500, 65_520, 65_530, 65_536, 65_540, 70_000] {
        let response = client.get(&format!("/{total}"));
        let chunks = (total - 40_000 - 80) / 6;
        assert!(
            response.body.len() >= chunks && !response.truncated,
            "{total}: {} bytes came",
            response.body.len()
        );
    }
}

#[test]
fn several_large_interim_responses_and_a_large_final_one_are_forwarded() {
    let pad = "p".repeat(30_000);
    let hints = format!("HTTP/1.1 103 Early Hints\r\nLink: {pad}\r\n\r\n").repeat(4);
    let origin = Origin::raw(
        format!("{hints}HTTP/1.1 200 OK\r\nX-Pad: {pad}\r\nContent-Length: 2\r\n\r\nok"),
        After::Keep,
    );
    let lb = Lb::over(&[&origin]);
    let mut client = lb.connect();
    for _ in 0..2 {
        let response = client.get("/");
        assert_eq!(
            (response.status, response.interim.len(), response.text().as_str()),
            (200, 4, "ok")
        );
    }
}

#[test]
fn a_response_in_very_many_tiny_chunks_is_forwarded() {
    let body = noise(60_000);
    let raw = [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".as_slice(),
        &super::in_chunks(&body, &[1, 2, 3]),
    ]
    .concat();
    let origin = Origin::raw(raw, After::Keep);
    let lb = Lb::over(&[&origin]);
    let mut client = lb.connect();
    for _ in 0..3 {
        let response = client.get("/");
        assert!(response.body == body && !response.truncated);
    }
}

#[test]
fn response_trailers_at_their_limit_are_forwarded() {
    let trailer = "t".repeat(config::MAX_TRAILER_BYTES - "X-T: \r\n\r\n".len());
    for length in [1, 30_000, 32_760, 65_000] {
        let body = "x".repeat(length);
        let raw = format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{length:x}\r\n{body}\r\n0\r\nX-T: {trailer}\r\n\r\n"
        );
        let origin = Origin::raw(raw, After::Keep);
        let lb = Lb::over(&[&origin]);
        let response = get(lb.address(), "/");
        assert_eq!(
            (response.body.len(), response.trailers.len(), response.truncated),
            (length, 1, false)
        );
    }
}

#[test]
fn a_slow_reader_gets_every_byte_of_a_large_response() {
    let body = noise(3_000_000);
    let sized =
        [format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes(), &body]
            .concat();
    let in_chunks = [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".as_slice(),
        &super::in_chunks(&body, &[20_000, 1]),
    ]
    .concat();
    for raw in [sized, in_chunks] {
        let origin = Origin::raw(raw, After::Keep);
        let lb = Lb::over(&[&origin]);
        let mut client = lb.connect();
        client.send(super::GET);
        let mut response = client.read_head();
        super::wait_until_stuck(&lb);
        client.read_body_to("GET", &mut response);
        assert!(response.body == body && !response.truncated);
    }
}

#[test]
fn an_upload_waits_for_a_backend_that_does_not_read_and_loses_nothing() {
    let body = noise(20_000_000);
    for request in [post(&body), post_chunked(&body, &[300_000, 1, 20_000])] {
        let gate = Gate::new();
        let origin = Origin::start([
            Step::ReadHead,
            Step::WaitFor(gate.clone()),
            Step::ReadBody,
            Step::send(ok("all")),
        ]);
        let lb = Lb::over(&[&origin]);
        let address = lb.address();
        let client = std::thread::spawn(move || exchange(address, request).text());
        origin.wait_for_requests(1);
        let received = || origin.bytes_received()[0].len();
        let before = received();
        stays("the backend reads nothing", 30 * super::MS, || received() == before);
        gate.open();
        assert_eq!(client.join().expect("the client is served"), "all");
        assert!(origin.only_request().body == body);
    }
}
