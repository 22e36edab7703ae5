//! Problems of a configuration: where, what, and what would be right. Plain values.
//!
//! `check`, the start and a reload all print these, so the words are the same everywhere.

use serde_json::{Value, json};
use std::fmt;
use std::ops::Range;

/// A part of a file's text, in bytes.
pub type Span = Range<usize>;

/// The most problems that are reported of one file.
pub const MAX_PROBLEMS: usize = 100;
/// The characters that are shown of a long line.
const MAX_SHOWN: usize = 120;

/// The text of a configuration file, and its name in messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileText {
    name: String,
    text: String,
    line_starts: Vec<usize>,
}

/// A position in a file, from 1 on; the column counts characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The character in the line.
    pub column: usize,
}

/// How serious a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The configuration is rejected.
    Error,
    /// The configuration is applied, and likely not what was meant.
    Warning,
    /// A fact to know.
    Note,
}

/// A problem of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// How serious it is.
    pub severity: Severity,
    /// The file that it is in, if it is in a file.
    pub file: Option<String>,
    /// The position in the file.
    pub position: Option<Position>,
    /// The key, or the flag.
    pub key: Option<String>,
    /// The problem, with the value.
    pub message: String,
    /// The right form, or the fix.
    pub hint: Option<String>,
    excerpt: Option<Excerpt>,
}

/// The problems of a file that were found so far; [`MAX_PROBLEMS`] at most are kept.
#[derive(Debug)]
pub(super) struct Problems<'f> {
    file: &'f FileText,
    found: Vec<Problem>,
}

/// The line of a problem, and the part to mark, in characters.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Excerpt {
    line: String,
    marked: Range<usize>,
}

impl FileText {
    /// The text of a file of this name.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        let text = text.into();
        let starts = text.match_indices('\n').map(|(at, _)| at + 1);
        let line_starts = std::iter::once(0).chain(starts).collect();
        Self { name: name.into(), text, line_starts }
    }

    /// The name in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The position of a byte; the end of the text if it is beyond that.
    pub fn position(&self, at: usize) -> Position {
        let at = self.text.floor_char_boundary(at);
        let line = self.line_starts.partition_point(|start| *start <= at);
        let start = self.line_starts[line - 1];
        Position { line, column: self.text[start..at].chars().count() + 1 }
    }

    /// The line of a span, with the span marked; of a long line what surrounds the span's start.
    fn excerpt(&self, span: &Span) -> Excerpt {
        let Position { line, column } = self.position(span.start);
        let start = self.line_starts[line - 1];
        let text = self.text[start..].lines().next().unwrap_or_default();
        let end = self.text.floor_char_boundary(span.end.min(start + text.len()));
        let length = self.text.get(span.start..end).map_or(0, |text| text.chars().count());
        let is_long = text.chars().nth(MAX_SHOWN).is_some();
        let cut = if is_long { (column - 1).saturating_sub(MAX_SHOWN / 2) } else { 0 };
        let shown = text.chars().skip(cut).take(MAX_SHOWN);
        let shown = shown.map(|letter| if letter.is_control() { ' ' } else { letter });
        let from = column - 1 - cut;
        let marked = from..(from + length).clamp(from + 1, MAX_SHOWN.max(from + 1));
        Excerpt { line: shown.collect(), marked }
    }
}

impl<'f> Problems<'f> {
    /// No problems yet.
    pub(super) fn new(file: &'f FileText) -> Self {
        Self { file, found: Vec::new() }
    }

    /// Adds the error of a value, and of its key if it has one.
    pub(super) fn error(&mut self, span: &Span, key: &str, message: &str) {
        if !self.is_full() {
            let problem = Problem::new(message).at(self.file, span);
            self.found.push(if key.is_empty() { problem } else { problem.of(key) });
        }
    }

    /// Whether no more are kept.
    pub(super) fn is_full(&self) -> bool {
        self.found.len() >= MAX_PROBLEMS
    }

    /// The file.
    pub(super) fn file(&self) -> &'f FileText {
        self.file
    }

    /// All of them, in the order of the file.
    pub(super) fn into_vec(mut self) -> Vec<Problem> {
        self.found.sort_by_key(|problem| problem.position);
        self.found
    }
}

impl Problem {
    /// An error that is in no part of a file. The text after the last semicolon is the hint.
    pub fn new(message: &str) -> Self {
        let message: String = message.chars().flat_map(printable).collect();
        let (message, hint) = match message.rsplit_once("; ") {
            Some((message, hint)) => (message.to_owned(), Some(hint.to_owned())),
            None => (message, None),
        };
        let severity = Severity::Error;
        Self { severity, file: None, position: None, key: None, message, hint, excerpt: None }
    }

    /// The same problem in a part of a file.
    pub fn at(self, file: &FileText, span: &Span) -> Self {
        Self {
            file: Some(file.name.clone()),
            position: Some(file.position(span.start)),
            excerpt: Some(file.excerpt(span)),
            ..self
        }
    }

    /// The same problem in a file as a whole.
    pub fn in_file(self, name: &str) -> Self {
        Self { file: Some(name.to_owned()), ..self }
    }

    /// The same problem, with its key or flag.
    pub fn of(self, key: &str) -> Self {
        Self { key: Some(key.chars().flat_map(printable).collect()), ..self }
    }

    /// The same problem, as serious as this.
    pub fn with(self, severity: Severity) -> Self {
        Self { severity, ..self }
    }

    /// Whether the configuration is rejected.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// The problem as JSON, for scripts.
    pub fn to_json(&self) -> Value {
        json!({
            "severity": self.severity.to_string(),
            "file": self.file,
            "line": self.position.map(|position| position.line),
            "column": self.position.map(|position| position.column),
            "key": self.key,
            "message": self.message,
            "hint": self.hint,
        })
    }

    /// The problem with its severity, its line, and a marker under the value.
    pub fn render(&self) -> String {
        let mut text = format!("{}: {self}\n", self.severity);
        if let (Some(Position { line, .. }), Some(excerpt)) = (self.position, &self.excerpt) {
            let number = line.to_string();
            let (indent, marked) = (" ".repeat(number.len()), &excerpt.marked);
            let marker = format!("{}{}", " ".repeat(marked.start), "^".repeat(marked.len()));
            text += &format!("  {number} | {}\n  {indent} | {marker}\n", excerpt.line.trim_end());
        }
        text
    }
}

/// A character of a message: a control character would change the terminal or the line.
fn printable(letter: char) -> impl Iterator<Item = char> {
    let escaped = letter.is_control().then(|| letter.escape_default());
    let plain = (!letter.is_control()).then_some(letter);
    escaped.into_iter().flatten().chain(plain)
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        })
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

impl fmt::Display for Problem {
    /// The problem in one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.file, self.position) {
            (Some(file), Some(position)) => write!(f, "{file}:{position}: ")?,
            (Some(file), None) => write!(f, "{file}: ")?,
            _ => {}
        }
        if let Some(key) = &self.key {
            write!(f, "{key}: ")?;
        }
        f.write_str(&self.message)?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, "; {hint}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(text: &str, span: Span) -> String {
        Problem::new("it is bad; make it good").at(&FileText::new("f", text), &span).render()
    }

    #[test]
    fn a_problem_shows_its_line_with_a_marker_under_the_value() {
        let expected = "error: f:2:4: it is bad; make it good\n  2 | a: bé,\n    |    ^^\n";
        assert_eq!(rendered("{\na: bé,\n}", 5..8), expected);
    }

    #[test]
    fn a_marker_of_several_lines_ends_with_its_first_one() {
        assert!(rendered("a: [\n1\n]", 3..8).ends_with("  1 | a: [\n    |    ^\n"));
    }

    #[test]
    fn the_end_of_a_text_has_a_position() {
        for text in ["", "a\n", "é"] {
            assert!(rendered(text, text.len()..text.len()).contains(" | "), "{text:?}");
        }
        let position = FileText::new("f", "a\nb").position(99);
        assert_eq!(position, Position { line: 2, column: 2 });
    }

    #[test]
    fn a_long_line_is_cut_around_the_marker() {
        let text = format!("{}x{}", " é".repeat(2000), "y".repeat(2000));
        let at = text.find('x').unwrap();
        let shown = rendered(&text, at..at + 1000);
        let lines: Vec<&str> = shown.lines().collect();
        assert!(lines.iter().all(|line| line.chars().count() < 150), "{shown}");
        let x = lines[1].chars().position(|letter| letter == 'x');
        assert_eq!(lines[2].chars().position(|letter| letter == '^'), x, "{shown}");
    }

    #[test]
    fn control_characters_reach_no_terminal() {
        let problem = Problem::new("`\u{1b}[2J\n` is bad").of("\u{7}");
        assert_eq!(problem.to_string(), "\\u{7}: `\\u{1b}[2J\\n` is bad");
        assert!(!rendered("\u{1b}[2J", 0..1).contains('\u{1b}'));
    }
}
