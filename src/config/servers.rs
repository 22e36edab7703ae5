//! The list of servers in the configuration file: objects with `host`, `port` and `weight`, or the
//! text that `--backend` takes. Pure.

use super::backend::{BackendSpec, HostPort, parse_weight};
use super::nearest::nearest;
use super::node::{Item, described, span};
use super::problem::{Problems, Span};
use jsonc_parser::ast::{Object, Value};
use std::collections::HashMap;

/// The keys of a server.
const KEYS: [&str; 3] = ["host", "port", "weight"];

/// The backends of a list, each as `--backend` has it.
pub(super) fn read(problems: &mut Problems<'_>, key: &str, value: &Value<'_>) -> Vec<Item> {
    let mut items = Vec::new();
    match value {
        Value::StringLit(text) => {
            text_items(problems, key, (&text.value, &span(value)), &mut items);
        }
        Value::Array(list) => {
            for (index, value) in list.elements.iter().enumerate() {
                if problems.is_full() {
                    break;
                }
                let (key, span) = (format!("{key}[{index}]"), span(value));
                match value {
                    Value::StringLit(text) => {
                        text_items(problems, &key, (&text.value, &span), &mut items);
                    }
                    Value::Object(server) => items.extend(server_item(problems, &key, server)),
                    other => {
                        let message = format!(
                            "{} is not a server; write it like {{\"host\": \"127.0.0.1\", \"port\": 8080}}",
                            described(other)
                        );
                        problems.error(&span, &key, &message);
                    }
                }
            }
        }
        other => {
            let message = format!(
                "{} is not a list of servers; write it like [{{\"host\": \"127.0.0.1\", \"port\": 8080}}]",
                described(other)
            );
            problems.error(&span(other), key, &message);
        }
    }
    report_repeated(problems, key, &items);
    items
}

/// The backends of a text: one, or several with commas.
fn text_items(
    problems: &mut Problems<'_>,
    key: &str,
    (text, span): (&str, &Span),
    items: &mut Vec<Item>,
) {
    for part in text.split(',').map(str::trim) {
        match BackendSpec::parse(part) {
            Ok(backend) => items.push(Item { text: backend.to_string(), span: span.clone() }),
            Err(error) => problems.error(span, key, &error),
        }
    }
}

/// The backend of an object.
fn server_item(problems: &mut Problems<'_>, key: &str, server: &Object<'_>) -> Option<Item> {
    let mut values: [Option<&Value<'_>>; KEYS.len()] = [None; KEYS.len()];
    for property in &server.properties {
        let (name, name_span) = (property.name.as_str(), span(&property.name));
        let key = format!("{key}.{name}");
        match KEYS.iter().position(|known| *known == name) {
            Some(index) if values[index].is_none() => values[index] = Some(&property.value),
            Some(_) => problems.error(&name_span, &key, "the key is given twice; keep one of them"),
            None => {
                let near = nearest(name, KEYS);
                let hint = near.map_or("a server has host, port and weight".to_owned(), |near| {
                    format!("did you mean {near}?")
                });
                problems.error(&name_span, &key, &format!("unknown key; {hint}"));
            }
        }
    }
    let whole = span(server);
    let [host, port, weight] = values;
    let host = required(problems, (key, "host"), host, &whole)
        .and_then(|value| host_of(problems, key, value));
    let port = required(problems, (key, "port"), port, &whole)
        .and_then(|value| port_of(problems, key, value));
    let weight = match weight {
        Some(value) => weight_of(problems, key, value)?,
        None => 1,
    };
    let authority =
        HostPort::new(&host?, port?).map_err(|error| problems.error(&whole, key, &error)).ok()?;
    Some(Item { text: BackendSpec::new(authority, weight).to_string(), span: whole })
}

fn required<'v>(
    problems: &mut Problems<'_>,
    (key, name): (&str, &str),
    value: Option<&'v Value<'v>>,
    server: &Span,
) -> Option<&'v Value<'v>> {
    if value.is_none() {
        problems.error(
            server,
            key,
            &format!("the server has no {name}; a server has host and port"),
        );
    }
    value
}

/// A name or an address, without anything around it.
fn host_of(problems: &mut Problems<'_>, key: &str, value: &Value<'_>) -> Option<String> {
    let host = match value {
        Value::StringLit(text) => Some(text.value.trim()),
        _ => None,
    };
    // Any port will do: only the host is to be valid here.
    let valid = host.filter(|host| !host.contains("/") && HostPort::new(host, 1).is_ok());
    if valid.is_none() {
        let message = format!(
            "{} is not a host; write a name or an address, without http:// and without a port",
            described(value)
        );
        problems.error(&span(value), &format!("{key}.host"), &message);
    }
    valid.map(str::to_owned)
}

fn port_of(problems: &mut Problems<'_>, key: &str, value: &Value<'_>) -> Option<u16> {
    let port = number(value).and_then(|text| super::values::parse_count(text, 1, 65_535).ok());
    if port.is_none() {
        let message = format!("{} is not a port; write a number from 1 to 65535", described(value));
        problems.error(&span(value), &format!("{key}.port"), &message);
    }
    port.and_then(|port| u16::try_from(port).ok())
}

fn weight_of(problems: &mut Problems<'_>, key: &str, value: &Value<'_>) -> Option<u32> {
    let weight = number(value).and_then(|text| parse_weight(text).ok());
    if weight.is_none() {
        let message =
            format!("{} is not a weight; write a whole number from 1 to 1000", described(value));
        problems.error(&span(value), &format!("{key}.weight"), &message);
    }
    weight
}

/// The text of a number, which may be in quotes.
fn number<'v>(value: &'v Value<'_>) -> Option<&'v str> {
    match value {
        Value::NumberLit(number) => Some(number.value),
        Value::StringLit(text) => Some(text.value.trim()),
        _ => None,
    }
}

/// A backend is its host and port, whatever the spelling.
fn report_repeated(problems: &mut Problems<'_>, key: &str, items: &[Item]) {
    let mut starts: HashMap<&str, usize> = HashMap::new();
    for item in items {
        let authority = item.text.split('=').next().unwrap_or_default();
        match starts.get(authority) {
            Some(start) => {
                let line = problems.file().position(*start).line;
                let message = format!("line {line} already has server {authority}; name it once");
                problems.error(&item.span, key, &message);
            }
            None => drop(starts.insert(authority, item.span.start)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ConfigFile, FileText};

    fn read(servers: &str) -> Result<String, String> {
        let text = FileText::new("f", format!("{{\"servers\": {servers}}}"));
        match ConfigFile::read(text) {
            Ok(file) => Ok(file.entries[0].text()),
            Err(problems) => {
                assert_eq!(problems.len(), 1, "{problems:?}");
                Err(problems[0].to_string())
            }
        }
    }

    #[test]
    fn servers_are_objects_or_texts() {
        for (servers, expected) in [
            ("[]", ""),
            ("[{\"host\": \"LocalHost\", \"port\": 80}]", "localhost:80"),
            ("[{\"port\": \"80\", \"weight\": 3, \"host\": \"::1\"}]", "[::1]:80=3"),
            ("[{\"host\": \"[::1]\", \"port\": 80, \"weight\": \"2\"}]", "[::1]:80=2"),
            ("[\"a:1\", \"http://b/=2\", \"c:3,d:4\"]", "a:1,b:80=2,c:3,d:4"),
            ("\"a:1, b:2\"", "a:1,b:2"),
        ] {
            assert_eq!(read(servers).unwrap(), expected, "{servers}");
        }
    }

    #[test]
    fn a_bad_server_is_named_with_its_number() {
        for (servers, expected) in [
            ("{}", "f:1:13: servers: an object is not a list of servers"),
            ("[7]", "f:1:14: servers[0]: 7 is not a server"),
            ("[\"a\"]", "f:1:14: servers[0]: backend `a` has no port"),
            ("[{\"port\": 1}]", "f:1:14: servers[0]: the server has no host"),
            ("[{\"host\": \"a\"}]", "f:1:14: servers[0]: the server has no port"),
            ("[{\"host\": \"a\", \"port\": 0}]", "f:1:36: servers[0].port: 0 is not a port"),
            ("[{\"host\": \"a\", \"port\": true}]", "servers[0].port: true is not a port"),
            ("[{\"host\": 1, \"port\": 1}]", "f:1:23: servers[0].host: 1 is not a host"),
            ("[{\"host\": \"http://a\", \"port\": 1}]", "without http:// and without a port"),
            ("[{\"host\": \"a:1\", \"port\": 1}]", "servers[0].host: \"a:1\" is not a host"),
            ("[{\"host\": \"a\", \"port\": 1, \"weight\": 0}]", "weight: 0 is not a weight"),
            (
                "[{\"host\": \"a\", \"port\": 1, \"wieght\": 2}]",
                "unknown key; did you mean weight?",
            ),
            ("[{\"host\": \"a\", \"port\": 1, \"x\": 2}]", "a server has host, port and weight"),
            (
                "[{\"host\": \"a\", \"port\": 1, \"port\": 2}]",
                "f:1:39: servers[0].port: the key is",
            ),
            ("[\"a:1\", {\"host\": \"A\", \"port\": 1}]", "f:1:21: servers: line 1 already has"),
            ("[\"a:1\", \"b:1\", \"a:1=3\"]", "f:1:28: servers: line 1 already has server a:1"),
        ] {
            let problem = read(servers).unwrap_err();
            assert!(problem.contains(expected), "{servers}: {problem}");
        }
    }
}
