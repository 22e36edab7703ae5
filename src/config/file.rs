//! The configuration file: JSON text to given values with their positions. Pure.
//!
//! A file with problems is rejected whole, with all of them: one of the syntax, or each of the
//! keys and values.

use super::Config;
use super::backend::HostPort;
use super::problem::{FileText, Problem, Problems, Span};
use super::servers;
use super::table::{Form, OFF, ON, Setting};
use super::values::nearest;
use jsonc_parser::ast::{Object, ObjectProp, Value};
use jsonc_parser::common::Ranged;
use jsonc_parser::errors::{ParseError, ParseErrorKind};
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};
use std::collections::HashMap;

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

/// A file that was read: its keys with their values.
#[derive(Clone, Debug)]
pub struct ConfigFile {
    /// Its text.
    pub text: FileText,
    /// Its keys, in their order.
    pub entries: Vec<Entry>,
    /// The host and port of a health check's URL, if it is a whole one.
    pub(super) health_authority: Option<HostPort>,
}

/// A key with its value.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The setting.
    pub setting: Setting,
    /// The key as it is written.
    pub key: String,
    /// The position of the key.
    pub key_span: Span,
    /// The value, or each value of a list.
    pub items: Vec<Item>,
}

/// A value in its text form, as the flag has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The text.
    pub text: String,
    /// Its position.
    pub span: Span,
}

impl Entry {
    /// The whole value in its text form.
    pub fn text(&self) -> String {
        let texts: Vec<&str> = self.items.iter().map(|item| item.text.as_str()).collect();
        texts.join(",")
    }
}

impl ConfigFile {
    /// Reads a file's text, or finds all its problems.
    pub fn read(text: FileText) -> Result<Self, Vec<Problem>> {
        let mut problems = Problems::new(&text);
        let mut reading = Reading { problems: &mut problems, health_authority: None };
        let entries = reading.file(text.text());
        let health_authority = reading.health_authority;
        let problems = problems.into_vec();
        if problems.is_empty() {
            Ok(Self { text, entries, health_authority })
        } else {
            Err(problems)
        }
    }

    /// The entry of a setting.
    pub fn entry(&self, setting: &Setting) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.setting.flag == setting.flag)
    }
}

/// The state while a file is read.
struct Reading<'p, 'f> {
    problems: &'p mut Problems<'f>,
    health_authority: Option<HostPort>,
}

impl Reading<'_, '_> {
    fn file(&mut self, text: &str) -> Vec<Entry> {
        let whole = 0..text.len().min(1);
        if text.starts_with('\u{feff}') {
            self.problems.error(
                &(0..3),
                "",
                "the file starts with a byte order mark; save it as UTF-8 without one",
            );
        } else {
            match parse_to_ast(text, &CollectOptions::default(), &STRICT) {
                Ok(parsed) => match parsed.value {
                    Some(Value::Object(object)) => {
                        // The second opinion of a parser that has no extensions to switch off.
                        match serde_json::from_str::<serde_json::Value>(text) {
                            Ok(_) => return self.entries(&object),
                            Err(error) => self.not_json(&error),
                        }
                    }
                    Some(other) => self.problems.error(
                        &span(&other),
                        "",
                        "the file is not a JSON object; write it like {\"servers\": []}",
                    ),
                    None => {
                        self.problems.error(&whole, "", "the file is empty; the smallest one is {}")
                    }
                },
                Err(error) => self.syntax(&error),
            }
        }
        Vec::new()
    }

    fn syntax(&mut self, error: &ParseError) {
        let range = error.range();
        let message = match error.kind() {
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
        };
        self.problems.error(&(range.start..range.end), "", &message);
    }

    fn not_json(&mut self, error: &serde_json::Error) {
        let at = self.problems.file().offset(error.line(), error.column());
        let text = error.to_string();
        let text = text.split(" at line ").next().unwrap_or_default();
        self.problems.error(&(at..at + 1), "", &format!("this is not JSON: {text}"));
    }

    fn entries(&mut self, object: &Object<'_>) -> Vec<Entry> {
        let mut entries = Vec::new();
        let mut seen: HashMap<&str, (String, Span)> = HashMap::new();
        for property in &object.properties {
            if self.problems.is_full() {
                break;
            }
            let (key, key_span) = (property.name.as_str(), span(&property.name));
            let Some(setting) = Setting::of_key(key) else {
                self.unknown_key(key, &key_span);
                continue;
            };
            if let Some((other, other_span)) = seen.get(setting.flag) {
                let line = self.problems.file().position(other_span.start).line;
                let message = if other == key {
                    format!("the key is already in line {line}; keep one of them")
                } else {
                    format!("the setting is already in line {line}, as {other}; keep one of them")
                };
                self.problems.error(&key_span, key, &message);
                continue;
            }
            seen.insert(setting.flag, (key.to_owned(), key_span.clone()));
            let items = self.items(setting, property);
            entries.push(Entry { setting, key: key.to_owned(), key_span, items });
        }
        entries
    }

    fn unknown_key(&mut self, key: &str, span: &Span) {
        let keys: Vec<String> =
            Setting::all().flat_map(|setting| setting.keys().collect::<Vec<_>>()).collect();
        let spelling = key.to_ascii_lowercase().replace('-', "_");
        let hint = match nearest(&spelling, keys.iter().map(String::as_str)) {
            Some(near) => format!("did you mean {near}?"),
            None => "`lb-threads --print-config` lists every key".to_owned(),
        };
        self.problems.error(span, key, &format!("unknown key; {hint}"));
    }

    /// The valid values of a key.
    fn items(&mut self, setting: Setting, property: &ObjectProp<'_>) -> Vec<Item> {
        let (key, value) = (property.name.as_str(), &property.value);
        match setting.form {
            Form::List("BACKEND") => servers::read(self.problems, key, value),
            Form::List(_) => self.list(setting, key, value),
            Form::Switch => match value {
                Value::BooleanLit(literal) => {
                    let text = if literal.value { ON } else { OFF }.to_owned();
                    vec![Item { text, span: span(value) }]
                }
                _ => {
                    let message =
                        format!("{} is not a switch; write true or false", described(value));
                    self.problems.error(&span(value), key, &message);
                    Vec::new()
                }
            },
            Form::Value(_) | Form::Choice(..) | Form::Positional => {
                self.item(setting, key, value).into_iter().collect()
            }
        }
    }

    fn list(&mut self, setting: Setting, key: &str, value: &Value<'_>) -> Vec<Item> {
        let Value::Array(array) = value else {
            return self.item(setting, key, value).into_iter().collect();
        };
        let items = array.elements.iter().enumerate();
        items
            .filter_map(|(index, value)| self.item(setting, &format!("{key}[{index}]"), value))
            .collect()
    }

    /// One value, as the flag has it.
    fn item(&mut self, setting: Setting, key: &str, value: &Value<'_>) -> Option<Item> {
        let span = span(value);
        let text = match value {
            Value::StringLit(text) => text.value.trim().to_owned(),
            Value::NumberLit(number) => number.value.to_owned(),
            other => {
                let message = format!(
                    "{} is not a value of this key; write a string or a number",
                    described(other)
                );
                self.problems.error(&span, key, &message);
                return None;
            }
        };
        let text = match split_url(&text).filter(|_| setting.is_health_path()) {
            Some(Ok((authority, path))) => {
                self.health_authority = Some(authority);
                Ok(path)
            }
            Some(Err(error)) => Err(error),
            None => Ok(text),
        };
        let valid = text.and_then(|text| setting.set(&mut Config::default(), &text).map(|()| text));
        valid
            .map_err(|error| self.problems.error(&span, key, &error))
            .ok()
            .map(|text| Item { text, span })
    }
}

/// The host and port of a whole URL, and its path with its query; none if it is no URL.
fn split_url(text: &str) -> Option<Result<(HostPort, String), String>> {
    let (_, rest) = text.split_once("://")?;
    let path_start = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = (&text[..text.len() - rest.len() + path_start], &rest[path_start..]);
    let slash = if path.starts_with('/') { "" } else { "/" };
    let authority = HostPort::parse(authority).map_err(|error| error.replacen("backend", "URL", 1));
    Some(authority.map(|authority| (authority, format!("{slash}{path}"))))
}

/// A value in an error.
pub(super) fn described(value: &Value<'_>) -> String {
    match value {
        Value::StringLit(text) => format!("\"{}\"", text.value),
        Value::NumberLit(number) => number.value.to_owned(),
        Value::BooleanLit(literal) => literal.value.to_string(),
        Value::Object(_) => "an object".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::NullKeyword(_) => "null".to_owned(),
    }
}

/// The part of the text that a node has.
pub(super) fn span(node: &impl Ranged) -> Span {
    node.start()..node.end()
}

fn lower_first(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_lowercase().chain(letters).collect())
}
