//! Backends that are added, drained and removed while requests are served.

use crate::support::{Client, Gate, Lb, Origin, get, until};
use lb_threads::config::BackendSpec;
use lb_threads::upstream::backend::BackendId;
use lb_threads::upstream::registry::{Added, BackendStatus, Registry};
use std::time::{Duration, Instant};

const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";

fn spec(origin: &Origin) -> BackendSpec {
    origin.address().into()
}

fn registry(lb: &Lb) -> &Registry {
    lb.balancer().registry()
}

fn status(lb: &Lb, origin: &Origin) -> Option<BackendStatus> {
    let statuses = registry(lb).statuses();
    statuses.into_iter().find(|status| status.backend.authority == origin.address().into())
}

fn id(lb: &Lb, origin: &Origin) -> BackendId {
    status(lb, origin).expect("it is a member").backend.id
}

/// An origin that responds when the gate is open.
fn gated(gate: &Gate) -> Origin {
    let gate = gate.clone();
    Origin::serve(move |_, reply| {
        gate.wait();
        reply.ok("late");
    })
}

/// A client whose request is at this origin.
fn waiting(lb: &Lb, origin: &Origin) -> Client {
    let mut client = lb.connect();
    client.send(GET);
    origin.wait_for_requests(1);
    client
}

#[test]
fn an_added_backend_gets_requests_after_its_first_check_which_comes_at_once() {
    let (one, two) = (Origin::named("one"), Origin::named("two"));
    // With a period of a minute, any check but the first one would come too late.
    let lb = Lb::with(&[&one], |config| config.settings.health.period = Duration::from_secs(60));
    let before = Instant::now();
    assert!(matches!(registry(&lb).add(&spec(&two)), Added::New(_)));
    lb.wait_for_up(2);
    assert!(before.elapsed() < Duration::from_secs(10));
    assert_eq!(two.health_checks(), 1);
    let mut bodies = [get(lb.address(), "/").text(), get(lb.address(), "/").text()];
    bodies.sort_unstable();
    assert_eq!(bodies, ["one", "two"]);
}

#[test]
fn a_balancer_without_backends_serves_once_one_is_added() {
    let lb = Lb::over(&[]);
    assert_eq!(get(lb.address(), "/").header("X-LB-Error"), Some("no_backend"));
    let origin = Origin::named("one");
    registry(&lb).add(&spec(&origin));
    lb.wait_for_up(1);
    assert_eq!(get(lb.address(), "/").text(), "one");
}

#[test]
fn a_draining_backend_finishes_its_request_and_gets_no_other_until_it_is_resumed() {
    let gate = Gate::new();
    let (slow, other) = (gated(&gate), Origin::named("other"));
    let lb = Lb::over(&[&slow]);
    let mut client = waiting(&lb, &slow);
    registry(&lb).add(&spec(&other));
    lb.wait_for_up(2);
    assert!(registry(&lb).drain(id(&lb, &slow)));
    for _ in 0..4 {
        assert_eq!(get(lb.address(), "/").text(), "other");
    }
    let checks = slow.health_checks();
    until("its checks go on", || slow.health_checks() > checks);
    gate.open();
    assert_eq!(client.read_response().text(), "late", "it was not moved to the other backend");
    until("its connection is not kept", || slow.open_connections() == 0);
    assert_eq!((slow.count(), lb.totals().retries), (1, 0));
    registry(&lb).resume(id(&lb, &slow));
    let bodies = [get(lb.address(), "/").text(), get(lb.address(), "/").text()];
    assert!(bodies.contains(&"late".to_owned()), "{bodies:?}");
}

#[test]
fn the_drain_of_the_only_backend_is_the_reason_of_the_outage() {
    let origin = Origin::named("one");
    let lb = Lb::over(&[&origin]);
    registry(&lb).drain(id(&lb, &origin));
    let response = get(lb.address(), "/");
    assert_eq!((response.status, response.header("X-LB-Error")), (503, Some("no_backend")));
    assert!(response.text().contains("draining"), "{}", response.text());
}

#[test]
fn a_removed_backend_finishes_its_request_and_its_idle_connections_close() {
    let gate = Gate::new();
    let (slow, idle) = (gated(&gate), Origin::named("idle"));
    let lb = Lb::with(&[&idle], |config| {
        config.boot.workers = 1;
        config.settings.timeouts.backend_idle = Duration::from_secs(60);
    });
    assert_eq!(get(lb.address(), "/").text(), "idle");
    until("its connection is idle", || idle.open_connections() == 1);
    registry(&lb).add(&spec(&slow));
    lb.wait_for_up(2);
    registry(&lb).remove(id(&lb, &idle));
    until("its idle connection is closed", || idle.open_connections() == 0);
    assert!(status(&lb, &idle).is_none());
    let mut client = waiting(&lb, &slow);
    registry(&lb).remove(id(&lb, &slow));
    assert_eq!(get(lb.address(), "/").header("X-LB-Error"), Some("no_backend"));
    gate.open();
    assert_eq!(client.read_response().text(), "late");
    until("its connection is not kept", || slow.open_connections() == 0);
}

#[test]
fn a_removed_backend_is_checked_no_more() {
    let (one, two) = (Origin::named("one"), Origin::named("two"));
    let lb = Lb::over(&[&one, &two]);
    registry(&lb).remove(id(&lb, &two));
    let (of_one, of_two) = (one.health_checks(), two.health_checks());
    until("the other was checked again", || one.health_checks() >= of_one + 2);
    // One check may have been under way.
    assert!(two.health_checks() <= of_two + 1);
}

#[test]
fn a_backend_that_is_removed_and_added_again_is_new_while_its_old_requests_finish() {
    let gate = Gate::new();
    let origin = gated(&gate);
    let lb = Lb::over(&[&origin]);
    let mut client = waiting(&lb, &origin);
    let old = status(&lb, &origin).expect("it is a member").backend;
    registry(&lb).remove(old.id);
    let Added::New(new) = registry(&lb).add(&spec(&origin)) else { panic!("it was removed") };
    lb.wait_for_up(1);
    let new = status(&lb, &origin).filter(|status| status.backend.id == new).expect("it is there");
    assert_eq!((old.in_flight(), new.backend.in_flight()), (1, 0));
    gate.open();
    assert_eq!(client.read_response().text(), "late");
    until("the slot is free", || old.in_flight() == 0);
    assert_eq!(get(lb.address(), "/").text(), "late");
    assert_eq!(origin.connections(), 2, "the new one has its own connections");
}

#[test]
fn a_backend_that_is_added_again_gets_none_of_the_idle_connections_of_before() {
    let origin = Origin::named("one");
    let lb = Lb::with(&[&origin], |config| {
        config.boot.workers = 1;
        config.settings.health.checks = false;
        config.settings.timeouts.backend_idle = Duration::from_secs(60);
    });
    let mut client = lb.connect();
    for _ in 0..2 {
        assert_eq!(client.get("/").text(), "one");
    }
    assert_eq!((origin.accepted(), lb.totals().backend_reuses), (1, 1));
    registry(&lb).remove(id(&lb, &origin));
    registry(&lb).add(&spec(&origin));
    assert_eq!(client.get("/").text(), "one");
    assert_eq!((origin.accepted(), lb.totals().backend_reuses), (2, 1));
}

/// A client whose request waits for a slot.
fn queued(lb: &Lb, requests: u64) -> Client {
    let mut client = lb.connect();
    client.send(GET);
    until("the request was read", || lb.totals().requests == requests);
    client
}

#[test]
fn a_request_queued_for_the_only_backend_gets_503_no_backend_when_that_is_removed() {
    let gate = Gate::new();
    let origin = gated(&gate);
    let lb =
        Lb::with(&[&origin], |config| config.settings.limits.max_requests_per_backend = Some(1));
    let mut first = waiting(&lb, &origin);
    let mut second = queued(&lb, 2);
    registry(&lb).remove(id(&lb, &origin));
    let response = second.read_response();
    assert_eq!((response.status, response.header("X-LB-Error")), (503, Some("no_backend")));
    gate.open();
    assert_eq!(first.read_response().text(), "late");
    assert_eq!(second.get("/").header("X-LB-Error"), Some("no_backend"));
}

#[test]
fn a_queued_request_goes_to_a_backend_that_is_added_and_none_to_one_that_drains() {
    let gate = Gate::new();
    let (slow, added) = (gated(&gate), Origin::named("added"));
    let lb = Lb::with(&[&slow], |config| config.settings.limits.max_requests_per_backend = Some(1));
    let mut first = waiting(&lb, &slow);
    let mut second = queued(&lb, 2);
    registry(&lb).add(&spec(&added));
    assert_eq!(second.read_response().text(), "added");
    registry(&lb).drain(id(&lb, &slow));
    gate.open();
    assert_eq!(first.read_response().text(), "late");
    for _ in 0..3 {
        assert_eq!(second.get("/").text(), "added");
    }
    assert_eq!(slow.count(), 1);
}

#[test]
fn a_backend_that_a_new_list_lacks_closes_its_idle_connections() {
    let (kept, removed) = (Origin::named("kept"), Origin::named("removed"));
    let lb = Lb::with(&[&kept, &removed], |config| {
        config.boot.workers = 1;
        config.settings.timeouts.backend_idle = Duration::from_secs(60);
    });
    lb.wait_for_up(2);
    let bodies = [get(lb.address(), "/").text(), get(lb.address(), "/").text()];
    assert!(bodies.contains(&"removed".to_owned()), "{bodies:?}");
    until("both connections are idle", || {
        (kept.open_connections(), removed.open_connections()) == (1, 1)
    });
    let diff = registry(&lb).apply(&[spec(&kept)]);
    assert_eq!((diff.kept.len(), diff.removed.len()), (1, 1));
    until("its idle connection is closed", || removed.open_connections() == 0);
    assert_eq!(kept.open_connections(), 1);
}

#[test]
fn a_slot_of_a_backend_that_a_new_list_lacks_goes_to_no_queued_request() {
    let gates = [Gate::new(), Gate::new()];
    let (removed, kept) = (gated(&gates[0]), gated(&gates[1]));
    let lb =
        Lb::with(&[&removed], |config| config.settings.limits.max_requests_per_backend = Some(1));
    let mut first = waiting(&lb, &removed);
    registry(&lb).add(&spec(&kept));
    lb.wait_for_up(2);
    let mut second = waiting(&lb, &kept);
    let mut third = queued(&lb, 3);
    let old = status(&lb, &removed).expect("it is a member").backend;
    registry(&lb).apply(&[spec(&kept)]);
    gates[0].open();
    assert_eq!(first.read_response().text(), "late");
    until("its slot is free", || old.in_flight() == 0);
    gates[1].open();
    for client in [&mut second, &mut third] {
        assert_eq!(client.read_response().text(), "late");
    }
    assert_eq!((removed.count(), kept.count()), (1, 2));
}

#[test]
fn a_queued_request_is_served_when_the_limit_is_raised() {
    let gate = Gate::new();
    let origin = gated(&gate);
    let lb =
        Lb::with(&[&origin], |config| config.settings.limits.max_requests_per_backend = Some(1));
    let mut first = waiting(&lb, &origin);
    let mut second = queued(&lb, 2);
    lb.change(|settings| settings.limits.max_requests_per_backend = Some(2));
    origin.wait_for_requests(2);
    gate.open();
    for client in [&mut first, &mut second] {
        assert_eq!(client.read_response().text(), "late");
    }
}

#[test]
fn requests_are_served_without_an_error_while_membership_changes() {
    let origins: Vec<Origin> = (0..4).map(|_| Origin::responding("served")).collect();
    let lb = Lb::over(&[&origins[0]]);
    let specs: Vec<BackendSpec> = origins.iter().map(spec).collect();
    let mut clients: Vec<Client> = (0..8).map(|_| lb.connect()).collect();
    for round in 0..40 {
        // The first one stays: the others come and go.
        let others = specs[1..].iter().enumerate().filter(|(index, _)| round >> index & 1 == 0);
        let mut list = vec![specs[0].clone()];
        list.extend(others.map(|(_, spec)| spec.clone()));
        clients.iter_mut().for_each(|client| client.send(GET));
        registry(&lb).apply(&list);
        for client in &mut clients {
            client.read_response().expect_status(200);
        }
    }
    assert_eq!(lb.totals().requests, 320);
    assert!(origins.iter().map(Origin::count).sum::<usize>() >= 320);
}
