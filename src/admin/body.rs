//! The JSON body of a write: an object with fields by name. Pure. Each error names the field, its
//! value and what would be right.

use super::problem::{MAX_VALUE_BYTES, Problem, shortened};
use crate::config::{self, Algorithm, HostPort};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use std::fmt;

const URL_FORM: &str = "a URL such as http://127.0.0.1:8001";

/// The fields of a body.
#[derive(Debug)]
pub(super) struct JsonBody(Vec<(String, Value)>);

impl JsonBody {
    /// Parses a body that may have these fields; `example` is a valid one.
    pub(super) fn parse(bytes: &[u8], allowed: &[&str], example: &str) -> Result<Self, Problem> {
        let bad = |error: String| Problem::new(400, "bad_json", error).expected(example);
        if bytes.trim_ascii().is_empty() {
            return Err(bad("the body is empty; send a JSON object".to_owned()));
        }
        let text = std::str::from_utf8(bytes).map_err(|error| {
            bad(format!(
                "the body is not UTF-8 after byte {}; send JSON in UTF-8",
                error.valid_up_to()
            ))
        })?;
        let fields: Fields = serde_json::from_str(text)
            .map_err(|error| bad(format!("the body is not a JSON object: {error}")))?;
        for (index, (name, value)) in fields.0.iter().enumerate() {
            if !allowed.contains(&name.as_str()) {
                return Err(unknown_field(name, value, allowed));
            }
            if fields.0[..index].iter().any(|(earlier, _)| earlier == name) {
                let error = format!("the field {name} is there twice; send it once");
                let problem = Problem::new(400, "duplicate_field", error);
                return Err(problem.field(name).value(value.clone()));
            }
        }
        Ok(Self(fields.0))
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, value)| value)
    }

    fn text(&self, name: &'static str, form: &str) -> Result<&str, Problem> {
        match self.get(name) {
            Some(Value::String(text)) if text.len() > MAX_VALUE_BYTES => {
                let error = format!("{name} is longer than {MAX_VALUE_BYTES} bytes; send {form}");
                Err(Problem::new(400, "too_long", error).field(name).value(&**text).expected(form))
            }
            Some(Value::String(text)) => Ok(text),
            Some(other) => Err(bad_type(name, other, "string", form)),
            None => Err(missing(name, form)),
        }
    }

    /// The backend that `url` names.
    pub(super) fn url(&self) -> Result<HostPort, Problem> {
        let text = self.text("url", URL_FORM)?;
        HostPort::parse(text.trim()).map_err(|error| {
            Problem::new(400, "bad_url", error).field("url").value(text).expected(URL_FORM)
        })
    }

    /// The weight.
    pub(super) fn weight(&self) -> Result<u32, Problem> {
        self.optional_weight()?.ok_or_else(|| missing("weight", &weight_form()))
    }

    /// The weight, if there is one.
    pub(super) fn optional_weight(&self) -> Result<Option<u32>, Problem> {
        let Some(value) = self.get("weight") else { return Ok(None) };
        let Value::Number(number) = value else {
            return Err(bad_type("weight", value, "number", &weight_form()));
        };
        config::parse_weight(&number.to_string()).map(Some).map_err(|error| {
            let problem = Problem::new(400, "bad_weight", error).field("weight");
            problem.value(value.clone()).expected(weight_form())
        })
    }

    /// The algorithm.
    pub(super) fn algorithm(&self) -> Result<Algorithm, Problem> {
        let form = format!("one of {}", Algorithm::NAMES.join(", "));
        let text = self.text("algorithm", &form)?;
        Algorithm::parse(text).map_err(|error| {
            let problem = Problem::new(400, "unknown_algorithm", error);
            let nearest = config::nearest(text, Algorithm::NAMES.iter().copied());
            problem.field("algorithm").value(text).expected(form).nearest(nearest)
        })
    }
}

fn weight_form() -> String {
    format!("a whole number from 1 to {}", config::MAX_WEIGHT)
}

fn unknown_field(name: &str, value: &Value, allowed: &[&str]) -> Problem {
    let known = allowed.join(", ");
    let error = format!("unknown field {:?}; the fields are: {known}", shortened(name));
    Problem::new(400, "unknown_field", error)
        .field(name)
        .value(value.clone())
        .expected(known)
        .nearest(config::nearest(name, allowed.iter().copied()))
}

fn missing(name: &str, form: &str) -> Problem {
    let error = format!("the field {name} is missing; send {form}");
    Problem::new(400, "missing_field", error).field(name).expected(form)
}

fn bad_type(name: &str, value: &Value, wanted: &str, form: &str) -> Problem {
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    let error = format!("{name} must be a {wanted}, not {found}; send {form}");
    Problem::new(400, "bad_type", error).field(name).value(value.clone()).expected(form)
}

/// The fields of an object in their order; `serde_json::Map` would drop repeated ones.
struct Fields(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(Object)
    }
}
