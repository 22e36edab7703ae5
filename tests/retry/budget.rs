//! The retry budget: when many sends fail, clients get errors, and the backends get no retry storm.

use super::{assert_failed, balancer};
use crate::support::{Client, Gate, Health, Lb, Origin, Step};
use std::time::Instant;

/// The initial budget of a balancer, and its growth per request and per second.
const SAVED: f64 = 30.0;
const A_REQUEST: f64 = 0.2;
const A_SECOND: f64 = 3.0;

/// Resets requests for `/fail` when it has read them, and responds to all others.
fn unreliable() -> Origin {
    Origin::serve(|request, reply| match request.target.as_str() {
        "/fail" => reply.step(&Step::Reset),
        _ => reply.ok("fine"),
    })
}

/// The number of requests for `/fail` at these.
fn fails(origins: &[Origin]) -> usize {
    origins.iter().flat_map(Origin::requests).filter(|request| request.target == "/fail").count()
}

fn two_unreliable() -> ([Origin; 2], Lb) {
    let origins = [unreliable(), unreliable()];
    let lb = balancer(&origins.each_ref().map(Origin::address));
    (origins, lb)
}

/// Two successful requests, one at each backend: so that neither has five failures in a row, and
/// both stay up.
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
fn many_failed_sends_exhaust_the_budget() {
    let (origins, lb) = two_unreliable();
    let (mut client, start) = (lb.connect(), Instant::now());
    for _ in 0..60 {
        fail(&mut client, "GET");
        fail(&mut client, "GET");
        keep_both_up(&mut client, &lb);
    }
    let totals = lb.totals();
    let allowed =
        SAVED + A_REQUEST * totals.requests as f64 + A_SECOND * start.elapsed().as_secs_f64() + 1.0;
    let paid = totals.retries - totals.stale_reuses;
    assert!(paid >= 30, "there is a budget: {paid}");
    assert!((paid as f64) <= allowed, "{paid} were sent again, {allowed} are allowed");
    let fails = fails(&origins) as u64 - totals.stale_reuses;
    assert!(
        (fails as f64) <= 120.0 + allowed,
        "{fails} came for 120 requests on connections that were not stale"
    );
}

#[test]
fn the_fresh_connection_after_a_dead_reused_one_costs_no_budget() {
    let origin = unreliable();
    let lb = balancer(&[origin.address()]);
    let mut client = lb.connect();
    for number in 1..=200 {
        client.get("/fine").expect_status(200);
        assert_eq!(client.get("/stale").status, 200, "number {number}, far beyond the budget");
    }
}

#[test]
fn requests_that_are_not_retried_cost_no_budget() {
    let (origins, lb) = two_unreliable();
    let mut client = lb.connect();
    for _ in 0..60 {
        fail(&mut client, "POST");
        fail(&mut client, "POST");
        keep_both_up(&mut client, &lb);
    }
    assert_eq!((lb.totals().retries, fails(&origins)), (0, 120));
    let stale_before = lb.totals().stale_reuses;
    for number in 1..=5 {
        fail(&mut client, "GET");
        let stale = (lb.totals().stale_reuses - stale_before) as usize;
        // A fresh connection to each of the two.
        assert_eq!(
            fails(&origins),
            120 + 2 * number + stale,
            "120 failed POSTs were sent once each: the budget is whole"
        );
        keep_both_up(&mut client, &lb);
    }
}

#[test]
fn the_one_retry_after_a_dead_reused_connection_is_free() {
    let (kept, first, again) = (100, Gate::new(), Gate::new());
    let gates = [first.clone(), again.clone()];
    let origin =
        Origin::serve(move |request, reply| match (request.connection < kept, request.index) {
            (true, 1..) => reply.step(&Step::Reset),
            (is_kept, _) => {
                reply.step(&Step::WaitFor(gates[usize::from(!is_kept)].clone()));
                reply.ok("fine");
            }
        });
    let lb = balancer(&[origin.address()]);
    let mut clients: Vec<Client> = (0..kept).map(|_| lb.connect()).collect();
    for (gate, requests) in [(first, kept), (again, 3 * kept)] {
        for client in &mut clients {
            client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        }
        origin.wait_for_requests(requests);
        gate.open();
        for client in &mut clients {
            client.read_response().expect_status(200);
        }
    }
    // Far more than the budget for 200 requests.
    assert_eq!((lb.totals().stale_reuses, lb.totals().retries), (kept as u64, kept as u64));
}

#[test]
fn a_failure_without_another_backend_costs_no_budget() {
    let origins = [unreliable(), unreliable().health(Health::Status(503))];
    let lb = Lb::with(&[&origins[0], &origins[1]], |config| config.boot.workers = 1);
    lb.wait_for_up(1);
    let mut client = lb.connect();
    for _ in 0..120 {
        fail(&mut client, "GET");
        client.get("/fine").expect_status(200);
    }
    let totals = lb.totals();
    assert_eq!(totals.retries, totals.stale_reuses, "nothing was sent to anybody else");
    origins[1].set_health(Health::Healthy);
    lb.wait_for_up(2);
    for _ in 0..5 {
        fail(&mut client, "GET");
        keep_both_up(&mut client, &lb);
    }
    let paid = lb.totals().retries - lb.totals().stale_reuses;
    assert_eq!(paid, 5, "the budget is whole");
}
