//! Connection slots at backends: `--backend-max-requests` and the queue for them.

use crate::support::{Client, Gate, Lb, Origin, Step, get, until};
use lb_threads::error::Cause;
use lb_threads::reason::Reason;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";

/// An origin that responds when the gate is open.
fn gated(gate: &Gate) -> Origin {
    let gate = gate.clone();
    Origin::serve(move |_, reply| {
        gate.wait();
        reply.ok("late");
    })
}

fn limited(origins: &[&Origin], limit: usize) -> Lb {
    Lb::with(origins, |config| config.settings.limits.max_requests_per_backend = Some(limit))
}

/// A client whose request waits for a slot.
fn waiting(lb: &Lb, requests: u64) -> Client {
    let mut client = lb.connect();
    client.send(GET);
    until("the request was read", || lb.totals().requests == requests);
    client
}

#[test]
fn many_clients_share_few_backend_connections() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counts = (Arc::clone(&now), Arc::clone(&most));
    let origin = Origin::serve(move |_, reply| {
        counts.1.fetch_max(counts.0.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        thread::yield_now();
        counts.0.fetch_sub(1, Ordering::SeqCst);
        reply.ok("served");
    });
    let lb = limited(&[&origin], 3);
    let mut clients: Vec<Client> = (0..200).map(|_| lb.connect()).collect();
    for _ in 0..3 {
        for client in &mut clients {
            client.send(GET);
        }
        for client in &mut clients {
            assert_eq!(client.read_response().text(), "served");
        }
    }
    assert_eq!(origin.count(), 600, "each was executed once");
    assert!(
        most.load(Ordering::SeqCst) <= 3 && origin.open_connections() <= 6,
        "{}",
        origin.open_connections()
    );
}

#[test]
fn a_request_queued_past_its_timeout_gets_503_backend_full() {
    let gate = Gate::new();
    let origin = gated(&gate);
    let lb = Lb::with(&[&origin], |config| {
        config.settings.limits.max_requests_per_backend = Some(1);
        config.settings.timeouts.queue = Duration::from_millis(50);
    });
    let mut first = waiting(&lb, 1);
    origin.wait_for_requests(1);
    let rejected = get(lb.address(), "/");
    assert_eq!((rejected.status, rejected.header("X-LB-Error")), (503, Some("backend_full")));
    assert!(rejected.header("Retry-After").is_some());
    gate.open();
    assert_eq!(first.read_response().text(), "late");
    assert_eq!(get(lb.address(), "/").text(), "late", "the slot is free again");
    assert_eq!(lb.totals().failed(Cause::BackendFull), 1);
}

#[test]
fn a_client_that_leaves_the_queue_blocks_no_other_request() {
    let gate = Gate::new();
    let origin = gated(&gate);
    let lb = limited(&[&origin], 1);
    let mut first = waiting(&lb, 1);
    origin.wait_for_requests(1);
    let second = waiting(&lb, 2);
    let mut third = waiting(&lb, 3);
    second.reset();
    lb.wait_for_closed(Reason::ClientReset, 1);
    gate.open();
    assert_eq!(first.read_response().text(), "late");
    assert_eq!(third.read_response().text(), "late");
    assert_eq!(origin.count(), 2);
}

#[test]
fn the_queue_is_first_in_first_out() {
    let gate = Gate::new();
    let origin = gated(&gate);
    let lb = Lb::with(&[&origin], |config| {
        config.settings.limits.max_requests_per_backend = Some(1);
        config.boot.workers = 1;
    });
    let mut clients: Vec<Client> = Vec::new();
    for number in 0..10 {
        let mut client = lb.connect();
        client.send(format!("GET /{number} HTTP/1.1\r\nHost: h\r\n\r\n"));
        until("the request was read", || lb.totals().requests == number + 1);
        clients.push(client);
    }
    gate.open();
    for client in &mut clients {
        client.read_response().expect_status(200);
    }
    let order: Vec<String> = origin.requests().into_iter().map(|request| request.target).collect();
    assert_eq!(order, (0..10).map(|number| format!("/{number}")).collect::<Vec<_>>());
}

#[test]
fn a_backend_that_comes_back_serves_the_queued_requests() {
    let gate = Gate::new();
    let (busy, other) =
        (gated(&gate), Origin::named("other").health(crate::support::Health::Status(500)));
    let lb = limited(&[&busy, &other], 1);
    let mut first = waiting(&lb, 1);
    busy.wait_for_requests(1);
    let mut second = waiting(&lb, 2);
    other.set_health(crate::support::Health::Healthy);
    assert_eq!(second.read_response().text(), "other");
    gate.open();
    assert_eq!(first.read_response().text(), "late");
}

#[test]
fn a_request_that_failed_at_one_backend_waits_for_a_slot_at_another() {
    let gate = Gate::new();
    let (busy, broken) = (gated(&gate), Origin::serve(|_, reply| reply.step(&Step::Reset)));
    let lb = limited(&[&busy, &broken], 1);
    let mut first = waiting(&lb, 1);
    busy.wait_for_requests(1);
    let mut second = waiting(&lb, 2);
    broken.wait_for_requests(1);
    // A third request is queued after the second, and gets the slot of the failed one: the second
    // cannot use it.
    let mut third = waiting(&lb, 3);
    broken.wait_for_requests(2);
    gate.open();
    for client in [&mut first, &mut second, &mut third] {
        assert_eq!(client.read_response().text(), "late");
    }
    assert_eq!((broken.count(), busy.count()), (2, 3));
}

#[test]
fn a_rejected_upload_releases_its_slot_at_once() {
    let origin = Origin::responding("served");
    let lb = Lb::with(&[&origin], |config| {
        config.settings.limits.max_requests_per_backend = Some(1);
        config.settings.timeouts.queue = Duration::from_millis(500);
    });
    let mut bad = lb.connect();
    bad.send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
    origin.wait_for_requests(1);
    bad.send("oops\r\n");
    assert_eq!(bad.read_response().status, 400);
    assert_eq!(get(lb.address(), "/").text(), "served", "during the lingering close");
}
