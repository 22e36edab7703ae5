//! Backends that come and go, and settings that change: no counter falls.

use super::{label, scrape, scrape_after};
use crate::support::{Lb, Origin, get, until};
use lb_threads::config::{Algorithm, BackendSpec};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

fn backend_requests(lb: &Lb, origin: &Origin) -> Option<f64> {
    scrape(lb).sum("lbthreads_requests_total", &[("backend", &label(origin))])
}

#[test]
fn a_removed_backend_keeps_its_counters_and_goes_on_with_them_when_it_is_added_again() {
    let (one, two) = (Origin::named("one"), Origin::named("two"));
    let lb = Lb::controlled(&[&one, &two]);
    lb.wait_for_up(2);
    for _ in 0..4 {
        get(lb.address(), "/").expect_status(200);
    }
    let before = scrape_after(&lb, 4);
    let registry = lb.balancer().registry();
    let removed = registry.statuses().remove(0).backend;
    assert!(registry.remove(removed.id));
    let gone = scrape(&lb);
    let labels = [("backend", &*label(&one))];
    assert_eq!(gone.sum("lbthreads_requests_total", &labels), Some(2.0));
    for of_members in ["lbthreads_backend_up", "lbthreads_health_checks_total"] {
        assert_eq!(gone.sum(of_members, &labels), None, "{of_members}");
    }
    let spec: BackendSpec = one.address().into();
    registry.add(&spec);
    let again = scrape(&lb);
    again.assert_none_fell_since(&before);
    lb.wait_for_up(2);
    until("it has had a request", || {
        get(lb.address(), "/").expect_status(200);
        one.count() == 3
    });
    let last = scrape_after(&lb, (one.count() + two.count()) as u64);
    last.assert_none_fell_since(&again);
    assert_eq!(last.sum("lbthreads_requests_total", &labels), Some(3.0));
}

#[test]
fn a_new_list_of_backends_and_new_settings_keep_the_numbers() {
    let (one, two) = (Origin::named("one"), Origin::named("two"));
    let lb = Lb::controlled(&[&one]);
    lb.wait_for_up(1);
    for _ in 0..3 {
        get(lb.address(), "/").expect_status(200);
    }
    let before = scrape_after(&lb, 3);
    let specs: Vec<BackendSpec> = vec![two.address().into(), one.address().into()];
    lb.balancer().registry().apply(&specs);
    lb.change(|settings| settings.algorithm = Algorithm::Random);
    let after = scrape(&lb);
    after.assert_none_fell_since(&before);
    assert_eq!(backend_requests(&lb, &one), Some(3.0));
}

#[test]
fn under_load_and_changes_no_counter_falls_and_every_response_is_consistent() {
    let origins: Vec<Origin> = (0..3).map(|_| Origin::responding("served")).collect();
    let lb = Lb::controlled(&[&origins[0], &origins[1]]);
    lb.wait_for_up(2);
    let ended = AtomicBool::new(false);
    let (lb, ended) = (&lb, &ended);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(move || {
                let mut client = lb.connect();
                while !ended.load(Relaxed) {
                    client.get("/").expect_status(200);
                }
            });
        }
        let changed = scope.spawn(|| {
            let registry = lb.balancer().registry();
            let mut last = scrape(lb);
            for round in 0..30 {
                let changing: BackendSpec = origins[2].address().into();
                match round % 3 {
                    0 => _ = registry.add(&changing),
                    1 => lb.change(|settings| {
                        settings.algorithm = Algorithm::ALL[round % Algorithm::ALL.len()];
                    }),
                    _ => {
                        let removed = registry.statuses().into_iter();
                        let mut removed = removed.map(|status| status.backend);
                        let removed = removed.find(|one| one.authority == changing.authority);
                        assert!(removed.is_some_and(|one| registry.remove(one.id)));
                    }
                }
                let now = scrape(lb);
                // Series of members, which the removed backend is not.
                let mut earlier = last;
                for family in &mut earlier.families {
                    let is_of_members = family.name.starts_with("lbthreads_health");
                    let label = label(&origins[2]);
                    family.samples.retain(|sample| {
                        !is_of_members || sample.labels.get("backend") != Some(&label)
                    });
                }
                now.assert_none_fell_since(&earlier);
                last = now;
            }
        });
        let changed = changed.join();
        ended.store(true, Relaxed);
        changed.expect("no counter falls");
    });
    let served: usize = origins.iter().map(Origin::count).sum();
    let families = scrape_after(lb, served as u64);
    assert_eq!(families.sum("lbthreads_request_errors_total", &[]), Some(0.0));
}
