//! Backends with names: a name that does not resolve, one with several addresses, one whose
//! addresses change.
//!
//! No name server is needed: `localhost` and names below `.invalid` behave the same everywhere, and a
//! name that cannot be resolved keeps the addresses that it is given. Lookups that hang and times
//! between them are unit tests of `threads/resolver.rs`.

mod addresses;

use crate::support::program::{Program, balancer_words, command};
use crate::support::{Lb, Origin, config, get, until, until_some};
use lb_threads::config::{BackendSpec, Config, HostPort};
use lb_threads::upstream::registry::BackendStatus;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// A backend with a name that cannot be resolved, which has these addresses.
fn named(host: &str, addresses: &[SocketAddr]) -> BackendSpec {
    let authority = HostPort::new(host, 80).expect("it is a name");
    BackendSpec { addresses: addresses.to_vec(), ..BackendSpec::new(authority, 1) }
}

/// The backend `localhost` with the port of this origin.
fn localhost(origin: SocketAddr) -> BackendSpec {
    BackendSpec::new(HostPort::new("localhost", origin.port()).expect("it is a name"), 1)
}

/// A balancer with one worker in front of these backends.
fn balancer(backends: Vec<BackendSpec>, change: impl FnOnce(&mut Config)) -> Lb {
    let mut config = Config { backends, ..config(&[]) };
    config.boot.workers = 1;
    change(&mut config);
    Lb::start(config)
}

fn without_checks(config: &mut Config) {
    config.settings.health.checks = false;
}

/// The status of the backend with this host.
fn status(lb: &Lb, host: &str) -> BackendStatus {
    let statuses = lb.balancer().registry().statuses();
    let found = statuses.into_iter().find(|status| status.backend.authority.host() == host);
    found.expect("it is a member")
}

#[test]
fn a_name_that_does_not_resolve_is_a_backend_that_is_down_and_the_others_serve() {
    let origin = Origin::named("one");
    for checks in [&[][..], &["--no-health-checks"]] {
        let words = [&["-b", "no-such.invalid:80"][..], checks].concat();
        let balancer = Program::start(command(balancer_words(&[origin.address()], &words)));
        let address = balancer.address();
        balancer
            .until_logged("backend no-such.invalid:80 down: cannot resolve \"no-such.invalid\"");
        for _ in 0..4 {
            assert_eq!(get(address, "/").text(), "one");
        }
    }
}

#[test]
fn an_error_response_has_the_reason_why_a_name_has_no_address() {
    for checks in [true, false] {
        let spec = named("no-such.invalid", &[]);
        let lb = balancer(vec![spec], |config| config.settings.health.checks = checks);
        let response = until_some("the lookup has failed", || {
            let response = get(lb.address(), "/");
            response.text().contains("cannot resolve").then_some(response)
        });
        assert_eq!((response.status, response.header("X-LB-Error")), (503, Some("no_backend")));
        assert!(response.text().contains("cannot resolve \"no-such.invalid\""), "{response:?}");
        assert_eq!(status(&lb, "no-such.invalid").state.code(), "down");
    }
}

#[test]
fn a_name_is_resolved_before_the_first_request_and_when_its_backend_is_added() {
    for checks in [true, false] {
        let (one, two) = (Origin::named("one"), Origin::named("two"));
        let lb = balancer(vec![localhost(one.address())], |config| {
            config.settings.health.checks = checks;
            config.settings.health.period = Duration::from_secs(60);
        });
        assert_eq!(get(lb.address(), "/").text(), "one", "checks: {checks}");
        assert_eq!(status(&lb, "localhost").backend.addresses.in_use(), Some(one.address()));
        let before = Instant::now();
        lb.balancer().registry().add(&localhost(two.address()));
        lb.wait_for_up(2);
        assert!(before.elapsed() < Duration::from_secs(10), "not after a period");
    }
}

#[test]
fn a_name_of_the_balancer_itself_that_is_added_later_gets_no_request() {
    let lb = balancer(vec![], |_| {});
    lb.balancer().registry().add(&localhost(lb.address()));
    until("its name is resolved", || status(&lb, "localhost").state.code() == "down");
    let response = get(lb.address(), "/");
    assert_eq!(response.header("X-LB-Error"), Some("no_backend"));
    assert!(response.text().contains("the balancer itself"), "{response:?}");
}

#[test]
fn two_names_of_one_address_are_both_served_with_one_warning() {
    let origin = Origin::named("one");
    let by_name = format!("localhost:{}", origin.address().port());
    let balancer = Program::balancer(&[origin.address()], &["1", "-b", &by_name]);
    let address = balancer.address();
    balancer.until_logged("listening on");
    assert!(balancer.log().contains("2 backend(s) up"), "{}", balancer.log());
    (0..4).for_each(|_| assert_eq!(get(address, "/").text(), "one"));
    let checks = origin.health_checks();
    until("both were checked again", || origin.health_checks() >= checks + 4);
    let log = balancer.log();
    assert_eq!(log.matches("have the same address").count(), 1, "{log}");
}
