//! Each setting that may change, by a reload: what the balancer does next.

use super::{Configured, Watching, plain, text};
use crate::support::{Client, Health, Origin, get, stays, until};
use lb_threads::reason::Reason;
use std::time::Duration;

const POST: &str = "POST / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 192.0.2.7\r\nContent-Length: 4\r\n\r\n\
                    body";

#[test]
fn servers_are_added_and_removed_and_the_next_request_has_the_new_ones() {
    let [one, two, three] = ["one", "two", "three"].map(Origin::named);
    let configured = Configured::start(&plain(&[&one, &two], ""));
    configured.lb.wait_for_up(2);
    let effects = configured.reload(&plain(&[&two, &three], ""));
    assert_eq!(effects.changes, ["servers: +1 -1"]);
    configured.lb.wait_for_up(2);
    assert_eq!(configured.bodies(4), ["three", "three", "two", "two"]);
    assert_eq!(configured.reload(&plain(&[], "")).changes, ["servers: -2"]);
    assert_eq!(get(configured.lb.address(), "/").header("X-LB-Error"), Some("no_backend"));
}

#[test]
fn weights_change() {
    let [one, two] = ["one", "two"].map(Origin::named);
    let weighted = ", \"algorithm\": \"weighted\"";
    let configured = Configured::start(&plain(&[&one, &two], weighted));
    configured.lb.wait_for_up(2);
    let effects = configured.reload(&text(&[(&one, 1), (&two, 3)], weighted));
    assert_eq!(effects.changes, [format!("weight of {}: 1 → 3", two.address())]);
    assert_eq!(configured.bodies(4), ["one", "two", "two", "two"]);
}

#[test]
fn the_algorithm_changes() {
    let [one, two] = ["one", "two"].map(Origin::named);
    let configured = Configured::start(&plain(&[&one, &two], ""));
    configured.lb.wait_for_up(2);
    assert_eq!(configured.bodies(4), ["one", "one", "two", "two"]);
    let effects = configured.reload(&plain(&[&one, &two], ", \"algorithm\": \"ip_hash\""));
    assert_eq!(effects.changes, ["algorithm: round_robin → ip_hash"]);
    let bodies = configured.bodies(4);
    assert!(bodies.iter().all(|body| *body == bodies[0]), "one client, one backend: {bodies:?}");
}

#[test]
fn the_path_of_health_checks_changes() {
    let origin = Origin::named("one").health(Health::Status(500));
    let configured = Configured::start(&plain(&[&origin], ""));
    assert_eq!(configured.lb.up(), 0);
    // The origin fails its health path alone.
    configured.reload(&plain(&[&origin], ", \"health_check_url\": \"/\""));
    configured.lb.wait_for_up(1);
}

#[test]
fn the_interval_of_health_checks_changes() {
    let origin = Origin::named("one");
    let long = |origin| plain(&[origin], "").replace("interval\": 1", "interval\": 3600");
    let configured = Configured::start(&long(&origin));
    configured.lb.wait_for_up(1);
    let checks = origin.health_checks();
    let effects = configured.reload(&plain(&[&origin], ""));
    assert_eq!(effects.changes, ["health_check_interval: 1h → 1s"]);
    until("it is checked again and again", || origin.health_checks() >= checks + 2);
}

#[test]
fn the_timeout_of_health_checks_changes() {
    let origin = Origin::named("one");
    let configured = Configured::start(&plain(&[&origin], ", \"health_timeout\": 3600"));
    configured.lb.wait_for_up(1);
    configured.reload(&plain(&[&origin], ", \"health_timeout\": \"100ms\""));
    origin.set_health(Health::Hang);
    configured.lb.wait_for_up(0);
}

#[test]
fn rise_and_fall_change() {
    let origin = Origin::named("one");
    let configured = Configured::start(&plain(&[&origin], ", \"fall\": 1000"));
    configured.lb.wait_for_up(1);
    origin.set_health(Health::Status(500));
    let effects = configured.reload(&plain(&[&origin], ", \"fall\": 1, \"rise\": 2"));
    assert_eq!(effects.changes, ["rise: 1 → 2", "fall: 1000 → 1"]);
    configured.lb.wait_for_up(0);
    let checks = origin.health_checks();
    origin.set_health(Health::Healthy);
    configured.lb.wait_for_up(1);
    assert!(origin.health_checks() >= checks + 2, "two had to pass");
}

#[test]
fn limits_change() {
    let origin = Origin::echo();
    let limits = |connections: usize, bytes: usize| {
        format!(", \"max_connections\": {connections}, \"max_body\": {bytes}")
    };
    let configured = Configured::start(&plain(&[&origin], &limits(1, 3)));
    configured.lb.wait_for_up(1);
    let mut first = configured.lb.connect();
    assert_eq!(first.exchange(POST).status, 413);
    let mut first = {
        drop(first);
        until("its permit is free", || configured.lb.balancer().open_connections() == 0);
        configured.lb.connect()
    };
    assert_eq!(first.get("/").status, 200);
    assert_eq!(get(configured.lb.address(), "/").status, 503);
    let effects = configured.reload(&plain(&[&origin], &limits(2, 4)));
    assert_eq!(effects.changes, ["max_connections: 1 → 2", "max_body: 3 → 4"]);
    assert_eq!(configured.lb.connect().exchange(POST).text(), "body");
    assert_eq!(first.get("/").status, 200, "the open connection is served on");
}

#[test]
fn timeouts_change() {
    let origin = Origin::named("one");
    let configured = Configured::start(&plain(&[&origin], ", \"idle_timeout\": \"1h\""));
    configured.lb.wait_for_up(1);
    configured.reload(&plain(&[&origin], ", \"idle_timeout\": \"300ms\""));
    let mut client = configured.lb.connect();
    assert_eq!(client.get("/").text(), "one");
    assert!(client.at_end());
    configured.lb.wait_for_closed(Reason::IdleTimeout, 1);
}

#[test]
fn trusted_proxies_change() {
    let origin = Origin::echo();
    let configured = Configured::start(&plain(&[&origin], ""));
    configured.lb.wait_for_up(1);
    let forwarded = || {
        Client::connect(configured.lb.address()).exchange(POST).expect_status(200);
        let last = origin.requests().pop().expect("there is one");
        last.header("X-Forwarded-For").map(str::to_owned)
    };
    assert_eq!(forwarded().as_deref(), Some("127.0.0.1"));
    let effects = configured.reload(&plain(&[&origin], ", \"trusted_proxies\": [\"127.0.0.0/8\"]"));
    assert_eq!(effects.changes, ["trusted_proxies: none → 127.0.0.0/8"]);
    assert_eq!(forwarded().as_deref(), Some("192.0.2.7, 127.0.0.1"));
}

#[test]
fn the_level_of_the_log_changes() {
    let origin = Origin::named("one");
    let watching = Watching::start(&plain(&[&origin], ""), &["--admin", "off"]);
    let address = watching.program.address();
    get(address, "/first").expect_status(200);
    watching.folder.write("config.json", plain(&[&origin], ", \"log_level\": \"debug\""));
    watching.program.until_logged("reloaded: log_level: info → debug");
    get(address, "/second").expect_status(200);
    watching.program.until_logged("DEBUG");
    watching.program.until_logged("/second");
}

#[test]
fn the_format_of_the_log_and_the_requests_in_it_change() {
    let origin = Origin::named("one");
    let watching = Watching::start(&plain(&[&origin], ""), &["--admin", "off"]);
    let address = watching.program.address();
    watching.folder.write("config.json", plain(&[&origin], ", \"log_format\": \"json\""));
    watching.program.until_logged("log_format: text → json");
    get(address, "/second").expect_status(200);
    watching.program.until_logged("\"path\":\"/second\"");
    let more = ", \"log_format\": \"json\", \"access_log\": \"off\"";
    watching.folder.write("config.json", plain(&[&origin], more));
    watching.program.until_logged("access_log: all → off");
    get(address, "/third").expect_status(200);
    watching.folder.write("config.json", plain(&[&origin], ""));
    watching.program.until_logged("access_log: off → all");
    assert!(!watching.program.log().contains("/third"));
}

#[test]
fn a_change_that_needs_a_start_is_named_and_everything_else_is_applied() {
    let origin = Origin::named("one");
    let configured = Configured::start(&plain(&[&origin], ""));
    let more = ", \"workers\": 7, \"admin\": \"127.0.0.1:1\", \"rise\": 2";
    let text = plain(&[&origin], more).replace("\"port\": 0", "\"port\": 1");
    let effects = configured.reload(&text);
    assert_eq!(effects.changes, ["rise: 1 → 2"]);
    let keys: Vec<&str> =
        effects.next_start.iter().filter_map(|change| change.split(':').next()).collect();
    assert_eq!(keys, ["port", "workers", "admin"]);
    assert_eq!(effects.next_start[0], "port: 0 → 1");
    assert!(effects.to_string().contains("port: 0 → 1 takes effect at the next start"));
    stays("it serves where it did", Duration::from_millis(50), || {
        get(configured.lb.address(), "/").status == 200
    });
}

#[test]
fn a_kept_backend_keeps_its_identity_its_state_and_its_request_in_flight() {
    let gate = crate::support::Gate::new();
    let waits = gate.clone();
    let slow = Origin::serve(move |_, reply| {
        waits.wait();
        reply.ok("late");
    });
    let (gone, other) = (Origin::named("gone"), Origin::named("other"));
    let configured = Configured::start(&plain(&[&slow, &gone], ""));
    configured.lb.wait_for_up(2);
    let status = || {
        let mut statuses = configured.lb.balancer().registry().statuses().into_iter();
        let status = statuses.find(|one| one.backend.authority == slow.address().into());
        status.expect("it is a member")
    };
    let mut clients = [configured.lb.connect(), configured.lb.connect()];
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    }
    slow.wait_for_requests(1);
    until("the other one is done", || configured.lb.balancer().totals().requests == 2);
    let before = status();
    let effects = configured.reload(&text(&[(&other, 1), (&slow, 2)], ", \"fall\": 9"));
    assert_eq!(effects.changes.len(), 3, "{effects:?}");
    let after = status();
    assert!(std::sync::Arc::ptr_eq(&before.backend, &after.backend));
    assert_eq!(
        (after.since, after.state, after.backend.in_flight()),
        (before.since, before.state, 1)
    );
    gate.open();
    let mut bodies = clients.map(|mut client| client.read_response().text());
    bodies.sort();
    assert_eq!(bodies, ["gone", "late"]);
}
