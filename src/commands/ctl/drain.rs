//! `drain --wait`: drains a backend and waits until no request is in flight.
//!
//! Runs on the main thread, which polls the list and sleeps in between. A poll that fails ends it.

use super::{Ctl, NEGATIVE, Outcome};
use crate::config::HostPort;
use crate::config::values::Show;
use crate::ctl::client::{Failure, Reply, TIMEOUT};
use crate::ctl::grammar::Command;
use crate::ctl::outcome::{requests, sentence};
use crate::ctl::rows::Row;
use crate::ctl::table::age;
use serde_json::{Value, json};
use std::io::{self, IsTerminal, Write};
use std::thread;
use std::time::{Duration, Instant};

/// The time between two looks at the backend.
const POLL: Duration = Duration::from_millis(500);

/// Drains, and waits so long at most.
pub(super) fn wait(ctl: &Ctl, backend: &HostPort, limit: Duration) -> Result<Outcome, Failure> {
    let (url, end) = (backend.url(), Instant::now() + limit);
    let mut reply: Reply<Row> =
        ctl.client.post("/_control/drain", &json!({ "url": url }), TIMEOUT)?;
    let progress = Progress::new();
    let problem = loop {
        let in_flight = requests(reply.value.in_flight);
        let left = end.saturating_duration_since(Instant::now());
        match (reply.value.state.as_str(), reply.value.in_flight) {
            ("up", _) => break Some(format!("{url} was resumed, with {in_flight} in flight")),
            (_, 0) => break None,
            _ if left.is_zero() => {
                let limit = limit.show().unwrap_or_default();
                break Some(format!(
                    "{url} has {in_flight} in flight after {limit}; it stays draining"
                ));
            }
            _ => {}
        }
        progress.show(&format!("{url}: {in_flight} in flight, {} left", age(left.as_secs())));
        thread::sleep(POLL.min(left));
        match row(ctl, &url)? {
            Some(next) => reply = next,
            None => break Some(format!("{url} was removed, with {in_flight} in flight")),
        }
    };
    drop(progress);
    if let Some(problem) = problem {
        let text = ctl.text(reply, String::new());
        return Ok(Outcome { text, problem: Some((problem, NEGATIVE)) });
    }
    let command = Command::Drain { backend: backend.clone(), wait: Some(limit) };
    let text = sentence(&command, &reply.value);
    Ok(Outcome::done(ctl.text(reply, text)))
}

/// The backend's row of the list, if it is still there.
fn row(ctl: &Ctl, url: &str) -> Result<Option<Reply<Row>>, Failure> {
    let list = ctl.list()?;
    let Some(value) = list.value.backends.into_iter().find(|row| row.url == url) else {
        return Ok(None);
    };
    let json: Value = serde_json::from_str(&list.json).unwrap_or_default();
    let rows = json["backends"].as_array();
    let json = rows.and_then(|rows| rows.iter().find(|row| row["url"] == url));
    Ok(Some(Reply { value, json: json.map(Value::to_string).unwrap_or_default() }))
}

/// A line on a terminal that is replaced, and erased in the end; nothing elsewhere.
struct Progress {
    is_shown: bool,
}

impl Progress {
    fn new() -> Self {
        Self { is_shown: io::stderr().is_terminal() }
    }

    fn show(&self, text: &str) {
        if self.is_shown {
            // A terminal that is gone needs no progress.
            let _ = write!(io::stderr(), "\r\x1b[K{text}");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.show("");
    }
}
