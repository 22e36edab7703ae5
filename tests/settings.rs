//! Settings that change while connections are open.
//!
//! A worker takes the messages of its inbox before each wait, and steps a connection in a later turn
//! than it accepts it: with one worker, a response on a new connection shows that the worker has the
//! new settings.

use crate::support::{Client, Gate, Health, Lb, Origin, get, refused_address, stays, until};
use lb_threads::config::{Config, HealthSettings, Timeouts};
use lb_threads::error::Cause;
use lb_threads::reason::Reason;
use std::time::Duration;

const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
/// Longer than a busy machine holds a thread back.
const SHORT: Duration = Duration::from_millis(400);
const LONG: Duration = Duration::from_secs(60);

/// One worker, no health checks, and timeouts that never end anything.
fn balancer(origin: &Origin, change: impl FnOnce(&mut Config)) -> Lb {
    Lb::with(&[origin], |config| {
        config.boot.workers = 1;
        config.settings.health.checks = false;
        config.settings.timeouts =
            Timeouts { idle: LONG, queue: LONG, body: LONG, linger: LONG, ..Timeouts::default() };
        change(config);
    })
}

/// An origin that responds once the gate is open.
fn gated(gate: &Gate) -> Origin {
    let gate = gate.clone();
    Origin::serve(move |_, reply| {
        gate.wait();
        reply.ok("late");
    })
}

/// A client whose request has reached the balancer: one of so many.
fn waiting(lb: &Lb, requests: u64) -> Client {
    let mut client = lb.connect();
    client.send(GET);
    until("the request was read", || lb.totals().requests == requests);
    client
}

#[test]
fn an_idle_connection_keeps_its_deadline_and_waits_with_the_new_timeout_next() {
    let origin = Origin::responding("x");
    let lb = balancer(&origin, |_| {});
    let mut old = lb.connect();
    assert_eq!(old.get("/").text(), "x");
    lb.change(|settings| settings.timeouts.idle = SHORT);
    let mut new = lb.connect();
    assert_eq!(new.get("/").text(), "x");
    assert!(new.at_end());
    lb.wait_for_closed(Reason::IdleTimeout, 1);
    assert!(old.is_open(), "its deadline was set before the change");
    assert_eq!(old.get("/").text(), "x");
    assert!(old.at_end());
    lb.wait_for_closed(Reason::IdleTimeout, 2);
}

#[test]
fn a_longer_timeout_holds_from_the_next_wait_on_too() {
    let origin = Origin::responding("x");
    let lb = balancer(&origin, |config| config.settings.timeouts.idle = SHORT);
    let mut old = lb.connect();
    assert_eq!(old.get("/").text(), "x");
    lb.change(|settings| settings.timeouts.idle = LONG);
    let mut new = lb.connect();
    assert_eq!(new.get("/").text(), "x");
    assert!(old.at_end());
    stays("the new connection is open", 2 * SHORT, || new.is_open());
    assert_eq!(lb.totals().closed(Reason::IdleTimeout), 1);
}

#[test]
fn a_body_timeout_changes_when_the_body_makes_progress() {
    let origin = Origin::responding("x");
    let lb = balancer(&origin, |_| {});
    let begin = |client: &mut Client| {
        let head = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9000\r\n\r\n";
        client.send(head.to_owned() + &"x".repeat(2000));
    };
    let mut old = lb.connect();
    begin(&mut old);
    until("its request was read", || lb.totals().requests == 1);
    lb.change(|settings| settings.timeouts.body = SHORT);
    let mut new = lb.connect();
    begin(&mut new);
    new.read_response().expect_status(408);
    assert!(old.is_open(), "its deadline was set before the change");
    old.send("x".repeat(2000));
    let response = old.read_response();
    let code = Cause::RequestBodyTimeout.code();
    assert_eq!((response.status, response.header("X-LB-Error")), (408, Some(code)));
}

#[test]
fn a_queued_request_keeps_its_deadline_and_the_next_one_has_the_new_timeout() {
    let gate = Gate::new();
    let origin = gated(&gate);
    let one = |config: &mut Config| config.settings.limits.max_requests_per_backend = Some(1);
    let lb = balancer(&origin, one);
    let mut first = waiting(&lb, 1);
    origin.wait_for_requests(1);
    let mut queued = waiting(&lb, 2);
    lb.change(|settings| settings.timeouts.queue = SHORT);
    let response = get(lb.address(), "/");
    let code = Cause::BackendFull.code();
    assert_eq!((response.status, response.header("X-LB-Error")), (503, Some(code)));
    gate.open();
    assert_eq!(first.read_response().text(), "late");
    assert_eq!(queued.read_response().text(), "late");
}

#[test]
fn a_higher_limit_of_requests_sends_queued_requests_at_once() {
    let gate = Gate::new();
    let origin = gated(&gate);
    let one = |config: &mut Config| config.settings.limits.max_requests_per_backend = Some(1);
    let lb = balancer(&origin, one);
    let mut clients = [waiting(&lb, 1), waiting(&lb, 2), waiting(&lb, 3)];
    origin.wait_for_requests(1);
    lb.change(|settings| settings.limits.max_requests_per_backend = Some(2));
    origin.wait_for_requests(2);
    lb.change(|settings| settings.limits.max_requests_per_backend = None);
    origin.wait_for_requests(3);
    gate.open();
    for client in &mut clients {
        assert_eq!(client.read_response().text(), "late");
    }
}

#[test]
fn a_limit_of_connections_changes_for_new_ones_and_open_ones_stay() {
    let origin = Origin::responding("x");
    let lb = balancer(&origin, |config| config.settings.limits.max_connections = 1);
    let mut first = lb.connect();
    assert_eq!(first.get("/").status, 200);
    assert_eq!(get(lb.address(), "/").status, 503);
    lb.change(|settings| settings.limits.max_connections = 2);
    let mut second = lb.connect();
    assert_eq!(second.get("/").status, 200);
    lb.change(|settings| {
        settings.limits.max_connections = 100;
        settings.limits.max_connections_per_client = Some(1);
    });
    let third = lb.connect().get("/").status;
    let fourth = Client::connect_from([127, 0, 0, 2].into(), lb.address()).get("/").status;
    assert_eq!((third, fourth), (200, 200), "only connections from now on count by client");
    lb.change(|settings| settings.limits.max_connections = 1);
    assert_eq!(get(lb.address(), "/").status, 503);
    assert_eq!((first.get("/").status, second.get("/").status), (200, 200));
}

#[test]
fn a_limit_of_body_bytes_and_trusted_proxies_change_for_the_next_request() {
    let origin = Origin::echo();
    let lb = balancer(&origin, |config| config.settings.limits.max_body_bytes = Some(3));
    let post = "POST / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 192.0.2.7\r\nContent-Length: 4\r\n\r\n\
                body";
    assert_eq!(lb.connect().exchange(post).status, 413);
    lb.change(|settings| settings.limits.max_body_bytes = Some(4));
    let mut client = lb.connect();
    assert_eq!(client.exchange(post).text(), "body");
    assert_eq!(origin.only_request().header("X-Forwarded-For"), Some("127.0.0.1"));
    lb.change(|settings| settings.trusted_proxies = vec!["127.0.0.0/8".parse().expect("valid")]);
    assert_eq!(lb.connect().exchange(post).text(), "body");
    let last = origin.requests().pop().expect("there are two");
    assert_eq!(last.header("X-Forwarded-For"), Some("192.0.2.7, 127.0.0.1"));
}

#[test]
fn a_shorter_health_period_brings_the_next_check_forward() {
    let origin = Origin::responding("x");
    let lb = Lb::with(&[&origin], |config| config.settings.health.period = LONG);
    lb.wait_for_up(1);
    let checks = origin.health_checks();
    lb.change(|settings| settings.health.period = SHORT);
    until("it is checked again and again", || origin.health_checks() >= checks + 3);
}

#[test]
fn the_path_and_the_thresholds_of_health_checks_change_for_the_next_check() {
    let origin = Origin::named("one");
    let lb = Lb::with(&[&origin], |config| {
        let health = &mut config.settings.health;
        *health = HealthSettings { period: SHORT, fall: 1000, ..health.clone() };
    });
    lb.wait_for_up(1);
    origin.set_health(Health::Status(500));
    let checks = origin.health_checks();
    until("it has failed a few checks", || origin.health_checks() > checks + 3);
    assert_eq!(lb.up(), 1, "a thousand were to fail");
    lb.change(|settings| settings.health.fall = 2);
    lb.wait_for_up(0);
    // The origin fails its health path alone.
    lb.change(|settings| settings.health.path = "/".to_owned());
    lb.wait_for_up(1);
}

#[test]
fn health_checks_can_be_switched_off_and_on() {
    let origin = Origin::named("one").health(Health::Status(500));
    let lb = Lb::with(&[&origin], |config| config.settings.health.period = SHORT);
    assert_eq!(lb.up(), 0);
    lb.change(|settings| settings.health.checks = false);
    lb.wait_for_up(1);
    assert_eq!(get(lb.address(), "/").text(), "one");
    lb.change(|settings| settings.health.checks = true);
    lb.wait_for_up(0);
    lb.change(|settings| settings.health.checks = false);
    lb.wait_for_up(1);
    let checks = origin.health_checks();
    stays("no check is sent", 3 * SHORT, || origin.health_checks() <= checks + 1);
}

#[test]
fn checks_that_are_switched_on_find_a_dead_backend() {
    let mut config = crate::support::config(&[refused_address()]);
    (config.settings.health.checks, config.settings.health.period) = (false, SHORT);
    let lb = Lb::start(config);
    assert_eq!(lb.up(), 1, "nothing is known about it");
    lb.change(|settings| settings.health.checks = true);
    lb.wait_for_up(0);
}

#[test]
fn the_level_of_the_log_changes() {
    let origin = Origin::responding("x");
    let lb = balancer(&origin, |_| {});
    lb.change(|settings| settings.log_level = log::LevelFilter::Trace);
    assert_eq!(log::max_level(), log::LevelFilter::Trace);
}
