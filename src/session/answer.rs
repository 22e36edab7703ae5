//! Answers of our own, and how a connection ends after its last answer.

use super::exchange::Exchange;
use super::{Client, Context, Flow, State};
use crate::config;
use crate::error::{Cause, Side};
use crate::net::Read;
use crate::reason::Reason;
use crate::wire::Version;
use crate::wire::own_answer::{self, Manner};
use crate::wire::rewrite::ConnectionLine;

impl Exchange {
    /// Answers with an error of our own. The backend connection, if there is one, is closed; the client's stays open if its
    /// request was in order and is complete.
    pub(super) fn refuse(&mut self, cause: Cause, client: &mut Client, context: &mut Context<'_>) -> Flow {
        self.drop_link(context);
        context.counters.failed(cause);
        if log::log_enabled!(log::Level::Info) {
            let label = self.request.label.take();
            let label = label.as_deref().unwrap_or("-");
            let (status, stage, backend) = (cause.status(), self.stage(), self.backend_name());
            log::info!("{} \"{label}\" {status} {cause} (in stage {stage}, backend {backend})", client.peer);
        }
        self.free_place();
        self.answer.status = cause.status();
        let is_in_order = cause.side() != Side::Client && self.refusal.is_none();
        self.ending.keeps_client = is_in_order && self.upload.is_done() && self.request.is_persistent && !context.draining;
        self.ending.reason = if self.refusal.is_some() { Reason::Overload } else { Reason::Refused };
        context.buffers.lend(&mut self.output);
        let detail = if cause == Cause::NoBackend { context.cluster.why_none_is_up() } else { None };
        let message = detail.map_or_else(|| cause.sentence().to_owned(), |why| format!("{}: {why}", cause.sentence()));
        let manner = Manner {
            as_json: self.request.accepts_json,
            to_head: self.request.is_head,
            connection: self.connection_line(),
            date: context.date,
        };
        own_answer::write(self.output.tail(), cause, &message, manner);
        Flow::Goto(State::OwnAnswer)
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
        if self.ending.keeps_client { Flow::Done } else { Flow::Goto(State::Linger) }
    }

    /// State `Linger`.
    pub(super) fn linger(&mut self, client: &mut Client, context: &mut Context<'_>) -> Flow {
        if context.has_expired() || client.stream.is_broken() {
            return Flow::close(self.ending.reason);
        }
        context.buffers.lend(&mut self.input);
        while self.ending.linger_left > 0 {
            self.input.clear();
            match client.stream.read(&mut self.input) {
                Ok(Read::Bytes(count)) => self.ending.linger_left = self.ending.linger_left.saturating_sub(count),
                Ok(Read::Blocked) => return Flow::wait(self.ending.deadline),
                Ok(Read::End) | Err(_) => return Flow::close(self.ending.reason),
            }
        }
        // It is not listened to any longer. A few lines of ours have reached it long since; a long answer needs the rest of the time.
        if self.download.sent > config::BUFFERED_BYTES {
            Flow::wait(self.ending.deadline)
        } else {
            Flow::close(self.ending.reason)
        }
    }

    /// The last byte of a backend's answer is sent: the summary for the log, and what becomes of the connection.
    pub(super) fn finish(&mut self, client: &Client, context: &mut Context<'_>) -> Flow {
        self.log_summary(client, context);
        if self.ending.keeps_client {
            return Flow::Done;
        }
        let is_early = !self.upload.is_done();
        self.ending.reason = match (is_early, context.draining && self.request.is_persistent) {
            (true, _) => Reason::EarlyAnswer,
            (false, true) => Reason::Drained,
            (false, false) => Reason::AnsweredLast,
        };
        // Closing over unread bytes would send a reset, which may overtake the answer.
        if is_early || !self.input.is_empty() || client.stream.is_readable() {
            return Flow::Goto(State::Linger);
        }
        Flow::close(self.ending.reason)
    }

    /// One line a request: who asked for what, who served it, how long it took.
    pub(super) fn log_summary(&mut self, client: &Client, context: &Context<'_>) {
        let Some(label) = self.request.label.take() else {
            return;
        };
        if self.answer.status == 0 {
            log::info!("{} \"{label}\" not answered, in stage {}, backend {}", client.peer, self.stage(), self.backend_name());
            return;
        }
        log::info!(
            "{} \"{label}\" {} from {} in {:.1} ms, done in {:.1} ms, {} bytes",
            client.peer,
            self.answer.status,
            self.backend_name(),
            self.answer.after.as_secs_f64() * 1000.0,
            context.now.saturating_duration_since(self.request.started).as_secs_f64() * 1000.0,
            self.download.sent,
        );
    }
}

const _: () = assert!(config::LINGER_BYTES > config::REQUEST_HEAD_BYTES);
