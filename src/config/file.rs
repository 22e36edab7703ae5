//! The configuration file: JSON text to given values with their positions. Pure.
//!
//! A file with problems is rejected whole, with all of them: one of the syntax (`syntax`), or each
//! of the keys and values.

use super::Config;
use super::backend::HostPort;
use super::nearest::nearest;
use super::node::{Item, described, span};
use super::problem::{FileText, Problem, Problems, Span};
use super::servers;
use super::syntax;
use super::table::{Form, OFF, ON, Setting};
use jsonc_parser::ast::{Object, ObjectProp, Value};
use std::collections::HashMap;

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
        let object = syntax::object(reading.problems, text.text());
        let entries = object.map_or(Vec::new(), |object| reading.entries(&object));
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
                    format!("line {line} already has this key; keep one of them")
                } else {
                    format!("line {line} already has this setting, as {other}; keep one of them")
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
        let hint = match nearest(key, keys.iter().map(String::as_str)) {
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
            Form::Optional(_, _, default) if matches!(value, Value::BooleanLit(_)) => {
                let is_on = matches!(value, Value::BooleanLit(literal) if literal.value);
                let text = if is_on { default } else { "off" }.to_owned();
                vec![Item { text, span: span(value) }]
            }
            Form::Value(_) | Form::Choice(..) | Form::Optional(..) | Form::Positional => {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<Problem> {
        ConfigFile::read(FileText::new("f", text)).unwrap_err()
    }

    fn entries(text: &str) -> Vec<(String, String)> {
        let file = ConfigFile::read(FileText::new("f", text)).unwrap();
        file.entries.iter().map(|entry| (entry.key.clone(), entry.text())).collect()
    }

    /// The only problem of a text.
    fn problem(text: &str) -> String {
        let problems = problems(text);
        assert_eq!(problems.len(), 1, "{text}: {problems:?}");
        problems[0].to_string()
    }

    #[test]
    fn a_bad_value_or_key_is_named_with_its_position_and_the_right_form() {
        let rows = [
            ("{\"rise\": 0}", "f:1:10: rise: `0` is not a whole number from 1 to 1000"),
            ("{\"rise\": 1.5}", "f:1:10: rise: `1.5` is not a whole number"),
            ("{\"rise\": null}", "f:1:10: rise: null is not a value of this key; write a string"),
            ("{\"rise\": [1]}", "f:1:10: rise: a list is not a value"),
            ("{\"rise\": {}}", "f:1:10: rise: an object is not a value"),
            ("{\"rise\": true}", "f:1:10: rise: true is not a value"),
            ("{\"period\": \"5 s\"}", "f:1:12: period: `5 s` is not a duration; write it like"),
            ("{\"connect_timeout\": 0}", "a timeout of 0 would reject every request"),
            ("{\"port\": 70000}", "f:1:10: port: `70000` is not a port; write a number"),
            ("{\"log_level\": \"loud\"}", "`loud` is not a log level; use off, error"),
            ("{\"health_path\": \"health\"}", "`health` is not a path; it starts with /"),
            ("{\"health_check_url\": \"https://a:1/\"}", "https to backends is not supported"),
            ("{\"health_check_url\": \"http://a:x/\"}", "URL `http://a:x` has no port between"),
            ("{\"health_check_url\": \"http://a/#x\"}", "`/#x` is not a path"),
            ("{\"no_health_checks\": \"true\"}", "\"true\" is not a switch; write true or false"),
            ("{\"trusted_proxies\": [\"::1\", \"x\"]}", "f:1:29: trusted_proxies[1]: `x` is not a"),
            ("{\"trusted_proxies\": false}", "f:1:21: trusted_proxies: false is not a value"),
            (
                "{\"heath_path\": \"/\"}",
                "f:1:2: heath_path: unknown key; did you mean health_path?",
            ),
            ("{\"Health-Path\": \"/\"}", "Health-Path: unknown key; did you mean health_path?"),
            (
                "{\"zzz\": 1}",
                "f:1:2: zzz: unknown key; `lb-threads --print-config` lists every key",
            ),
            ("{\"rise\": 1,\n\"rise\": 2}", "f:2:1: rise: line 1 already has this key; keep one"),
            (
                "{\"servers\": [],\n\"backend\": []}",
                "f:2:1: backend: line 1 already has this setting, as servers; keep one",
            ),
        ];
        for (text, expected) in rows {
            let problem = problem(text);
            assert!(problem.contains(expected), "{text}: {problem}");
        }
    }

    #[test]
    fn all_problems_are_found_at_once_and_in_order() {
        let text =
            "{\"rise\": 0,\n\"fal\": 1, \"servers\": [{\"prt\": 1}, 7],\n\"max_body\": \"x\"}";
        let found: Vec<(usize, usize)> = problems(text)
            .iter()
            .map(|problem| problem.position.map_or((0, 0), |at| (at.line, at.column)))
            .collect();
        // The server has an unknown key and lacks both others.
        assert_eq!(found, [(1, 10), (2, 1), (2, 23), (2, 23), (2, 24), (2, 35), (3, 13)]);
        let many = format!("{{{}\"a\": 1}}", "\"a\": 1, ".repeat(100_000));
        assert_eq!(problems(&many).len(), super::super::MAX_PROBLEMS);
    }

    #[test]
    fn values_may_be_numbers_strings_switches_and_lists() {
        let text = "{\"health_check_interval\": 10, \"rise\": \"3\", \"no_health_checks\": false,
            \"trusted_proxies\": [\"10.0.0.0/8\", \"::1\"], \"maxconn\": 7, \"head_timeout\": \" 2.5 \"}";
        let expected = [
            ("health_check_interval", "10"),
            ("rise", "3"),
            ("no_health_checks", "false"),
            ("trusted_proxies", "10.0.0.0/8,::1"),
            ("maxconn", "7"),
            ("head_timeout", "2.5"),
        ];
        let expected = expected.map(|(key, text)| (key.to_owned(), text.to_owned()));
        assert_eq!(entries(text), expected);
    }

    #[test]
    fn of_a_whole_url_the_path_and_the_query_are_used() {
        for (url, path) in [
            ("http://a:1/health?x=1", "/health?x=1"),
            ("http://a:1", "/"),
            ("http://a?x", "/?x"),
            ("/plain", "/plain"),
        ] {
            assert_eq!(entries(&format!("{{\"health_check_url\": \"{url}\"}}"))[0].1, path);
        }
    }
}
