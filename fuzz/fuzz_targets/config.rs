//! Configuration files: read, and printed again.
//!
//! Holds: no text panics. Every problem has a position inside the text, and a marker under it. An
//! accepted text is JSON for serde_json too, and its configuration, printed, is read as the same.

#![no_main]

use lb_threads::config::{Config, FileText, MAX_PROBLEMS, Problem, load, to_json};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match read(text) {
        Ok(config) => {
            serde_json::from_str::<serde_json::Value>(text).expect("an accepted text is JSON");
            let again = read(&to_json(&config)).expect("a printed configuration is valid");
            assert_eq!(again, config);
        }
        Err(problems) => {
            assert!((1..=MAX_PROBLEMS).contains(&problems.len()));
            problems.iter().for_each(|problem| assert_marked(problem, text));
        }
    }
});

fn read(text: &str) -> Result<Config, Vec<Problem>> {
    load(&[], Some(FileText::new("f", text)), &[]).map(|loaded| loaded.config)
}

fn assert_marked(problem: &Problem, text: &str) {
    let position = problem.position.expect("a problem of a text has a position");
    let line = text.split('\n').nth(position.line - 1).expect("its line is in the text");
    assert!((1..=line.chars().count() + 1).contains(&position.column), "{problem}");
    let rendered = problem.render();
    assert_eq!(rendered.lines().count(), 3, "the problem, its line, its marker: {rendered}");
    assert!(rendered.trim_end().ends_with('^'), "{rendered}");
    assert!(!rendered.contains(|letter: char| letter.is_control() && letter != '\n'));
}
