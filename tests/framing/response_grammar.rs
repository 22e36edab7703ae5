//! Responses of backends, validated as strictly as requests: an ambiguous one is a 502 and never
//! forwarded.

use crate::support::*;
use lb_threads::error::Cause;
use std::time::Duration;

/// Keeps idle connections for longer than any test waits: a closed one was not closed for its age.
fn over(origin: &Origin) -> Lb {
    Lb::with(&[origin], |config| config.settings.timeouts.backend_idle = Duration::from_secs(60))
}

/// Each of these responses becomes a 502; the client's connection stays open and the backend's does
/// not.
#[track_caller]
fn rejects(responses: &[impl AsRef<[u8]>]) {
    let responses: Vec<Vec<u8>> = responses.iter().map(|raw| raw.as_ref().to_vec()).collect();
    let scripts = responses.clone();
    let origin = Origin::serve(move |request, reply| {
        let number: usize = request.target.trim_start_matches('/').parse().expect("a number");
        reply.send(&scripts[number]);
        reply.step(&Step::Hang);
    });
    let lb = over(&origin);
    let mut client = lb.connect();
    for (number, raw) in responses.iter().enumerate() {
        let response = client.get(&format!("/{number}"));
        let found = (response.status, response.header("X-LB-Error"));
        assert_eq!(found, (502, Some("bad_response")), "{} gave {response:?}", escaped(raw));
        assert!(!response.announces_close(), "the client did nothing wrong");
        origin.wait_for_ending(number);
        let totals = lb.totals();
        assert_eq!(totals.failed(Cause::BadResponse), number as u64 + 1, "{}", escaped(raw));
        assert_eq!(
            (totals.retries, totals.backend_reuses),
            (0, 0),
            "a response byte was seen: no retry"
        );
    }
    assert_eq!(origin.count(), responses.len());
}

#[test]
fn a_response_frames_its_body_in_one_way() {
    rejects(&[
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 0x5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551621\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 204 No Content\r\nContent-Length: x\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    ]);
}

#[test]
fn a_status_line_is_spelled_exactly() {
    rejects(&[
        "HTTP/1.1 2x0 OK\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 -20 OK\r\n\r\n",
        "HTTP/1.1 99 Low\r\n\r\n",
        "HTTP/1.1 099 Low\r\n\r\n",
        "HTTP/1.1 000 Nothing\r\n\r\n",
        "HTTP/1.1 600 High\r\n\r\n",
        "HTTP/1.1 999 Higher\r\n\r\n",
        "HTTP/1.1  200 OK\r\n\r\n",
        "HTTP/1.1\t200 OK\r\n\r\n",
        "HTTP/1.1200 OK\r\n\r\n",
        "HTTP/1.1 200OK\r\n\r\n",
        " HTTP/1.1 200 OK\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "HTTP/0.9 200 OK\r\n\r\n",
        "http/1.1 200 OK\r\n\r\n",
        "ICY 200 OK\r\n\r\n",
        "hello\r\n\r\n",
        "\r\n\r\n",
    ]);
}

#[test]
fn the_lines_of_a_response_head_are_in_order() {
    rejects(&[
        "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\n",
        "HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: b\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 O\rK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\n X: a\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\n: a\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\x01b\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 O\0K\r\nContent-Length: 0\r\n\r\n",
    ]);
}

#[test]
fn an_unrequested_101_is_rejected() {
    rejects(&[
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ]);
}

#[test]
fn a_response_head_has_limits() {
    let fields = format!("HTTP/1.1 200 OK\r\n{}Content-Length: 0\r\n\r\n", "a: b\r\n".repeat(4096));
    let large =
        format!("HTTP/1.1 200 OK\r\nX: {}\r\nContent-Length: 0\r\n\r\n", "a".repeat(65 * 1024));
    let without_end = format!("HTTP/1.1 200 OK\r\nX: {}", "a".repeat(65 * 1024));
    rejects(&[fields, large, without_end]);
}

#[test]
fn a_response_head_at_its_limit_is_forwarded() {
    let (start, end) = ("HTTP/1.1 200 OK\r\nX-Pad: ", "\r\nContent-Length: 2\r\n\r\n");
    let origin = Origin::serve(move |request, reply| {
        let length: usize = request.target.trim_start_matches('/').parse().expect("a number");
        reply.send(format!("{start}{}{end}ok", "a".repeat(length - start.len() - end.len())));
    });
    let lb = over(&origin);
    let mut client = lb.connect();
    for length in [1_000, 32 * 1024 - 1, 32 * 1024, 32 * 1024 + 1, 60_000, 64 * 1024] {
        let response = client.get(&format!("/{length}"));
        assert_eq!(
            (response.status, response.text().as_str()),
            (200, "ok"),
            "a head of {length} bytes"
        );
        assert_eq!(response.header("X-Pad").map(str::len), Some(length - start.len() - end.len()));
    }
    for count in [99, 100, 101, 1_000, 4_095] {
        let fields = "a: b\r\n".repeat(count);
        let origin = Origin::raw(
            format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 2\r\n\r\nok"),
            After::Keep,
        );
        let lb = Lb::over(&[&origin]);
        assert_eq!(get(lb.address(), "/").expect_status(200).headers_named("a").len(), count);
    }
}

#[test]
fn a_response_that_ends_inside_its_head_is_rejected() {
    for cut in [
        "H",
        "HTTP/1.1 200 OK",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n",
        "HTTP/1.1 103 Early Hints\r\n",
    ] {
        let origin = Origin::raw(cut, After::Close);
        let lb = over(&origin);
        let response = get(lb.address(), "/");
        assert_eq!(
            (response.status, response.header("X-LB-Error")),
            (502, Some("bad_response")),
            "{cut:?}"
        );
        assert_eq!((origin.count(), lb.totals().retries), (1, 0));
    }
}

#[test]
fn endless_interim_responses_are_rejected() {
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n";
    let origin = Origin::start([Step::ReadRequest, Step::send(hints.repeat(200)), Step::Hang]);
    let lb = over(&origin);
    let mut client = lb.connect();
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    let response = client.read_response();
    assert_eq!((response.status, response.header("X-LB-Error")), (502, Some("bad_response")));
    assert!(
        (1..=40).contains(&response.interim.len()),
        "{} interim responses",
        response.interim.len()
    );
    origin.wait_for_ending(0);
    assert_eq!(lb.totals().failed(Cause::BadResponse), 1);

    let old = exchange(lb.address(), "GET / HTTP/1.0\r\n\r\n");
    assert_eq!((old.status, old.interim.len()), (502, 0));
}

#[test]
fn bad_chunks_are_never_forwarded_and_before_the_head_the_client_gets_an_error() {
    let bodies = [
        "5\r\nhello\r\n+5\r\nevil!\r\n0\r\n\r\n",
        "5\r\nhello\r\n0x5\r\nevil!\r\n0\r\n\r\n",
        "5\r\nhello\r\n-5\r\n",
        "5\r\nhello\r\n5\nevil!\r\n0\r\n\r\n",
        "5\r\nhello\r\n\r\n",
        "5\r\nhello\r\n10000000000000005\r\nevil!\r\n0\r\n\r\n",
        "5\r\nhello\r\n5;a\nb\r\nevil!\r\n",
        "5\r\nhelloevil!\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\r\nno colon\r\n\r\n",
        "5\r\nhello\r\n0\r\nA : evil\r\n\r\n",
        "5\r\nhello\r\n0\n\n",
        "5\r\nhello\r\nevil!",
    ];
    let origin = Origin::serve(move |request, reply| {
        let number: usize = request.target.trim_start_matches('/').parse().expect("a number");
        reply.send(format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{}",
            bodies[number]
        ));
        reply.step(&Step::Hang);
    });
    let lb = over(&origin);
    for (number, body) in bodies.iter().enumerate() {
        let mut client = lb.connect();
        client.send(format!("GET /{number} HTTP/1.1\r\nHost: h\r\n\r\n"));
        let response = client.read_response();
        assert_eq!(
            (response.status, response.header("X-LB-Error")),
            (502, Some("bad_response")),
            "{body:?} gave {response:?}"
        );
        origin.wait_for_ending(number);
    }
    assert_eq!(lb.totals().backend_reuses, 0);
}

#[test]
fn a_bad_chunk_after_a_forwarded_one_truncates_the_response() {
    let gate = Gate::new();
    let opened = gate.clone();
    let origin = Origin::serve(move |_, reply| {
        reply.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
        opened.wait();
        reply.send("+5\r\nevil!\r\n0\r\n\r\n");
        reply.step(&Step::Hang);
    });
    let lb = over(&origin);
    let mut client = lb.connect();
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(client.read_head().status, 200);
    assert_eq!(client.read_until("hello\r\n"), b"5\r\nhello\r\n");
    gate.open();
    assert_eq!(client.read_until_closed().0, b"", "no end that could be taken for the body's");
    lb.wait_for_closed(lb_threads::reason::Reason::ResponseTruncated, 1);
}
