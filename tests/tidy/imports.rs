//! The imports of each file, and that there is no circle of them.

use super::{product, sources};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A module: the names on the way to it from the crate's root.
type Module = Vec<String>;

/// The modules of `src` with the code of their files before the unit tests.
fn modules() -> BTreeMap<Module, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let name = |path: &Path| {
        let inside = path.strip_prefix(&root).expect("a source lies in src").with_extension("");
        let mut names: Module =
            inside.iter().map(|name| name.to_string_lossy().into_owned()).collect();
        names.pop_if(|name| matches!(name.as_str(), "mod" | "lib"));
        names
    };
    let is_product = |path: &Path| !path.iter().any(|name| name == "tests");
    let files = sources("src").into_iter().filter(|(path, _)| is_product(path));
    files.map(|(path, text)| (name(&path), without_comments(product(&text)))).collect()
}

fn without_comments(text: &str) -> String {
    text.lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n")
}

/// Every path that a `use` declaration names: `a::{b, c::{d}}` are `a::b` and `a::c::d`.
fn paths(tree: &str) -> Vec<String> {
    let tree = tree.trim();
    let Some((start, rest)) = tree.split_once('{') else {
        return vec![tree.split(" as ").next().unwrap_or_default().trim().to_owned()];
    };
    let list = rest.rsplit_once('}').map_or(rest, |(list, _)| list);
    let (mut parts, mut depth, mut part) = (Vec::new(), 0_i32, String::new());
    for letter in list.chars() {
        depth += i32::from(letter == '{') - i32::from(letter == '}');
        if letter == ',' && depth == 0 {
            parts.push(std::mem::take(&mut part));
        } else {
            part.push(letter);
        }
    }
    parts.push(part);
    let parts = parts.iter().filter(|part| !part.trim().is_empty());
    parts.flat_map(|part| paths(part)).map(|path| format!("{start}{path}")).collect()
}

/// The `use` declarations of a source: their paths, and whether they are re-exports (`pub use`).
fn declarations(text: &str) -> Vec<(String, bool)> {
    let mut found = Vec::new();
    for statement in text.split(';') {
        let lines: Vec<&str> =
            statement.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let Some(start) = lines.iter().position(|line| {
            ["use ", "pub use ", "pub(crate) use ", "pub(super) use "]
                .iter()
                .any(|start| line.starts_with(start))
        }) else {
            continue;
        };
        let declaration = lines[start..].concat();
        let is_reexport = declaration.starts_with("pub");
        let tree = declaration.split_once("use ").map_or("", |(_, tree)| tree).to_owned();
        found.extend(paths(&tree).into_iter().map(|path| (path, is_reexport)));
    }
    found
}

/// The paths in the code itself: `super::a::b(..)`.
fn inline_paths(text: &str) -> Vec<String> {
    let is_part = |letter: char| letter.is_alphanumeric() || letter == '_' || letter == ':';
    let starts = ["crate::", "super::"]
        .into_iter()
        .flat_map(|start| text.match_indices(start))
        .map(|(at, _)| at);
    let whole = starts.filter(|at| !text[..*at].ends_with(is_part));
    let path =
        |at: usize| text[at..].chars().take_while(|letter| is_part(*letter)).collect::<String>();
    whole.map(|at| path(at).trim_end_matches(':').to_owned()).collect()
}

/// The module of this crate that defines `path`, through re-exports.
fn resolve(path: &str, from: &Module, modules: &BTreeMap<Module, String>) -> Option<Module> {
    let mut names: Vec<String> = path.split("::").map(|name| name.trim().to_owned()).collect();
    let mut base = match names.first()?.as_str() {
        "crate" => Module::new(),
        "super" => from[..from.len().saturating_sub(1)].to_vec(),
        "self" => from.clone(),
        first if modules.contains_key(&[from.as_slice(), &[first.to_owned()]].concat()) => {
            names.insert(0, "self".to_owned());
            from.clone()
        }
        _ => return None,
    };
    let mut rest = names.into_iter().skip(1).peekable();
    while let Some(name) = rest.next_if(|name| {
        name == "super"
            || modules.contains_key(&[base.as_slice(), std::slice::from_ref(name)].concat())
    }) {
        if name == "super" { drop(base.pop()) } else { base.push(name) }
    }
    let Some(name) = rest.next() else {
        return Some(base);
    };
    let reexport = declarations(&modules[&base])
        .into_iter()
        .find(|(path, is_reexport)| *is_reexport && path.ends_with(&format!("::{name}")));
    match reexport {
        Some((path, _)) => resolve(&path, &base, modules),
        None => Some(base),
    }
}

/// A way from `from` back to it, if there is one.
fn circle(from: &Module, imports: &BTreeMap<Module, BTreeSet<Module>>) -> Option<Vec<Module>> {
    let (mut ways, mut seen) = (vec![vec![from.clone()]], BTreeSet::new());
    while let Some(way) = ways.pop() {
        for next in &imports[way.last().expect("a way has a start")] {
            if next == from {
                return Some(way);
            }
            if seen.insert(next.clone()) {
                ways.push([way.as_slice(), std::slice::from_ref(next)].concat());
            }
        }
    }
    None
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let modules = modules();
    let imports: BTreeMap<Module, BTreeSet<Module>> = modules
        .iter()
        .map(|(module, text)| {
            let used = declarations(text)
                .into_iter()
                .filter(|(_, is_reexport)| !is_reexport)
                .map(|(path, _)| path);
            let all = used.chain(inline_paths(text));
            let others = all
                .filter_map(|path| resolve(&path, module, &modules))
                .filter(|other| other != module);
            (module.clone(), others.collect())
        })
        .collect();
    assert!(imports.values().map(BTreeSet::len).sum::<usize>() > 150, "the imports are seen");
    let circles: Vec<Vec<Module>> =
        modules.keys().filter_map(|module| circle(module, &imports)).collect();
    assert!(circles.is_empty(), "{circles:?}");
}

#[test]
fn paths_of_nested_declarations_are_found() {
    assert_eq!(paths("a::{b, c::{d, e}, f as g}"), ["a::b", "a::c::d", "a::c::e", "a::f"]);
    assert_eq!(
        declarations("mod x;\npub use x::{A, B};\nuse super::c::D;\n"),
        [("x::A".to_owned(), true), ("x::B".to_owned(), true), ("super::c::D".to_owned(), false)]
    );
}
