//! The ways in which a file changes, each noticed without a signal, by the real program.

use super::{Watching, plain};
use crate::support::{Folder, Origin, get, stays, until};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

const NO_ADMIN: [&str; 2] = ["--admin", "off"];
const REJECTED: &str = "not reloaded, the settings in use stay: ";

/// A file whose thresholds have this value.
fn fall(origin: &Origin, fall: u32) -> String {
    plain(&[origin], &format!(", \"fall\": {fall}"))
}

#[track_caller]
fn assert_serving(watching: &Watching) {
    assert_eq!(get(watching.program.address(), "/").text(), "one");
}

#[test]
fn a_file_that_is_edited_in_place_is_reloaded_at_each_edit_even_of_the_same_size() {
    let origin = Origin::named("one");
    let watching = Watching::start(&fall(&origin, 3), &NO_ADMIN);
    let modified = |file: &str| fs::metadata(file).and_then(|data| data.modified());
    let before = modified(&watching.file).expect("it has a time");
    for (old, new) in [(3, 4), (4, 5), (5, 4)] {
        fs::write(&watching.file, fall(&origin, new)).expect("our own file");
        // An edit within the resolution of the file system's clock.
        let file = File::options().write(true).open(&watching.file).expect("our own file");
        file.set_modified(before).expect("our own file");
        watching.program.until_logged(&format!("config.json reloaded: fall: {old} → {new}\n"));
    }
    assert_eq!(watching.count("reloaded"), 3, "each once: {}", watching.program.log());
    assert_serving(&watching);
}

#[test]
fn a_file_that_is_replaced_by_a_rename_is_reloaded() {
    let origin = Origin::named("one");
    let watching = Watching::start(&fall(&origin, 3), &NO_ADMIN);
    for (old, new) in [(3, 4), (4, 5)] {
        let other = watching.folder.write("other", fall(&origin, new));
        fs::rename(other, &watching.file).expect("the same folder");
        watching.program.until_logged(&format!("config.json reloaded: fall: {old} → {new}\n"));
    }
}

/// A folder as Kubernetes mounts it: `config.json` → `..data/config.json`, and `..data` → a folder
/// per version.
#[test]
fn a_symlink_that_is_switched_is_followed() {
    let origin = Origin::named("one");
    let folder = Folder::new();
    let version = |name: &str, fall_value: u32| {
        let path = folder.path().join(name);
        fs::create_dir(&path).expect("it is new");
        fs::write(path.join("config.json"), fall(&origin, fall_value)).expect("it is new");
    };
    let switch = |name: &str| {
        let (new, data) = (folder.path().join("..data_tmp"), folder.path().join("..data"));
        symlink(name, &new).expect("it is new");
        fs::rename(new, data).expect("the same folder");
    };
    version("..one", 3);
    version("..two", 4);
    switch("..one");
    symlink("..data/config.json", folder.path().join("config.json")).expect("it is new");
    let file = folder.path().join("config.json").display().to_string();
    let words = [&["-c", &file], &NO_ADMIN[..]].concat();
    let program = crate::support::program::Program::start(crate::support::program::command(words));
    program.until_logged("listening on");
    switch("..two");
    program.until_logged("config.json reloaded: fall: 3 → 4\n");
}

#[test]
fn a_deleted_file_is_one_line_and_is_reloaded_when_it_is_back() {
    let origin = Origin::named("one");
    let watching = Watching::start(&fall(&origin, 3), &NO_ADMIN);
    fs::remove_file(&watching.file).expect("our own file");
    watching.program.until_logged("config.json: there is no such file");
    stays("it is logged once", Duration::from_millis(1500), || watching.count(REJECTED) == 1);
    assert_serving(&watching);
    watching.folder.write("config.json", fall(&origin, 3));
    watching.program.until_logged("config.json reloaded: no changes");
    watching.folder.write("config.json", fall(&origin, 4));
    watching.program.until_logged("config.json reloaded: fall: 3 → 4\n");
}

/// Makes something at this path.
type Make = fn(&Path);

#[test]
fn whatever_takes_the_place_of_the_file_is_one_line_and_never_a_wait() {
    let origin = Origin::named("one");
    let watching = Watching::start(&fall(&origin, 3), &NO_ADMIN);
    let rows: [(Make, &str); 6] = [
        (
            |path| {
                rustix::fs::mkfifoat(rustix::fs::CWD, path, rustix::fs::Mode::RWXU)
                    .expect("a FIFO");
            },
            "it is a FIFO",
        ),
        (|path| fs::create_dir(path).expect("a folder"), "it is a directory"),
        (
            // Holes take no room.
            |path| File::create(path).and_then(|file| file.set_len(100 << 20)).expect("a file"),
            "larger than 1 MiB",
        ),
        (|path| fs::write(path, b"{\"host\": \"\xff\"}").expect("a file"), "not UTF-8"),
        (|path| fs::write(path, b"").expect("a file"), "config.json:1:1: "),
        (|path| fs::write(path, b"{} // why").expect("a file"), "config.json:1:4: "),
    ];
    for (number, (make, expected)) in rows.into_iter().enumerate() {
        let other = watching.folder.path().join("other");
        make(&other);
        if Path::new(&watching.file).is_dir() || other.is_dir() {
            // No rename puts a file in the place of a folder.
            let _ = fs::remove_dir(&watching.file).or_else(|_| fs::remove_file(&watching.file));
        }
        fs::rename(&other, &watching.file).expect("the same folder");
        until(&format!("`{expected}` is logged"), || {
            let log = watching.program.log();
            log.lines().any(|line| line.contains(REJECTED) && line.contains(expected))
        });
        assert_serving(&watching);
        assert!(watching.count(REJECTED) <= 2 * (number + 1), "{}", watching.program.log());
    }
    let _ = fs::remove_file(&watching.file);
    watching.folder.write("config.json", fall(&origin, 4));
    watching.program.until_logged("config.json reloaded: fall: 3 → 4\n");
}

#[test]
fn a_file_that_may_not_be_read_any_more_is_one_line() {
    let origin = Origin::named("one");
    let watching = Watching::start(&fall(&origin, 3), &NO_ADMIN);
    let allow = |mode| {
        fs::set_permissions(&watching.file, fs::Permissions::from_mode(mode))
            .expect("our own file");
    };
    allow(0o000);
    // The administrator may read every file.
    if File::open(&watching.file).is_err() {
        watching.program.until_logged("no permission to read the file");
        assert_serving(&watching);
        allow(0o600);
        watching.program.until_logged("config.json reloaded: no changes");
    }
}

#[test]
fn a_file_that_is_being_written_is_applied_when_it_is_whole() {
    let origin = Origin::named("one");
    let watching = Watching::start(&fall(&origin, 3), &NO_ADMIN);
    let text = fall(&origin, 4);
    let mut file = File::create(&watching.file).expect("our own file");
    // Longer than two looks at an unchanged file are apart.
    let pause = Duration::from_millis(1500) / text.len() as u32;
    for byte in text.as_bytes() {
        file.write_all(&[*byte]).expect("our own file");
        stays("the writer is slow", pause, || true);
    }
    watching.program.until_logged("config.json reloaded: fall: 3 → 4\n");
    assert_eq!(watching.count(REJECTED), 0, "{}", watching.program.log());
}

#[test]
fn an_edit_without_a_change_is_not_news() {
    let origin = Origin::named("one");
    let words = [&NO_ADMIN[..], &["--log-level", "debug"]].concat();
    let watching = Watching::start(&fall(&origin, 3), &words);
    watching.folder.write("config.json", fall(&origin, 3) + " \n");
    watching.program.until_logged("config.json reloaded: no changes");
    let log = watching.program.log();
    let line = log.lines().find(|line| line.contains("reloaded: no changes")).expect("it is there");
    assert!(line.contains("DEBUG"), "{line}");
}
