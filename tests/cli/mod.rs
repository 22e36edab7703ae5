//! The command line: an error is one helpful line, and a valid one does as documented.

mod demo;
mod python;
mod serving;

use crate::support::program::{self, Ended, Program};
use crate::support::{Origin, refused_address};
use std::net::{TcpListener, UdpSocket};

/// The one line with the error. The lines of the log around it start with a time in brackets.
#[track_caller]
fn complaint(ended: &Ended) -> String {
    let (complaints, others): (Vec<&str>, Vec<&str>) =
        ended.stderr.lines().partition(|line| line.starts_with("lb-threads: "));
    assert_eq!(complaints.len(), 1, "one line with the error: {ended:?}");
    assert!(
        others.iter().all(|line| line.starts_with('[')),
        "nothing else but log lines: {ended:?}"
    );
    assert!(
        !ended.stderr.contains("panicked") && !ended.stderr.contains("RUST_BACKTRACE"),
        "no panic: {ended:?}"
    );
    assert_eq!(ended.stdout, "", "standard output is for results");
    complaints[0].to_owned()
}

#[test]
fn an_invalid_command_line_is_rejected_in_one_line_with_exit_code_two() {
    let rows: &[(&[&str], &str)] = &[
        (&["abc"], "`abc` is not a duration"),
        (&["10", "20"], "20"),
        (&["--workers", "0"], "--workers"),
        (&["--workers", "many"], "--workers"),
        (&["--port", "70000"], "--port"),
        (&["--no-such-flag"], "--no-such-flag"),
        (&["--heath-path", "/"], "--health-path"),
        (&["--health-path", "health"], "starts with /"),
        (&["--fall", "0"], "--fall"),
        (&["--admin", "127.0.0.1:1"], "off"),
        (&["--log-level", "loud"], "`loud` is not a log level"),
        (&["--connect-timeout", "0"], "would reject every request"),
        (&["-b", "localhost"], "has no port"),
        (&["-b", "localhost:0"], "between 1 and 65535"),
        (&["-b", "localhost:http"], "between 1 and 65535"),
        (&["-b", "http://localhost:80/app"], "has a path"),
        (&["-b", "https://localhost:443"], "not supported yet"),
        (&["-b", "ftp://localhost:21"], "unknown scheme"),
        (&["-b", "::1:80"], "brackets"),
        (&["-b", "a b:80"], "no valid host"),
        (&["-b", "127.0.0.1:1,127.0.0.1:1"], "named twice"),
        (&["-b", "h:80", "--no-backends"], "--no-backends and --backend h:80 exclude each other"),
        (&["-b"], "--backend"),
        (&["demo", "--port", "x"], "--port"),
        (&["backend", "--failure-rate", "2"], "from 0 to 1"),
    ];
    for (words, expected) in rows {
        let ended = program::run(*words);
        assert_eq!(ended.code, Some(2), "{words:?}: {ended:?}");
        let complaint = complaint(&ended);
        assert!(complaint.contains(expected), "{words:?}: {complaint}");
    }
}

#[test]
fn an_invalid_environment_is_rejected_in_one_line_with_exit_code_two() {
    let rows = [
        ("BACKEND_SERVERS", "127.0.0.1:1,nonsense", "nonsense"),
        ("PORT", "abc", "abc"),
        ("LOGLEVEL", "LOUD", "LOUD"),
    ];
    for (name, value, expected) in rows {
        let mut command = program::command(["10"]);
        command.env(name, value);
        let ended = Program::start(command).wait_for_end();
        assert_eq!(ended.code, Some(2), "{name}={value}: {ended:?}");
        let complaint = complaint(&ended);
        assert!(complaint.contains(expected), "{name}={value}: {complaint}");
    }
}

#[test]
fn a_port_that_is_in_use_is_named_with_exit_code_one() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("it is bound").port().to_string();
    let backend = refused_address().to_string();
    for words in [
        &["--port", &port, "-b", &backend][..],
        &["backend", "--port", &port],
        &["demo", "--port", &port],
    ] {
        let ended = program::run(words);
        assert_eq!(ended.code, Some(1), "{words:?}: {ended:?}");
        let complaint = complaint(&ended);
        assert!(
            complaint.contains(&format!("127.0.0.1:{port}")),
            "it names the address: {complaint}"
        );
        assert!(
            complaint.contains("in use") && complaint.contains("--port"),
            "it names the remedy: {complaint}"
        );
    }
    let ended = program::run(["--port", &port, "-b", &backend, "--log-level", "off"]);
    assert_eq!(ended.stderr, complaint(&ended) + "\n", "with the log off there is nothing else");
}

#[test]
fn an_error_at_the_start_is_the_last_line() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("it is bound").port().to_string();
    let backend = refused_address().to_string();
    for (words, count) in
        [(&["--port", &port, "-b", &backend][..], 20), (&["demo", "--port", &port], 4)]
    {
        let starts: Vec<Program> = (0..count)
            .map(|_| {
                let mut command = program::command(words);
                command.env("LOGLEVEL", "debug");
                Program::start(command)
            })
            .collect();
        for start in starts {
            let ended = start.wait_for_end();
            let last = ended.stderr.lines().last().unwrap_or_default();
            assert_eq!(last, complaint(&ended), "{words:?}: {}", ended.stderr);
        }
    }
}

#[test]
fn an_error_at_the_start_is_reported_in_one_line_with_exit_code_one() {
    let rows: [(&[&str], &str); 3] = [
        (&["--host", "no-such-host.invalid", "--port", "0"], "no-such-host.invalid"),
        (&["--port", "0", "-b", "no-such-host.invalid:80"], "no-such-host.invalid"),
        (&["--host", "192.0.2.1", "--port", "0"], "--host"),
    ];
    for (words, expected) in rows {
        let ended = program::run(words);
        assert_eq!(ended.code, Some(1), "{words:?}: {ended:?}");
        let complaint = complaint(&ended);
        assert!(complaint.contains(expected), "{words:?}: {complaint}");
    }
}

#[test]
fn the_balancers_own_address_is_rejected_as_a_backend_in_every_spelling() {
    let mut rows = vec![
        ("127.0.0.1", "127.0.0.1".to_owned()),
        ("127.0.0.1", "localhost".to_owned()),
        ("127.0.0.1", "0.0.0.0".to_owned()),
        ("0.0.0.0", "127.0.0.1".to_owned()),
        ("0.0.0.0", "127.0.0.2".to_owned()),
        ("0.0.0.0", "0.0.0.0".to_owned()),
    ];
    // A machine with a network has an address to the outside: the one that a socket gets (nothing
    // is sent for that).
    let outside = UdpSocket::bind("0.0.0.0:0")
        .and_then(|socket| socket.connect("192.0.2.200:9").and_then(|()| socket.local_addr()));
    rows.extend(outside.ok().map(|own| ("0.0.0.0", own.ip().to_string())));
    for (host, backend) in rows {
        let port = refused_address().port().to_string();
        let ended = program::run([
            "--host",
            host,
            "--port",
            &port,
            "-b",
            &format!("{backend}:{port}"),
            "--no-health-checks",
        ]);
        assert_eq!(ended.code, Some(1), "--host {host} -b {backend}: {ended:?}");
        let complaint = complaint(&ended);
        assert!(
            complaint.contains("the balancer itself"),
            "--host {host} -b {backend}: {complaint}"
        );
    }
}

#[test]
fn a_period_below_a_second_is_raised_with_a_warning() {
    let origin = Origin::responding("hello");
    let balancer = Program::balancer(&[origin.address()], &["0.2"]);
    balancer.until_logged("listening on");
    let log = balancer.log();
    let warning = log
        .lines()
        .find(|line| line.contains("WARN"))
        .unwrap_or_else(|| panic!("no warning: {log}"));
    assert!(warning.contains("200ms") && warning.contains("using 1s"), "{warning}");
    assert!(log.contains("every 1s"), "{log}");
}

#[test]
fn help_shows_every_default_and_examples() {
    for word in ["--help", "-h"] {
        let ended = program::run([word]);
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
        let help = ended.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
        let defaults = [
            "[default: 10s]",
            "[default: 127.0.0.1]",
            "[default: 9090]",
            "[default: /health]",
            "[default: 127.0.0.1:8080, 8081 and 8082]",
            "[default: one per core]",
            "[default: 2s, or PERIOD if that is shorter]",
            "[default: info]",
            "[default: 75s]",
            "[default: 30s]",
            "[default: 1h]",
        ];
        for shown in defaults.iter().chain(&[
            "[env: BACKEND_SERVERS",
            "[env: HOST",
            "[env: PORT",
            "[env: LOGLEVEL",
            "Examples:",
        ]) {
            assert!(help.contains(shown), "{word} does not show {shown}: {}", ended.stdout);
        }
        assert!(help.contains("lb-threads demo"), "the one-command start is an example");
    }
    for command in ["demo", "backend"] {
        let ended = program::run([command, "--help"]);
        assert!(ended.code == Some(0) && ended.stdout.contains("[default: "), "{ended:?}");
    }
}

#[test]
fn every_example_in_the_help_is_accepted() {
    let help = program::run(["--help"]).stdout;
    let (_, examples) = help.split_once("Examples:").expect("there are examples");
    let lines: Vec<&str> =
        examples.lines().map(str::trim).filter(|line| line.contains("lb-threads")).collect();
    assert!(lines.len() >= 4, "{help}");
    for line in lines {
        let example = line.split("  ").next().unwrap_or(line);
        let words = example.split(' ').skip_while(|word| *word != "lb-threads").skip(1);
        // With `--help` at the end the arguments are parsed, and nothing is started.
        let ended = program::run(words.chain(["--help"]));
        assert_eq!(ended.code, Some(0), "{example}: {}", ended.stderr);
    }
}

#[test]
fn version_is_the_packages() {
    for word in ["--version", "-V"] {
        let ended = program::run([word]);
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
        assert_eq!(ended.stdout, format!("lb-threads {}\n", env!("CARGO_PKG_VERSION")));
    }
}
