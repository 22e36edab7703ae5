//! `Max-Forwards` on OPTIONS: decremented, and the balancer responds at zero (RFC 9110 section
//! 7.6.2).

use super::{GET, lines};
use crate::support::program::Program;
use crate::support::*;
use lb_threads::reason::Reason;

const LAST: &str = "OPTIONS * HTTP/1.1\r\nHost: h\r\nMax-Forwards: 0\r\n\r\n";

/// The backend's `Max-Forwards` lines for a request with these lines.
#[track_caller]
fn forwarded(lb: &Lb, origin: &Origin, method: &str, fields: &str) -> Vec<String> {
    exchange(lb.address(), format!("{method} / HTTP/1.1\r\nHost: h\r\n{fields}\r\n"))
        .expect_status(200);
    let head = origin.requests().pop().expect("it came").raw_head;
    lines(&head)
        .into_iter()
        .filter(|line| line.to_ascii_lowercase().starts_with("max-forwards"))
        .collect()
}

#[test]
fn options_with_max_forwards_zero_gets_its_response_from_the_balancer() {
    let origin = Origin::responding("from the backend");
    let lb = Lb::over(&[&origin]);
    let mut client = lb.connect();
    for target in ["*", "/page", "http://other"] {
        for max_forwards in ["0", "000"] {
            let fields = "Connection: max-forwards\r\nX-Mine: 1\r\n";
            let request = format!(
                "OPTIONS {target} HTTP/1.1\r\nHost: h\r\n{fields}Max-Forwards: {max_forwards}\r\n\r\n"
            );
            let response = client.exchange(request);
            assert_eq!(
                (response.status, response.framing, response.body.len()),
                (200, Framing::Length(0), 0)
            );
            assert_eq!(
                response.header("Allow"),
                Some("GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS")
            );
            assert_eq!(
                (response.header("Server"), response.header("X-LB-Error")),
                (Some("lb-threads"), None)
            );
            assert!(response.header("Date").is_some_and(|date| date.ends_with(" GMT")));
            assert_eq!(
                (response.header("Connection"), response.header("Content-Type")),
                (None, None)
            );
        }
    }
    assert_eq!(origin.count(), 0, "nothing was forwarded");
    assert_eq!(client.get("/").text(), "from the backend", "the connection goes on");
    assert_eq!(lb.totals().requests, 7);
}

#[test]
fn options_with_max_forwards_zero_needs_no_backend() {
    let lb = Lb::start(config(&[refused_address()]));
    exchange(lb.address(), LAST).expect_status(200);
}

#[test]
fn options_with_max_forwards_zero_keeps_its_order_in_a_pipeline() {
    let origin = Origin::responding("x");
    let lb = Lb::over(&[&origin]);
    let mut client = lb.connect();
    client.send([GET, LAST, GET].concat());
    let bodies: Vec<usize> = (0..3).map(|_| client.read_response().body.len()).collect();
    assert_eq!(bodies, [1, 0, 1]);
}

#[test]
fn an_http_1_0_client_gets_a_connection_field_with_its_options_response() {
    let origin = Origin::responding("x");
    let lb = Lb::over(&[&origin]);
    let mut client = lb.connect();
    let kept =
        client.exchange("OPTIONS / HTTP/1.0\r\nConnection: keep-alive\r\nMax-Forwards: 0\r\n\r\n");
    assert_eq!(
        (kept.status, kept.body.len(), kept.header("Connection")),
        (200, 0, Some("keep-alive"))
    );
    let closed = client.exchange("OPTIONS / HTTP/1.0\r\nMax-Forwards: 0\r\n\r\n");
    assert_eq!((closed.status, closed.header("Connection")), (200, Some("close")));
    lb.wait_for_closed(Reason::ClosedAfterResponse, 1);
    let closing = exchange(
        lb.address(),
        "OPTIONS / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nMax-Forwards: 0\r\n\r\n",
    );
    assert!(closing.announces_close());
}

#[test]
fn a_body_ends_the_connection_and_is_not_parsed_as_a_request() {
    let origin = Origin::responding("x");
    let lb = Lb::over(&[&origin]);
    let head = "OPTIONS / HTTP/1.1\r\nHost: h\r\nMax-Forwards: 0\r\n";
    let sized = format!("Content-Length: {}\r\n\r\n{GET}", GET.len());
    for body in [sized.as_str(), "Transfer-Encoding: chunked\r\n\r\n5\r\nhello"] {
        let mut client = lb.connect();
        let response = client.exchange(format!("{head}{body}"));
        assert_eq!((response.status, response.announces_close()), (200, true));
        assert_eq!(client.read_to_end(), b"");
    }
    lb.wait_for_closed(Reason::ClosedAfterResponse, 2);
    assert_eq!(origin.count(), 0);
}

#[test]
fn max_forwards_of_options_is_decremented() {
    let origin = Origin::responding("x");
    let lb = Lb::over(&[&origin]);
    let rows =
        [("1", "0"), ("5", "4"), ("007", "6"), ("18446744073709551615", "18446744073709551614")];
    for (received, sent) in rows {
        let line = [format!("mAx-Forwards: {sent}")];
        assert_eq!(
            forwarded(&lb, &origin, "OPTIONS", &format!("mAx-Forwards: {received}\r\n")),
            line
        );
        let named = format!("Connection: max-forwards, x\r\nmAx-Forwards: {received}\r\n");
        assert_eq!(
            forwarded(&lb, &origin, "OPTIONS", &named),
            line,
            "`Connection` cannot take it away"
        );
    }
    let most = forwarded(&lb, &origin, "OPTIONS", "Max-Forwards: 99999999999999999999999\r\n");
    assert_eq!(most, ["Max-Forwards: 18446744073709551614"], "the most that is counted");
    assert_eq!(forwarded(&lb, &origin, "OPTIONS", ""), [""; 0]);
}

#[test]
fn max_forwards_is_decremented_once_however_many_backends_are_tried() {
    let (resets, serves) =
        (Origin::start([Step::ReadRequest, Step::Reset]), Origin::responding("x"));
    let lb = Lb::over(&[&resets, &serves]);
    lb.wait_for_up(2);
    let request = "OPTIONS / HTTP/1.1\r\nHost: h\r\nMax-Forwards: 3\r\n\r\n";
    for _ in 0..2 {
        exchange(lb.address(), request).expect_status(200);
    }
    for origin in [&resets, &serves] {
        assert_eq!(origin.requests()[0].header("Max-Forwards"), Some("2"));
    }
}

#[test]
fn a_malformed_or_repeated_max_forwards_is_rejected() {
    let origin = Origin::responding("x");
    let lb = Lb::over(&[&origin]);
    for value in ["", "-1", "+1", "1x", "0x1", "1.0", "0, 0", "1 0", "\u{b2}"] {
        let response = exchange(
            lb.address(),
            format!("OPTIONS / HTTP/1.1\r\nHost: h\r\nMax-Forwards: {value}\r\n\r\n"),
        );
        assert_eq!(
            (response.status, response.header("X-LB-Error")),
            (400, Some("bad_field")),
            "{value:?}"
        );
    }
    for second in ["0", "1"] {
        let fields = format!("Max-Forwards: 1\r\nMax-Forwards: {second}\r\n");
        let response =
            exchange(lb.address(), format!("OPTIONS / HTTP/1.1\r\nHost: h\r\n{fields}\r\n"));
        assert_eq!((response.status, response.header("X-LB-Error")), (400, Some("bad_field")));
    }
    assert_eq!(origin.count(), 0);
}

#[test]
fn max_forwards_of_other_methods_is_forwarded_unchanged() {
    let origin = Origin::responding("x");
    let lb = Lb::over(&[&origin]);
    for method in ["GET", "DELETE", "options", "PROPFIND"] {
        for value in ["0", "007", "none"] {
            let line = format!("Max-Forwards: {value}");
            assert_eq!(forwarded(&lb, &origin, method, &format!("{line}\r\n")), [line], "{method}");
        }
        let twice = forwarded(&lb, &origin, method, "Max-Forwards: 1\r\nmax-forwards: 2\r\n");
        assert_eq!(twice, ["Max-Forwards: 1", "max-forwards: 2"]);
    }
}

#[test]
fn options_with_max_forwards_zero_has_its_line_in_the_log() {
    let origin = Origin::responding("x");
    let balancer = Program::balancer(&[origin.address()], &[]);
    let mut client = Client::connect(balancer.address());
    client.exchange(LAST).expect_status(200);
    client.get("/next").expect_status(200);
    balancer.until_logged("/next");
    let log = balancer.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("\"OPTIONS *\"")).collect();
    assert_eq!(lines.len(), 1, "{log}");
    assert!(
        lines[0].contains("INFO") && lines[0].contains("\"OPTIONS *\" 200 from - in "),
        "{log}"
    );
}
