//! Answers of our own: what a request gets that cannot be served, or is not to be forwarded.

use super::exchange::Exchange;
use super::{Client, Context, Flow, State};
use crate::error::{Cause, Side};
use crate::reason::Reason;
use crate::wire::Version;
use crate::wire::own_answer;
use crate::wire::reply::{self, ALLOW, Manner, Reply};
use crate::wire::rewrite::ConnectionLine;

impl Exchange {
    /// Answers with an error of our own. The backend connection, if there is one, is closed; the client's stays open if its
    /// request was in order and is complete.
    pub(super) fn refuse(&mut self, cause: Cause, client: &mut Client, context: &mut Context<'_>) -> Flow {
        self.drop_link(context);
        context.counters.failed(cause);
        self.log_refusal(cause, client);
        self.free_place();
        self.answer.status = cause.status();
        let is_in_order = cause.side() != Side::Client && self.refusal.is_none();
        self.ending.keeps_client = is_in_order && self.upload.is_done() && self.request.is_persistent && !context.draining;
        self.ending.reason = if self.refusal.is_some() { Reason::Overload } else { Reason::Refused };
        context.buffers.lend(&mut self.output);
        let why = if cause == Cause::NoBackend { context.cluster.why_none_is_up() } else { None };
        let message = why.map_or_else(|| cause.sentence().to_owned(), |why| format!("{}: {why}", cause.sentence()));
        let (as_json, manner) = (self.request.accepts_json, self.manner(context));
        own_answer::write(self.output.tail(), cause, &message, as_json, manner);
        Flow::Goto(State::OwnAnswer)
    }

    /// Responds to an OPTIONS request that must not be forwarded any further (RFC 9110 section 7.6.2).
    pub(super) fn respond_as_last(&mut self, context: &mut Context<'_>) -> Flow {
        self.answer.status = 200;
        self.answer.after = context.now.saturating_duration_since(self.request.started);
        self.ending.keeps_client = self.upload.is_done() && self.request.is_persistent && !context.draining;
        self.ending.reason = if context.draining && self.request.is_persistent { Reason::Drained } else { Reason::AnsweredLast };
        context.buffers.lend(&mut self.output);
        let reply = Reply { status: 200, fields: &[("Allow", ALLOW)], content: None };
        let manner = self.manner(context);
        reply::write(self.output.tail(), reply, manner);
        Flow::Goto(State::OwnAnswer)
    }

    fn manner<'d>(&self, context: &Context<'d>) -> Manner<'d> {
        Manner { to_head: self.request.is_head, connection: self.connection_line(), date: context.date }
    }

    fn log_refusal(&mut self, cause: Cause, client: &Client) {
        if log::log_enabled!(log::Level::Info) {
            let label = self.request.label.take();
            let label = label.as_deref().unwrap_or("-");
            let (status, stage, backend) = (cause.status(), self.stage(), self.backend_name());
            log::info!("{} \"{label}\" {status} {cause} (in stage {stage}, backend {backend})", client.peer);
        }
    }

    /// What an answer says about the client's connection.
    pub(super) fn connection_line(&self) -> ConnectionLine {
        match (self.ending.keeps_client, self.request.version) {
            (false, _) => ConnectionLine::Close,
            (true, Version::Http11) => ConnectionLine::Silent,
            (true, Version::Http10) => ConnectionLine::KeepAlive,
        }
    }

    /// State `OwnAnswer`.
    pub(super) fn send_own_answer(&mut self, client: &mut Client, context: &mut Context<'_>) -> Flow {
        match self.flush_output(client, context) {
            Ok(0) => {}
            Ok(_) if context.has_expired() => return Flow::close(Reason::SlowReader),
            Ok(_) => return Flow::wait(self.ending.deadline),
            Err(reason) => return Flow::close(reason),
        }
        self.log_summary(client, context);
        if self.ending.keeps_client { Flow::Done } else { Flow::Goto(State::Linger) }
    }
}
