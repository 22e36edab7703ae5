//! `lb-threads check`: problems of the file, of this machine, and origins. The shell's commands too.

use crate::support::program::{self, Program};
use crate::support::{Folder, refused_address};
use serde_json::Value;
use std::net::TcpListener;

/// The exit code and the output of `check` for a file with this text.
fn check(text: &str, more: &[&str]) -> (Option<i32>, String) {
    let folder = Folder::new();
    let file = folder.write("c.json", text);
    let ended = program::run(["check", &file].iter().chain(more));
    assert_eq!(ended.stderr, "", "{ended:?}");
    (ended.code, ended.stdout.replace(&file, "c.json"))
}

#[test]
fn a_problem_has_its_line_with_a_marker_and_what_would_be_right() {
    let (code, text) = check("{\n  \"rize\": 2,\n  \"port\": 70000\n}", &[]);
    let expected = "\
error: c.json:2:3: rize: unknown key; did you mean rise?
  2 |   \"rize\": 2,
    |   ^^^^^^
error: c.json:3:11: port: `70000` is not a port; write a number from 0 to 65535
  3 |   \"port\": 70000
    |           ^^^^^
not ok: 2 error(s), 0 warning(s)
";
    assert_eq!((code, text.as_str()), (Some(1), expected));
}

#[test]
fn as_json_each_problem_has_the_same_facts() {
    let (code, text) = check("{\n  \"rize\": 2\n}", &["--json"]);
    let result: Value = serde_json::from_str(&text).expect("it is JSON");
    assert_eq!((code, &result["ok"]), (Some(1), &Value::Bool(false)));
    let expected = serde_json::json!([{
        "severity": "error", "file": "c.json", "line": 2, "column": 3, "key": "rize",
        "message": "unknown key", "hint": "did you mean rise?",
    }]);
    assert_eq!(result["problems"], expected);
    let (code, text) = check("{\"port\": 0}", &["--json", "--origin"]);
    let result: Value = serde_json::from_str(&text).expect("it is JSON");
    assert_eq!((code, &result["ok"]), (Some(0), &Value::Bool(true)));
    let settings = result["settings"].as_array().expect("the settings");
    let port = settings.iter().find(|setting| setting["key"] == "port").expect("the port");
    assert_eq!((&port["value"], &port["origin"]), (&"0".into(), &"c.json:1:2".into()));
}

#[test]
fn an_origin_is_a_flag_a_variable_a_position_or_the_default() {
    let folder = Folder::new();
    let file = folder.write("c.json", "{\n    \"rise\": 3,\n    \"fall\": 4, \"host\": \"::1\"}");
    let mut command =
        program::command(["check", &file, "--origin", "--rise", "5", "--period", "7"]);
    command.env("LOGLEVEL", "warn").env("HOST", "127.0.0.1").env("BACKEND_SERVERS", "");
    let ended = Program::start(command).wait_for_end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let position = format!("{file}:3:5");
    for (key, value, origin) in [
        ("rise", "5", "flag --rise"),
        ("fall", "4", position.as_str()),
        ("period", "7s", "flag PERIOD"),
        ("log_level", "warn", "environment LOGLEVEL"),
        ("host", "127.0.0.1", "environment HOST"),
        ("drain_timeout", "30s", "default"),
        ("backend", "127.0.0.1:8080,127.0.0.1:8081,127.0.0.1:8082", "default"),
    ] {
        let line = ended.stdout.lines().find(|line| line.starts_with(&format!("{key} ")));
        let line = line.unwrap_or_else(|| panic!("{key} is missing: {}", ended.stdout));
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words[1], value, "{line}");
        assert_eq!(words[2..].join(" "), origin, "{line}");
    }
}

#[test]
fn a_name_that_does_not_resolve_is_a_warning_at_its_server() {
    let text = "{\"servers\": [\n{\"host\": \"no-such-host.invalid\", \"port\": 80}], \"port\": 0}";
    let (code, text) = check(text, &[]);
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.starts_with("warning: c.json:2:1: servers[0]: cannot resolve `no-such-host.invalid`"),
        "{text}"
    );
    assert!(text.ends_with("ok: 0 error(s), 1 warning(s)\n"), "{text}");
}

#[test]
fn the_balancers_own_address_as_a_server_is_an_error_and_a_port_in_use_a_note() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("it is bound").port();
    let text = format!("{{\"servers\": [\"localhost:{port}\"],\n\"port\": {port}}}");
    let (code, text) = check(&text, &[]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("error: c.json:1:14: servers[0]: backend localhost"), "{text}");
    assert!(text.contains("is the balancer itself"), "{text}");
    assert!(text.contains("note: c.json:2:9: port: cannot listen on 127.0.0.1"), "{text}");
    let free = refused_address().port().to_string();
    let (code, text) = check("{}", &["--port", &free]);
    assert!(code == Some(0) && !text.contains("in use"), "{text}");
}

#[test]
fn more_connections_than_the_machine_allows_are_a_warning() {
    let folder = Folder::new();
    let file = folder.write("c.json", "{\"max_connections\": 5000, \"port\": 0, \"servers\": []}");
    let command = program::command_with_descriptors(128, ["check", &file]);
    let ended = Program::start(command).wait_for_end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let expected = format!("warning: {file}:1:21: max_connections: 5000 connections need more");
    assert!(ended.stdout.starts_with(&expected), "{ended:?}");
}

#[test]
fn a_check_without_a_file_is_about_flags_and_mentions_a_config_json() {
    let folder = Folder::new();
    folder.write("config.json", "{}");
    let mut command = program::command(["check", "--port", "0", "-b", "127.0.0.1:1"]);
    command.current_dir(folder.path());
    let ended = Program::start(command).wait_for_end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.contains("note: config.json found, not loaded; use -c config.json"));
    let twice = program::run(["check", "a.json", "-c", "b.json"]);
    assert!(twice.code == Some(2) && twice.stderr.contains("--config"), "{twice:?}");
}

#[test]
fn every_shell_has_completions_with_the_flags_and_the_names_of_choices() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ended = program::run(["completions", shell]);
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
        for word in ["health-path", "print-config", "completions", "trace", "least_conn"] {
            assert!(ended.stdout.contains(word), "{shell} has no {word}");
        }
    }
    let unknown = program::run(["completions", "csh"]);
    assert!(unknown.code == Some(2) && unknown.stderr.contains("csh"), "{unknown:?}");
}

#[test]
fn the_manual_page_has_every_section_and_the_version() {
    let ended = program::run(["man"]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    for word in
        [".TH lb-threads", env!("CARGO_PKG_VERSION"), "health\\-path", "TIMEOUTS", "Examples"]
    {
        assert!(ended.stdout.contains(word), "no {word}: {}", ended.stdout);
    }
}

#[test]
fn a_verbose_version_names_target_compiler_and_features() {
    let ended = program::run(["-V", "-v"]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    let lines: Vec<&str> = ended.stdout.lines().collect();
    assert_eq!(lines[0], concat!("lb-threads ", env!("CARGO_PKG_VERSION")));
    assert!(lines[1].starts_with("target ") && lines[1].contains("linux"), "{lines:?}");
    assert!(lines[2].starts_with("rustc 1.") && lines[3].starts_with("features "), "{lines:?}");
}
