//! The ways to ask for a reload, HUP, the control API and `ctl`, and what each of them responds.

use super::{Configured, Watching, plain};
use crate::support::program::{self, Ended, Program};
use crate::support::prometheus::Exposition;
use crate::support::{Lb, Origin, Response, exchange, get, refused_address, stays};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;

const BAD: &str = "{\"rise\": 0,\n \"fal\": 2}";

/// Posts to the reload of a control API.
#[track_caller]
fn post(admin: SocketAddr, body: &str) -> (u16, Value) {
    let request = format!(
        "POST /_control/reload HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Connection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let response: Response = exchange(admin, request);
    (response.status, serde_json::from_slice(&response.body).expect("the body is JSON"))
}

#[track_caller]
fn ctl(admin: SocketAddr, words: &[&str]) -> Ended {
    let mut command = program::command([&["ctl", "reload"], words].concat());
    command.env("LB_ADMIN", admin.to_string());
    Program::start(command).wait_for_end()
}

/// The lines of a page of the control API.
fn page(admin: SocketAddr, path: &str) -> (u16, String) {
    let response = get(admin, path);
    (response.status, response.text())
}

#[test]
fn a_post_reloads_at_once_and_has_the_changes() {
    let [one, two] = ["one", "two"].map(Origin::named);
    let configured = Configured::start(&plain(&[&one], ""));
    configured.lb.wait_for_up(1);
    let admin = configured.lb.admin();
    let none = json!({ "changes": [], "next_start": [], "kept": [] });
    for body in ["{}", ""] {
        assert_eq!(post(admin, body), (200, none.clone()), "{body}");
    }
    let text = plain(&[&two], ", \"algorithm\": \"p2c\", \"workers\": 3");
    configured.folder.write("config.json", text);
    let (status, json) = post(admin, "{}");
    assert_eq!(configured.bodies(1), ["two"]);
    assert_eq!((status, &json["kept"]), (200, &json!([])));
    assert_eq!(json["changes"], json!(["servers: +1 -1", "algorithm: round_robin → p2c"]));
    let next_start = json["next_start"].to_string();
    assert!(next_start.contains("workers: ") && next_start.contains(" → 3"), "{next_start}");
    assert_eq!(post(admin, "{\"file\": \"x\"}").0, 400, "no field is known");
}

#[test]
fn a_bad_file_is_rejected_whole_with_all_its_problems_in_the_words_of_check() {
    let one = Origin::named("one");
    let configured = Configured::start(&plain(&[&one], ""));
    configured.lb.wait_for_up(1);
    let file = configured.folder.write("config.json", BAD);
    let checked = program::run(["check", "--json", &file]);
    let checked: Value = serde_json::from_str(&checked.stdout).expect("it is JSON");
    let (status, json) = post(configured.lb.admin(), "{}");
    assert_eq!((status, &json["code"]), (400, &json!("bad_config")));
    assert_eq!(json["problems"], checked["problems"]);
    let error = json["error"].as_str().expect("a text");
    let first = "config.json:1:10: rise: `0` is not a whole number from 1 to 1000 (and 1 more)";
    assert!(error.starts_with("not reloaded, the settings in use stay: "), "{error}");
    assert!(error.ends_with(first), "{error}");
    assert_eq!(configured.bodies(2), ["one", "one"]);
    let (status, text) = page(configured.lb.admin(), "/readyz?verbose");
    let line = text.lines().find(|line| line.starts_with("config: ")).expect("a line");
    assert!(line.starts_with("config: reload failed at 20") && line.ends_with(first), "{line}");
    assert_eq!(status, 200, "it serves with the settings in use");
    let reloads = configured.lb.balancer().reloads().expect("there is a file");
    assert_eq!((reloads.succeeded, reloads.failed), (0, 1));
    configured.reload(&plain(&[&one], ""));
    let (_, text) = page(configured.lb.admin(), "/readyz?verbose");
    assert!(text.lines().any(|line| line.starts_with("config: loaded at 20")), "{text}");
}

#[test]
fn our_own_address_as_a_server_is_rejected_at_a_reload() {
    let one = Origin::named("one");
    let configured = Configured::start(&plain(&[&one], ""));
    let ours = configured.lb.address();
    let text = format!("{{\"servers\": [\"{}\",\n\"{ours}\"], \"rise\": 2}}", one.address());
    configured.folder.write("config.json", text);
    let error = configured.lb.balancer().reload().expect_err("requests would loop").to_string();
    assert!(error.contains(&format!("config.json:2:1: servers[1]: backend {ours} ")), "{error}");
    assert_eq!(configured.lb.balancer().settings().health.rise, 1, "it is rejected whole");
}

#[test]
fn without_a_file_there_is_nothing_to_reload() {
    let lb = Lb::controlled(&[]);
    let (status, json) = post(lb.admin(), "{}");
    let error = "there is no configuration file to reload; start the balancer with -c FILE";
    assert_eq!(status, 409);
    assert_eq!(json, json!({ "error": error, "code": "no_config_file" }));
    assert!(!page(lb.admin(), "/readyz?verbose").1.contains("config: "));
    let ended = ctl(lb.admin(), &[]);
    assert_eq!((ended.code, ended.stderr), (Some(4), format!("lb-threads: {error}\n")));

    let program = Program::balancer(&[refused_address()], &[]);
    program.until_logged("listening on");
    program.signal(Signal::HUP);
    program.until_logged(&format!("signal HUP is ignored: {error}"));
}

#[test]
fn ctl_reload_prints_the_changes_or_all_problems() {
    let [one, two] = ["one", "two"].map(Origin::named);
    let watching = Watching::start(&plain(&[&one], ""), &["--admin", "127.0.0.1:0"]);
    let admin = watching.program.admin_address();
    let ended = ctl(admin, &[]);
    assert_eq!(
        (ended.code, ended.stdout.as_str()),
        (Some(0), "reloaded: no changes\n"),
        "{ended:?}"
    );
    watching.program.until_logged("config.json reloaded: no changes");
    watching.folder.write("config.json", plain(&[&one, &two], ", \"workers\": 3"));
    let ended = ctl(admin, &[]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let lines: Vec<&str> = ended.stdout.lines().collect();
    assert_eq!(lines[0], "reloaded: servers: +1");
    assert!(lines[1].starts_with("at the next start: workers: "), "{ended:?}");
    let ended = ctl(admin, &["--json"]);
    let json: Value = serde_json::from_str(&ended.stdout).expect("it is JSON");
    assert_eq!(json["changes"], json!([]));

    watching.folder.write("config.json", BAD);
    let ended = ctl(admin, &[]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(4), ""), "{ended:?}");
    for problem in [
        "config.json:1:10: rise: `0` is not",
        "config.json:2:2: fal: unknown key; did you mean fall?",
    ] {
        assert!(ended.stderr.contains(problem), "{ended:?}");
        watching.program.until_logged(problem);
    }
    stays("the next look finds no news", Duration::from_millis(1600), || {
        watching.count("fal: unknown key") == 1
    });
    let last = ended.stderr.lines().last().expect("a line");
    assert!(last.starts_with("lb-threads: not reloaded, the settings in use stay: "), "{ended:?}");
}

#[test]
fn hup_reloads_at_once_and_flags_still_win() {
    let [one, two] = ["one", "two"].map(Origin::named);
    let words = ["--admin", "off", "-a", "random"];
    let watching = Watching::start(&plain(&[&one], ""), &words);
    let program = &watching.program;
    program.signal(Signal::HUP);
    program.until_logged("config.json reloaded: no changes");
    watching.folder.write("config.json", plain(&[&two], ", \"algorithm\": \"p2c\", \"fall\": 3"));
    program.signal(Signal::HUP);
    program.until_logged("config.json reloaded: servers: +1 -1; fall: 2 → 3\n");
    assert_eq!(get(program.address(), "/").text(), "two");
    assert!(!program.log().contains("p2c"), "{}", program.log());
}

#[test]
fn metrics_count_the_reloads_and_show_whether_the_last_one_was_successful() {
    let origin = Origin::named("one");
    let configured = Configured::start(&plain(&[&origin], ""));
    let admin = configured.lb.admin();
    let shown = || {
        let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let metrics = Exposition::parse(&exchange(admin, request).text());
        let reloads =
            |result| metrics.value("lbthreads_config_reloads_total", &[("result", result)]);
        let success = metrics.value("lbthreads_config_last_reload_success", &[]);
        let at = "lbthreads_config_last_reload_success_timestamp_seconds";
        ([reloads("success"), reloads("failure"), success], metrics.value(at, &[]))
    };
    let (counts, started) = shown();
    assert_eq!(counts, [0.0, 0.0, 1.0]);
    configured.folder.write("config.json", BAD);
    assert_eq!(post(admin, "{}").0, 400);
    assert_eq!(shown(), ([0.0, 1.0, 0.0], started));
    configured.reload(&plain(&[&origin], ", \"rise\": 3"));
    let (counts, reloaded) = shown();
    assert_eq!(counts, [1.0, 1.0, 1.0]);
    assert!(reloaded > started && reloaded < started + 600.0, "{started} {reloaded}");
}
