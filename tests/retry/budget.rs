//! The retry budget: when many sends fail, clients get errors, and the backends no storm.

use super::{assert_failed, balancer};
use crate::support::{Client, Lb, Origin, Step};
use std::time::Instant;

/// What a balancer with an untouched budget has saved up, what a request adds, and what a second does.
const SAVED: f64 = 30.0;
const A_REQUEST: f64 = 0.2;
const A_SECOND: f64 = 3.0;

/// Resets requests for `/fail` when it has read them, those for `/stale` on any connection that has served before, and answers all
/// others.
fn unreliable() -> Origin {
    Origin::serve(|request, reply| match (request.target.as_str(), request.index) {
        ("/fail", _) | ("/stale", 1..) => reply.step(&Step::Reset),
        _ => reply.ok("fine"),
    })
}

/// How often `/fail` came to any of these.
fn fails(origins: &[Origin]) -> usize {
    origins.iter().flat_map(Origin::requests).filter(|request| request.target == "/fail").count()
}

/// How often it came on a connection that had served before: the retry on a fresh one is free.
fn fails_on_reused(origins: &[Origin]) -> usize {
    let requests = origins.iter().flat_map(Origin::requests);
    requests.filter(|request| request.target == "/fail" && request.index > 0).count()
}

fn two_unreliable() -> ([Origin; 2], Lb) {
    let origins = [unreliable(), unreliable()];
    let lb = balancer(&origins.each_ref().map(Origin::address));
    (origins, lb)
}

/// Two requests that are answered, one by each backend: so that neither has five failures in a row, and both stay.
#[track_caller]
fn keep_both_up(client: &mut Client, lb: &Lb) {
    for _ in 0..2 {
        client.get("/fine").expect_status(200);
    }
    assert_eq!(lb.up(), 2);
}

#[track_caller]
fn fail(client: &mut Client, method: &str) {
    client.send(format!("{method} /fail HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"));
    assert_failed(&client.read_response(), 502, "backend_closed");
}

#[test]
fn when_many_sends_fail_the_budget_runs_out() {
    let (origins, lb) = two_unreliable();
    let (mut client, start) = (lb.connect(), Instant::now());
    for _ in 0..60 {
        fail(&mut client, "GET");
        fail(&mut client, "GET");
        keep_both_up(&mut client, &lb);
    }
    let totals = lb.totals();
    let allowed = SAVED + A_REQUEST * totals.requests as f64 + A_SECOND * start.elapsed().as_secs_f64() + 1.0;
    let free = fails_on_reused(&origins) as u64;
    let paid = totals.retries - free;
    assert!(paid >= 30, "there is a budget: {paid}");
    assert!((paid as f64) <= allowed, "{paid} were paid for, {allowed} are allowed");
    let fails = fails(&origins);
    assert!((fails as f64) <= 120.0 + free as f64 + allowed, "{fails} came for 120 requests");
}

#[test]
fn the_fresh_connection_after_a_dead_reused_one_costs_nothing() {
    let origin = unreliable();
    let lb = balancer(&[origin.address()]);
    let mut client = lb.connect();
    for number in 1..=200 {
        client.get("/fine").expect_status(200);
        assert_eq!(client.get("/stale").status, 200, "number {number}, far beyond the budget");
    }
}

#[test]
fn what_is_not_sent_again_costs_nothing() {
    let (origins, lb) = two_unreliable();
    let mut client = lb.connect();
    for _ in 0..60 {
        fail(&mut client, "POST");
        fail(&mut client, "POST");
        keep_both_up(&mut client, &lb);
    }
    assert_eq!((lb.totals().retries, fails(&origins)), (0, 120));
    for number in 1..=5 {
        fail(&mut client, "GET");
        // A kept connection and a fresh one to each of the two.
        assert_eq!(fails(&origins), 120 + 4 * number, "120 failed POSTs were sent once each: the budget is whole");
        keep_both_up(&mut client, &lb);
    }
}

#[test]
fn a_failure_with_nowhere_else_to_go_costs_nothing() {
    let origins = [unreliable()];
    let lb = balancer(&[origins[0].address()]);
    let mut client = lb.connect();
    for _ in 0..120 {
        // Each on a fresh connection: the one before was reset.
        fail(&mut client, "GET");
    }
    assert_eq!((fails(&origins), lb.totals().retries), (120, 0), "nothing was sent again");
    for _ in 0..5 {
        client.get("/fine").expect_status(200);
        assert_eq!(client.get("/stale").status, 200, "there is a budget to send it again on a fresh connection");
    }
}
