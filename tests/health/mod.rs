//! Active health checking: backends go down and come back by their checks, and the start waits for
//! the first round. The schedule's time bounds are unit tests of `health_check/schedule.rs`.

mod checks;
mod messages;
mod passive;

use crate::support::program::{Program, balancer_words, command_with_descriptors};
use crate::support::{Health, Lb, Origin, Script, config, get, refused_address, until};
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);
/// A short one, where the length does not matter: an interval of a second is then limited to a
/// period.
const PERIOD: Duration = Duration::from_millis(200);

#[test]
fn without_traffic_a_dead_backend_goes_down_and_comes_back() {
    let (one, two) = (Origin::named("one"), Origin::named("two"));
    let lb = Lb::over(&[&one, &two]);
    lb.wait_for_up(2);
    one.stop();
    lb.wait_for_up(1);
    let _one = Origin::start_on(one.address(), Script::named("one again"));
    lb.wait_for_up(2);
    assert_eq!(lb.totals().requests, 0, "no request was sent");
}

#[test]
fn a_hanging_check_times_out_and_delays_no_other_transition() {
    let (hangs, dies, stays_up) =
        (Origin::named("hangs"), Origin::named("dies"), Origin::named("stays"));
    let lb = Lb::with(&[&hangs, &dies, &stays_up], |config| {
        config.settings.health.period = PERIOD;
        config.settings.health.timeout = Some(5 * SECOND);
    });
    lb.wait_for_up(3);
    hangs.set_health(Health::Hang);
    let checks = hangs.health_checks();
    until("its check hangs", || hangs.health_checks() > checks);
    dies.stop();
    lb.wait_for_up(2);
    let others = stays_up.health_checks();
    until("the others are checked again and again", || stays_up.health_checks() > others + 3);
    assert_eq!(hangs.health_checks(), checks + 1, "one check of a backend at a time");
    assert_eq!(lb.up(), 2, "the hanging one has not failed yet");
}

#[test]
fn a_hanging_backend_goes_down_and_comes_back() {
    let (hangs, stays_up) = (Origin::named("hangs"), Origin::named("stays"));
    let lb = Lb::with(&[&hangs, &stays_up], |config| {
        config.settings.health.period = PERIOD;
        config.settings.health.timeout = Some(PERIOD);
    });
    lb.wait_for_up(2);
    hangs.set_health(Health::Hang);
    lb.wait_for_up(1);
    hangs.set_health(Health::Healthy);
    lb.wait_for_up(2);
}

/// Addresses that accept connections and never respond.
fn silent(count: usize) -> (Vec<TcpListener>, Vec<SocketAddr>) {
    let listeners: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
    let addresses =
        listeners.iter().map(|listener| listener.local_addr().expect("it is bound")).collect();
    (listeners, addresses)
}

#[test]
fn backends_that_hang_at_the_start_do_not_block_it() {
    let (_listeners, hanging) = silent(2);
    let mut config = config(&hanging);
    config.settings.health.timeout = Some(60 * SECOND);
    let start = Instant::now();
    let lb = Lb::start(config);
    let took = start.elapsed();
    assert!(took < 60 * SECOND, "the checks still hang: {took:?}");
    assert_eq!((lb.up(), get(lb.address(), "/").status), (0, 503));
}

#[test]
fn a_good_backend_serves_beside_two_hundred_that_hang_and_its_period_is_kept() {
    let (_listeners, hanging) = silent(200);
    let good = Origin::named("good");
    let mut config = config(&[hanging, vec![good.address()]].concat());
    config.settings.health.timeout = Some(60 * SECOND);
    let lb = Lb::start(config);
    lb.wait_for_up(1);
    assert_eq!(get(lb.address(), "/").text(), "good", "all first checks start at once");
    until("it is checked again and again while the others hang", || good.health_checks() >= 4);
    assert_eq!(lb.up(), 1);
}

#[test]
fn there_are_no_more_checkers_than_checks_at_once() {
    let (one, two) = (Origin::named("one"), Origin::named("two"));
    let balancer = Program::balancer(&[one.address(), two.address()], &["1"]);
    until("both were checked three times", || one.health_checks() >= 3 && two.health_checks() >= 3);
    let checkers = balancer.threads("checker-");
    assert!((1..=2).contains(&checkers), "{checkers}");
}

#[test]
fn checks_that_hang_take_no_more_descriptors_than_their_share() {
    let (_listeners, mut backends) = silent(120);
    let good = Origin::named("good");
    backends.push(good.address());
    let words = balancer_words(&backends, &["1", "--health-timeout", "1"]);
    let balancer = Program::start(command_with_descriptors(128, words));
    let address = balancer.address();
    until("the good one serves", || get(address, "/").status == 200);
    assert!(
        balancer.descriptors().len() < 128 / 2,
        "a quarter for checks: {}",
        balancer.descriptors().len()
    );
    assert!(
        !balancer.log().contains("cannot check"),
        "each check has a descriptor: {}",
        balancer.log()
    );
}

#[test]
fn a_backend_started_after_the_balancer_serves_long_before_the_next_period() {
    let address = refused_address();
    let mut config = config(&[address]);
    config.settings.health.period = 60 * SECOND;
    let lb = Lb::start(config);
    assert_eq!(get(lb.address(), "/").status, 503);
    let _origin = Origin::start_on(address, Script::named("late"));
    lb.wait_for_up(1);
    assert_eq!(get(lb.address(), "/").text(), "late");
}

#[test]
fn a_backend_that_was_never_up_is_checked_soon_also_while_another_serves() {
    let (good, address) = (Origin::named("good"), refused_address());
    let mut config = config(&[good.address(), address]);
    config.settings.health.period = 60 * SECOND;
    let lb = Lb::start(config);
    assert_eq!(lb.up(), 1);
    let _origin = Origin::start_on(address, Script::named("late"));
    lb.wait_for_up(2);
    assert_eq!(good.health_checks(), 1, "one that is up is left alone for its period");
}

#[test]
fn the_first_round_of_checks_ends_before_the_first_request_is_served() {
    let (one, dead, two) = (Origin::named("one"), refused_address(), Origin::named("two"));
    let lb = Lb::start(config(&[one.address(), dead, two.address()]));
    assert_eq!(lb.up(), 2, "known at once, without a wait");
    let names: Vec<String> = (0..4).map(|_| get(lb.address(), "/").text()).collect();
    assert_eq!(names, ["one", "two", "one", "two"]);
    assert_eq!(lb.totals().retries, 0, "the dead one gets nothing");
}

#[test]
fn a_balancer_without_backends_starts() {
    let lb = Lb::start(config(&[]));
    assert_eq!(get(lb.address(), "/").status, 503);
}
