//! The table of requests: method, path, function; and what comes before the function.
//!
//! Runs on the thread of a connection. Paths are compared as they were sent, without
//! percent-decoding and without removing anything.

use super::access::{self, Policy};
use super::body::JsonBody;
use super::control::{Control, ControlError};
use super::health::Readiness;
use super::message::{Request, Response};
use super::metrics::{self, Format};
use super::problem::{Problem, shortened};
use crate::config;
use crate::server::ReloadError;
use crate::stats::Period;
use serde_json::json;

/// One request that there is.
struct Route {
    method: Method,
    path: &'static str,
    run: fn(&Control, &Request) -> Result<Response, Problem>,
}

/// The kind of a route.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Method {
    /// GET and HEAD, for every client.
    Public,
    /// GET and HEAD.
    Get,
    /// POST, a write.
    Post,
}

const ROUTES: &[Route] = &[
    Route { method: Method::Get, path: "/_control/list", run: list },
    Route { method: Method::Post, path: "/_control/add", run: add },
    Route { method: Method::Post, path: "/_control/remove", run: remove },
    Route { method: Method::Post, path: "/_control/drain", run: drain },
    Route { method: Method::Post, path: "/_control/resume", run: resume },
    Route { method: Method::Post, path: "/_control/weight", run: weight },
    Route { method: Method::Post, path: "/_control/scheduler", run: scheduler },
    Route { method: Method::Post, path: "/_control/reload", run: reload },
    Route { method: Method::Get, path: "/_control/stats", run: statistics },
    Route { method: Method::Get, path: "/lb/stats", run: overview },
    Route { method: Method::Get, path: "/metrics", run: metrics },
    Route { method: Method::Public, path: "/livez", run: alive },
    Route { method: Method::Public, path: "/readyz", run: ready },
    Route { method: Method::Public, path: "/healthz", run: alive },
];

impl Method {
    fn allow(self) -> &'static str {
        match self {
            Self::Public | Self::Get => "GET, HEAD",
            Self::Post => "POST",
        }
    }

    fn allows(self, method: &str) -> bool {
        self.allow().split(", ").any(|allowed| allowed == method)
    }
}

/// The response to a request, or the problem with it.
pub(super) fn run(
    control: &Control,
    policy: &Policy,
    request: &Request,
) -> Result<Response, Problem> {
    let mut routes = ROUTES.iter().filter(|route| route.path == request.path);
    let route = routes.next();
    if route.is_none_or(|route| route.method != Method::Public) {
        policy.check(request)?;
    }
    let route = route.ok_or_else(|| unknown_path(&request.path))?;
    if !route.method.allows(&request.method) {
        return Err(wrong_method(route, &request.method));
    }
    if route.method == Method::Post {
        access::check_write(request)?;
    }
    (route.run)(control, request)
}

fn unknown_path(path: &str) -> Problem {
    let paths: Vec<&str> = ROUTES.iter().map(|route| route.path).collect();
    let nearest = config::nearest(path, paths.iter().copied());
    let fix = match nearest {
        Some(nearest) => format!("did you mean {nearest}?"),
        None => "choose one of the paths in this response".to_owned(),
    };
    Problem::new(404, "unknown_path", format!("no such path; {fix}"))
        .value(path)
        .nearest(nearest)
        .paths(paths)
}

fn wrong_method(route: &Route, method: &str) -> Problem {
    let allow = route.method.allow();
    let error = format!("{} supports {allow} only, not {}", route.path, shortened(method));
    Problem::new(405, "method_not_allowed", error)
        .value(method)
        .expected(allow)
        .header("Allow", allow)
}

impl From<ControlError> for Problem {
    fn from(error: ControlError) -> Self {
        let text = error.to_string();
        let (status, code, url, nearest) = match error {
            ControlError::UnknownBackend { url, nearest } => (404, "unknown_backend", url, nearest),
            ControlError::AlreadyAdded { url } => (409, "already_added", url, None),
            ControlError::OwnListener { url } => (400, "own_listener", url, None),
        };
        Self::new(status, code, text).field("url").value(url).nearest(nearest)
    }
}

impl From<ReloadError> for Problem {
    fn from(error: ReloadError) -> Self {
        let text = error.to_string();
        match error {
            ReloadError::NoFile => Self::new(409, "no_config_file", text),
            ReloadError::Problems(problems) => {
                let error = format!("not reloaded, the settings in use stay: {text}");
                let problems = problems.iter().map(config::Problem::to_json).collect();
                Self::new(400, "bad_config", error).problems(problems)
            }
            ReloadError::Failed(_) => Self::new(503, "overload", text),
        }
    }
}

const URL: (&[&str], &str) = (&["url"], r#"{"url": "http://127.0.0.1:8001"}"#);
const URL_AND_WEIGHT: (&[&str], &str) =
    (&["url", "weight"], r#"{"url": "http://127.0.0.1:8001", "weight": 2}"#);
/// The parameter of `/_control/stats`.
const PERIODS: &str = "periods";
const ALGORITHM: (&[&str], &str) = (&["algorithm"], r#"{"algorithm": "round_robin"}"#);

fn body(request: &Request, (fields, example): (&[&str], &str)) -> Result<JsonBody, Problem> {
    JsonBody::parse(&request.body, fields, example)
}

fn list(control: &Control, _: &Request) -> Result<Response, Problem> {
    Ok(Response::json(200, &control.list()))
}

fn add(control: &Control, request: &Request) -> Result<Response, Problem> {
    let body = body(request, URL_AND_WEIGHT)?;
    let (url, weight) = (body.url()?, body.optional_weight()?);
    Ok(Response::json(201, &control.add(url, weight.unwrap_or(1))?))
}

fn remove(control: &Control, request: &Request) -> Result<Response, Problem> {
    Ok(Response::json(200, &control.remove(&body(request, URL)?.url()?)?))
}

fn drain(control: &Control, request: &Request) -> Result<Response, Problem> {
    Ok(Response::json(200, &control.drain(&body(request, URL)?.url()?)?))
}

fn resume(control: &Control, request: &Request) -> Result<Response, Problem> {
    Ok(Response::json(200, &control.resume(&body(request, URL)?.url()?)?))
}

fn weight(control: &Control, request: &Request) -> Result<Response, Problem> {
    let body = body(request, URL_AND_WEIGHT)?;
    Ok(Response::json(200, &control.set_weight(&body.url()?, body.weight()?)?))
}

fn scheduler(control: &Control, request: &Request) -> Result<Response, Problem> {
    let algorithm = body(request, ALGORITHM)?.algorithm()?;
    control.set_algorithm(algorithm).map_err(|error| {
        let text = format!("the change could not be applied: {error}; try again");
        Problem::new(503, "overload", text)
    })?;
    Ok(Response::json(200, &json!({ "algorithm": algorithm.name() })))
}

fn reload(control: &Control, request: &Request) -> Result<Response, Problem> {
    if !request.body.trim_ascii().is_empty() {
        body(request, (&[], "{}"))?;
    }
    Ok(Response::json(200, &control.reload()?))
}

fn statistics(control: &Control, request: &Request) -> Result<Response, Problem> {
    Ok(Response::json(200, &control.statistics(&periods(&request.query)?)))
}

/// The periods of a query, each one once; all of them without a parameter.
fn periods(query: &str) -> Result<Vec<Period>, Problem> {
    let mut texts = Vec::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        if name != PERIODS {
            let error = format!("unknown parameter {name:?}; use {PERIODS}=5m,30m");
            let problem = Problem::new(400, "unknown_parameter", error);
            return Err(problem.field(&name).value(value.into_owned()).nearest(Some(PERIODS)));
        }
        texts.push(value.into_owned());
    }
    if texts.is_empty() {
        return Ok(Period::ALL.to_vec());
    }
    let text = texts.join(",");
    Period::parse_list(&text).map_err(|error| {
        let names: Vec<&str> = Period::ALL.iter().map(|period| period.name()).collect();
        let expected = format!("one or more of {}", names.join(","));
        let problem = Problem::new(400, "unknown_period", error.to_string());
        problem.field(PERIODS).value(text).expected(expected)
    })
}

fn overview(control: &Control, _: &Request) -> Result<Response, Problem> {
    Ok(Response::json(200, &control.overview()))
}

fn metrics(control: &Control, request: &Request) -> Result<Response, Problem> {
    let format = Format::accepted(request.values("accept"));
    Ok(metrics::response(control.balancer(), format))
}

fn alive(_: &Control, _: &Request) -> Result<Response, Problem> {
    Ok(Response::text(200, "alive\n".to_owned()))
}

fn ready(control: &Control, request: &Request) -> Result<Response, Problem> {
    let mut parameters = request.query.split('&');
    let is_verbose = parameters.any(|one| one.split('=').next() == Some("verbose"));
    Ok(Readiness::of(control.balancer()).response(is_verbose))
}
