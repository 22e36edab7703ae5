//! `lb-threads ctl` as a process, against an origin that plays the control API: requests, output,
//! exit status.

mod balancer;
mod drain;
mod failures;
mod statistics;
mod terminal;

use crate::support::program::{self, Ended, Program};
use crate::support::{Origin, Received, Reply, refused_address};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::process::Command;

const JSON: [(&str, &str); 1] = [("Content-Type", "application/json")];

/// An origin that plays the control API of these backends.
fn api(backends: Value) -> Origin {
    Origin::serve(move |request, reply| respond(&backends, request, reply))
}

fn respond(backends: &Value, request: &Received, reply: &mut Reply<'_>) {
    if request.target == "/readyz?verbose" {
        let fields = [("Server", "lb-threads"), ("Content-Type", "text/plain")];
        return reply.respond(200, &fields, "ready\n");
    }
    let (status, body) = match (request.method.as_str(), request.target.as_str()) {
        ("GET", "/_control/list") => {
            (200, json!({ "algorithm": "least_conn", "backends": backends }))
        }
        ("GET", "/_control/stats?periods=5m%2C1h") => (200, json!({ "periods": {} })),
        ("POST", "/_control/scheduler") => (200, json!({ "algorithm": "p2c" })),
        ("POST", "/_control/add") => (201, backends[0].clone()),
        ("POST", _) => (200, backends[0].clone()),
        _ => (404, json!({ "error": "no such path", "code": "unknown_path" })),
    };
    reply.respond(status, &JSON, format!("{body}\n"));
}

fn row(url: &str, state: &str, in_flight: u64) -> Value {
    json!({
        "url": url, "weight": 2, "healthy": true, "state": state, "since": "2026-01-02T03:04:05.678Z",
        "why": "GET /health returned 200", "in_flight": in_flight, "share": 0.25, "later": [1],
    })
}

fn command(admin: SocketAddr, words: &[&str]) -> Command {
    let mut command = program::command([&["ctl"], words].concat());
    command.env("LB_ADMIN", admin.to_string());
    command
}

#[track_caller]
fn ctl(admin: SocketAddr, words: &[&str]) -> Ended {
    Program::start(command(admin, words)).wait_for_end()
}

/// The output of a command that is done.
#[track_caller]
fn done(admin: SocketAddr, words: &[&str]) -> String {
    let ended = ctl(admin, words);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{words:?}: {ended:?}");
    ended.stdout
}

/// The one line of a command that fails without output.
#[track_caller]
fn failed(ended: &Ended, code: i32) -> String {
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(code), ""), "{ended:?}");
    let line = ended.stderr.strip_prefix("lb-threads: ").and_then(|line| line.strip_suffix('\n'));
    let line = line.unwrap_or_else(|| panic!("one line with the error: {ended:?}"));
    assert!(!line.contains('\n'), "one line: {ended:?}");
    line.to_owned()
}

#[test]
fn each_change_is_one_post_of_json_and_one_sentence() {
    let state = "up (GET /health returned 200)";
    for (words, path, body, sentence) in [
        (
            &["add", "A", "1"][..],
            "add",
            json!({ "url": "http://a:1" }),
            format!("added http://a:1, weight 2: {state}"),
        ),
        (
            &["add", "http://a:1/", "2"],
            "add",
            json!({ "url": "http://a:1", "weight": 2 }),
            format!("added http://a:1, weight 2: {state}"),
        ),
        (
            &["remove", "::1", "80"],
            "remove",
            json!({ "url": "http://[::1]" }),
            "removed http://a:1: its 3 requests in flight will finish".to_owned(),
        ),
        (
            &["drain", "a:1"],
            "drain",
            json!({ "url": "http://a:1" }),
            "draining http://a:1: 3 requests in flight".to_owned(),
        ),
        (
            &["resume", "a", "1"],
            "resume",
            json!({ "url": "http://a:1" }),
            format!("resumed http://a:1: {state}"),
        ),
        (
            &["weight", "a", "1", "2"],
            "weight",
            json!({ "url": "http://a:1", "weight": 2 }),
            format!("http://a:1 has weight 2: {state}"),
        ),
        (&["algorithm", "P2C"], "scheduler", json!({ "algorithm": "P2C" }), "p2c".to_owned()),
    ] {
        let origin = api(json!([row("http://a:1", "up", 3)]));
        assert_eq!(done(origin.address(), words), format!("{sentence}\n"), "{words:?}");
        let request = origin.only_request();
        let target = format!("/_control/{path}");
        assert_eq!((request.method.as_str(), &request.target), ("POST", &target), "{words:?}");
        assert_eq!(request.headers_named("Content-Type"), ["application/json"], "{words:?}");
        assert_eq!(request.header("Host"), Some(origin.address().to_string().as_str()));
        assert_eq!(request.header("Authorization"), None, "no token, no field");
        let sent: Value = serde_json::from_slice(&request.body).expect("a body of JSON");
        assert_eq!(sent, body, "{words:?}");
    }
}

#[test]
fn the_list_is_a_table_with_the_algorithm_below() {
    let backends = json!([row("http://a:1", "up", 12), row("http://[::1]", "down", 0)]);
    let origin = api(backends);
    let output = done(origin.address(), &["list"]);
    let words: Vec<Vec<&str>> = output
        .lines()
        .map(|line| line.split("  ").filter(|word| !word.is_empty()).collect())
        .collect();
    assert_eq!(
        words[0].join("|").replace(' ', ""),
        "BACKEND|STATE|SINCE|WEIGHT|INFLIGHT|SHARE|WHY"
    );
    assert!(output.contains("http://a:1    up "), "aligned: {output}");
    assert!(output.contains("http://[::1]  down "), "aligned: {output}");
    assert!(output.contains("12  25.0 %  GET /health returned 200\n"), "{output}");
    assert!(output.ends_with("\n1 of 2 up, algorithm least_conn\n"), "{output}");
    assert!(!output.contains('\u{1b}'), "no colour in a pipe: {output:?}");
    let request = origin.only_request();
    assert_eq!((request.method.as_str(), request.target.as_str()), ("GET", "/_control/list"));
}

#[test]
fn json_is_printed_as_the_api_sent_it() {
    let text = r#"{ "algorithm":"rr",  "backends":[], "z": 1, "a": 2 }"#;
    let origin = Origin::serve(move |_, reply| reply.respond(200, &JSON, text));
    assert_eq!(done(origin.address(), &["list", "--json"]), format!("{text}\n"));
    assert_eq!(done(origin.address(), &["algorithm", "rr", "--json"]), format!("{text}\n"));
    assert_eq!(done(origin.address(), &["algorithm", "--json"]), "{\"algorithm\":\"rr\"}\n");
}

#[test]
fn algorithm_without_a_name_prints_the_one_in_use() {
    let origin = api(json!([]));
    assert_eq!(done(origin.address(), &["algorithm"]), "least_conn\n");
    assert_eq!(origin.only_request().method, "GET");
}

#[test]
fn flags_may_stand_anywhere_after_ctl_and_override_the_environment() {
    let origin = api(json!([row("http://a:1", "draining", 0)]));
    let (admin, elsewhere) = (origin.address().to_string(), refused_address());
    for words in [
        &["--admin", &admin, "--json", "drain", "a", "1"][..],
        &["drain", "--admin", &admin, "a", "--json", "1"],
        &["drain", "a", "1", "--json", "--timeout", "9s", "--admin", &format!("http://{admin}")],
    ] {
        assert!(done(elsewhere, words).contains("\"state\":\"draining\""), "{words:?}");
    }
}

#[test]
fn the_token_comes_from_the_file_or_the_environment_and_is_never_shown() {
    let path = std::env::temp_dir().join(format!("lb-threads-token-{}", std::process::id()));
    std::fs::write(&path, "from-file\n").expect("a file can be written");
    let file = path.to_str().expect("a path of UTF-8");
    for (words, sent) in [
        (&["list", "--admin-token-file", file][..], "Bearer from-file"),
        (&["list"], "Bearer from-environment"),
    ] {
        let origin = api(json!([]));
        let mut command = command(origin.address(), words);
        command.env("LB_ADMIN_TOKEN", " from-environment ");
        let ended = Program::start(command).wait_for_end();
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert_eq!(origin.only_request().header("Authorization"), Some(sent));
        assert!(!ended.stdout.contains("from-") && !ended.stderr.contains("from-"), "{ended:?}");
    }
    let origin = api(json!([]));
    let mut unset = command(origin.address(), &["list"]);
    unset.env("LB_ADMIN_TOKEN", " ");
    assert_eq!(Program::start(unset).wait_for_end().code, Some(0));
    assert_eq!(origin.only_request().header("Authorization"), None, "an empty variable is unset");
    std::fs::write(&path, " \n").expect("a file can be written");
    let error = failed(&ctl(refused_address(), &["list", "--admin-token-file", file]), 2);
    assert!(error.contains("is empty"), "{error}");
    std::fs::remove_file(&path).expect("the file is ours");
    let error = failed(&ctl(refused_address(), &["list", "--admin-token-file", file]), 2);
    assert!(error.contains("--admin-token-file") && error.contains("No such file"), "{error}");
    let mut help = program::command(["ctl", "--help"]);
    help.env("LB_ADMIN_TOKEN", "from-environment");
    let ended = Program::start(help).wait_for_end();
    assert!(ended.code == Some(0) && !ended.stdout.contains("from-"), "{ended:?}");
}

#[test]
fn a_proxy_of_the_environment_is_ignored_and_a_redirect_is_not_followed() {
    let origin = api(json!([]));
    let mut proxied = command(origin.address(), &["list"]);
    let proxy = format!("http://{}", refused_address());
    proxied.env("http_proxy", &proxy).env("HTTP_PROXY", &proxy).env("ALL_PROXY", &proxy);
    assert_eq!(Program::start(proxied).wait_for_end().code, Some(0));

    let other = api(json!([]));
    let target = format!("http://{}/_control/list", other.address());
    let origin = Origin::serve(move |_, reply| reply.respond(307, &[("Location", &target)], ""));
    let error = failed(&ctl(origin.address(), &["list"]), 1);
    assert!(error.contains("status 307") && other.count() == 0, "{error}");
}

#[test]
fn a_warning_of_the_api_goes_to_standard_error() {
    let mut added = row("http://a:1", "up", 0);
    added["warning"] = "same address as http://b:1".into();
    let origin = api(json!([added]));
    let ended = ctl(origin.address(), &["add", "a", "1"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.starts_with("added http://a:1"), "{ended:?}");
    assert_eq!(ended.stderr, "lb-threads: warning: same address as http://b:1\n");
}

#[test]
fn a_bad_command_line_is_one_line_with_exit_code_two_and_no_request() {
    let origin = api(json!([]));
    for (words, expected) in [
        (&[][..], "the command is missing"),
        (&["lits"], "did you mean `list`?"),
        (&["add"], "the backend is missing"),
        (&["add", "h", "80", "-1"], "weight `-1`"),
        (&["weight", "h", "80"], "the weight is missing"),
        (&["remove", "h"], "`h` has no port"),
        (&["list", "--wait", "3s"], "--wait"),
        (&["drain", "h:1", "--wait", "soon"], "`soon` is not a duration"),
        (&["list", "--loud"], "--loud"),
        (&["list", "--timeout", "0"], "--timeout"),
        (&["list", "--admin", "9190"], "`9190` is not an address"),
    ] {
        let error = failed(&ctl(origin.address(), words), 2);
        assert!(error.contains(expected), "{words:?}: {error}");
    }
    assert_eq!(origin.count(), 0);
}

#[test]
fn help_has_every_command_and_its_examples_are_accepted() {
    let help = program::run(["help", "ctl"]);
    assert_eq!((help.code, help.stderr.as_str()), (Some(0), ""));
    for word in ["list", "add", "remove", "drain", "resume", "weight", "algorithm", "health"] {
        assert!(help.stdout.lines().any(|line| line.starts_with(&format!("  {word} "))), "{word}");
    }
    for word in ["--admin", "LB_ADMIN", "127.0.0.1:9190", "LB_ADMIN_TOKEN", "--json", "Exit status"]
    {
        assert!(help.stdout.contains(word), "{word}: {}", help.stdout);
    }
    let origin = api(json!([row("http://10.0.0.1", "draining", 0)]));
    let (_, examples) = help.stdout.split_once("Examples:").expect("there are examples");
    let lines = examples.lines().filter(|line| line.contains("lb-threads ctl"));
    let examples: Vec<&str> = lines.flat_map(|line| line.split("&&")).collect();
    assert!(examples.len() >= 5, "{examples:?}");
    for example in examples {
        let example = example.trim().split("  ").next().unwrap_or_default();
        let example = example.replace("10.0.0.9:9190", &origin.address().to_string());
        let words: Vec<&str> = example.split(' ').skip(2).collect();
        let ended = ctl(origin.address(), &words);
        assert_eq!(ended.code, Some(0), "{example}: {ended:?}");
    }
    let listed = program::run(["ctl", "help"]);
    assert!(listed.code == Some(0) && help.stdout.contains(&listed.stdout), "{listed:?}");
}
