//! `lb-threads check`: every problem of a configuration, without a start.
//!
//! Runs on the main thread. Resolves names and looks at ports and limits of this machine, so it may
//! wait; must never change anything.

use super::{serve, shell};
use crate::cli::CheckArgs;
use crate::config::{Loaded, Origin, Problem, Setting, Severity};
use crate::net;
use crate::server::{StartError, allowed_connections};
use serde_json::{Value, json};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;

/// The exit code: there are errors.
const FOUND_PROBLEMS: u8 = 1;

/// Prints the problems, and the origins of the settings if they are asked for.
pub fn run(args: CheckArgs) -> ExitCode {
    let (is_json, shows_origins) = (args.json, args.origin);
    let sources = match args.into_sources() {
        Ok(sources) => sources,
        Err(error) => return serve::fail(None, &error.message, error.exit_code),
    };
    let result = sources.load();
    let mut problems = match &result {
        Ok(loaded) => examine(loaded),
        Err(problems) => problems.clone(),
    };
    problems.extend(sources.notes.iter().map(|note| Problem::new(note).with(Severity::Note)));
    let origins = result.ok().filter(|_| shows_origins).map(|loaded| origins(&loaded));
    shell::print(&if is_json {
        in_json(&problems, origins.as_deref())
    } else {
        in_text(&problems, origins.as_deref())
    });
    if has_errors(&problems) { ExitCode::from(FOUND_PROBLEMS) } else { ExitCode::SUCCESS }
}

fn has_errors(problems: &[Problem]) -> bool {
    problems.iter().any(Problem::is_error)
}

/// The problems that a start on this machine would find.
fn examine(loaded: &Loaded) -> Vec<Problem> {
    let mut problems = loaded.warnings.clone();
    let boot = &loaded.config.boot;
    let listen = net::resolve(&boot.host, boot.port).unwrap_or_else(|error| {
        let message = format!("cannot resolve `{}`: {error}; write an address", boot.host);
        problems.push(loaded.problem(|setting| setting.flag == "host", &message));
        Vec::new()
    });
    problems.extend(listen.iter().filter_map(|address| examine_port(loaded, *address)));
    for (index, backend) in loaded.config.backends.iter().enumerate() {
        match net::resolve(backend.authority.host(), backend.authority.port()) {
            Ok(addresses) if addresses.iter().any(|one| net::is_own_listener(*one, &listen)) => {
                let error = StartError::Loop(backend.authority.to_string());
                problems.push(loaded.backend_problem(index, &error.to_string()));
            }
            Ok(_) => {}
            Err(error) => {
                let name = backend.authority.host();
                let message = format!("cannot resolve `{name}`: {error}; check the name");
                let problem = loaded.backend_problem(index, &message);
                problems.push(problem.with(Severity::Warning));
            }
        }
    }
    problems.extend(examine_limits(loaded));
    problems
}

/// Whether the balancer could listen on an address now.
fn examine_port(loaded: &Loaded, address: SocketAddr) -> Option<Problem> {
    let error = TcpListener::bind(address).err()?;
    let is_in_use = error.kind() == io::ErrorKind::AddrInUse;
    let severity = if is_in_use { Severity::Note } else { Severity::Warning };
    let message = StartError::Listen(address, error).to_string();
    Some(loaded.problem(|setting| setting.flag == "port", &message).with(severity))
}

/// Whether this machine allows the connections.
fn examine_limits(loaded: &Loaded) -> Option<Problem> {
    let wanted = loaded.config.settings.limits.max_connections;
    let (files, allowed) = allowed_connections(&loaded.config);
    let message = format!(
        "{wanted} connections need more open files than the limit of {files}, which allows {allowed}; raise it (ulimit -n)"
    );
    let is_it = |setting: &Setting| setting.flag == "max-connections";
    let is_default = loaded.origin(is_it) == &Origin::Default;
    let severity = if is_default { Severity::Note } else { Severity::Warning };
    (allowed < wanted).then(|| loaded.problem(is_it, &message).with(severity))
}

/// A setting with its value and where that is from.
type OriginRow = (Setting, String, String);

fn origins(loaded: &Loaded) -> Vec<OriginRow> {
    let rows = loaded.origins.iter().map(|(setting, origin)| {
        let value = setting.show(&loaded.config).unwrap_or_else(|| "-".to_owned());
        (*setting, value, origin.to_string())
    });
    rows.collect()
}

fn in_text(problems: &[Problem], origins: Option<&[OriginRow]>) -> String {
    let mut text: String = problems.iter().map(Problem::render).collect();
    let rows = origins.unwrap_or_default();
    let width = |column: fn(&OriginRow) -> usize| rows.iter().map(column).max().unwrap_or(0);
    let keys = width(|(setting, ..)| setting.key().len());
    let values = width(|(_, value, _)| value.len()).min(40);
    for (setting, value, origin) in rows {
        text += &format!("{:keys$}  {value:values$}  {origin}\n", setting.key());
    }
    let count = |severity| problems.iter().filter(|problem| problem.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    let verdict = if errors == 0 { "ok" } else { "not ok" };
    text + &format!("{verdict}: {errors} error(s), {warnings} warning(s)\n")
}

fn in_json(problems: &[Problem], origins: Option<&[OriginRow]>) -> String {
    let problems: Vec<Value> = problems.iter().map(Problem::to_json).collect();
    let is_ok = !problems.iter().any(|problem| problem["severity"] == "error");
    let mut result = json!({ "ok": is_ok, "problems": problems });
    if let Some(rows) = origins {
        let setting = |(setting, value, origin): &OriginRow| json!({ "key": setting.key(), "value": value, "origin": origin });
        result["settings"] = rows.iter().map(setting).collect();
    }
    format!("{result}\n")
}
