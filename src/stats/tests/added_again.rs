//! Backends that are removed and added again: reports begin at zero, and no counter falls.

use super::*;

/// Removes the newest backend, which is the only one, and adds it again.
fn add_again(walk: &mut Walk) {
    let spec = SocketAddr::from(([127, 0, 0, 1], 1)).into();
    walk.registry.remove(walk.backends.last().unwrap().id);
    walk.registry.add(&spec);
    walk.backends.push(Arc::clone(&walk.registry.statuses()[0].backend));
}

/// The requests of each backend in the report of a period.
fn reported(walk: &Walk, now: Instant) -> Vec<(u32, u64)> {
    let report = walk.stats.report(&[Period::FiveMinutes], now);
    let backends = &report.periods[0].1.backends;
    backends.iter().map(|(backend, summary)| (backend.id.0, summary.requests)).collect()
}

#[test]
fn a_backend_that_is_added_again_begins_at_zero_and_its_counters_go_on() {
    let mut walk = Walk::new(1);
    walk.record(request(&walk, 0));
    add_again(&mut walk);
    assert_eq!(rows(&walk, walk.start), [(0, 1)], "it has had no request");
    walk.record(request(&walk, 1));
    // A late response of the removed one.
    walk.record(request(&walk, 0));
    walk.stats.collect(walk.start);
    assert_eq!(reported(&walk, walk.start + SECOND), [(1, 1)], "it begins at zero");
    assert_eq!(rows(&walk, walk.start), [(1, 3)], "counters go on, with late responses");
    let report = walk.stats.report(&[Period::FiveMinutes, Period::All], walk.start + SECOND);
    for (period, stats) in report.periods {
        let of = |index: usize| stats.of(walk.backends[index].id).requests;
        assert_eq!((stats.total.requests, of(0), of(1)), (3, 0, 1), "{period:?}");
    }
    walk.stats.collect(walk.start + 2 * HOUR);
    assert_eq!(rows(&walk, walk.start + 2 * HOUR), [(1, 3)], "it is a member");
    walk.registry.remove(walk.backends[1].id);
    walk.stats.collect(walk.start + 2 * HOUR);
    walk.stats.collect(walk.start + 3 * HOUR);
    assert_eq!(rows(&walk, walk.start + 3 * HOUR), []);
}

#[test]
fn the_counters_of_a_member_without_a_request_since_it_was_added_again_do_not_end() {
    let mut walk = Walk::new(1);
    walk.record(request(&walk, 0));
    walk.stats.collect(walk.start);
    add_again(&mut walk);
    walk.stats.add_members(walk.backends[1..].iter());
    assert_eq!(rows(&walk, walk.start), [(1, 1)]);
    walk.stats.collect(walk.start + 2 * HOUR);
    assert_eq!(rows(&walk, walk.start + 2 * HOUR), [(1, 1)]);
    assert_eq!(reported(&walk, walk.start), [(1, 0)]);
}

#[test]
fn rows_of_a_backend_that_is_added_again_and_again_are_dropped_and_no_counter_falls() {
    let mut walk = Walk::new(1);
    for round in 0..50 {
        let sample = Request { backend: Some(round), ..request(&walk, 0) }.sample();
        for recorder in &mut walk.recorders {
            recorder.record(Some(&walk.backends[round]), &sample);
        }
        let totals = walk.stats.cumulative(walk.start);
        assert_eq!(totals.backends.len(), 1);
        assert_eq!(totals.backends[0].1.requests, 2 * (round as u64 + 1));
        assert_eq!(totals.total.requests, totals.backends[0].1.requests);
        assert_eq!(totals.backends[0].1.bytes_out, 100 * totals.total.requests);
        assert_eq!(reported(&walk, walk.start), [(round as u32, 2)]);
        add_again(&mut walk);
    }
    let owners: usize = walk.backends[..40].iter().map(|one| Arc::strong_count(one) - 1).sum();
    assert_eq!(owners, 0, "no row and no record of an earlier one is left");
}
