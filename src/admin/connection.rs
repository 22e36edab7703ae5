//! One connection of the control API, from its accept to its close. Runs on a thread of its own.
//!
//! A panic in a request costs that request: it gets 500 and its connection closes.

use super::access::{self, ControlAccess, Policy};
use super::control::Control;
use super::http::{Connection, NoRequest};
use super::message::{ReplyTo, Request, Response};
use super::open::Open;
use super::problem::{Problem, shortened};
use super::routes;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

/// The parts of the control API that a connection needs.
#[derive(Debug)]
pub(super) struct Client<'s> {
    pub(super) control: &'s Control,
    pub(super) policy: &'s Policy,
    pub(super) is_stopping: &'s AtomicBool,
    pub(super) peer: SocketAddr,
}

impl Client<'_> {
    /// Serves the connection until its close.
    pub(super) fn serve(&self, open: &Open) {
        let mut connection = Connection::new(&open.socket);
        loop {
            let request = connection.next_request();
            open.begin_serving();
            let (response, to) = match request {
                Ok(request) => self.response(&request),
                Err(NoRequest::Rejected(problem)) => (problem.response(), ReplyTo::unknown()),
                Err(NoRequest::Closed) => return,
            };
            if connection.respond(&response, &to).is_err() {
                return;
            }
            open.end_serving();
            if !to.keeps_open() || self.is_stopping.load(Ordering::SeqCst) {
                return connection.linger();
            }
        }
    }

    fn response(&self, request: &Request) -> (Response, ReplyTo) {
        let run = || {
            let result = routes::run(self.control, self.policy, request);
            self.log(request, &result);
            result.unwrap_or_else(Problem::response)
        };
        match catch_unwind(AssertUnwindSafe(run)) {
            Ok(response) => (response, request.reply_to().clone()),
            Err(_) => {
                log::error!(
                    event = "admin";
                    "a request to the control API panicked, and got 500: a bug in lb-threads"
                );
                let error = "a bug in lb-threads: the request panicked; the log has the details";
                let problem = Problem::new(500, "panicked", error);
                (problem.response(), request.reply_to().and_close())
            }
        }
    }

    /// One line: at INFO for requests that are no reads, else at DEBUG. Never the token, nor the
    /// query. The peer of a request through the data port is a worker, so its identifier leads to
    /// the line with the client.
    fn log(&self, request: &Request, result: &Result<Response, Problem>) {
        let is_read = access::is_read(request);
        let level = if is_read { log::Level::Debug } else { log::Level::Info };
        let source = match self.policy.access {
            ControlAccess::Admin => format!("control: {}", self.peer),
            ControlAccess::DataRead | ControlAccess::DataAll => {
                format!("control on the data port: request {}", request.reply_to().request_id())
            }
        };
        let (method, path) = (shortened(&request.method), &request.path);
        match result {
            Ok(response) => {
                log::log!(level, "{source} \"{method} {path}\" {}", response.status);
            }
            Err(problem) => {
                // A line of the log stays one line.
                let error = problem.error().replace(char::is_control, " ");
                log::log!(level, "{source} \"{method} {path}\" rejected: {error}");
            }
        }
    }
}
