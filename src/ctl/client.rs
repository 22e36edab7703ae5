//! The client of the control API: one request on a fresh connection, and its outcome as a value.
//!
//! Runs on the main thread of `lb-threads ctl`; blocks for as long as its deadline allows. No
//! redirects and no proxy, since the token is for the balancer alone. Must never print the token.

use super::rows::{FileProblem, Rejection};
use crate::config::HostPort;
use crate::config::values::Show;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::io::{self, ErrorKind};
use std::time::Duration;
use ureq::http::{HeaderValue, Response};
use ureq::{Agent, Body};

/// The time limit of a request.
pub const TIMEOUT: Duration = Duration::from_secs(5);
/// The time limit of a request that waits for a health check.
pub const CHECK_TIMEOUT: Duration = Duration::from_secs(30);
/// The time limit of a health request: container runtimes wait for few seconds.
pub const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);
/// The part of a response that is read, in bytes: tens of thousands of backends.
const MAX_BODY: u64 = 16 << 20;
/// The name of the balancer in the field `Server`.
const SERVER: &str = "lb-threads";
/// The field of the balancer's error responses.
const ERROR_FIELD: &str = "X-LB-Error";

/// A client of one balancer.
pub struct Client {
    agent: Agent,
    admin: HostPort,
    authorization: Option<HeaderValue>,
    timeout: Option<Duration>,
}

/// A response of the API.
#[derive(Debug)]
pub struct Reply<T> {
    /// Its value.
    pub value: T,
    /// Its JSON as received.
    pub json: String,
}

/// The readiness of the balancer.
#[derive(Debug, PartialEq, Eq)]
pub struct Readiness {
    /// Whether it is ready.
    pub is_ready: bool,
    /// Its reasons, in lines.
    pub text: String,
}

/// A failed request.
#[derive(Debug)]
pub struct Failure {
    /// Whether the API rejected the request, which repeating it cannot change.
    pub is_rejection: bool,
    /// The problem and its fix, one sentence.
    pub message: String,
    /// The JSON of the API's error, if the API sent one.
    pub json: Option<String>,
    /// The problems of a configuration file, if there are several.
    pub problems: Vec<FileProblem>,
}

impl Failure {
    fn new(message: String) -> Self {
        Self { is_rejection: false, message, json: None, problems: Vec::new() }
    }
}

impl Client {
    /// A client of the balancer with this admin address. The time limit replaces the default one of
    /// each request. The error names an invalid token.
    pub fn new(
        admin: HostPort,
        token: Option<&str>,
        timeout: Option<Duration>,
    ) -> Result<Self, String> {
        let config = Agent::config_builder()
            .proxy(None)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .max_idle_connections(0)
            .user_agent("lb-threads ctl")
            .accept("application/json")
            .build();
        let authorization = token.map(|token| {
            let mut value = HeaderValue::try_from(format!("Bearer {token}"))
                .map_err(|_| "the token has a character that HTTP does not allow".to_owned())?;
            value.set_sensitive(true);
            Ok::<_, String>(value)
        });
        let authorization = authorization.transpose()?;
        Ok(Self { agent: config.into(), admin, authorization, timeout })
    }

    /// Reads.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Reply<T>, Failure> {
        let limit = self.timeout.unwrap_or(TIMEOUT);
        let response = self.call(path, None, limit)?;
        self.reply(response, limit)
    }

    /// Changes. A change that needs a health check has a longer limit.
    pub fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &Value,
        limit: Duration,
    ) -> Result<Reply<T>, Failure> {
        let limit = self.timeout.unwrap_or(limit);
        let response = self.call(path, Some(body), limit)?;
        self.reply(response, limit)
    }

    /// Reads whether the balancer is ready. Another server that responds 200 is not.
    pub fn readiness(&self) -> Result<Readiness, Failure> {
        let limit = self.timeout.unwrap_or(HEALTH_TIMEOUT);
        let mut response = self.call("/readyz?verbose", None, limit)?;
        let text = self.text(&mut response, limit)?;
        let status = response.status().as_u16();
        let is_ours = field(&response, "Server") == SERVER
            && response.body().mime_type() == Some("text/plain")
            && !response.headers().contains_key(ERROR_FIELD)
            && matches!(status, 200 | 503);
        if !is_ours {
            return Err(self.rejection(&response, text));
        }
        Ok(Readiness { is_ready: status == 200, text })
    }

    fn call(
        &self,
        path: &str,
        body: Option<&Value>,
        limit: Duration,
    ) -> Result<Response<Body>, Failure> {
        let url = format!("http://{}{path}", self.admin);
        let result = match body {
            None => {
                let request = self.agent.get(&url).config().timeout_global(Some(limit)).build();
                match &self.authorization {
                    Some(value) => request.header("Authorization", value).call(),
                    None => request.call(),
                }
            }
            Some(body) => {
                let request = self.agent.post(&url).config().timeout_global(Some(limit)).build();
                let request = request.content_type("application/json");
                match &self.authorization {
                    Some(value) => request.header("Authorization", value).send(body.to_string()),
                    None => request.send(body.to_string()),
                }
            }
        };
        result.map_err(|error| self.failure(&error, limit, body.is_some()))
    }

    fn reply<T: DeserializeOwned>(
        &self,
        mut response: Response<Body>,
        limit: Duration,
    ) -> Result<Reply<T>, Failure> {
        let json = self.text(&mut response, limit)?;
        if !response.status().is_success() {
            return Err(self.rejection(&response, json));
        }
        match serde_json::from_str(&json) {
            Ok(value) => Ok(Reply { value, json }),
            Err(_) => Err(self.foreign(&response)),
        }
    }

    /// The failure of a response without success: the API's error, or another server's response.
    fn rejection(&self, response: &Response<Body>, json: String) -> Failure {
        let Ok(Rejection { error, mut problems, .. }) = serde_json::from_str(&json) else {
            return self.foreign(response);
        };
        let is_rejection = response.status().is_client_error();
        if problems.len() == 1 {
            // It is in the message.
            problems.clear();
        }
        Failure { is_rejection, message: error, json: Some(json), problems }
    }

    fn text(&self, response: &mut Response<Body>, limit: Duration) -> Result<String, Failure> {
        let body = response.body_mut().with_config().limit(MAX_BODY).lossy_utf8(true);
        body.read_to_string().map_err(|error| self.failure(&error, limit, false))
    }

    /// The failure of a request without a whole response.
    fn failure(&self, error: &ureq::Error, limit: Duration, is_change: bool) -> Failure {
        let (admin, limit) = (&self.admin, limit.show().unwrap_or_default());
        Failure::new(match error {
            ureq::Error::Timeout(_) if is_change => format!(
                "no response from {admin} within {limit}; the change may have been made: see `list`"
            ),
            ureq::Error::Timeout(_) => {
                format!("no response from {admin} within {limit}; check --admin, or use --timeout")
            }
            ureq::Error::Io(error) => match error.kind() {
                ErrorKind::ConnectionRefused => format!(
                    "cannot reach {admin}: connection refused; is lb-threads running, with --admin?"
                ),
                ErrorKind::UnexpectedEof
                | ErrorKind::ConnectionReset
                | ErrorKind::ConnectionAborted
                | ErrorKind::BrokenPipe => format!(
                    "{admin} closed the connection before the end of its response; check --admin"
                ),
                _ => format!("cannot reach {admin}: {}; check --admin", describe(error)),
            },
            ureq::Error::HostNotFound => format!("cannot resolve {admin}; check --admin"),
            other => {
                format!("{admin} is not the control API of lb-threads ({other}); check --admin")
            }
        })
    }

    /// The failure of a response that is not the API's.
    fn foreign(&self, response: &Response<Body>) -> Failure {
        let (admin, status) = (&self.admin, response.status().as_u16());
        let code = field(response, ERROR_FIELD);
        if !code.is_empty() {
            return Failure::new(format!(
                "{admin} is the port of lb-threads for traffic ({status}, {code}); \
                 check --admin: the control API has a port of its own"
            ));
        }
        let [server, kind] = ["Server", "Content-Type"].map(|name| match field(response, name) {
            "" => format!("no {name}"),
            value => format!("{name} {value}"),
        });
        Failure::new(format!(
            "{admin} is not the control API of lb-threads (status {status}, {server}, {kind}); \
             check --admin"
        ))
    }
}

fn field<'a>(response: &'a Response<Body>, name: &str) -> &'a str {
    response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// The description of an error of the system, without its number.
fn describe(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}
