//! Each error: its status, its JSON, and that nothing has changed.

use super::{list, post, post_bytes, post_url, sent, url};
use crate::support::{Client, Lb, Origin};
use serde_json::{Value, json};

/// Parts that an error must have, by their names.
#[track_caller]
fn assert_problem(found: (u16, Value), status: u16, parts: &Value) {
    let (found_status, json) = found;
    assert_eq!(found_status, status, "{json}");
    for (name, expected) in parts.as_object().expect("parts by name") {
        assert_eq!(json[name], *expected, "{name} of {json}");
    }
    let sentence = json["error"].as_str().expect("a sentence");
    assert!(sentence.len() > 10 && !sentence.contains('\n'), "{sentence}");
}

#[test]
fn a_wrong_field_is_named_with_its_value_and_what_would_be_right() {
    let lb = Lb::controlled(&[]);
    let url_form = "a URL such as http://127.0.0.1:8001";
    let weight_form = "a whole number from 1 to 1000";
    let bad_weight = |value: Value| json!({ "code": "bad_weight", "field": "weight", "value": value, "expected": weight_form });
    let bad_url = |value: &str| json!({ "code": "bad_url", "field": "url", "value": value, "expected": url_form });
    let weighted = |weight: &str| format!("{{\"url\": \"h:1\", \"weight\": {weight}}}");
    for (body, parts) in [
        (
            "{\"url\": 5}".to_owned(),
            json!({ "code": "bad_type", "field": "url", "value": 5, "expected": url_form }),
        ),
        (
            "{\"url\": null}".to_owned(),
            json!({ "code": "bad_type", "field": "url", "value": null }),
        ),
        (
            "{\"weight\": 2}".to_owned(),
            json!({ "code": "missing_field", "field": "url", "expected": url_form }),
        ),
        ("{}".to_owned(), json!({ "code": "missing_field", "field": "url" })),
        ("{\"url\": \"localhost\"}".to_owned(), bad_url("localhost")),
        ("{\"url\": \"ftp://h:1\"}".to_owned(), bad_url("ftp://h:1")),
        ("{\"url\": \"\"}".to_owned(), bad_url("")),
        ("{\"url\": \"http://h:1/a\"}".to_owned(), bad_url("http://h:1/a")),
        (
            weighted("\"2\""),
            json!({ "code": "bad_type", "field": "weight", "value": "2", "expected": weight_form }),
        ),
        (weighted("0"), bad_weight(json!(0))),
        (weighted("-1"), bad_weight(json!(-1))),
        (weighted("1.5"), bad_weight(json!(1.5))),
        (weighted("1001"), bad_weight(json!(1001))),
        (weighted("1e2"), bad_weight(json!(100.0))),
        (
            weighted("1, \"weigth\": 2"),
            json!({ "code": "unknown_field", "field": "weigth", "value": 2, "nearest": "weight", "expected": "url, weight" }),
        ),
        (
            weighted("1, \"weight\": 2"),
            json!({ "code": "duplicate_field", "field": "weight", "value": 2 }),
        ),
        (weighted("{\"a\": []}"), json!({ "code": "bad_type", "value": { "a": [] } })),
    ] {
        assert_problem(post(&lb, "add", &body), 400, &parts);
    }
    let missing = json!({ "code": "missing_field", "field": "weight", "expected": weight_form });
    assert_problem(post(&lb, "weight", "{\"url\": \"h:1\"}"), 400, &missing);
    let unknown = json!({ "code": "unknown_field", "field": "weight", "expected": "url" });
    assert_problem(post(&lb, "drain", &weighted("1")), 400, &unknown);
    assert_eq!(list(&lb)["backends"], json!([]));
}

#[test]
fn long_names_and_values_make_no_long_errors() {
    let lb = Lb::controlled(&[]);
    let long = "é".repeat(30_000);
    for (operation, body, code) in [
        ("add", json!({ "url": long }), "too_long"),
        ("scheduler", json!({ "algorithm": long }), "too_long"),
        ("add", json!({ &long: 1 }), "unknown_field"),
        ("add", json!({ "url": "h:1", "weight": [long] }), "bad_type"),
    ] {
        let (status, json) = post(&lb, operation, &body.to_string());
        assert_eq!((status, &json["code"]), (400, &code.into()));
        assert!(json.to_string().len() < 2500, "{json}");
    }
    let method = "X".repeat(10_000);
    let request = format!("{method} /_control/list HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let (response, json) = sent(lb.admin(), request);
    assert_eq!(response.status, 405);
    assert!(json.to_string().len() < 2500, "{json}");
}

#[test]
fn a_body_that_is_no_json_object_is_rejected_with_an_example() {
    let lb = Lb::controlled(&[]);
    let deep = format!("{{\"url\": {}", "[".repeat(60_000));
    let bodies: [&[u8]; 12] = [
        b"",
        b" \r\n",
        b"[]",
        b"5",
        b"\"url\"",
        b"null",
        b"{\"url\": \"h:1\"",
        b"{\"url\": \"h:1\"} x",
        b"{'url': 'h:1'}",
        b"{\"url\": \"\xff\xfe\"}",
        b"\xef\xbb\xbf{}",
        deep.as_bytes(),
    ];
    for body in bodies {
        let (response, json) = sent(lb.admin(), post_bytes("/_control/add", body));
        let parts = json!({ "code": "bad_json", "expected": "{\"url\": \"http://127.0.0.1:8001\", \"weight\": 2}" });
        assert_problem((response.status, json), 400, &parts);
        assert_eq!(response.header("X-LB-Error"), Some("bad_json"));
    }
}

#[test]
fn an_unknown_backend_is_404_with_the_nearest_one() {
    let origin = Origin::named("one");
    let lb = Lb::controlled(&[&origin]);
    let near = format!("http://127.0.0.2:{}", origin.address().port());
    for operation in ["remove", "drain", "resume", "weight"] {
        let weight = if operation == "weight" { ", \"weight\": 2" } else { "" };
        let problem = post(&lb, operation, &format!("{{\"url\": {near:?}{weight}}}"));
        let parts = json!({ "code": "unknown_backend", "field": "url", "value": near, "nearest": url(&origin) });
        assert_problem(problem, 404, &parts);
        let far = post(&lb, operation, &format!("{{\"url\": \"db.example.com:1\"{weight}}}"));
        assert_problem(far, 404, &json!({ "code": "unknown_backend", "nearest": null }));
    }
}

#[test]
fn a_backend_that_is_added_twice_is_409_and_keeps_its_weight_and_state() {
    let origin = Origin::named("one");
    let lb = Lb::controlled(&[&origin]);
    post_url(&lb, "drain", &origin);
    let body = format!("{{\"url\": {:?}, \"weight\": 9}}", url(&origin));
    assert_problem(
        post(&lb, "add", &body),
        409,
        &json!({ "code": "already_added", "value": url(&origin) }),
    );
    let row = &list(&lb)["backends"][0];
    assert_eq!((&row["weight"], &row["state"]), (&json!(1), &json!("draining")));
}

#[test]
fn a_listener_of_our_own_is_no_backend() {
    let lb = Lb::controlled(&[]);
    for ours in [lb.address(), lb.admin()] {
        for host in ["127.0.0.1", "localhost", "0.0.0.0"] {
            let body = format!("{{\"url\": \"http://{host}:{}\"}}", ours.port());
            assert_problem(post(&lb, "add", &body), 400, &json!({ "code": "own_listener" }));
        }
    }
    assert_eq!(list(&lb)["backends"], json!([]));
}

#[test]
fn an_unknown_algorithm_is_rejected_with_the_nearest_one() {
    let lb = Lb::controlled(&[]);
    let problem = post(&lb, "scheduler", "{\"algorithm\": \"round_robbin\"}");
    let parts = json!({ "code": "unknown_algorithm", "field": "algorithm", "value": "round_robbin", "nearest": "round_robin" });
    assert_problem(problem.clone(), 400, &parts);
    let expected = problem.1["expected"].as_str().expect("the names");
    assert!(expected.starts_with("one of ") && expected.contains("round_robin"), "{expected}");
}

#[test]
fn an_unknown_path_is_404_with_the_list_of_paths() {
    let lb = Lb::controlled(&[]);
    for (path, nearest) in [
        ("/", Value::Null),
        ("/_control/lists", json!("/_control/list")),
        ("/_control/list/", json!("/_control/list")),
        ("/_CONTROL/list", json!("/_control/list")),
        ("/%5fcontrol/list", json!("/_control/list")),
        ("//_control/list", json!("/_control/list")),
        ("/_control/./list", json!("/_control/list")),
        ("/ready", json!("/readyz")),
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let (response, json) = sent(lb.admin(), request);
        let paths = json["paths"].as_array().expect("the paths").clone();
        assert!(paths.contains(&json!("/_control/add")) && paths.contains(&json!("/livez")));
        let parts = json!({ "code": "unknown_path", "value": path, "nearest": nearest });
        assert_problem((response.status, json), 404, &parts);
    }
}

#[test]
fn a_wrong_method_is_405_with_those_that_are_allowed() {
    let lb = Lb::controlled(&[]);
    for (method, path, allow) in [
        ("POST", "/_control/list", "GET, HEAD"),
        ("GET", "/_control/add", "POST"),
        ("HEAD", "/_control/add", "POST"),
        ("PUT", "/_control/add", "POST"),
        ("OPTIONS", "/_control/add", "POST"),
        ("DELETE", "/readyz", "GET, HEAD"),
        ("get", "/_control/list", "GET, HEAD"),
        ("TRACE", "/_control/list", "GET, HEAD, POST"),
        ("CONNECT", "localhost:80", "GET, HEAD, POST"),
    ] {
        let mut client = Client::connect(lb.admin());
        client.send(format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
        ));
        let response = client.read_response_to(method);
        assert_eq!(
            (response.status, response.header("Allow")),
            (405, Some(allow)),
            "{method} {path}"
        );
    }
}

#[test]
fn a_write_is_json_by_its_content_type() {
    let origin = Origin::named("one");
    let lb = Lb::controlled(&[&origin]);
    let body = format!("{{\"url\": {:?}}}", url(&origin));
    for kind in [
        "",
        "Content-Type: text/plain\r\n",
        "Content-Type: application/x-www-form-urlencoded\r\n",
        "Content-Type: application/jsonp\r\n",
        "Content-Type: text/plain; application/json\r\n",
        "Content-Type: application/json\r\nContent-Type: application/json\r\n",
    ] {
        let head = format!("POST /_control/drain HTTP/1.1\r\nHost: localhost\r\n{kind}");
        let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
        let (response, json) = sent(lb.admin(), request);
        let parts = json!({ "code": "unsupported_content_type", "field": "Content-Type", "expected": "application/json" });
        assert_problem((response.status, json), 415, &parts);
    }
    assert_eq!(list(&lb)["backends"][0]["state"], "up");
}

#[test]
fn a_body_over_64_kib_is_413() {
    let lb = Lb::controlled(&[]);
    let padded = |length: usize| format!("{{\"url\": \"\"{}}}", " ".repeat(length - 11));
    let fits = padded(64 * 1024);
    assert_eq!((fits.len(), post(&lb, "add", &fits).0), (65_536, 400));
    let problem = post(&lb, "add", &padded(64 * 1024 + 1));
    assert_problem(problem, 413, &json!({ "code": "body_too_large" }));
    let head =
        "POST /_control/add HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunk = format!("8000\r\n{}\r\n", " ".repeat(0x8000));
    for chunks in [format!("{chunk}{chunk}1\r\n \r\n0\r\n\r\n"), "ffffff\r\n".to_owned()] {
        let (response, json) = sent(lb.admin(), format!("{head}{chunks}"));
        assert_problem((response.status, json), 413, &json!({ "code": "body_too_large" }));
    }
}
