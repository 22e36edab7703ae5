//! Passive health checking: failed requests eject a backend, error responses and slowness do not.

use super::SECOND;
use crate::support::{Client, Lb, Origin, Step, stays};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// An origin that passes its checks, and resets every request once it is read.
fn resetting() -> Origin {
    Origin::start([Step::ReadRequest, Step::Reset])
}

#[track_caller]
fn statuses(address: SocketAddr, count: usize) -> Vec<(u16, Option<String>)> {
    let mut client = Client::connect(address);
    let status = |_| {
        let response = client.get("/");
        (response.status, response.header("X-LB-Error").map(str::to_owned))
    };
    (0..count).map(status).collect()
}

#[test]
fn failed_requests_never_take_the_last_backend_down() {
    let (one, two) = (resetting(), resetting());
    let lb = Lb::with(&[&one, &two], |config| config.settings.health.period = 10 * SECOND);
    lb.wait_for_up(2);
    for response in statuses(lb.address(), 30) {
        assert_eq!(
            response,
            (502, Some("backend_closed".to_owned())),
            "the truth, rather than `no backend`"
        );
    }
    assert_eq!(lb.up(), 2, "if failed requests would take all out, all serve");
}

#[test]
fn five_requests_in_a_row_without_response_eject_a_backend_until_a_check_passes() {
    let (bad, good) = (resetting(), Origin::named("good"));
    let lb = Lb::with(&[&bad, &good], |config| config.settings.health.period = 60 * SECOND);
    lb.wait_for_up(2);
    let mut client = lb.connect();
    while bad.count() < 5 {
        assert_eq!(lb.up(), 2, "after {} failures", bad.count());
        client.get("/").expect_status(200);
    }
    assert_eq!(lb.up(), 1);
    let start = Instant::now();
    for _ in 0..10 {
        client.get("/").expect_status(200);
    }
    assert!(bad.count() == 5 || start.elapsed() >= SECOND, "it is left alone");
    lb.wait_for_up(2);
    assert!(start.elapsed() < 60 * SECOND, "the next check is due long before the period");
}

#[test]
fn error_responses_do_not_eject_a_backend() {
    let (errors, other) =
        (Origin::serve(|_, reply| reply.respond(500, &[], "it failed")), Origin::named("other"));
    let lb = Lb::over(&[&errors, &other]);
    for response in statuses(lb.address(), 40).chunks(2) {
        let codes: Vec<u16> = response.iter().map(|(status, _)| *status).collect();
        assert!(codes.contains(&500), "its responses are forwarded: {codes:?}");
    }
    assert_eq!(lb.totals().retries, 0);
}

#[test]
fn slowness_never_ejects_a_backend() {
    let (slow, other) = (
        Origin::start([Step::ReadRequest, Step::Hang]),
        Origin::start([Step::ReadRequest, Step::Hang]),
    );
    let lb = Lb::with(&[&slow, &other], |config| {
        config.settings.timeouts.first_byte = Duration::from_millis(20);
        config.settings.health.period = 10 * SECOND;
    });
    lb.wait_for_up(2);
    for response in statuses(lb.address(), 24) {
        assert_eq!(response, (504, Some("first_byte_timeout".to_owned())));
    }
    assert_eq!((lb.up(), lb.totals().retries), (2, 0));
    stays("both are up", Duration::from_millis(50), || lb.up() == 2);
}
