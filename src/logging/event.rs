//! Lines about events: everything that is logged by the `log` macros, and by the log thread itself.
//!
//! Runs on the thread that logs. The kind of an event and its facts are the key-value pairs of its
//! `log` record, for the format `json`; the message has them in words.

use super::escape;
use super::json::{JsonLine, Value};
use crate::clock;
use crate::config::LogFormat;
use anstyle::{AnsiColor, Style};
use log::kv::{self, VisitSource};
use log::{Level, Record};
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::SystemTime;

/// The key of the kind of an event.
const KIND: &str = "event";
/// The kind of an event without one.
const OTHER: &str = "log";

/// The format of lines from now on.
static FORMAT: AtomicU8 = AtomicU8::new(LogFormat::Text as u8);

/// Changes the format of the log.
pub fn set_format(format: LogFormat) {
    FORMAT.store(format as u8, Relaxed);
}

fn format() -> LogFormat {
    match FORMAT.load(Relaxed) {
        format if format == LogFormat::Json as u8 => LogFormat::Json,
        format if format == LogFormat::Combined as u8 => LogFormat::Combined,
        _ => LogFormat::Text,
    }
}

/// The line of a record, in the format of the log.
pub(super) fn of_record(record: &Record<'_>, is_coloured: bool) -> Vec<u8> {
    let message = record.args().to_string();
    let pairs = Pairs::of(record.key_values());
    let kind = pairs.kind.as_deref().unwrap_or(OTHER);
    line((record.level(), kind), &message, &pairs.facts, is_coloured)
}

/// The line of an event of the log thread's own.
pub(super) fn own(level: Level, message: &str, is_coloured: bool) -> Vec<u8> {
    line((level, OTHER), message, &[], is_coloured)
}

/// The line of the error that ends the program at its start.
pub(super) fn last(message: &str) -> Vec<u8> {
    match format() {
        LogFormat::Json => line((Level::Error, "start"), message, &[], false),
        LogFormat::Text | LogFormat::Combined => {
            let mut line = b"lb-threads: ".to_vec();
            escape::text(&mut line, message);
            line.push(b'\n');
            line
        }
    }
}

fn line(
    (level, kind): (Level, &str),
    message: &str,
    facts: &[(String, Fact)],
    is_coloured: bool,
) -> Vec<u8> {
    let mut line = Vec::with_capacity(message.len() + 64);
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let push_time =
        |line: &mut Vec<u8>| line.extend_from_slice(clock::rfc3339(since_epoch).as_bytes());
    match format() {
        LogFormat::Json => {
            let mut json = JsonLine::begin(&mut line, push_time, level, kind);
            json.push("message", Value::Text(message.as_bytes()));
            for (key, fact) in facts {
                json.push(key, fact.value());
            }
            json.end();
        }
        LogFormat::Text | LogFormat::Combined => {
            push_text_prefix(&mut line, push_time, level, is_coloured);
            escape::text(&mut line, message);
            line.push(b'\n');
        }
    }
    line
}

/// Appends `[time LEVEL] `, as env_logger writes it.
pub(crate) fn push_text_prefix(
    line: &mut Vec<u8>,
    push_time: impl FnOnce(&mut Vec<u8>),
    level: Level,
    is_coloured: bool,
) {
    line.push(b'[');
    push_time(line);
    line.push(b' ');
    if is_coloured {
        let style = style(level);
        let _ = write!(line, "{style}{:<5}{style:#}", level.as_str());
    } else {
        let name = match level {
            Level::Error => "ERROR",
            Level::Warn => "WARN ",
            Level::Info => "INFO ",
            Level::Debug => "DEBUG",
            Level::Trace => "TRACE",
        };
        line.extend_from_slice(name.as_bytes());
    }
    line.extend_from_slice(b"] ");
}

fn style(level: Level) -> Style {
    match level {
        Level::Error => AnsiColor::Red.on_default().bold(),
        Level::Warn => AnsiColor::Yellow.on_default(),
        Level::Info => AnsiColor::Green.on_default(),
        Level::Debug => AnsiColor::Blue.on_default(),
        Level::Trace => AnsiColor::Cyan.on_default(),
    }
}

/// A fact about an event.
#[derive(Debug)]
enum Fact {
    Text(String),
    Number(u64),
}

impl Fact {
    fn value(&self) -> Value<'_> {
        match self {
            Self::Text(text) => Value::Text(text.as_bytes()),
            Self::Number(number) => Value::Number(*number),
        }
    }
}

/// The key-value pairs of a record.
#[derive(Default)]
struct Pairs {
    kind: Option<String>,
    facts: Vec<(String, Fact)>,
}

impl Pairs {
    fn of(source: &dyn kv::Source) -> Self {
        let mut pairs = Self::default();
        // Fails only if `visit_pair` does.
        let _ = source.visit(&mut pairs);
        pairs
    }
}

impl<'kvs> VisitSource<'kvs> for Pairs {
    fn visit_pair(&mut self, key: kv::Key<'kvs>, value: kv::Value<'kvs>) -> Result<(), kv::Error> {
        let fact = value.to_u64().map_or_else(
            || {
                let mut text = String::new();
                let _ = write!(text, "{value}");
                Fact::Text(text)
            },
            Fact::Number,
        );
        match fact {
            Fact::Text(kind) if key.as_str() == KIND => self.kind = Some(kind),
            fact => self.facts.push((key.as_str().to_owned(), fact)),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_text_has_its_time_its_level_and_its_message_escaped() {
        let line = String::from_utf8(own(Level::Warn, "two\nlines", false)).unwrap();
        let (prefix, message) = line.split_once("] ").unwrap();
        assert!(prefix.starts_with("[20") && prefix.ends_with("Z WARN "), "{line}");
        assert_eq!(message, "two\\nlines\n");
        let coloured = String::from_utf8(own(Level::Warn, "x", true)).unwrap();
        assert!(coloured.contains("\u{1b}[33mWARN \u{1b}[0m] x"), "{coloured:?}");
    }

    #[test]
    fn the_pairs_of_a_record_are_its_kind_and_its_facts() {
        let pairs = [("event", "state".into()), ("count", 7_u32.into()), ("name", "a".into())];
        let pairs: [(&str, kv::Value<'_>); 3] = pairs;
        let pairs = Pairs::of(&pairs);
        assert_eq!(pairs.kind.as_deref(), Some("state"));
        let facts: Vec<String> = pairs.facts.iter().map(|fact| format!("{fact:?}")).collect();
        assert_eq!(facts, ["(\"count\", Number(7))", "(\"name\", Text(\"a\"))"]);
    }
}
