//! The size of `/metrics` with 300 backends, and the time that it takes.

use super::get_metrics;
use crate::support::prometheus::Exposition;
use crate::support::{Lb, Origin, get, with_admin};
use lb_threads::config::{BackendSpec, HostPort};
use std::time::{Duration, Instant};

const BACKENDS: u16 = 300;
const REPETITIONS: usize = 5;

#[test]
fn of_300_backends_it_is_below_2_mb_and_takes_less_than_100_ms_when_optimised() {
    let origin = Origin::named("one");
    let lb = Lb::with(&[&origin], |config| {
        with_admin(config);
        config.settings.health.checks = false;
        let address = |number: u16| format!("192.0.2.{}", number % 250);
        config.backends.extend((1..BACKENDS).map(|number| {
            BackendSpec::new(HostPort::new(&address(number), 40_000 + number).unwrap(), 1)
        }));
    });
    lb.balancer()
        .change_settings(|one| one.algorithm = lb_threads::config::Algorithm::IpHash)
        .unwrap();
    get(lb.address(), "/lb");
    let mut fastest = Duration::MAX;
    let mut text = String::new();
    for _ in 0..REPETITIONS {
        let begun = Instant::now();
        text = get_metrics(&lb, "text/plain").text();
        fastest = fastest.min(begun.elapsed());
    }
    let backends = Exposition::parse(&text).label_values("backend").len();
    assert_eq!(backends, usize::from(BACKENDS) + 1);
    println!("{} bytes in {fastest:?}", text.len());
    assert!(text.len() < 2_000_000, "{} bytes", text.len());
    let limit = if cfg!(debug_assertions) { 1500 } else { 100 };
    assert!(fastest < Duration::from_millis(limit), "{fastest:?}");
}
