//! Row one: a connect failed and nothing was sent. The next backend gets the request, with any
//! method, up to three attempts.

use super::{assert_failed, balancer, balancer_with, body_of, origin, request};
use crate::support::{Blackhole, Origin, exchange, get, refused_address};
use std::time::{Duration, Instant};

const ANY_METHOD: [&str; 6] = ["GET", "PUT", "DELETE", "POST", "PATCH", "OPTIONS"];

#[test]
fn after_a_refused_connect_the_next_backend_is_tried_for_any_method() {
    for method in ANY_METHOD {
        let next = Origin::named("next");
        let lb = balancer(&[refused_address(), next.address()]);
        let sent = request(method, "/a", 5);
        assert_eq!(exchange(lb.address(), &sent).text(), "next", "{method}");
        let received = next.only_request();
        assert_eq!((received.method.as_str(), &received.body[..]), (method, body_of(&sent)));
        assert_eq!(lb.totals().retries, 1);
    }
}

#[test]
fn after_a_refused_connect_the_next_backend_is_tried_even_with_a_body_too_large_to_replay() {
    for method in ["PUT", "POST"] {
        let next = Origin::named("next");
        let lb = balancer(&[refused_address(), next.address()]);
        let sent = request(method, "/a", 300_000);
        assert_eq!(
            exchange(lb.address(), &sent).text(),
            "next",
            "{method}: none of it was sent before"
        );
        assert!(next.only_request().body == body_of(&sent));
    }
}

#[test]
fn after_a_connect_timeout_the_next_backend_is_tried() {
    let black_hole = Blackhole::start();
    for method in ["GET", "POST"] {
        let next = Origin::named("next");
        let timeout = Duration::from_millis(100);
        let lb = balancer_with(&[black_hole.address(), next.address()], |config| {
            config.settings.timeouts.connect = timeout;
        });
        let start = Instant::now();
        assert_eq!(exchange(lb.address(), request(method, "/a", 5)).text(), "next", "{method}");
        assert!(
            start.elapsed() >= timeout && start.elapsed() < Duration::from_secs(2),
            "{:?}",
            start.elapsed()
        );
        assert_eq!(next.only_request().text(), "abcde");
    }
}

#[test]
fn if_every_connect_fails_the_error_names_the_last_failure() {
    let lb = balancer(&[refused_address(), refused_address()]);
    assert_failed(&get(lb.address(), "/"), 502, "connect_failed");
    assert_eq!(lb.totals().retries, 1, "two attempts are one and one more");
    let black_hole = Blackhole::start();
    let lb = balancer_with(&[black_hole.address()], |config| {
        config.settings.timeouts.connect = Duration::from_millis(50);
    });
    assert_failed(&get(lb.address(), "/"), 504, "connect_timeout");
    let lb = balancer_with(&[refused_address(), black_hole.address()], |config| {
        config.settings.timeouts.connect = Duration::from_millis(50);
    });
    assert_failed(&get(lb.address(), "/"), 504, "connect_timeout");
}

#[test]
fn connects_are_tried_at_three_backends_and_no_fourth() {
    let fourth = Origin::named("fourth");
    let lb = balancer(&[refused_address(), refused_address(), refused_address(), fourth.address()]);
    assert_failed(&get(lb.address(), "/"), 502, "connect_failed");
    assert_eq!((fourth.count(), lb.totals().retries), (0, 2));
    let third = Origin::named("third");
    let lb = balancer(&[refused_address(), refused_address(), third.address()]);
    assert_eq!(get(lb.address(), "/").text(), "third");
}

#[test]
fn connect_failures_are_free_however_many_there_are() {
    let alive = Origin::named("alive");
    // With a fall of 1,000 the dead backend stays up and in the rotation.
    let lb = balancer_with(&[refused_address(), alive.address()], |config| {
        config.settings.health.fall = 1_000;
    });
    let mut client = lb.connect();
    for _ in 0..300 {
        assert_eq!(client.get("/").text(), "alive");
    }
    // A pick of the dead one advances the rotation by two: it is picked every other time, or
    // always.
    assert!(lb.totals().retries >= 150, "{}", lb.totals().retries);
}

#[test]
fn a_connection_that_is_reset_before_anything_was_read_loses_no_request() {
    // The origin resets accepted connections: whether a byte was written by then is a race, so a
    // GET must survive either.
    let first = origin("first", [vec![crate::support::Step::Reset]])
        .health(crate::support::Health::Scripted);
    let next = Origin::named("next");
    let lb = balancer(&[first.address(), next.address()]);
    let response = get(lb.address(), "/a");
    response.expect_status(200);
    assert_eq!(next.count() + first.count(), 1);
}
