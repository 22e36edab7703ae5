//! What the log says about an exchange, once.

use super::client::Client;
use crate::error::Cause;
use std::time::{Duration, Instant};

/// The facts of one exchange for its line in the log.
#[derive(Debug)]
pub(super) struct Record {
    /// What was asked for, if the log wants it and has not had it yet.
    label: Option<Box<str>>,
    started: Instant,
    /// The status of the response, ours or the backend's; 0 before there is one.
    status: u16,
    /// How long after the request's head the response's came.
    first_byte: Duration,
}

impl Record {
    /// `label` is what was asked for, like method and target; made only if the log wants it.
    pub(super) fn new(label: impl FnOnce() -> String, now: Instant) -> Self {
        let label = log::log_enabled!(log::Level::Info).then(|| label().into_boxed_str());
        Self { label, started: now, status: 0, first_byte: Duration::ZERO }
    }

    /// Notes the head of the response.
    pub(super) fn note_response(&mut self, status: u16, now: Instant) {
        self.status = status;
        self.first_byte = now.saturating_duration_since(self.started);
    }

    /// Logs who asked for what, who served it and how long it took.
    pub(super) fn log(&mut self, client: &Client, backend: &str, stage: &str, now: Instant) {
        let Some(label) = self.label.take() else {
            return;
        };
        let peer = client.peer();
        if self.status == 0 {
            log::info!("{peer} \"{label}\" not answered, in stage {stage}, backend {backend}");
            return;
        }
        log::info!(
            "{peer} \"{label}\" {} from {backend} in {:.1} ms, done in {:.1} ms, {} bytes",
            self.status,
            self.first_byte.as_secs_f64() * 1000.0,
            now.saturating_duration_since(self.started).as_secs_f64() * 1000.0,
            client.sent,
        );
    }

    /// Logs that the request is rejected, in place of the line that it would have had.
    pub(super) fn log_rejection(
        &mut self,
        client: &Client,
        cause: Cause,
        stage: &str,
        backend: &str,
    ) {
        let label = self.label.take();
        log_rejection(client, cause, label.as_deref().unwrap_or("-"), (stage, backend));
    }
}

/// Logs that a request is rejected; `label` is its method and target, as far as they are known.
pub(super) fn log_rejection(
    client: &Client,
    cause: Cause,
    label: &str,
    (stage, backend): (&str, &str),
) {
    let (peer, status) = (client.peer(), cause.status());
    log::info!("{peer} \"{label}\" {status} {cause} (in stage {stage}, backend {backend})");
}
