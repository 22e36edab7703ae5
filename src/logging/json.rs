//! Lines of the format `json`: one flat object each, with the keys of `docs/reference.md`.

use super::escape;
use super::number::push_number;
use log::Level;
use std::time::Duration;

/// A line that is being written.
pub(crate) struct JsonLine<'l>(&'l mut Vec<u8>);

/// A value of a key.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value<'v> {
    /// A string; need not be UTF-8.
    Text(&'v [u8]),
    Number(u64),
    /// Milliseconds with microseconds behind the point.
    Milliseconds(Duration),
    Flag(bool),
}

impl<'l> JsonLine<'l> {
    /// Begins a line with the keys that every line has. `push_time` appends the time.
    pub(crate) fn begin(
        line: &'l mut Vec<u8>,
        push_time: impl FnOnce(&mut Vec<u8>),
        level: Level,
        event: &str,
    ) -> Self {
        line.extend_from_slice(b"{\"ts\":\"");
        push_time(line);
        let level = match level {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
            Level::Trace => "trace",
        };
        line.extend_from_slice(b"\",\"level\":\"");
        line.extend_from_slice(level.as_bytes());
        line.push(b'"');
        let mut begun = Self(line);
        begun.push("event", Value::Text(event.as_bytes()));
        begun
    }

    /// Appends a key, which needs no escape, and its value.
    pub(crate) fn push(&mut self, key: &str, value: Value<'_>) {
        let line = &mut *self.0;
        line.extend_from_slice(b",\"");
        line.extend_from_slice(key.as_bytes());
        line.extend_from_slice(b"\":");
        match value {
            Value::Text(text) => {
                line.push(b'"');
                escape::json(line, text);
                line.push(b'"');
            }
            Value::Number(number) => push_number(line, number, 1),
            Value::Milliseconds(span) => {
                let microseconds = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
                push_number(line, microseconds / 1000, 1);
                line.push(b'.');
                push_number(line, microseconds % 1000, 3);
            }
            Value::Flag(flag) => {
                line.extend_from_slice(if flag { b"true" } else { b"false" });
            }
        }
    }

    /// Ends the line.
    pub(crate) fn end(self) {
        self.0.extend_from_slice(b"}\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_flat_object() {
        let mut line = Vec::new();
        let mut json =
            JsonLine::begin(&mut line, |line| line.extend_from_slice(b"now"), Level::Warn, "state");
        json.push("message", Value::Text(b"a \"b\"\n\xff"));
        json.push("bytes", Value::Number(u64::MAX));
        json.push("dur_ms", Value::Milliseconds(Duration::from_micros(1_000_007)));
        json.push("reused", Value::Flag(false));
        json.end();
        assert_eq!(
            String::from_utf8(line).unwrap(),
            "{\"ts\":\"now\",\"level\":\"warn\",\"event\":\"state\",\"message\":\"a \\\"b\\\"\\n\u{fffd}\",\
             \"bytes\":18446744073709551615,\"dur_ms\":1000.007,\"reused\":false}\n"
        );
    }
}
