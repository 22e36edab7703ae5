//! When the last backend that is up dies: no request fails that another could have served.

use super::{Sent, under_load};
use crate::support::{Lb, Origin, Script, config, get, refused_address, until};
use std::net::SocketAddr;
use std::time::Duration;

#[test]
fn the_last_healthy_backend_dies_while_another_is_ejected_but_alive_and_no_request_fails() {
    let (one, two) = (Origin::named("one"), Origin::named("two"));
    let lb =
        Lb::with(&[&one, &two], |config| config.settings.health.period = Duration::from_secs(10));
    lb.wait_for_up(2);
    let mut client = lb.connect();
    one.stop();
    until("the dead backend is out", || {
        assert_eq!(client.get("/").text(), "two");
        lb.up() == 1
    });
    let _one = Origin::start_on(one.address(), Script::named("one again"));
    two.stop();
    for number in 0..50 {
        assert_eq!(client.get("/").text(), "one again", "request {number}");
    }
}

#[test]
fn a_rolling_restart_of_two_backends_under_load_fails_no_get() {
    for period in [1, 10] {
        let (one, two) = (Origin::named("one"), Origin::named("two"));
        let lb = Lb::with(&[&one, &two], |config| {
            config.settings.health.period = Duration::from_secs(period);
        });
        lb.wait_for_up(2);
        let (sent, _restarted) = under_load(lb.address(), "GET", || {
            let busy = |origin: &Origin, count| until("it is busy", || origin.count() > count);
            busy(&two, 20);
            one.stop();
            busy(&two, two.count() + 50);
            let one = Origin::start_on(one.address(), Script::named("one"));
            two.stop();
            busy(&one, 50);
            let two = Origin::start_on(two.address(), Script::named("two"));
            lb.wait_for_up(2);
            busy(&two, 20);
            (one, two)
        });
        let failed: Vec<&Sent> = sent.iter().filter(|sent| sent.status != 200).collect();
        assert!(
            failed.len() <= 1,
            "period {period}: {} of {} failed: {failed:?}",
            failed.len(),
            sent.len()
        );
    }
}

#[test]
fn a_backend_that_came_back_before_its_check_serves_when_the_last_one_dies() {
    let (one, two) = (Origin::named("one"), Origin::named("two"));
    one.stop();
    let lb =
        Lb::with(&[&one, &two], |config| config.settings.health.period = Duration::from_secs(10));
    lb.wait_for_up(1);
    let (sent, _one) = under_load(lb.address(), "GET", || {
        until("it is busy", || two.count() > 20);
        let one = Origin::start_on(one.address(), Script::named("one"));
        two.stop();
        until("it serves", || one.count() > 50);
        one
    });
    let failed: Vec<&Sent> = sent.iter().filter(|sent| sent.status != 200).collect();
    assert!(failed.len() <= 1, "{} of {} failed: {failed:?}", failed.len(), sent.len());
}

#[test]
fn without_checks_a_request_is_used_for_one_probe_at_most() {
    let alive = Origin::named("alive");
    let dead: Vec<SocketAddr> = (0..6).map(|_| refused_address()).collect();
    let lb = Lb::start({
        let mut config = config(&[&dead[..], &[alive.address()]].concat());
        config.settings.health.checks = false;
        config
    });
    until("all the dead are out", || {
        get(lb.address(), "/");
        lb.up() == 1
    });
    let mut client = lb.connect();
    let probed = lb.totals().retries;
    until("probes of all the dead have failed twice more", || {
        let before = lb.totals().retries;
        assert_eq!(client.get("/").text(), "alive");
        assert!(lb.totals().retries <= before + 1, "one probe a request");
        lb.totals().retries >= probed + 12
    });
}
