//! Each operation end to end: its response, and what the data port does next.

use super::{list, post, post_url, sent, url};
use crate::support::{Client, Gate, Health, Lb, Origin, get, refused_address, until, with_admin};
use serde_json::json;
use std::time::{Duration, Instant};

fn bodies(lb: &Lb, count: usize) -> Vec<String> {
    let mut bodies: Vec<String> = (0..count).map(|_| get(lb.address(), "/").text()).collect();
    bodies.sort_unstable();
    bodies
}

#[test]
fn a_backend_that_is_added_serves_the_next_request() {
    let origin = Origin::named("one");
    let lb = Lb::controlled(&[]);
    assert_eq!(get(lb.address(), "/").header("X-LB-Error"), Some("no_backend"));
    let (status, mut row) =
        post(&lb, "add", &format!("{{\"url\": {:?}, \"weight\": 2}}", url(&origin)));
    assert_eq!(get(lb.address(), "/").text(), "one");
    assert_eq!(status, 201);
    assert_eq!(row["url"], url(&origin));
    assert_eq!(row["address"], origin.address().to_string());
    assert_eq!(
        (&row["weight"], &row["healthy"], &row["state"]),
        (&json!(2), &json!(true), &json!("up"))
    );
    assert_eq!((&row["why"], &row["in_flight"]), (&json!("GET /health returned 200"), &json!(0)));
    let since = row["since"].as_str().expect("a date");
    assert!(since.len() == 24 && since.starts_with("20") && since.ends_with('Z'), "{since}");
    until("its request is counted", || list(&lb)["backends"][0]["share"] == 0.5);
    assert_eq!(row["share"], 0.0);
    row["share"] = 0.5.into();
    assert_eq!(
        list(&lb),
        json!({ "algorithm": "round_robin", "backends": [row] }),
        "the same since"
    );
}

#[test]
fn a_backend_that_fails_its_first_check_is_added_as_down_with_the_reason() {
    let origin = Origin::named("one").health(Health::Status(503));
    let lb = Lb::controlled(&[]);
    let (status, row) = post_url(&lb, "add", &origin);
    assert_eq!((status, &row["healthy"], &row["state"]), (201, &json!(false), &json!("down")));
    assert_eq!(row["why"], "GET /health returned 503");
    let (status, row) = post(&lb, "add", &format!("{{\"url\": \"{}\"}}", refused_address()));
    assert_eq!((status, &row["state"]), (201, &json!("down")));
    assert!(row["why"].as_str().expect("a reason").contains("os error 111"), "{row}");
}

#[test]
fn an_addition_waits_for_the_first_check_no_longer_than_the_health_timeout() {
    let origin = Origin::named("one").health(Health::Hang);
    let lb = Lb::with(&[], |config| {
        with_admin(config);
        config.settings.health.timeout = Some(Duration::from_millis(300));
    });
    let before = Instant::now();
    let (status, row) = post_url(&lb, "add", &origin);
    assert!((300..3000).contains(&before.elapsed().as_millis()), "{:?}", before.elapsed());
    assert_eq!((status, &row["state"]), (201, &json!("down")));
    assert_eq!(row["why"], "GET /health failed: timed out");
}

#[test]
fn an_addition_without_health_checks_serves_at_once() {
    let origin = Origin::named("one");
    let lb = Lb::with(&[], |config| {
        with_admin(config);
        config.settings.health.checks = false;
    });
    let (status, row) = post_url(&lb, "add", &origin);
    assert_eq!((status, &row["state"]), (201, &json!("up")));
    assert_eq!(get(lb.address(), "/").text(), "one");
}

#[test]
fn a_removed_backend_gets_no_request_and_may_be_the_last() {
    let (one, two) = (Origin::named("one"), Origin::named("two"));
    let lb = Lb::controlled(&[&one, &two]);
    lb.wait_for_up(2);
    let (status, row) = post_url(&lb, "remove", &one);
    assert_eq!(bodies(&lb, 4), ["two"; 4]);
    assert_eq!((status, &row["url"], &row["state"]), (200, &json!(url(&one)), &json!("removed")));
    assert_eq!(row["why"], "removed by an operator");
    assert_eq!(post_url(&lb, "remove", &two).0, 200);
    assert_eq!(get(lb.address(), "/").header("X-LB-Error"), Some("no_backend"));
    assert_eq!(list(&lb)["backends"], json!([]));
}

#[test]
fn a_removed_backend_finishes_its_request_and_starts_fresh_when_it_is_added_again() {
    let gate = Gate::new();
    let waits = gate.clone();
    let origin = Origin::serve(move |_, reply| {
        waits.wait();
        reply.ok("late");
    });
    let lb = Lb::controlled(&[&origin]);
    let mut client = lb.connect();
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    origin.wait_for_requests(1);
    let (_, row) = post_url(&lb, "remove", &origin);
    assert_eq!(row["in_flight"], 1);
    let (status, row) = post_url(&lb, "add", &origin);
    assert_eq!((status, &row["in_flight"]), (201, &json!(0)));
    gate.open();
    assert_eq!(client.read_response().text(), "late");
}

#[test]
fn a_drained_backend_gets_no_request_until_it_is_resumed() {
    let (one, two) = (Origin::named("one"), Origin::named("two"));
    let lb = Lb::controlled(&[&one, &two]);
    lb.wait_for_up(2);
    let up_since = list(&lb)["backends"][0]["since"].clone();
    let (status, row) = post_url(&lb, "drain", &one);
    assert_eq!((status, &row["state"], &row["healthy"]), (200, &json!("draining"), &json!(true)));
    assert_eq!(row["why"], "drained by an operator");
    assert!(row["since"].as_str() >= up_since.as_str(), "{row}");
    assert_eq!(bodies(&lb, 4), ["two"; 4]);
    assert_eq!(post_url(&lb, "drain", &one).1["since"], row["since"], "it drains already");
    let (status, row) = post_url(&lb, "resume", &one);
    assert_eq!((status, &row["state"]), (200, &json!("up")));
    assert_eq!(row["why"], "resumed by an operator; GET /health returned 200");
    assert_eq!(bodies(&lb, 4), ["one", "one", "two", "two"]);
}

#[test]
fn a_weight_is_changed_and_listed() {
    let origin = Origin::named("one");
    let lb = Lb::controlled(&[&origin]);
    let body = format!("{{\"url\": {:?}, \"weight\": 7}}", url(&origin));
    let (status, row) = post(&lb, "weight", &body);
    assert_eq!((status, &row["weight"]), (200, &json!(7)));
    assert_eq!(list(&lb)["backends"][0]["weight"], 7);
}

#[test]
fn the_algorithm_is_changed_by_any_of_its_spellings() {
    let lb = Lb::controlled(&[]);
    let changed = post(&lb, "scheduler", "{\"algorithm\": \"LEAST-Connections\"}");
    assert_eq!(changed, (200, json!({ "algorithm": "least_conn" })));
    assert_eq!(list(&lb)["algorithm"], "least_conn");
    assert_eq!(lb.balancer().settings().algorithm.name(), "least_conn", "it is a setting");
}

#[test]
fn a_backend_is_known_by_each_spelling_of_its_url() {
    let lb = Lb::controlled(&[]);
    let (status, row) = post(&lb, "add", "{\"url\": \"HTTP://LocalHost:80/\"}");
    assert_eq!((status, &row["url"]), (201, &json!("http://localhost")));
    assert_eq!(post(&lb, "add", "{\"url\": \"localhost:80\"}").0, 409);
    assert_eq!(post(&lb, "drain", "{\"url\": \"http://localhost\"}").0, 200);
    assert_eq!(post(&lb, "remove", "{\"url\": \"http://localhost/\"}").0, 200);
}

#[test]
fn two_names_of_one_address_may_both_be_added_with_a_warning() {
    let origin = Origin::named("one");
    let lb = Lb::controlled(&[&origin]);
    let port = origin.address().port();
    let (status, row) = post(&lb, "add", &format!("{{\"url\": \"http://localhost:{port}\"}}"));
    assert_eq!(status, 201);
    let warning = row["warning"].as_str().expect("a warning");
    assert!(warning.contains(&url(&origin)), "{warning}");
    assert_eq!(list(&lb)["backends"].as_array().map(Vec::len), Some(2));
}

#[test]
fn requests_share_a_connection_and_head_has_no_body() {
    let lb = Lb::controlled(&[]);
    let mut client = Client::connect(lb.admin());
    let request = "GET /_control/list HTTP/1.1\r\nHost: localhost\r\n\r\n";
    client.send([request, &request.replace("GET", "HEAD"), request].concat());
    let first = client.read_response();
    let to_head = client.read_response_to("HEAD");
    assert_eq!(first.header("Content-Length"), to_head.header("Content-Length"));
    assert_eq!((to_head.status, client.read_response().text()), (200, first.text()));
}

#[test]
fn a_body_may_be_chunked_and_wait_for_a_100() {
    let lb = Lb::controlled(&[]);
    let chunked = "POST /_control/scheduler HTTP/1.1\r\nHost: localhost\r\nContent-Type: \
                   application/json; charset=utf-8\r\nTransfer-Encoding: chunked\r\nConnection: \
                   close\r\n\r\n";
    let body = "7\r\n{\"algor\r\n7\r\nithm\": \r\n5\r\n\"rr\"}\r\n0\r\n\r\n";
    assert_eq!(sent(lb.admin(), [chunked, body].concat()).0.status, 200);
    let mut client = Client::connect(lb.admin());
    client.send(chunked.replace("Connection", "Expect: 100-continue\r\nConnection"));
    assert_eq!(client.read_interim().status, 100);
    client.send(body);
    assert_eq!(client.read_response().status, 200);
}

#[test]
fn an_addition_that_waits_ends_with_the_balancer() {
    let origin = Origin::named("one").health(Health::Hang);
    let lb = Lb::with(&[], |config| {
        with_admin(config);
        config.settings.health.timeout = Some(Duration::from_secs(60));
    });
    let mut client = Client::connect(lb.admin());
    client.send(super::post_bytes(
        "/_control/add",
        format!("{{\"url\": {:?}}}", url(&origin)).as_bytes(),
    ));
    until("its check has begun", || origin.health_checks() == 1);
    let ending = std::thread::spawn(move || drop(lb));
    until("the balancer has ended", || ending.is_finished());
    assert_eq!(client.read_response().status, 201);
    assert!(client.at_end());
}
