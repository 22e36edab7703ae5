//! The addresses of one name: tried in turn, remembered, replaced.

use super::{balancer, named, status, without_checks};
use crate::support::{Blackhole, Gate, Health, Origin, exchange, get, refused_address, until};
use lb_threads::upstream::health::{CheckResult, Observation, State};
use lb_threads::upstream::registry::Resolution;
use std::time::{Duration, Instant};

const HOST: &str = "app.invalid";

#[test]
fn an_attempt_goes_on_to_the_next_address_and_the_one_that_worked_comes_first_afterwards() {
    for method in ["GET", "POST"] {
        let origin = Origin::named("one");
        let addresses = [refused_address(), refused_address(), origin.address()];
        let lb = balancer(vec![named(HOST, &addresses)], without_checks);
        let request = format!("{method} / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\na");
        assert_eq!(exchange(lb.address(), &request).text(), "one", "{method}");
        let totals = lb.totals();
        assert_eq!((totals.backend_connects, totals.retries), (3, 0), "one attempt");
        assert_eq!(status(&lb, HOST).backend.addresses.in_use(), Some(origin.address()));
        let id = status(&lb, HOST).backend.id;
        let without_the_first = Resolution::Addresses(addresses[1..].to_vec());
        lb.balancer().registry().resolve(id, &without_the_first, Instant::now());
        assert_eq!(exchange(lb.address(), &request).text(), "one", "{method}");
        assert_eq!(lb.totals().backend_connects - totals.backend_connects, 0, "it is kept");
    }
}

#[test]
fn a_black_hole_among_the_addresses_uses_up_its_share_of_the_connect_timeout() {
    let (black_hole, origin) = (Blackhole::start(), Origin::named("one"));
    let timeout = Duration::from_secs(4);
    let lb = balancer(vec![named(HOST, &[black_hole.address(), origin.address()])], |config| {
        without_checks(config);
        config.settings.timeouts.connect = timeout;
    });
    let before = Instant::now();
    assert_eq!(get(lb.address(), "/").text(), "one");
    let took = before.elapsed();
    assert!(took >= timeout / 2 && took < timeout, "{took:?}");
    let before = Instant::now();
    (0..3).for_each(|_| assert_eq!(get(lb.address(), "/").text(), "one"));
    assert!(before.elapsed() < timeout / 2, "the black hole is not tried again");
}

#[test]
fn all_addresses_together_get_one_connect_timeout() {
    let black_holes = [Blackhole::start(), Blackhole::start(), Blackhole::start()];
    let addresses = black_holes.each_ref().map(Blackhole::address);
    let timeout = Duration::from_secs(1);
    let lb = balancer(vec![named(HOST, &addresses)], |config| {
        without_checks(config);
        config.settings.timeouts.connect = timeout;
    });
    let before = Instant::now();
    let response = get(lb.address(), "/");
    let took = before.elapsed();
    assert_eq!((response.status, response.header("X-LB-Error")), (504, Some("connect_timeout")));
    assert!(took >= timeout && took < 2 * timeout, "{took:?}");
    assert_eq!(lb.totals().backend_connects, 3);
}

#[test]
fn if_no_address_accepts_the_attempt_fails_once() {
    let lb = balancer(vec![named(HOST, &[refused_address(), refused_address()])], |config| {
        without_checks(config);
        config.settings.health.fall = 2;
    });
    let response = get(lb.address(), "/");
    assert_eq!((response.status, response.header("X-LB-Error")), (502, Some("connect_failed")));
    assert_eq!(lb.totals().backend_connects, 2);
    assert!(!status(&lb, HOST).is_spared, "two addresses are not two failures");
}

#[test]
fn a_health_check_tries_the_addresses_in_turn() {
    let origin = Origin::named("one");
    let lb = balancer(vec![named(HOST, &[refused_address(), origin.address()])], |_| {});
    assert_eq!((lb.up(), origin.health_checks()), (1, 1));
    assert_eq!(get(lb.address(), "/").text(), "one");
    let dead = balancer(vec![named(HOST, &[refused_address(), refused_address()])], |_| {});
    assert_eq!(dead.up(), 0);
    assert_eq!(status(&dead, HOST).state, State::Unreachable, "each connect is refused");
}

#[test]
fn when_an_address_leaves_its_idle_connections_close_and_requests_in_flight_finish() {
    let gate = Gate::new();
    let waits = gate.clone();
    let old = Origin::serve(move |received, reply| {
        if received.target == "/late" {
            waits.wait();
        }
        reply.ok("old");
    });
    let new = Origin::named("new");
    let lb = balancer(vec![named(HOST, &[old.address()])], without_checks);
    let mut late = lb.connect();
    late.send("GET /late HTTP/1.1\r\nHost: x\r\n\r\n");
    old.wait_for_requests(1);
    assert_eq!(get(lb.address(), "/").text(), "old");
    assert_eq!(old.open_connections(), 2, "one is idle");
    let id = status(&lb, HOST).backend.id;
    let moved = Resolution::Addresses(vec![new.address()]);
    lb.balancer().registry().resolve(id, &moved, Instant::now());
    until("the idle connection is closed", || old.open_connections() == 1);
    (0..3).for_each(|_| assert_eq!(get(lb.address(), "/").text(), "new"));
    gate.open();
    assert_eq!(late.read_response().text(), "old");
    until("its connection is not kept", || old.open_connections() == 0);
}

#[test]
fn a_backend_that_is_down_is_checked_soon_at_a_new_address() {
    let (sick, well, other) =
        (Origin::named("sick"), Origin::named("well"), Origin::named("other"));
    let backends = vec![named(HOST, &[sick.address()]), other.address().into()];
    let lb = balancer(backends, |config| config.settings.health.period = Duration::from_secs(60));
    lb.wait_for_up(2);
    sick.set_health(Health::Status(500));
    let (registry, id) = (lb.balancer().registry(), status(&lb, HOST).backend.id);
    let failed = Observation::Check(CheckResult::Failed);
    (0..2).for_each(|_| registry.observe(id, failed, "GET /health returned 500", Instant::now()));
    until("it was checked once more", || sick.health_checks() == 2);
    assert_eq!(lb.up(), 1);
    let before = Instant::now();
    registry.resolve(id, &Resolution::Addresses(vec![well.address()]), before);
    lb.wait_for_up(2);
    assert!(before.elapsed() < Duration::from_secs(10), "not after a period");
}
