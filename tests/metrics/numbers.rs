//! Known traffic, and its exact numbers in `/metrics`, `/_control/stats` and `/lb/stats`.

use super::{label, scrape, scrape_after};
use crate::support::*;
use lb_threads::config::BackendSpec;
use serde_json::{Value, json};

/// An origin that responds with the status that the target names.
fn by_target() -> Origin {
    Origin::serve(|request, reply| match request.target.as_str() {
        "/truncated" => {
            reply.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart");
            reply.step(&Step::Close);
        }
        target => reply.respond(target[1..].parse().expect("a status"), &[], "body"),
    })
}

/// Sends a request on a connection of its own. Returns the bytes sent and received.
fn send(lb: &Lb, target: &str) -> (u64, u64) {
    let request = format!("GET {target} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    (request.len() as u64, raw_exchange(lb.address(), &request).len() as u64)
}

#[track_caller]
fn json_of(lb: &Lb, path: &str) -> Value {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let response = exchange(lb.admin(), request);
    response.expect_status(200);
    serde_json::from_slice(&response.body).expect("JSON")
}

/// The traffic that is known: its balancer and its numbers.
struct Traffic {
    lb: Lb,
    _origins: [Origin; 2],
    /// The label of the backend with three 200s.
    good: String,
    /// The label of the one with a 404, a 500 and a truncated response.
    bad: String,
    bytes_in: u64,
    bytes_out: u64,
}

impl Traffic {
    /// Sends six requests to two backends, and one that meets no backend.
    fn send() -> Self {
        let origins = [by_target(), by_target()];
        let lb = Lb::controlled(&[&origins[0], &origins[1]]);
        lb.wait_for_up(2);
        let (mut bytes_in, mut bytes_out) = (0, 0);
        let mut send = |target: &str| {
            let (sent, received) = send(&lb, target);
            (bytes_in, bytes_out) = (bytes_in + sent, bytes_out + received);
        };
        // In turns: one backend gets the others.
        ["/200", "/404", "/200", "/500", "/200", "/truncated"].iter().for_each(|one| send(one));
        let drained = lb.balancer().registry().statuses();
        drained.iter().for_each(|status| _ = lb.balancer().registry().drain(status.backend.id));
        send("/200");
        let good = usize::from(origins[0].requests()[0].target != "/200");
        let (good, bad) = (label(&origins[good]), label(&origins[1 - good]));
        Self { lb, _origins: origins, good, bad, bytes_in, bytes_out }
    }
}

#[test]
fn known_traffic_has_exact_numbers_in_the_metrics() {
    let Traffic { lb, good, bad, bytes_in, bytes_out, .. } = &Traffic::send();
    let families = scrape_after(lb, 7);
    let of = |backend: &str, code: &str| {
        families.sum("lbthreads_requests_total", &[("backend", backend), ("code", code)])
    };
    assert_eq!(of(good, "200"), Some(3.0));
    let codes = ["200", "404", "500", "503"].map(|code| of(bad, code));
    assert_eq!(codes, [Some(1.0), Some(1.0), Some(1.0), None]);
    assert_eq!((of("none", "503"), of("none", "200")), (Some(1.0), None));
    let errors = [&**good, bad, "none"]
        .map(|backend| families.value("lbthreads_request_errors_total", &[("backend", backend)]));
    assert_eq!(errors, [0.0, 2.0, 1.0]);
    let timed = |name: &str, backend: &str| {
        families.value(&format!("lbthreads_{name}_seconds_count"), &[("backend", backend)])
    };
    assert_eq!(timed("request_duration", bad), 2.0, "a part has no response time");
    assert_eq!(timed("response_first_byte", bad), 3.0);
    assert_eq!(timed("request_duration", "none"), 1.0);
    let total = |name: &str| families.sum(name, &[]);
    assert_eq!(total("lbthreads_request_bytes_total"), Some(*bytes_in as f64));
    assert_eq!(total("lbthreads_response_bytes_total"), Some(*bytes_out as f64));
    assert_eq!(families.value("lbthreads_errors_total", &[("cause", "no_backend")]), 1.0);
    let truncated = [("reason", "response_truncated")];
    assert_eq!(families.value("lbthreads_connection_ends_total", &truncated), 1.0);
}

#[test]
fn known_traffic_has_exact_numbers_in_the_statistics_and_the_overview() {
    let Traffic { lb, good, bad, bytes_in, bytes_out, .. } = &Traffic::send();
    scrape_after(lb, 7);
    let stats = json_of(lb, "/_control/stats?periods=5m,all");
    for period in ["5m", "all"] {
        let (total, backends) =
            (&stats["periods"][period]["total"], &stats["periods"][period]["backends"]);
        let row = ["requests", "errors", "bytes_in", "bytes_out"].map(|name| total[name].clone());
        assert_eq!(row, [7, 3, *bytes_in, *bytes_out].map(Value::from));
        let bad = &backends[format!("http://{bad}")];
        assert_eq!((&bad["requests"], &bad["errors"]), (&json!(3), &json!(2)));
        assert_eq!((&bad["error_rate"], &bad["share"]), (&json!(0.666_667), &json!(0.428_571)));
        let good = &backends[format!("http://{good}")];
        assert_eq!((&good["requests"], &good["error_rate"]), (&json!(3), &json!(0.0)));
        assert!(good["p50_ms"].as_f64() <= good["max_ms"].as_f64(), "{good}");
    }
    let overview = json_of(lb, "/lb/stats");
    let all = ["requests", "errors", "error_rate"].map(|name| overview[name].clone());
    assert_eq!(all, [json!(7), json!(3), json!(0.428_571)]);
    let mut rows = overview["backends"].as_array().expect("a list").iter();
    let row = rows.find(|row| row["url"] == format!("http://{bad}")).expect("it is a member");
    let row = ["healthy", "requests", "errors", "active_connections"].map(|name| &row[name]);
    assert_eq!(row, [&json!(true), &json!(3), &json!(2), &json!(0)]);
}

#[test]
fn a_backend_without_a_request_has_counters_at_zero() {
    let origin = Origin::named("one");
    let lb = Lb::controlled(&[&origin]);
    lb.wait_for_up(1);
    let (families, backend) = (scrape(&lb), label(&origin));
    for name in [
        "lbthreads_request_bytes_total",
        "lbthreads_request_duration_seconds_count",
        "lbthreads_backend_connects_total",
        "lbthreads_backend_stale_reuses_total",
    ] {
        assert_eq!(families.value(name, &[("backend", &backend)]), 0.0, "{name}");
    }
    assert_eq!(families.sum("lbthreads_requests_total", &[]), None, "no status is known yet");
}

#[test]
fn a_client_that_goes_away_is_a_request_without_a_code() {
    let gate = Gate::new();
    let origin = Origin::start([Step::ReadRequest, Step::WaitFor(gate.clone())]);
    let lb = Lb::controlled(&[&origin]);
    lb.wait_for_up(1);
    let mut client = lb.connect();
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    origin.wait_for_requests(1);
    let in_flight = [("backend", &*label(&origin))];
    assert_eq!(scrape(&lb).value("lbthreads_backend_inflight", &in_flight), 1.0);
    assert_eq!(scrape(&lb).value("lbthreads_connections", &[]), 1.0);
    client.reset();
    let families = scrape_after(&lb, 1);
    gate.open();
    assert_eq!(families.value("lbthreads_requests_total", &[("code", "none")]), 1.0);
    assert_eq!(families.sum("lbthreads_request_errors_total", &[]), Some(0.0));
    assert_eq!(families.value("lbthreads_backend_inflight", &in_flight), 0.0);
    let resets = [("reason", "client_reset")];
    assert_eq!(families.value("lbthreads_connection_ends_total", &resets), 1.0);
}

#[test]
fn connects_reuses_retries_and_their_causes_are_counted() {
    let closed: BackendSpec = refused_address().into();
    let origin = Origin::named("one");
    let lb = Lb::with(&[&origin], |config| {
        with_admin(config);
        config.boot.workers = 1;
        config.settings.health.checks = false;
        config.backends.push(closed.clone());
    });
    for _ in 0..4 {
        get(lb.address(), "/").expect_status(200);
    }
    let families = scrape_after(&lb, 4);
    let (good, bad) = (label(&origin), closed.authority.to_string());
    let failed = families.value(
        "lbthreads_backend_connect_errors_total",
        &[("backend", &bad), ("cause", "connect_failed")],
    );
    assert!(failed >= 1.0);
    assert_eq!(families.value("lbthreads_retries_total", &[("cause", "connect_failed")]), failed);
    assert_eq!(families.value("lbthreads_backend_connects_total", &[("backend", &bad)]), failed);
    let good = [("backend", &*good)];
    assert_eq!(families.value("lbthreads_backend_connects_total", &good), 1.0);
    assert_eq!(families.value("lbthreads_backend_reuses_total", &good), 3.0);
    let ejected = [("backend", &*bad), ("to", "ejected")];
    assert!(families.value("lbthreads_health_transitions_total", &ejected) >= 1.0);
}

#[test]
fn health_checks_and_states_are_shown() {
    let (one, two) = (Origin::named("one"), Origin::named("two").health(Health::Status(503)));
    let lb = Lb::controlled(&[&one, &two]);
    lb.wait_for_up(1);
    let status = lb.balancer().registry().statuses().remove(0);
    assert!(lb.balancer().registry().drain(status.backend.id));
    assert!(lb.balancer().registry().set_weight(status.backend.id, 7));
    let families = until_some("the other one is down", || {
        let families = scrape(&lb);
        let failed = [("backend", &*label(&two)), ("result", "failed")];
        (families.value("lbthreads_health_checks_total", &failed) >= 1.0).then_some(families)
    });
    for (origin, expected, up) in [(&one, "draining", 1.0), (&two, "down", 0.0)] {
        let backend = label(origin);
        for state in ["up", "down", "ejected", "draining"] {
            let labels = [("backend", &*backend), ("state", state)];
            let value = families.value("lbthreads_backend_state", &labels);
            assert_eq!(value == 1.0, state == expected, "{backend} {state}");
        }
        assert_eq!(families.value("lbthreads_backend_up", &[("backend", &backend)]), up);
        let checks = families.sum("lbthreads_health_checks_total", &[("backend", &backend)]);
        let durations = "lbthreads_health_check_duration_seconds_count";
        assert_eq!(checks, families.sum(durations, &[("backend", &backend)]));
    }
    let one = [("backend", &*label(&one))];
    assert_eq!(families.value("lbthreads_backend_weight", &one), 7.0);
    let up = families.sum("lbthreads_health_transitions_total", &[one[0], ("to", "up")]);
    assert_eq!(up, Some(1.0));
}

#[test]
fn connections_over_a_limit_tunnels_and_queued_requests_are_counted() {
    let switch =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let origin = Origin::start([Step::ReadHead, Step::send(switch), Step::ReadToEnd]);
    let lb = Lb::with(&[&origin], |config| {
        with_admin(config);
        config.settings.limits.max_connections = 2;
        config.settings.limits.max_requests_per_backend = Some(1);
    });
    lb.wait_for_up(1);
    let mut tunnel = lb.connect();
    tunnel.send("GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    tunnel.read_head().expect_status(101);
    let mut queued = lb.connect();
    queued.send("GET /queued HTTP/1.1\r\nHost: h\r\n\r\n");
    let gauge = |name: &str| scrape(&lb).value(name, &[]);
    until("a request is queued", || gauge("lbthreads_queue_length") == 1.0);
    get(lb.address(), "/").expect_status(503);
    assert_eq!((gauge("lbthreads_tunnels"), gauge("lbthreads_workers")), (1.0, 2.0));
    let families = scrape(&lb);
    let rejected = |reason: &str| {
        families.value("lbthreads_connections_rejected_total", &[("reason", reason)])
    };
    assert_eq!((rejected("overload"), rejected("client_limit")), (1.0, 0.0));
    tunnel.shutdown_write();
    until("the tunnel has ended", || gauge("lbthreads_tunnels") == 0.0);
    drop(queued);
    until("its wait is counted", || gauge("lbthreads_queue_wait_seconds_count") == 1.0);
    assert!(gauge("lbthreads_queue_wait_seconds_sum") > 0.0);
}

#[test]
fn the_process_is_described_in_base_units() {
    let lb = Lb::controlled(&[]);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let families = scrape(&lb);
    let value = |name: &str| families.value(&format!("process_{name}"), &[]);
    let age = now.as_secs_f64() - value("start_time_seconds");
    assert!((0.0..60.0).contains(&age), "{age}");
    assert!(value("resident_memory_bytes") > 1e6 && value("cpu_seconds_total") > 0.0);
    assert!(value("threads") > 3.0 && value("open_fds") < value("max_fds"));
    let build = families.value("lbthreads_build_info", &[("version", env!("CARGO_PKG_VERSION"))]);
    assert_eq!(build, 1.0);
}

#[test]
fn a_rejected_client_has_a_counter_of_its_own() {
    let origin = Origin::named("one");
    let lb = Lb::with(&[&origin], |config| {
        with_admin(config);
        config.settings.limits.max_connections_per_client = Some(1);
    });
    lb.wait_for_up(1);
    let mut first = lb.connect();
    first.get("/");
    get(lb.address(), "/").expect_status(429);
    let families = scrape(&lb);
    let limit = [("reason", "client_limit")];
    assert_eq!(families.value("lbthreads_connections_rejected_total", &limit), 1.0);
    assert_eq!(families.value("lbthreads_errors_total", &[("cause", "client_limit")]), 1.0);
}
