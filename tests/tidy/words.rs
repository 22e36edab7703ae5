//! The vocabulary as a test: the field's own words in identifiers, comments and messages, and
//! comments whose sentences have a noun as subject.

use std::fs;
use std::path::{Path, PathBuf};

/// Checked files and folders; in folders, Rust, Python and Markdown.
const CHECKED: &[&str] = &[
    "README.md",
    "ARCHITECTURE.md",
    "docs",
    "src",
    "tests",
    "benches",
    "fuzz/src",
    "fuzz/fuzz_targets",
    "fuzz/README.md",
    "CHANGELOG.md",
];

/// Word or phrase, as it is in lower case without underscores, and the better word. A final `*`
/// stands for any ending.
const BANNED: &[(&str, &str)] = &[
    ("anew", "re-serialised, re-encoded, again"),
    ("answer*", "response, respond"),
    ("believe*", "trusted"),
    ("break* off", "truncate"),
    ("broke* off", "truncated"),
    ("call all", "notify_all"),
    ("call first", "notify_one"),
    ("draws on budget", "costs_budget"),
    ("enough share", "I/O budget"),
    ("everybody", "the noun"),
    ("free place", "free slot"),
    ("frees its place", "frees its slot"),
    ("in line", "in the run queue, scheduled"),
    ("interims", "interim responses"),
    ("is prompt", "has_stalled_connects"),
    ("is quiet", "is_idle_and_open"),
    ("its turn", "the run queue"),
    ("judge*", "validate, evaluate, health state"),
    ("knows", "supports, records"),
    ("lend*", "ensure, get"),
    ("may repeat", "retryable"),
    ("misspelt", "invalid"),
    ("nobody", "no client, no backend"),
    ("one a core", "one per core"),
    ("one too many", "over the limit"),
    ("outbound", "replay buffer"),
    ("own answer", "error response"),
    ("place at", "slot at"),
    ("places at", "slots at"),
    ("readmit*", "end_ejection"),
    ("reclaim*", "recycle"),
    ("refus*", "reject (only a connect is refused)"),
    ("said", "sent, logged"),
    ("say*", "send, return, log, name"),
    ("seat*", "queued request"),
    ("somebody", "the noun"),
    ("stand* in line", "run queue"),
    ("standing*", "BackendStatus, statuses"),
    ("swallow*", "discard, drop"),
    ("tell*", "show, report, send"),
    ("tenant*", "entry, occupant"),
    ("ticket*", "queue position"),
    ("told", "sent, reported, notified"),
    ("trial*", "probe request"),
    ("turn* away", "reject, shed"),
    ("wait* for place", "wait for a slot"),
    ("whoever", "the noun"),
];

/// Prefixes of constants and the better ones.
const CONSTANTS: [(&str, &str); 3] =
    [("LONGEST_", "MAX_"), ("LARGEST_", "MAX_"), ("SHORTEST_", "MIN_")];

/// Allowed text, and the reason.
const ALLOWED: &[(&str, &str)] = &[];

/// Subjects that a sentence of a comment must not begin with.
const SUBJECTS: [&str; 8] =
    ["Who ", "Whoever ", "What ", "One that ", "Those ", "Nobody ", "Somebody ", "Everybody "];

fn texts(checked: &str) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(checked);
    let (mut found, mut open) = (Vec::new(), vec![root]);
    while let Some(path) = open.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path).expect("the folder can be read");
            open.extend(entries.map(|entry| entry.expect("the entry can be read").path()));
            continue;
        }
        let is_text = path.extension().is_some_and(|end| end == "rs" || end == "md" || end == "py");
        if is_text && !path.ends_with("tidy/words.rs") {
            let text = fs::read_to_string(&path).expect("the file can be read");
            found.push((path, text));
        }
    }
    found
}

/// The words of a text in lower case, each with its line; identifiers are split, and punctuation
/// is an empty word, so that no phrase spans it.
fn words(text: &str) -> Vec<(usize, String)> {
    let mut words: Vec<(usize, String)> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_start().trim_start_matches(['/', '!']);
        let (mut word, mut last) = (String::new(), ' ');
        for letter in line.chars().chain([' ']) {
            let begins = letter.is_uppercase() && last.is_lowercase();
            if (begins || !letter.is_alphanumeric()) && !word.is_empty() {
                words.push((number + 1, std::mem::take(&mut word)));
            }
            if letter.is_alphanumeric() {
                word.extend(letter.to_lowercase());
            } else if !matches!(letter, ' ' | '_' | '\'') {
                words.push((number + 1, String::new()));
            }
            last = letter;
        }
    }
    words
}

fn matches(pattern: &str, words: &[(usize, String)]) -> bool {
    let mut words = words.iter();
    pattern.split(' ').all(|part| {
        words.next().is_some_and(|(_, word)| match part.strip_suffix('*') {
            Some(start) => word.starts_with(start),
            None => word == part,
        })
    })
}

/// Whether "refused" at `at` is about a connect, as the operating system has it.
fn is_about_a_connect(words: &[(usize, String)], at: usize) -> bool {
    let near = &words[at.saturating_sub(8)..words.len().min(at + 6)];
    near.iter().any(|(_, word)| {
        ["connect", "address", "listen", "dead"].iter().any(|start| word.starts_with(start))
    })
}

/// The banned words of a text: line, word, better word.
fn banned(text: &str) -> Vec<(usize, &'static str, &'static str)> {
    let mut text = text.to_owned();
    for (allowed, _) in ALLOWED {
        text = text.replace(allowed, "");
    }
    let words = words(&text);
    let mut found = Vec::new();
    for at in 0..words.len() {
        for &(pattern, better) in BANNED {
            let is_fine = pattern == "refus*" && is_about_a_connect(&words, at);
            if matches(pattern, &words[at..]) && !is_fine {
                found.push((words[at].0, pattern, better));
            }
        }
    }
    for (number, line) in text.lines().enumerate() {
        let names = line.split(|letter: char| !letter.is_alphanumeric() && letter != '_');
        for name in names {
            let constant = CONSTANTS.into_iter().find(|(start, _)| name.starts_with(start));
            found.extend(constant.map(|(start, better)| (number + 1, start, better)));
        }
    }
    found
}

/// The sentences of the comments of a source, each with the line of its paragraph.
fn sentences(text: &str) -> Vec<(usize, String)> {
    let (mut paragraphs, mut continues) = (Vec::<(usize, String)>::new(), false);
    for (number, line) in text.lines().enumerate() {
        let comment = line.trim_start().strip_prefix("//");
        let prose = comment.map(|comment| comment.trim_start_matches(['/', '!']).trim());
        match prose {
            Some(prose) if !prose.is_empty() && continues => {
                let (_, paragraph) = paragraphs.last_mut().expect("it has begun");
                paragraph.extend([" ", prose]);
            }
            Some(prose) => paragraphs.push((number + 1, prose.to_owned())),
            None => {}
        }
        continues = prose.is_some_and(|prose| !prose.is_empty());
    }
    let split = |(number, paragraph): (usize, String)| {
        paragraph.split(". ").map(|one| (number, one.to_owned())).collect::<Vec<_>>()
    };
    paragraphs.into_iter().flat_map(split).collect()
}

#[test]
fn no_banned_word_is_used() {
    let mut found = Vec::new();
    for (path, text) in CHECKED.iter().copied().flat_map(texts) {
        for (line, word, better) in banned(&text) {
            found.push(format!("{}:{line}: `{word}`: use {better}", path.display()));
        }
    }
    assert!(found.is_empty(), "{} banned words:\n{}", found.len(), found.join("\n"));
}

#[test]
fn sentences_of_comments_have_a_noun_as_subject() {
    let mut found = Vec::new();
    for (path, text) in CHECKED.iter().copied().flat_map(texts) {
        for (line, sentence) in sentences(&text) {
            if SUBJECTS.iter().any(|subject| sentence.starts_with(subject)) {
                found.push(format!("{}:{line}: {sentence}", path.display()));
            }
        }
    }
    assert!(found.is_empty(), "{} sentences:\n{}", found.len(), found.join("\n"));
}

#[test]
fn banned_words_are_found_in_identifiers_comments_and_strings() {
    let found = |text: &str| -> Vec<(usize, &str)> {
        banned(text).into_iter().map(|(line, word, _)| (line, word)).collect()
    };
    assert_eq!(found("fn f() {}\nfn look_for_answer() {}"), [(2, "answer*")]);
    assert_eq!(found("struct OwnAnswer;"), [(1, "own answer"), (1, "answer*")]);
    assert_eq!(found("/// It stands one a\n/// core."), [(1, "one a core")]);
    assert_eq!(found("log(\"was told\");"), [(1, "told")]);
    assert_eq!(found("const LONGEST_NAME: u8;"), [(1, "LONGEST_")]);
    assert_eq!(found("// a refused request"), [(1, "refus*")]);
    assert_eq!(found("// the connect is refused; ConnectionRefused"), []);
    assert_eq!(found("// in. Line one a, then"), []);
}

#[test]
fn sentences_are_split_at_periods_and_joined_over_lines() {
    let text = "/// A response. What\n/// follows is\n///\n// Who.\nlet x = 1;";
    let found: Vec<(usize, String)> = sentences(text);
    let expected = [(1, "A response"), (1, "What follows is"), (3, ""), (4, "Who.")];
    assert_eq!(found, expected.map(|(line, sentence)| (line, sentence.to_owned())));
}
