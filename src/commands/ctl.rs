//! `lb-threads ctl`: one command to a running balancer, its outcome, and an exit status.
//!
//! Runs on the main thread. Results go to standard output, errors to standard error. Must never
//! change a balancer except through its control API.

mod drain;

use super::serve;
use crate::cli::CtlArgs;
use crate::ctl::client::{CHECK_TIMEOUT, Client, Failure, Reply, TIMEOUT};
use crate::ctl::grammar::{self, Command};
use crate::ctl::outcome;
use crate::ctl::rows::{Listing, Reload, Row, Scheduler, Statistics};
use crate::ctl::statistics;
use crate::ctl::table::{self, printable};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::process::ExitCode;

/// The exit code: not ready, not reachable, or not drained in time.
const NEGATIVE: u8 = 1;
/// The exit code: rejected, or no such backend.
const REJECTED: u8 = 4;

/// The outcome of a command.
struct Outcome {
    /// The text for standard output.
    text: String,
    /// The error, and the exit code.
    problem: Option<(String, u8)>,
}

impl Outcome {
    fn done(text: String) -> Self {
        Self { text, problem: None }
    }
}

/// Runs the command of the arguments.
pub fn run(args: &CtlArgs) -> ExitCode {
    let parsed = args.command().and_then(|command| Ok((command, args.client()?)));
    let (command, client) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => return serve::fail(None, &error.message, error.exit_code),
    };
    let ctl = Ctl { client, has_json: args.json };
    let outcome = ctl.execute(&command).unwrap_or_else(|failure| ctl.failed(failure));
    if let Err(error) = print(&outcome.text) {
        return serve::fail(None, &format!("cannot write the result: {error}"), NEGATIVE);
    }
    match outcome.problem {
        Some((message, exit_code)) => serve::fail(None, &message, exit_code),
        None => ExitCode::SUCCESS,
    }
}

/// A client and the form of its output.
struct Ctl {
    client: Client,
    has_json: bool,
}

impl Ctl {
    fn execute(&self, command: &Command) -> Result<Outcome, Failure> {
        match command {
            Command::Help => Ok(Outcome::done(grammar::help())),
            Command::Health => self.health(),
            Command::List => {
                let reply = self.list()?;
                let has_colours = io::stdout().is_terminal() && allows_colours();
                let text = table::listing(&reply.value, Timestamp::now(), has_colours);
                Ok(Outcome::done(self.text(reply, text)))
            }
            Command::Stats(periods) => self.stats(periods.as_deref()),
            Command::Algorithm(None) => {
                let algorithm = self.list()?.value.algorithm;
                let json = json!({ "algorithm": algorithm }).to_string();
                let text = printable(&algorithm).into_owned();
                Ok(Outcome::done(self.text(Reply { value: (), json }, text)))
            }
            Command::Algorithm(Some(name)) => {
                let body = json!({ "algorithm": name });
                let reply: Reply<Scheduler> =
                    self.client.post("/_control/scheduler", &body, TIMEOUT)?;
                let text = printable(&reply.value.algorithm).into_owned();
                Ok(Outcome::done(self.text(reply, text)))
            }
            Command::Reload => {
                let reply: Reply<Reload> =
                    self.client.post("/_control/reload", &json!({}), CHECK_TIMEOUT)?;
                let text = outcome::reload(&reply.value);
                Ok(Outcome::done(self.text(reply, text)))
            }
            Command::Add { backend, weight } => {
                let mut body = json!({ "url": backend.url() });
                if let Some(weight) = weight {
                    body["weight"] = (*weight).into();
                }
                self.change(command, "/_control/add", &body)
            }
            Command::Remove(backend) => {
                self.change(command, "/_control/remove", &json!({ "url": backend.url() }))
            }
            Command::Resume(backend) => {
                self.change(command, "/_control/resume", &json!({ "url": backend.url() }))
            }
            Command::Weight { backend, weight } => {
                let body = json!({ "url": backend.url(), "weight": weight });
                self.change(command, "/_control/weight", &body)
            }
            Command::Drain { backend, wait: None } => {
                self.change(command, "/_control/drain", &json!({ "url": backend.url() }))
            }
            Command::Drain { backend, wait: Some(wait) } => drain::wait(self, backend, *wait),
        }
    }

    /// A failure as an outcome, with the JSON of the API's error if asked for.
    fn failed(&self, failure: Failure) -> Outcome {
        let exit_code = if failure.is_rejection { REJECTED } else { NEGATIVE };
        let message = printable(&failure.message).into_owned();
        let json = failure.json.filter(|_| self.has_json);
        for problem in &failure.problems {
            eprintln!("{}", printable(&problem.to_string()));
        }
        Outcome { text: json.unwrap_or_default(), problem: Some((message, exit_code)) }
    }

    fn list(&self) -> Result<Reply<Listing>, Failure> {
        self.client.get("/_control/list")
    }

    fn stats(&self, periods: Option<&str>) -> Result<Outcome, Failure> {
        let encode =
            |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        let query = periods.map(|periods| format!("?periods={}", encode(periods)));
        let path = format!("/_control/stats{}", query.unwrap_or_default());
        let reply: Reply<Statistics> = self.client.get(&path)?;
        let text = statistics::report(&reply.value, terminal_width());
        Ok(Outcome::done(self.text(reply, text)))
    }

    /// The JSON or the text, as asked for.
    fn text<T>(&self, reply: Reply<T>, text: String) -> String {
        if self.has_json { reply.json } else { text }
    }

    fn change(&self, command: &Command, path: &str, body: &Value) -> Result<Outcome, Failure> {
        let is_add = matches!(command, Command::Add { .. });
        let limit = if is_add { CHECK_TIMEOUT } else { TIMEOUT };
        let reply: Reply<Row> = self.client.post(path, body, limit)?;
        if let Some(warning) = &reply.value.warning {
            eprintln!("lb-threads: warning: {}", printable(warning));
        }
        let text = outcome::sentence(command, &reply.value);
        Ok(Outcome::done(self.text(reply, text)))
    }

    fn health(&self) -> Result<Outcome, Failure> {
        let readiness = self.client.readiness()?;
        let lines: Vec<&str> = readiness.text.lines().collect();
        let text = if self.has_json {
            json!({ "ready": readiness.is_ready, "reasons": lines }).to_string()
        } else {
            lines.iter().map(|line| format!("{}\n", printable(line))).collect()
        };
        let problem = (!readiness.is_ready).then(|| ("not ready".to_owned(), NEGATIVE));
        Ok(Outcome { text, problem })
    }
}

/// The columns of the terminal; none if standard output is none, or does not have a size.
fn terminal_width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// Whether the environment allows colours (no-color.org).
fn allows_colours() -> bool {
    let is_unset = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    is_unset && std::env::var_os("TERM").is_none_or(|name| name != "dumb")
}

/// Prints with one line end. A reader that has seen enough is no error.
fn print(text: &str) -> io::Result<()> {
    let text = text.trim_end();
    if text.is_empty() {
        return Ok(());
    }
    let mut output = io::stdout().lock();
    match writeln!(output, "{text}").and_then(|()| output.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}
