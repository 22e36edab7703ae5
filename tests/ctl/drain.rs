//! `ctl drain --wait`: until no request is in flight, and no longer than allowed.

use super::{JSON, api, ctl, done, failed, row};
use crate::support::Origin;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// An API whose backend `http://a:1` has these rows, one after each other, and then the last one.
fn changing(rows: Vec<Option<Value>>) -> Origin {
    let turn = AtomicUsize::new(0);
    Origin::serve(move |request, reply| {
        let row = &rows[turn.fetch_add(1, Ordering::Relaxed).min(rows.len() - 1)];
        let listed: Vec<&Value> = row.iter().collect();
        let body = match request.method.as_str() {
            "POST" => json!(row),
            _ => json!({ "algorithm": "rr", "backends": listed }),
        };
        reply.respond(200, &JSON, body.to_string());
    })
}

fn draining(in_flight: u64) -> Option<Value> {
    Some(row("http://a:1", "draining", in_flight))
}

#[test]
fn a_drain_without_a_wait_returns_at_once_with_the_number_in_flight() {
    let origin = api(json!([row("http://a:1", "draining", 7)]));
    let output = done(origin.address(), &["drain", "a", "1"]);
    assert_eq!(output, "draining http://a:1: 7 requests in flight\n");
    assert_eq!(origin.count(), 1);
}

#[test]
fn a_drain_with_a_wait_ends_when_no_request_is_in_flight() {
    let origin = changing(vec![draining(2), draining(1), draining(0)]);
    let output = done(origin.address(), &["drain", "a", "1", "--wait", "9s"]);
    assert_eq!(output, "drained http://a:1: none in flight\n");
    let methods: Vec<String> = origin.requests().into_iter().map(|one| one.method).collect();
    assert_eq!(methods, ["POST", "GET", "GET"]);

    let origin = changing(vec![draining(0)]);
    done(origin.address(), &["drain", "a", "1", "--wait", "9s"]);
    assert_eq!(origin.count(), 1, "there is nothing to wait for");
}

#[test]
fn a_drain_that_takes_too_long_reports_how_many_are_left() {
    let origin = changing(vec![draining(3)]);
    let start = Instant::now();
    let error = failed(&ctl(origin.address(), &["drain", "a:1", "--wait", "700ms"]), 1);
    assert_eq!(error, "http://a:1 has 3 requests in flight after 700ms; it stays draining");
    assert!(start.elapsed() >= Duration::from_millis(700), "{:?}", start.elapsed());
    assert!(origin.count() >= 2, "a last look at the end");
    let now = failed(&ctl(origin.address(), &["drain", "a:1", "--wait", "0"]), 1);
    assert_eq!(now, "http://a:1 has 3 requests in flight after 0s; it stays draining");
}

#[test]
fn json_of_a_drain_is_the_backends_last_row() {
    let ended = [(vec![draining(1), draining(0)], "9s"), (vec![draining(4)], "600ms")];
    for ((rows, wait), (code, in_flight)) in ended.into_iter().zip([(0, 0), (1, 4)]) {
        let origin = changing(rows);
        let ended = ctl(origin.address(), &["drain", "a:1", "--json", "--wait", wait]);
        assert_eq!(ended.code, Some(code), "{ended:?}");
        let json: Value = serde_json::from_str(&ended.stdout).expect("JSON");
        assert_eq!(json, row("http://a:1", "draining", in_flight));
    }
}

#[test]
fn a_backend_that_is_resumed_or_removed_meanwhile_ends_the_wait() {
    for (then, problem) in [
        (Some(row("http://a:1", "up", 5)), "http://a:1 was resumed, with 5 requests in flight"),
        (None, "http://a:1 was removed, with 1 request in flight"),
    ] {
        let origin = changing(vec![draining(1), then]);
        let error = failed(&ctl(origin.address(), &["drain", "a:1", "--wait", "9s"]), 1);
        assert_eq!(error, problem);
    }
}

#[test]
fn a_backend_that_goes_down_while_it_drains_is_waited_for() {
    let down = |in_flight| Some(row("http://a:1", "down", in_flight));
    let origin = changing(vec![draining(1), down(1), down(0)]);
    done(origin.address(), &["drain", "a:1", "--wait", "9s"]);
}
