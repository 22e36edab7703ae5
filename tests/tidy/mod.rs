//! The style guide as a test: layers, circles, file sizes, parameters, module docs, words.

mod imports;
mod words;

use std::fs;
use std::path::{Path, PathBuf};

/// The layers, from the lowest up: a module imports only from its own or lower ones.
const LAYERS: [&[&str]; 7] = [
    &[
        "admission",
        "children",
        "clock",
        "config",
        "config_file",
        "error",
        "logging",
        "metrics",
        "notifier",
        "reason",
    ],
    &["net", "wire"],
    &["stats", "upstream"],
    &["session"],
    &["threads"],
    &["admin", "ctl", "server"],
    &["cli", "commands", "main", "lib"],
];
/// The most lines of a file before its unit tests, by folder.
const MAX_FILE_LINES: [(&str, usize); 3] = [("src", 400), ("tests", 400), ("benches", 400)];
const MAX_MODULE_DOC_LINES: usize = 30;
const MAX_FUNCTION_LINES: usize = 60;
/// Besides the receiver.
const MAX_PARAMETERS: usize = 5;

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

/// The code before the unit tests.
fn product(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(text)
}

/// The module of a file: the first part of its path below `src`.
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

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// The modules of this crate that a source names, in any form.
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
fn every_module_imports_only_from_its_own_layer_or_lower_ones() {
    for (path, text) in sources("src") {
        let own = module(&path);
        let own_layer =
            layer(&own).unwrap_or_else(|| panic!("{} belongs to no layer", path.display()));
        for other in named(product(&text)) {
            let other_layer = layer(&other).unwrap_or_else(|| {
                panic!("{}: crate::{other} belongs to no layer", path.display())
            });
            assert!(
                other_layer <= own_layer,
                "{} imports from a higher layer: crate::{other}",
                path.display()
            );
            let are_neighbours = own_layer == 1 && other_layer == 1 && own != other;
            assert!(
                !are_neighbours,
                "{}: net and wire are independent, but it names crate::{other}",
                path.display()
            );
        }
    }
}

#[test]
fn the_wire_layer_is_pure() {
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
fn only_the_owner_of_all_children_starts_processes() {
    for (path, text) in sources("src") {
        // A thread is spawned with a closure.
        let spawns = product(&text).contains(concat!(".spawn", "()"));
        assert!(
            !spawns || path.ends_with("children.rs"),
            "{} starts a process: use children::spawn",
            path.display()
        );
    }
}

#[test]
fn files_are_short_enough_to_read() {
    for (folder, max_lines) in MAX_FILE_LINES {
        for (path, text) in sources(folder) {
            let lines = product(&text).lines().count();
            assert!(
                lines <= max_lines,
                "{} has {lines} lines: which second idea is in it?",
                path.display()
            );
        }
    }
}

#[test]
fn functions_are_short_enough_to_read() {
    for (path, text) in sources("src").into_iter().chain(sources("tests")).chain(sources("benches"))
    {
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
                        number - start <= MAX_FUNCTION_LINES,
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

/// The parameters of a function whose signature begins after this bracket: commas at its own depth,
/// none of them trailing.
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
            assert!(count <= MAX_PARAMETERS, "{}: {name} has {count} parameters", path.display());
        }
    }
}

#[test]
fn every_file_has_a_module_doc() {
    for (path, text) in sources("src").into_iter().chain(sources("tests")).chain(sources("benches"))
    {
        let doc = text.lines().take_while(|line| line.starts_with("//!")).count();
        assert!(
            (1..=MAX_MODULE_DOC_LINES).contains(&doc),
            "{} has a module doc of {doc} lines",
            path.display()
        );
    }
}

#[test]
fn tests_sleep_only_to_wait_for_a_condition() {
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
