//! The unit files in `deploy/systemd`, beside what the program supports.

use crate::support::program;
use clap::{CommandFactory, Parser};
use lb_threads::cli::Args;
use lb_threads::config::Settings;
use std::collections::BTreeSet;
use std::path::PathBuf;

const SERVICE: &str = include_str!("../../deploy/systemd/lb-threads.service");
const SOCKET: &str = include_str!("../../deploy/systemd/lb-threads.socket");

/// The values of a key, in their order.
fn values<'u>(unit: &'u str, key: &str) -> Vec<&'u str> {
    let pairs = unit.lines().filter_map(|line| line.split_once('='));
    pairs.filter(|(name, _)| *name == key).map(|(_, value)| value).collect()
}

fn seconds(key: &str) -> u64 {
    let value = values(SERVICE, key)[0].strip_suffix('s').expect("seconds");
    value.parse().expect("a number")
}

#[test]
fn the_command_of_the_service_is_a_valid_command_line() {
    let [command] = values(SERVICE, "ExecStart")[..] else { panic!("one command") };
    let args = Args::try_parse_from(command.split_whitespace()).expect("a valid command line");
    assert!(args.command.is_none(), "it balances");
    assert!(command.starts_with("/usr/local/bin/lb-threads "), "{command}");
}

#[test]
fn the_environment_of_the_service_has_only_variables_of_the_program() {
    let text = SERVICE.lines().find(|line| line.contains("BACKEND_SERVERS,")).expect("a comment");
    let named: BTreeSet<&str> = text
        .split(|letter: char| !letter.is_ascii_uppercase() && letter != '_')
        .filter(|word| word.len() > 3)
        .collect();
    let command = Args::command();
    let known = command.get_arguments().filter_map(|argument| argument.get_env()?.to_str());
    let known: BTreeSet<&str> = known.collect();
    assert!(named.len() == 4 && named.is_subset(&known), "{named:?} of {known:?}");
}

#[test]
fn the_service_has_what_the_program_supports_and_needs() {
    assert_eq!(values(SERVICE, "Type"), ["notify-reload"]);
    assert!(seconds("WatchdogSec") >= 10, "half of it must be long for a busy machine");
    let drain = Settings::default().timeouts.drain.as_secs();
    assert!(seconds("TimeoutStopSec") > drain, "a drain may take {drain} s");
    assert_eq!(values(SERVICE, "SuccessExitStatus"), ["3"], "aborted connections are no failure");
    assert_eq!(values(SERVICE, "LimitNOFILE"), ["1048576"]);
    for key in ["AmbientCapabilities", "CapabilityBoundingSet"] {
        assert_eq!(values(SERVICE, key), ["CAP_NET_BIND_SERVICE"], "ports below 1024");
    }
    let families = values(SERVICE, "RestrictAddressFamilies");
    assert_eq!(families, ["AF_INET AF_INET6 AF_UNIX"], "clients, backends, NOTIFY_SOCKET");
    assert_eq!(values(SERVICE, "ProtectSystem"), ["strict"]);
    assert_eq!(values(SERVICE, "DynamicUser"), ["yes"]);
}

#[test]
fn the_socket_unit_passes_a_listening_tcp_socket() {
    assert_eq!(values(SOCKET, "ListenStream"), ["80"]);
    assert!(values(SOCKET, "Accept").is_empty(), "the balancer accepts, not the manager");
}

#[test]
fn systemd_finds_no_mistake_in_the_unit_files() {
    let folder = std::env::temp_dir().join(format!("lb-threads-{}-units", std::process::id()));
    std::fs::create_dir_all(&folder).expect("the folder can be made");
    let version = program::clean("systemd-analyze").arg("--version").output();
    let Ok(version) = version else {
        eprintln!("not run: systemd-analyze is not installed");
        return;
    };
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let number: u32 =
        version.split_whitespace().nth(1).and_then(|one| one.parse().ok()).unwrap_or(0);
    // The reload type is known from 253 on.
    let kind = if number < 253 { "Type=notify" } else { "Type=notify-reload" };
    let service = SERVICE
        .replace("Type=notify-reload", kind)
        .replace("/usr/local/bin/lb-threads", super::BINARY);
    let units: Vec<PathBuf> =
        ["lb-threads.service", "lb-threads.socket"].map(|name| folder.join(name)).into();
    std::fs::write(&units[0], service).expect("the folder can be written to");
    std::fs::write(&units[1], SOCKET).expect("the folder can be written to");
    let mut command = program::clean("systemd-analyze");
    let verified = command.args(["verify", "--man=no"]).args(&units).output().expect("it runs");
    let found = String::from_utf8_lossy(&verified.stderr).into_owned();
    // Files left in a temporary folder are no failure.
    let _ = std::fs::remove_dir_all(&folder);
    assert!(verified.status.success() && !found.contains("lb-threads."), "{found}");
}
