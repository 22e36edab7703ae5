//! Servers that replace all others: those that go leave once a new one is up.

use super::{Configured, plain};
use crate::support::{Health, Origin, get, stays, until};
use std::time::{Duration, Instant};

#[test]
fn the_old_servers_serve_until_a_new_one_has_passed_its_check() {
    let (old, new) = (Origin::named("old"), Origin::named("new").health(Health::Status(503)));
    let configured = Configured::start(&plain(&[&old], ", \"health_timeout\": \"4s\""));
    configured.lb.wait_for_up(1);
    let text = plain(&[&new], ", \"health_timeout\": \"4s\"");
    std::thread::scope(|scope| {
        let reload = scope.spawn(|| configured.reload(&text));
        until("the new one is checked", || new.health_checks() > 0);
        stays("every request is served", Duration::from_millis(100), || {
            get(configured.lb.address(), "/").text() == "old"
        });
        assert!(!reload.is_finished());
        new.set_health(Health::Healthy);
        until("the new one serves", || get(configured.lb.address(), "/").text() == "new");
        let effects = reload.join().expect("no panic");
        assert_eq!(effects.changes, ["servers: +1 -1"]);
    });
    assert_eq!(configured.bodies(3), ["new"; 3]);
}

#[test]
fn servers_that_never_come_up_delay_a_reload_by_the_time_of_one_check() {
    let (old, new) = (Origin::named("old"), Origin::named("new").health(Health::Hang));
    let timeout = ", \"health_timeout\": \"300ms\"";
    let configured = Configured::start(&plain(&[&old], timeout));
    configured.lb.wait_for_up(1);
    let before = Instant::now();
    configured.reload(&plain(&[&new], timeout));
    assert!((300..4000).contains(&before.elapsed().as_millis()), "{:?}", before.elapsed());
    let response = get(configured.lb.address(), "/");
    assert_eq!((response.status, response.header("X-LB-Error")), (503, Some("no_backend")));
}

#[test]
fn a_new_server_that_hangs_delays_nothing_while_another_one_is_up() {
    let timeout = ", \"health_timeout\": \"60s\"";
    let [kept, old] = ["kept", "old"].map(Origin::named);
    let new = Origin::named("new").health(Health::Hang);
    let configured = Configured::start(&plain(&[&kept, &old], timeout));
    configured.lb.wait_for_up(2);
    let before = Instant::now();
    configured.reload(&plain(&[&kept, &new], timeout));
    assert!(before.elapsed() < Duration::from_secs(3), "{:?}", before.elapsed());
    assert_eq!(configured.bodies(2), ["kept", "kept"]);
}
