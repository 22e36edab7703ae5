//! Escapes for the formats of the log, so that nothing from outside begins a line, ends a value or
//! controls a terminal. Pure.

use std::io::Write;

/// Whether a character must not be in a line as it is: control characters, and the separators of
/// lines and paragraphs of Unicode.
fn is_control(letter: char) -> bool {
    letter.is_control() || matches!(letter, '\u{2028}' | '\u{2029}')
}

/// Appends a message of the text format.
pub(crate) fn text(line: &mut Vec<u8>, message: &str) {
    if message.bytes().all(|byte| (b' '..0x7f).contains(&byte)) {
        line.extend_from_slice(message.as_bytes());
        return;
    }
    for letter in message.chars() {
        if is_control(letter) {
            let _ = write!(line, "{}", letter.escape_default());
        } else {
            push(line, letter);
        }
    }
}

/// Appends the inside of a JSON string. Bytes that are not UTF-8 are replaced by U+FFFD.
pub(crate) fn json(line: &mut Vec<u8>, value: &[u8]) {
    let is_plain = |byte: u8| (b' '..0x7f).contains(&byte) & (byte != b'"') & (byte != b'\\');
    // Without an early end, which would keep the compiler from using vectors.
    if value.iter().fold(true, |are_plain, byte| are_plain & is_plain(*byte)) {
        line.extend_from_slice(value);
        return;
    }
    for letter in String::from_utf8_lossy(value).chars() {
        match letter {
            '"' => line.extend_from_slice(b"\\\""),
            '\\' => line.extend_from_slice(b"\\\\"),
            '\n' => line.extend_from_slice(b"\\n"),
            '\r' => line.extend_from_slice(b"\\r"),
            '\t' => line.extend_from_slice(b"\\t"),
            // All of them are in the first plane.
            _ if is_control(letter) => drop(write!(line, "\\u{:04x}", letter as u32)),
            _ => push(line, letter),
        }
    }
}

/// Appends the inside of a quoted value as Apache does: `\"`, `\\`, `\n`, `\t`, `\xhh`.
pub(crate) fn combined(line: &mut Vec<u8>, value: &[u8]) {
    for byte in value {
        match byte {
            b'"' => line.extend_from_slice(b"\\\""),
            b'\\' => line.extend_from_slice(b"\\\\"),
            b'\n' => line.extend_from_slice(b"\\n"),
            b'\r' => line.extend_from_slice(b"\\r"),
            b'\t' => line.extend_from_slice(b"\\t"),
            b' '..0x7f => line.push(*byte),
            _ => drop(write!(line, "\\x{byte:02x}")),
        }
    }
}

fn push(line: &mut Vec<u8>, letter: char) {
    line.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(escape: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut line = Vec::new();
        escape(&mut line);
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn a_message_stays_one_line_and_controls_no_terminal() {
        let message = "a\nb\r\t\u{1b}[1m \u{9b}1m \u{2028} → \"é\" \\";
        let expected = "a\\nb\\r\\t\\u{1b}[1m \\u{9b}1m \\u{2028} → \"é\" \\";
        assert_eq!(escaped(|line| text(line, message)), expected);
    }

    #[test]
    fn every_byte_gives_valid_json_without_control_characters() {
        let bytes: Vec<u8> = (0..=255).collect();
        let letters: String = (0..0x300).filter_map(char::from_u32).collect();
        for value in [&bytes[..], letters.as_bytes(), "\u{2028}\u{2029}😀".as_bytes()] {
            let inside = escaped(|line| json(line, value));
            let parsed: String = serde_json::from_str(&format!("\"{inside}\"")).unwrap();
            assert_eq!(parsed, String::from_utf8_lossy(value));
            assert!(!inside.chars().any(is_control), "{inside:?}");
        }
    }

    #[test]
    fn a_combined_value_is_visible_ascii_without_a_quote_of_its_own() {
        let bytes: Vec<u8> = (0..=255).collect();
        let inside = escaped(|line| combined(line, &bytes));
        assert!(inside.bytes().all(|byte| (b' '..0x7f).contains(&byte)), "{inside}");
        assert_eq!(inside.matches('"').count(), inside.matches("\\\"").count());
        assert!(inside.starts_with("\\x00\\x01") && inside.ends_with("\\xfe\\xff"), "{inside}");
    }
}
