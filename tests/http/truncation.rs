//! Backends that die inside a body: the client sees a truncation, never a clean end.

use super::{noise, wait_until_free};
use crate::support::*;
use lb_threads::error::Cause;
use lb_threads::reason::Reason;

/// The client's view of a truncated response, and the balancer that forwarded it.
fn broken(bytes: impl AsRef<[u8]>, end: Step) -> (Response, Lb) {
    let origin = Origin::start([Step::ReadRequest, Step::send(bytes), Step::Pause(super::MS), end]);
    let lb = Lb::over(&[&origin]);
    let mut client = lb.connect();
    client.send(super::GET);
    let response = client.read_response();
    assert!(!client.is_open());
    lb.wait_for_closed(Reason::ResponseTruncated, 1);
    wait_until_free(&lb);
    assert_eq!((lb.totals().retries, origin.count()), (0, 1), "a response byte was seen: no retry");
    (response, lb)
}

#[test]
fn a_body_shorter_than_its_content_length_is_truncated() {
    for end in [Step::Close, Step::Reset, Step::ShutdownWrite] {
        let (response, _) = broken("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello", end);
        assert_eq!(
            (response.status, response.text().as_str(), response.truncated),
            (200, "hello", true)
        );
    }
}

#[test]
fn an_empty_body_with_a_content_length_is_truncated() {
    let (response, _) = broken("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", Step::Close);
    assert_eq!((response.status, response.body.len(), response.truncated), (200, 0, true));
}

#[test]
fn a_chunked_body_without_its_end_is_truncated() {
    for body in [
        "",
        "5\r\nhello\r\n",
        "5\r\nhel",
        "5\r\nhello",
        "5",
        "5\r\n",
        "5\r\nhello\r\n0\r\n",
        "5\r\nhello\r\n0\r\nX: y\r\n",
    ] {
        let (response, _) = broken(
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}"),
            Step::Close,
        );
        assert!(
            response.truncated && "hello".starts_with(&response.text()),
            "{body:?} gave {response:?}"
        );
    }
}

#[test]
fn a_reset_in_a_close_delimited_body_is_not_its_end() {
    let (response, _) = broken("HTTP/1.1 200 OK\r\n\r\nhello", Step::Reset);
    assert!(response.truncated, "{response:?}");
}

#[test]
fn a_large_truncated_body_is_forwarded_as_far_as_it_was_received() {
    let body = noise(900_000);
    for fields in ["Content-Length: 1000000", "Transfer-Encoding: chunked"] {
        let sent = match fields.starts_with('C') {
            true => body.clone(),
            false => super::in_chunks(&body, &[50_000]).into_iter().rev().skip(5).rev().collect(),
        };
        let (response, lb) = broken(
            [format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n").as_bytes(), &sent].concat(),
            Step::Close,
        );
        assert!(response.truncated && body.starts_with(&response.body));
        assert!(response.body.len() > 800_000, "{} bytes came", response.body.len());
        assert!(lb.totals().bytes_sent > 800_000);
    }
}

#[test]
fn a_backend_that_closes_without_a_response_is_a_502_and_the_client_stays_open() {
    let origin = Origin::start([Step::ReadRequest, Step::Close]);
    let lb = Lb::over(&[&origin]);
    let mut client = lb.connect();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi");
    let response = client.read_response();
    assert_eq!(
        (response.status, response.header("X-LB-Error"), response.announces_close()),
        (502, Some("backend_closed"), false)
    );
    assert_eq!(client.get("/").status, 502);
    assert_eq!(lb.totals().failed(Cause::BackendClosed), 2);
    wait_until_free(&lb);
}

#[test]
fn a_backend_that_dies_during_the_upload_closes_the_client_after_the_error() {
    let origin = Origin::start([Step::ReadHead, Step::ReadBytes(1_000), Step::Reset]);
    let lb = Lb::over(&[&origin]);
    let mut client = lb.connect();
    client.send(&super::post(&noise(100_000))[..60_000]);
    let response = client.read_response();
    assert_eq!(
        (response.status, response.header("X-LB-Error"), response.announces_close()),
        (502, Some("backend_closed"), true)
    );
    assert!(client.at_end());
    drop(client);
    lb.wait_for_closed(Reason::Rejected, 1);
    assert_eq!(
        (origin.count(), lb.totals().retries),
        (1, 0),
        "a POST that was sent is never sent again"
    );
}
