//! The errors of the control API as values, and their JSON. Plain values.

use super::message::Response;
use crate::error::Cause;
use serde::Serialize;
use serde_json::Value;

/// The longest text of a request that an error repeats, in bytes.
pub(super) const MAX_VALUE_BYTES: usize = 512;

/// Why a request failed.
#[derive(Debug)]
pub(super) struct Problem(Box<Details>);

#[derive(Debug, Serialize)]
struct Details {
    #[serde(skip)]
    status: u16,
    #[serde(skip)]
    fields: Vec<(&'static str, String)>,
    error: String,
    code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expected: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nearest: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    paths: Option<Vec<&'static str>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    problems: Vec<Value>,
}

impl Problem {
    /// A problem with its status, its stable code, and one sentence that has the fix.
    pub(super) fn new(status: u16, code: &'static str, error: impl Into<String>) -> Self {
        Self(Box::new(Details {
            status,
            fields: vec![("X-LB-Error", code.to_owned())],
            error: error.into(),
            code,
            field: None,
            value: None,
            expected: None,
            nearest: None,
            paths: None,
            problems: Vec::new(),
        }))
    }

    /// The field of the request's JSON that is wrong.
    pub(super) fn field(mut self, field: &str) -> Self {
        self.0.field = Some(shortened(field));
        self
    }

    /// The value as it was sent.
    pub(super) fn value(mut self, value: impl Into<Value>) -> Self {
        self.0.value = Some(match value.into() {
            Value::String(text) => shortened(&text).into(),
            value if value.to_string().len() > MAX_VALUE_BYTES => "…".into(),
            value => value,
        });
        self
    }

    /// The right form.
    pub(super) fn expected(mut self, expected: impl Into<String>) -> Self {
        self.0.expected = Some(expected.into());
        self
    }

    /// The name that was probably meant, if there is one.
    pub(super) fn nearest(mut self, nearest: Option<impl Into<String>>) -> Self {
        self.0.nearest = nearest.map(Into::into);
        self
    }

    /// The paths that there are.
    pub(super) fn paths(mut self, paths: Vec<&'static str>) -> Self {
        self.0.paths = Some(paths);
        self
    }

    /// The problems of a configuration file, each in the form of `check --json`.
    pub(super) fn problems(mut self, problems: Vec<Value>) -> Self {
        self.0.problems = problems;
        self
    }

    /// A field of the response's head.
    pub(super) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.0.fields.push((name, value.into()));
        self
    }

    /// The problem in one sentence.
    pub(super) fn error(&self) -> &str {
        &self.0.error
    }

    /// The response.
    pub(super) fn response(mut self) -> Response {
        let fields = std::mem::take(&mut self.0.fields);
        Response { fields, ..Response::json(self.0.status, &self.0) }
    }
}

impl From<Cause> for Problem {
    /// The problem of a request that is not valid HTTP.
    fn from(cause: Cause) -> Self {
        let problem = Self::new(cause.status(), cause.code(), cause.description());
        match cause.status() {
            405 => problem.header("Allow", "GET, HEAD, POST"),
            _ => problem,
        }
    }
}

/// The text, or its beginning.
pub(super) fn shortened(text: &str) -> String {
    match text.char_indices().map(|(at, _)| at).find(|at| *at > MAX_VALUE_BYTES) {
        Some(end) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_json_with_the_fields_that_it_has() {
        let problem = Problem::new(400, "bad_weight", "weight 0 is too small")
            .field("weight")
            .value(0)
            .expected("a whole number")
            .nearest(None::<String>);
        let response = problem.response();
        assert_eq!(response.status, 400);
        assert_eq!(
            response.body,
            "{\"error\":\"weight 0 is too small\",\"code\":\"bad_weight\",\"field\":\"weight\",\
             \"value\":0,\"expected\":\"a whole number\"}\n"
        );
        assert_eq!(response.fields, [("X-LB-Error", "bad_weight".to_owned())]);
    }

    #[test]
    fn a_long_value_is_shortened() {
        let long = "é".repeat(400);
        let body = Problem::new(400, "bad_url", "").value(long.as_str()).response().body;
        assert!(body.contains("é…") && body.len() < 600, "{body}");
        let list: Vec<u8> = vec![0; 1000];
        let body = Problem::new(400, "bad_url", "").value(list).response().body;
        assert!(body.contains("\"…\""), "{body}");
    }
}
