//! The configuration file: read, served, printed, and rejected with all its problems.

use super::complaint;
use crate::support::program::{self, Program};
use crate::support::{Folder, Origin, get, refused_address};
use std::fs;

/// The files in `examples`.
const EXAMPLES: [&str; 3] = ["minimal.json", "everything.json", "many-backends.json"];

fn example(name: &str) -> String {
    format!("{}/examples/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// A file with one server.
fn with_server(origin: &Origin, more: &str) -> String {
    let address = origin.address();
    format!(
        "{{\"servers\": [{{\"host\": \"{}\", \"port\": {}}}], \"port\": 0{more}}}",
        address.ip(),
        address.port()
    )
}

#[test]
fn the_minimal_example_is_served_with_its_servers_and_its_health_path() {
    let origins = ["one", "two", "three"].map(Origin::named);
    let mut text = fs::read_to_string(example("minimal.json")).expect("the example is there");
    for (port, origin) in ["8080", "8081", "8082"].iter().zip(&origins) {
        text = text.replace(port, &origin.address().port().to_string());
    }
    let folder = Folder::new();
    let file = folder.write("c.json", text);
    let balancer = Program::start(program::command(["-c", &file, "--port", "0"]));
    let mut names: Vec<String> = (0..3).map(|_| get(balancer.address(), "/").text()).collect();
    names.sort();
    assert_eq!(names, ["one", "three", "two"]);
    assert!(origins.iter().all(|origin| origin.health_checks() > 0));
    assert!(balancer.log().contains("checking GET /health every 10s"), "{}", balancer.log());
}

#[test]
fn a_file_with_no_servers_starts_with_none() {
    let folder = Folder::new();
    let file = folder.write("c.json", "{\"servers\": [], \"port\": 0}");
    let balancer = Program::start(program::command(["-c", &file]));
    let response = get(balancer.address(), "/");
    response.expect_status(503);
    assert!(balancer.log().contains("balancing no backends"), "{}", balancer.log());
}

#[test]
fn flags_and_the_environment_win_over_the_file() {
    let (named, other) = (Origin::named("flag"), Origin::named("file"));
    let folder = Folder::new();
    let file = folder.write("c.json", with_server(&other, ", \"host\": \"192.0.2.1\""));
    let address = named.address().to_string();
    let mut command = program::command(["--config", &file, "-b", &address]);
    command.env("HOST", "127.0.0.1");
    let balancer = Program::start(command);
    assert_eq!(get(balancer.address(), "/").text(), "flag");
    assert_eq!(other.health_checks(), 0, "the server of the file is not one");
}

#[test]
fn an_empty_variable_is_not_given() {
    let origin = Origin::named("file");
    let folder = Folder::new();
    let file = folder.write("c.json", with_server(&origin, ""));
    let mut command = program::command(["-c", &file]);
    for variable in ["HOST", "PORT", "LOGLEVEL", "BACKEND_SERVERS"] {
        command.env(variable, "");
    }
    let balancer = Program::start(command);
    assert_eq!(get(balancer.address(), "/").text(), "file");
}

#[test]
fn the_log_has_the_level_of_the_file() {
    let origin = Origin::responding("hello");
    let folder = Folder::new();
    let file = folder.write("c.json", with_server(&origin, ", \"log_level\": \"debug\""));
    let balancer = Program::start(program::command(["-c", &file]));
    get(balancer.address(), "/traced").expect_status(200);
    balancer.until_logged("DEBUG");
}

#[test]
fn a_config_json_that_is_not_named_is_mentioned_and_not_loaded() {
    let folder = Folder::new();
    folder.write("config.json", "nonsense");
    let backend = refused_address().to_string();
    let mut command = program::command(["--port", "0", "-b", &backend]);
    command.current_dir(folder.path());
    let balancer = Program::start(command);
    balancer.until_logged("config.json found, not loaded; use -c config.json");
    balancer.until_logged("listening on");
}

#[test]
fn what_is_no_configuration_file_is_one_line_with_exit_code_one() {
    let folder = Folder::new();
    let missing = folder.path().join("missing.json").display().to_string();
    let huge = folder.write("huge.json", "{}");
    let huge_file = fs::File::options().write(true).open(&huge).expect("it was written");
    huge_file.set_len(100 << 20).expect("holes take no room");
    let fifo = folder.path().join("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RWXU).expect("a FIFO");
    let locked = folder.write("locked.json", "{}");
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o000);
    fs::set_permissions(&locked, permissions).expect("our own file");
    let fifo = fifo.display().to_string();
    let folder_path = folder.path().display().to_string();
    let mut rows = vec![
        (missing, "there is no such file"),
        (folder_path, "it is a directory"),
        (huge, "larger than 1 MiB"),
        (fifo, "it is a FIFO"),
    ];
    // The administrator may read every file.
    if fs::File::open(&locked).is_err() {
        rows.push((locked, "no permission"));
    }
    for (path, expected) in rows {
        let ended = program::run(["-c", &path]);
        assert_eq!(ended.code, Some(1), "{path}: {ended:?}");
        let complaint = complaint(&ended);
        assert!(complaint.contains(&path) && complaint.contains(expected), "{complaint}");
        assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
        let checked = program::run(["check", &path]);
        assert!(checked.code == Some(1) && checked.stdout.contains(expected), "{checked:?}");
    }
}

#[test]
fn a_bad_file_prints_the_problems_of_check_and_starts_nothing() {
    let folder = Folder::new();
    for text in [
        "",
        "\u{feff}{}",
        "{} // why",
        "{\"rise\": 1,}",
        "{\"rise\": 0,\n \"fal\": 2, \"servers\": [{\"host\": \"a b\", \"port\": 80}]}",
    ] {
        let file = folder.write("c.json", text);
        let checked = program::run(["check", &file]);
        assert_eq!((checked.code, checked.stderr.as_str()), (Some(1), ""), "{checked:?}");
        let (problems, verdict) =
            checked.stdout.trim_end().rsplit_once('\n').expect("several lines");
        assert!(verdict.starts_with("not ok: "), "{checked:?}");
        let started = program::run(["-c", &file]);
        assert_eq!((started.code, started.stdout.as_str()), (Some(1), ""), "{started:?}");
        let (same, last) = started.stderr.trim_end().rsplit_once('\n').expect("several lines");
        assert_eq!(same, problems);
        assert!(last.starts_with("lb-threads: not started"), "{started:?}");
    }
    let bytes = folder.write("c.json", b"{\"host\": \"\xff\"}");
    assert!(program::run(["check", &bytes]).stdout.contains(":1:11: the file is not UTF-8"));
}

#[test]
fn a_printed_configuration_is_one_that_prints_the_same() {
    let folder = Folder::new();
    for words in [
        vec![],
        vec!["-c".to_owned(), example("everything.json")],
        vec!["7".to_owned(), "--no-health-checks".to_owned(), "-b".to_owned(), "a:1=3".to_owned()],
    ] {
        let printed = program::run(words.iter().map(String::as_str).chain(["--print-config"]));
        assert_eq!((printed.code, printed.stderr.as_str()), (Some(0), ""), "{printed:?}");
        let file = folder.write("c.json", &printed.stdout);
        let again = program::run(["-c", &file, "--print-config"]);
        assert_eq!(again.stdout, printed.stdout, "{words:?}");
    }
}

#[test]
fn every_example_passes_the_check() {
    for name in EXAMPLES {
        let ended = program::run(["check", &example(name)]);
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
        assert!(ended.stdout.contains("ok: 0 error(s)"), "{ended:?}");
        let with_flag = program::run(["check", "-c", &example(name)]);
        assert_eq!(with_flag.stdout, ended.stdout);
    }
}
