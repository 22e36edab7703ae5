//! The content of the log and the format of its lines. Plain values, which may change at runtime.

use super::values::Show;

/// The format of the log's lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// A JSON object per line.
    Json,
    /// Access lines in Apache's combined format, all others as text.
    Combined,
}

/// The exchanges that get an access line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccessLog {
    /// All.
    #[default]
    All,
    /// Exchanges that ended with an error: a status of 500 or more, a rejection, a truncation, a reset.
    Errors,
    /// None.
    Off,
}

impl LogFormat {
    /// The names of the formats.
    pub const NAMES: &[&str] = &["text", "json", "combined"];

    /// Parses one of the names.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            "combined" => Ok(Self::Combined),
            _ => Err(format!("`{text}` is no log format; use one of: {}", Self::NAMES.join(", "))),
        }
    }
}

impl AccessLog {
    /// The names of its values.
    pub const NAMES: &[&str] = &["all", "errors", "off"];

    /// Parses one of the names.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "all" => Ok(Self::All),
            "errors" => Ok(Self::Errors),
            "off" => Ok(Self::Off),
            _ => Err(format!("`{text}` is none of: {}", Self::NAMES.join(", "))),
        }
    }
}

impl Show for LogFormat {
    fn show(&self) -> Option<String> {
        Some(Self::NAMES[*self as usize].to_owned())
    }
}

impl Show for AccessLog {
    fn show(&self) -> Option<String> {
        Some(Self::NAMES[*self as usize].to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_any_case_is_parsed_and_shown_in_lower_case() {
        for name in LogFormat::NAMES {
            let parsed = LogFormat::parse(&name.to_uppercase()).unwrap();
            assert_eq!(parsed.show().as_deref(), Some(*name));
        }
        for name in AccessLog::NAMES {
            let parsed = AccessLog::parse(&name.to_uppercase()).unwrap();
            assert_eq!(parsed.show().as_deref(), Some(*name));
        }
        assert!(LogFormat::parse("xml").unwrap_err().contains("text, json, combined"));
        assert!(AccessLog::parse("some").unwrap_err().contains("all, errors, off"));
    }
}
