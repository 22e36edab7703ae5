//! The style guide as a test: floors, circles, file sizes, parameters, module docs.

mod imports;

use std::fs;
use std::path::{Path, PathBuf};

/// The floors, from the ground up: a module imports only from its own or lower ones.
const FLOORS: [&[&str]; 7] = [
    &["admission", "clock", "config", "error", "logging", "metrics", "reason"],
    &["net", "wire"],
    &["upstream"],
    &["session"],
    &["threads"],
    &["server"],
    &["cli", "commands", "main", "lib"],
];
const LONGEST_FILE: usize = 440;
const LONGEST_MODULE_DOC: usize = 30;
const LONGEST_FUNCTION: usize = 60;
/// Besides the receiver.
const MOST_PARAMETERS: usize = 5;

fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the folder can be read") {
            let path = entry.expect("the entry can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("the file can be read");
                found.push((path, text));
            }
        }
    }
    assert!(!found.is_empty());
    found
}

/// What stands before the unit tests.
fn product(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(text)
}

/// The module on which a file stands: the first part of its path below `src`.
fn module(path: &Path) -> String {
    let inside = path
        .strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src"))
        .expect("a source lies in src");
    let first = inside
        .components()
        .next()
        .expect("it has a name")
        .as_os_str()
        .to_string_lossy()
        .into_owned();
    first.trim_end_matches(".rs").to_owned()
}

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

/// The modules of this crate that a source names, however it names them.
fn named(text: &str) -> Vec<String> {
    let code: Vec<&str> =
        text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let code = code.join("\n");
    let mut modules = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let list =
            rest.strip_prefix('{').map_or(rest, |list| list.split('}').next().unwrap_or(list));
        let names = if rest.starts_with('{') { list.split(',').collect() } else { vec![rest] };
        for name in names {
            let name: String = name
                .trim()
                .chars()
                .take_while(|letter| letter.is_alphanumeric() || *letter == '_')
                .collect();
            modules.push(name);
        }
    }
    modules
}

#[test]
fn every_module_imports_only_from_its_own_floor_or_lower_ones() {
    for (path, text) in sources("src") {
        let own = module(&path);
        let own_floor =
            floor(&own).unwrap_or_else(|| panic!("{} stands on no floor", path.display()));
        for other in named(product(&text)) {
            let other_floor = floor(&other)
                .unwrap_or_else(|| panic!("{}: crate::{other} stands on no floor", path.display()));
            assert!(other_floor <= own_floor, "{} looks up to crate::{other}", path.display());
            let are_neighbours = own_floor == 1 && other_floor == 1 && own != other;
            assert!(
                !are_neighbours,
                "{}: net and wire do not know each other, but it names crate::{other}",
                path.display()
            );
        }
    }
}

#[test]
fn the_wire_floor_is_pure() {
    for (path, text) in sources("src").into_iter().filter(|(path, _)| module(path) == "wire") {
        for impure in [
            "Instant",
            "SystemTime",
            "TcpStream",
            "Mutex",
            "RwLock",
            "log::",
            "rustix",
            "fastrand",
            "HashMap",
        ] {
            assert!(!product(&text).contains(impure), "{} names {impure}", path.display());
        }
    }
}

#[test]
fn only_transports_read_from_and_write_to_connections() {
    for (path, text) in sources("src") {
        let calls_the_system = ["rustix::net::recv", "rustix::net::send", "rustix::pipe::splice"]
            .iter()
            .any(|call| text.contains(call));
        let may = path.ends_with("net/socket.rs") || path.ends_with("net/transport.rs");
        assert!(!calls_the_system || may, "{} reads or writes past a transport", path.display());
    }
}

#[test]
fn files_and_functions_are_short_enough_to_read() {
    for (path, text) in sources("src").into_iter().chain(sources("tests")).chain(sources("benches"))
    {
        let lines = product(&text).lines().count();
        assert!(
            lines <= LONGEST_FILE,
            "{} has {lines} lines: which second idea is in it?",
            path.display()
        );
        let mut started: Option<(usize, usize)> = None;
        for (number, line) in text.lines().enumerate() {
            let indent = line.len() - line.trim_start().len();
            // A signature that is too long for one line ends in a bracket here and in a brace
            // further down.
            let is_start = line.contains("fn ")
                && line.ends_with(['{', '('])
                && !line.trim_start().starts_with("//");
            match started {
                None if is_start => started = Some((number, indent)),
                Some((start, outer)) if line.trim_end() == format!("{}}}", " ".repeat(outer)) => {
                    assert!(
                        number - start <= LONGEST_FUNCTION,
                        "{}:{}: a function of {} lines",
                        path.display(),
                        start + 1,
                        number - start
                    );
                    started = None;
                }
                _ => {}
            }
        }
    }
}

/// The parameters of a function whose signature begins behind this bracket: commas at its own
/// depth, none of them trailing.
fn parameters(signature: &str) -> usize {
    let (mut depth, mut count, mut is_empty) = (0_i32, 0, true);
    for letter in signature.chars() {
        match letter {
            '(' | '[' | '<' | '{' => depth += 1,
            ')' | ']' | '}' if depth == 0 => break,
            ')' | ']' | '>' | '}' => depth -= 1,
            ',' if depth == 0 => (count, is_empty) = (count + 1, true),
            letter if !letter.is_whitespace() => is_empty = false,
            _ => {}
        }
    }
    let has_receiver = ["self", "&self", "&mut self", "mut self", "self: "]
        .iter()
        .any(|form| signature.trim_start().starts_with(form));
    count + usize::from(!is_empty) - usize::from(has_receiver)
}

#[test]
fn no_function_has_many_parameters() {
    assert_eq!(["", "&self)", "a: (u8, u8), b: X<A, B>,\n)"].map(parameters), [0, 0, 2]);
    for (path, text) in sources("src").into_iter().chain(sources("tests")).chain(sources("benches"))
    {
        for (at, _) in text.match_indices("fn ") {
            let Some(start) = text[at..]
                .find('(')
                .filter(|start| !text[at..at + start].contains(['\n', '"', ';']))
            else {
                continue;
            };
            let name = &text[at + 3..at + start];
            let count = parameters(&text[at + start + 1..].replace("->", ""));
            assert!(count <= MOST_PARAMETERS, "{}: {name} has {count} parameters", path.display());
        }
    }
}

#[test]
fn every_file_says_what_it_is_for() {
    for (path, text) in sources("src").into_iter().chain(sources("tests")).chain(sources("benches"))
    {
        let doc = text.lines().take_while(|line| line.starts_with("//!")).count();
        assert!(
            (1..=LONGEST_MODULE_DOC).contains(&doc),
            "{} has a module doc of {doc} lines",
            path.display()
        );
    }
}

#[test]
fn nobody_sleeps_in_tests_except_to_wait_for_a_condition() {
    for (path, text) in sources("tests") {
        let sleeps = text.contains(concat!("thread::", "sleep"));
        assert!(
            !sleeps || path.ends_with("support/wait.rs"),
            "{} sleeps: wait for a condition instead",
            path.display()
        );
    }
}

#[test]
fn the_library_forbids_unsafe_code() {
    for (path, text) in sources("src")
        .into_iter()
        .filter(|(path, _)| matches!(module(path).as_str(), "lib" | "main"))
    {
        assert!(text.contains("#![forbid(unsafe_code)]"), "{}", path.display());
    }
}
