//! The lingering close: after a response that comes before the request's end, the client's bytes
//! are read and dropped, within bounds, so that the response is not lost to a reset.

use crate::support::*;
use lb_threads::config::{self, Config};
use lb_threads::error::Cause;
use lb_threads::reason::Reason;
use std::thread;
use std::time::Duration;

const BAD: &str = "GET / HTTP/1.1\r\nHost: h\r\nX : y\r\n\r\n";
const TOO_LARGE: &str =
    "HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 5\r\n\r\nlarge";
const LONG: Duration = Duration::from_secs(60);

/// How a request's body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    WithLength,
    InChunks,
}

/// Sends a body from its first byte to its last, and reads only then.
#[track_caller]
fn upload(lb: &Lb, pieces: usize, sent: Sent) -> Response {
    const PIECE: usize = 50_000;
    let mut client = lb.connect();
    let (framing, piece) = match sent {
        Sent::WithLength => (format!("Content-Length: {}", PIECE * pieces), vec![b'x'; PIECE]),
        Sent::InChunks => (
            "Transfer-Encoding: chunked".to_owned(),
            format!("{PIECE:x}\r\n{}\r\n", "x".repeat(PIECE)).into_bytes(),
        ),
    };
    client.send(format!("POST /upload HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n"));
    for _ in 0..pieces {
        client.send(&piece);
    }
    let response = client.read_response();
    // A short body may have been forwarded completely before the backend's response came.
    assert!(!response.announces_close() || client.at_end(), "{response:?}");
    response
}

#[test]
fn a_client_that_sends_fifty_megabytes_over_the_limit_before_reading_gets_the_413() {
    let origin = Origin::responding("x");
    let lb = Lb::with(&[&origin], |config| config.settings.limits.max_body_bytes = Some(1_000_000));
    lb.wait_for_up(1);
    for sent in [Sent::WithLength, Sent::InChunks] {
        assert_eq!(
            upload(&lb, 1_000, sent).header("X-LB-Error"),
            Some(Cause::BodyTooLarge.code()),
            "{sent:?}"
        );
    }
    lb.wait_for_closed(Reason::Rejected, 2);
}

#[test]
fn a_client_that_sends_fifty_megabytes_before_reading_gets_the_early_response_of_a_backend() {
    for last in [Step::Close, Step::Hang] {
        let origin = Origin::start([Step::ReadHead, Step::send(TOO_LARGE), last.clone()]);
        let lb = Lb::over(&[&origin]);
        lb.wait_for_up(1);
        for sent in [Sent::WithLength, Sent::InChunks] {
            let response = upload(&lb, 1_000, sent);
            assert_eq!(
                (response.status, response.text().as_str()),
                (413, "large"),
                "{sent:?}, {last:?}"
            );
        }
        lb.wait_for_closed(Reason::EarlyResponse, 2);
    }
}

#[test]
fn of_many_uploads_at_once_each_gets_its_early_response() {
    let origin = Origin::start([Step::ReadHead, Step::send(TOO_LARGE), Step::Close]);
    let lb = Lb::over(&[&origin]);
    lb.wait_for_up(1);
    let upload = |_| upload(&lb, 60, Sent::WithLength).status;
    let statuses: Vec<u16> = thread::scope(|scope| {
        let clients: Vec<_> = (0..30).map(|number| scope.spawn(move || upload(number))).collect();
        clients.into_iter().map(|client| client.join().expect("a client does not panic")).collect()
    });
    assert_eq!(statuses, [413; 30]);
}

/// A client whose request was rejected and that stays.
#[track_caller]
fn rejected(lb: &Lb) -> Client {
    let mut client = lb.connect();
    client.send(BAD);
    assert_eq!(client.read_response().status, 400);
    client
}

#[track_caller]
fn balancer(change: impl FnOnce(&mut Config)) -> Lb {
    Lb::with(&[&Origin::responding("x")], |config| {
        config.boot.workers = 1;
        change(config);
    })
}

#[test]
fn a_lingering_close_lasts_while_the_client_sends_and_ends_when_it_stops() {
    let lb = balancer(|config| config.settings.timeouts.linger = Duration::from_secs(1));
    let mut client = rejected(&lb);
    stays("it lingers", Duration::from_secs(2), || client.try_send("x").is_ok());
    lb.wait_for_closed(Reason::Rejected, 1);
    until("it is closed", || client.try_send("x").is_err());
}

#[test]
fn a_lingering_close_ends_even_if_the_client_never_stops_sending() {
    let lb = balancer(|config| {
        (config.settings.timeouts.linger, config.settings.timeouts.linger_total) =
            (LONG, Duration::from_millis(200));
    });
    let mut client = rejected(&lb);
    until("it is closed", || client.try_send("x").is_err());
    lb.wait_for_closed(Reason::Rejected, 1);
}

#[test]
fn of_too_many_lingering_connections_the_oldest_is_closed() {
    let lb = balancer(|config| {
        (config.settings.timeouts.linger, config.settings.timeouts.linger_total) = (LONG, LONG);
    });
    let mut clients: Vec<Client> = (0..config::MAX_LINGERING).map(|_| rejected(&lb)).collect();
    // A client that has left no longer counts.
    drop(clients.remove(7));
    lb.wait_for_closed(Reason::Rejected, 1);
    clients.push(rejected(&lb));
    clients.push(rejected(&lb));
    lb.wait_for_closed(Reason::Rejected, 2);
    assert_eq!(lb.balancer().open_connections(), config::MAX_LINGERING);
    until("the oldest is closed", || clients[0].try_send("x").is_err());
    for client in &mut clients[1..] {
        client.send("x");
    }
}
