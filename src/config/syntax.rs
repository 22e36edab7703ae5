//! JSON text to an object, or the one problem of its syntax. Pure.
//!
//! The parser has the bytes of each value, and extensions that are switched off here.

use super::node::span;
use super::problem::{Problems, Span};
use jsonc_parser::ast::{Object, Value};
use jsonc_parser::errors::{ParseError, ParseErrorKind};
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};

/// Plain JSON: none of the extensions that the parser supports.
const STRICT: ParseOptions = ParseOptions {
    allow_comments: false,
    allow_loose_object_property_names: false,
    allow_trailing_commas: false,
    allow_missing_commas: false,
    allow_single_quoted_strings: false,
    allow_hexadecimal_numbers: false,
    allow_unary_plus_numbers: false,
    allow_bare_decimal_point_numbers: false,
    allow_non_finite_numbers: false,
    allow_extended_string_escapes: false,
};

/// The object that a text is; none if there is a problem.
pub(super) fn object<'t>(problems: &mut Problems<'_>, text: &'t str) -> Option<Object<'t>> {
    let found = if text.starts_with('\u{feff}') {
        Err((
            0..3,
            "the file starts with a byte order mark; save it as UTF-8 without one".to_owned(),
        ))
    } else {
        parse(text)
    };
    found.map_err(|(span, message)| problems.error(&span, "", &message)).ok()
}

/// A problem is a part of the text with a message.
fn parse(text: &str) -> Result<Object<'_>, (Span, String)> {
    let parsed = parse_to_ast(text, &CollectOptions::default(), &STRICT)
        .map_err(|error| (error.range().start..error.range().end, described(&error)))?;
    let object = match parsed.value {
        Some(Value::Object(object)) => object,
        Some(other) => {
            let message = "the file is not a JSON object; write it like {\"servers\": []}";
            return Err((span(&other), message.to_owned()));
        }
        None => return Err((0..0, "the file is empty; the smallest one is {}".to_owned())),
    };
    // The second opinion of a parser that has no extensions to switch off.
    match serde_json::from_str::<serde_json::Value>(text) {
        Ok(_) => Ok(object),
        Err(error) => {
            let at = offset(text, error.line(), error.column());
            let message = error.to_string();
            let message = message.split(" at line ").next().unwrap_or_default();
            Err((at..at + 1, format!("this is not JSON: {message}")))
        }
    }
}

/// The byte of a line and a column in bytes, both from 1 on.
fn offset(text: &str, line: usize, column: usize) -> usize {
    let before = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len);
    (before.sum::<usize>() + column.saturating_sub(1)).min(text.len())
}

fn described(error: &ParseError) -> String {
    match error.kind() {
        ParseErrorKind::CommentsNotAllowed | ParseErrorKind::UnterminatedCommentBlock => {
            "comments are not JSON; remove this one".to_owned()
        }
        ParseErrorKind::TrailingCommasNotAllowed => {
            "a comma after the last value is not JSON; remove it".to_owned()
        }
        ParseErrorKind::ExpectedComma => "a comma is missing here; add it".to_owned(),
        ParseErrorKind::SingleQuotedStringsNotAllowed
        | ParseErrorKind::ExpectedStringObjectProperty
        | ParseErrorKind::UnexpectedWord => {
            "this is not JSON; write names and texts in double quotes".to_owned()
        }
        ParseErrorKind::UnterminatedObject => {
            "this `{` has no `}`; is the file complete?".to_owned()
        }
        ParseErrorKind::UnterminatedArray => {
            "this `[` has no `]`; is the file complete?".to_owned()
        }
        ParseErrorKind::MultipleRootJsonValues => {
            "something follows the end of the JSON object; remove it".to_owned()
        }
        other => format!("this is not JSON: {}", lower_first(&other.to_string())),
    }
}

fn lower_first(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_lowercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::super::{ConfigFile, FileText};

    /// The only problem of a text.
    fn problem(text: &str) -> String {
        let problems = ConfigFile::read(FileText::new("f", text)).unwrap_err();
        assert_eq!(problems.len(), 1, "{text}: {problems:?}");
        problems[0].to_string()
    }

    #[test]
    fn a_text_that_is_not_json_has_one_problem_at_its_position() {
        let rows = [
            ("", "f:1:1: the file is empty"),
            (" \n ", "f:1:1: the file is empty"),
            ("[]", "f:1:1: the file is not a JSON object"),
            ("\"a\"", "f:1:1: the file is not a JSON object"),
            ("\u{feff}{}", "f:1:1: the file starts with a byte order mark"),
            ("{\n  // why\n}", "f:2:3: comments are not JSON; remove this one"),
            ("{/* why */}", "f:1:2: comments are not JSON"),
            ("{/* why", "f:1:2: comments are not JSON"),
            ("# why\n{}", "f:1:1: this is not JSON"),
            ("{\"rise\": 1,\n}", "f:1:11: a comma after the last value"),
            ("{\"servers\": [1,]}", "f:1:15: a comma after the last value"),
            ("{\"rise\": 1\n \"fall\": 2}", "f:1:11: a comma is missing"),
            ("{\"servers\": [{} {}]}", "f:1:16: a comma is missing"),
            ("{rise: 1}", "f:1:2: this is not JSON; write names and texts in double quotes"),
            ("{'rise': 1}", "double quotes"),
            ("{\"host\": a}", "f:1:10: this is not JSON"),
            ("{\"rise\": 1", "f:1:1: this `{` has no `}`"),
            ("{\"servers\": [", "f:1:13: this `[` has no `]`"),
            ("{\"rise\" 1}", "f:1:9: this is not JSON: expected colon"),
            ("{} {}", "f:1:4: something follows the end"),
            ("{\"rise\": 0x1}", "f:1:10: this is not JSON: hexadecimal"),
            ("{\"rise\": +1}", "f:1:10: this is not JSON: unary plus"),
            ("{\"rise\": 01}", "f:1:11: "),
            ("{\"rise\": NaN}", "f:1:10: this is not JSON"),
            ("{\"host\": \"a\nb\"}", "this is not JSON"),
            ("{\"host\": \"\\ud800\"}", "this is not JSON"),
        ];
        for (text, expected) in rows {
            let problem = problem(text);
            assert!(problem.contains(expected), "{text:?}: {problem}");
        }
        let deep = format!("{{\"servers\": {}", "[".repeat(100_000));
        assert!(problem(&deep).contains("not JSON"));
    }
}
