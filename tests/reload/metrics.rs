//! Reloads in `/metrics`: their outcomes, and no counter that falls.

use super::{Configured, plain};
use crate::metrics::scrape;
use crate::support::{Origin, get, until};

#[test]
fn reloads_are_counted_and_keep_the_counters() {
    let (one, two) = (Origin::named("one"), Origin::named("two"));
    let configured = Configured::start(&plain(&[&one], ""));
    let lb = &configured.lb;
    lb.wait_for_up(1);
    get(lb.address(), "/").expect_status(200);
    until("the request is counted", || {
        scrape(lb).sum("lbthreads_requests_total", &[]) == Some(1.0)
    });
    let first = scrape(lb);
    let reloads =
        |result: &str| scrape(lb).value("lbthreads_config_reloads_total", &[("result", result)]);
    let gauge = |name: &str| scrape(lb).value(&format!("lbthreads_config_last_reload_{name}"), &[]);
    assert_eq!((reloads("success"), reloads("failure"), gauge("success")), (0.0, 0.0, 1.0));
    let started = gauge("success_timestamp_seconds");
    configured.folder.write("config.json", "{");
    assert!(lb.balancer().reload().is_err());
    assert_eq!((reloads("success"), reloads("failure"), gauge("success")), (0.0, 1.0, 0.0));
    assert_eq!(gauge("success_timestamp_seconds"), started);
    configured.reload(&plain(&[&two], ""));
    configured.reload(&plain(&[&two, &one], ""));
    assert_eq!((reloads("success"), reloads("failure"), gauge("success")), (2.0, 1.0, 1.0));
    assert!(gauge("success_timestamp_seconds") > started);
    scrape(lb).assert_none_fell_since(&first);
}
