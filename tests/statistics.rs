//! Statistics of real requests: counts, errors, bytes and times by backend.

use crate::support::*;
use lb_threads::stats::{BackendTotals, Period, PeriodStats, Summary};
use std::time::{Duration, Instant};

const MS: Duration = Duration::from_millis(1);

fn stats(lb: &Lb, period: Period) -> PeriodStats {
    lb.balancer().stats().report(&[period], Instant::now()).periods.remove(0).1
}

/// The statistics since the start, once so many requests are over.
#[track_caller]
fn stats_after(lb: &Lb, requests: u64) -> PeriodStats {
    until_some("all requests are counted", || {
        Some(stats(lb, Period::All)).filter(|stats| stats.total.requests == requests)
    })
}

fn summary(stats: &PeriodStats, origin: &Origin) -> Summary {
    let name = origin.address().to_string();
    let mut backends = stats.backends.iter();
    backends.find(|(backend, _)| backend.name == name).expect("it has had requests").1
}

/// The numbers of the only backend since the start.
fn totals(lb: &Lb) -> BackendTotals {
    lb.balancer().stats().cumulative(Instant::now()).backends.remove(0).1
}

/// An origin that responds after 20 ms, with the status that the target names.
fn by_target() -> Origin {
    Origin::serve(|request, reply| {
        reply.step(&Step::Pause(20 * MS));
        match request.target.as_str() {
            "/truncated" => {
                reply.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart");
                reply.step(&Step::Close);
            }
            target => reply.respond(target[1..].parse().expect("a status"), &[], "body"),
        }
    })
}

/// Sends a request on a connection of its own. Returns the bytes sent and received.
fn send(lb: &Lb, target: &str) -> (u64, u64) {
    let request = format!("GET {target} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    (request.len() as u64, raw_exchange(lb.address(), &request).len() as u64)
}

#[test]
fn requests_to_two_backends_are_counted_exactly_and_outlive_a_removed_one() {
    let origins = [by_target(), by_target()];
    let lb = Lb::over(&[&origins[0], &origins[1]]);
    lb.wait_for_up(2);
    // In turns: the second backend gets the 404, the 500 and the truncated response.
    let targets = ["/200", "/404", "/200", "/500", "/200", "/truncated", "/200", "/200"];
    let (mut sent, mut received) = (0, 0);
    for target in targets {
        let (out, back) = send(&lb, target);
        (sent, received) = (sent + out, received + back);
    }
    let stats = stats_after(&lb, 8);
    let total = stats.total;
    assert_eq!((total.errors, total.bytes_in, total.bytes_out), (2, sent, received));
    assert_eq!((total.error_rate, total.share), (0.25, 1.0));
    assert!(total.requests_per_second > 0.0 && stats.without_backend == Summary::default());
    let rows = origins.each_ref().map(|origin| summary(&stats, origin));
    let errors = rows.map(|row| row.errors);
    assert_eq!(rows.map(|row| (row.requests, row.share)), [(4, 0.5); 2]);
    assert!(errors == [0, 2] || errors == [2, 0], "{errors:?}");
    let times = total.response_time.expect("there are responses");
    assert!(20 * MS <= times.avg && times.avg <= times.max && times.p50 <= times.p99, "{times:?}");
    assert!(19 * MS <= times.p50 && times.p99 <= times.max && times.max < TEST_TIMEOUT);

    let failed = &origins[usize::from(errors == [0, 2])];
    let registry = lb.balancer().registry();
    let status = registry.statuses().into_iter();
    let mut removed = status.map(|status| status.backend);
    let removed = removed.find(|backend| backend.name == failed.address().to_string()).unwrap();
    assert!(registry.remove(removed.id));
    send(&lb, "/200");
    let stats = stats_after(&lb, 9);
    assert_eq!((stats.total.errors, summary(&stats, failed).errors), (2, 2));
    assert_eq!(stats_of_windows(&lb), [9; 5], "every window has them");
}

fn stats_of_windows(lb: &Lb) -> [u64; 5] {
    let windows = Period::ALL.iter().filter(|period| period.length().is_some());
    let requests: Vec<u64> = windows.map(|period| stats(lb, *period).total.requests).collect();
    requests.try_into().expect("there are five windows")
}

#[test]
fn the_totals_have_each_status_and_whole_distributions() {
    let origin = by_target();
    let lb = Lb::with(&[&origin], |config| config.boot.workers = 1);
    lb.wait_for_up(1);
    for target in ["/200", "/404", "/200", "/500", "/truncated"] {
        send(&lb, target);
    }
    stats_after(&lb, 5);
    let totals = totals(&lb);
    assert_eq!(totals.by_status, [(200, 3), (404, 1), (500, 1)]);
    let times = totals.response_time;
    assert_eq!((times.count, totals.first_byte.count), (4, 5), "a part has no response time");
    assert!(times.sum >= 80 * MS && times.buckets[..4] == [0; 4], "{times:?}");
    assert!(times.buckets.is_sorted() && times.buckets[12] <= 4, "{times:?}");
    assert_eq!((totals.connects, totals.reuses, totals.connects_failed), (1, 4, 0));
}

#[test]
fn a_request_that_reaches_no_backend_counts_as_our_error_in_the_total() {
    let lb = Lb::over(&[]);
    get(lb.address(), "/").expect_status(503);
    exchange(lb.address(), "GET / HTTP/1.1\r\n\r\n").expect_status(400);
    let stats = stats_after(&lb, 2);
    let without = stats.without_backend;
    assert_eq!((without.requests, without.errors, without.share), (2, 1, 1.0));
    assert!(stats.backends.is_empty());
    let all = lb.balancer().stats().cumulative(Instant::now());
    assert_eq!(all.without_backend.by_status, [(400, 1), (503, 1)]);
}

#[test]
fn a_client_that_goes_away_is_a_request_without_a_status_and_no_error() {
    let gate = Gate::new();
    let origin = Origin::start([Step::ReadRequest, Step::WaitFor(gate.clone())]);
    let lb = Lb::over(&[&origin]);
    lb.wait_for_up(1);
    let mut client = lb.connect();
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    origin.wait_for_requests(1);
    client.reset();
    let total = stats_after(&lb, 1).total;
    gate.open();
    assert_eq!((total.errors, total.response_time), (0, None));
    assert!(totals(&lb).by_status.is_empty());
}

#[test]
fn a_retried_request_counts_once_for_the_backend_that_responded() {
    let failing = Origin::start([Step::ReadRequest, Step::Reset]);
    let good = Origin::named("good");
    let lb = Lb::with(&[&failing, &good], |config| config.settings.health.fall = 100);
    lb.wait_for_up(2);
    for _ in 0..4 {
        get(lb.address(), "/").expect_status(200);
    }
    let stats = stats_after(&lb, 4);
    assert_eq!((stats.total.errors, summary(&stats, &good).requests), (0, 4));
    assert!(failing.count() > 0);
    let (retries, all) = (lb.totals().retries, lb.totals());
    assert_eq!(all.retried(lb_threads::error::Cause::BackendClosed), retries);
    assert_eq!(retries, failing.count() as u64);
}

#[test]
fn the_response_time_begins_with_the_last_byte_of_the_request() {
    let origin = by_target();
    let lb = Lb::over(&[&origin]);
    lb.wait_for_up(1);
    let mut longest = Duration::ZERO;
    for framing in
        ["Content-Length: 6\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"]
    {
        let mut client = lb.connect();
        client.send(format!("PUT /200 HTTP/1.1\r\nHost: h\r\n{framing}"));
        origin.wait_for_requests(1);
        Gate::new().wait_for(200 * MS);
        let last = Instant::now();
        client.send(if framing.contains("chunked") { "0\r\n\r\n" } else { "def" });
        client.read_response().expect_status(200);
        longest += last.elapsed();
    }
    stats_after(&lb, 2);
    let sum = totals(&lb).response_time.sum;
    assert!(40 * MS <= sum && sum <= longest, "{sum:?}, {longest:?}");
}

#[test]
fn a_tunnel_is_one_request_whose_lifetime_is_no_response_time() {
    let switch =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let origin = Origin::start([Step::ReadHead, Step::send(switch), Step::ReadToEnd]);
    let lb = Lb::over(&[&origin]);
    lb.wait_for_up(1);
    let mut client = lb.connect();
    client.send("GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    client.read_head().expect_status(101);
    client.shutdown_write();
    let total = stats_after(&lb, 1).total;
    assert_eq!((total.errors, total.response_time), (0, None));
    let totals = totals(&lb);
    assert_eq!((totals.by_status, totals.first_byte.count), (vec![(101, 1)], 1));
}

#[test]
fn failed_connects_are_counted_for_their_backend() {
    let address = refused_address();
    let lb = Lb::start({
        let mut config = config(&[address]);
        config.settings.health.checks = false;
        config
    });
    get(lb.address(), "/").expect_status(502);
    stats_after(&lb, 1);
    let totals = totals(&lb);
    assert_eq!((totals.connects, totals.connects_failed, totals.errors), (1, 1, 1));
}

#[test]
fn statistics_can_be_read_after_the_end_of_the_workers() {
    let origin = Origin::named("one");
    let mut lb = Lb::over(&[&origin]);
    lb.wait_for_up(1);
    get(lb.address(), "/");
    let balancer = std::sync::Arc::clone(lb.balancer());
    lb.begin_drain(TEST_TIMEOUT);
    lb.wait_for_end();
    let report = balancer.stats().report(&[Period::All], Instant::now());
    assert_eq!(report.periods[0].1.total.requests, 1);
}
