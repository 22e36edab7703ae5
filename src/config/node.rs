//! Values of the configuration file: their text, their position, and how an error describes them.
//! Pure.

use super::problem::Span;
use jsonc_parser::ast::Value;
use jsonc_parser::common::Ranged;

/// A value in its text form, as the flag has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The text.
    pub text: String,
    /// Its position.
    pub span: Span,
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
