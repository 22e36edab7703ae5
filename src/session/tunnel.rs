//! A tunnel: opaque bytes in both directions until both sides have closed. Independent of HTTP.

use super::attempt::Attempt;
use super::client::Client;
use super::context::Context;
use super::record::{AccessRecord, ExchangeData};
use crate::config::{self, Deadline, Timeout};
use crate::net::{Buffer, Read, Stream};
use crate::reason::Reason;
use std::time::Instant;

/// A tunnel between a client and a backend.
#[derive(Debug)]
pub(super) struct Tunnel {
    attempt: Attempt,
    /// The number of attempts of the exchange, this one included.
    attempts: u32,
    data: ExchangeData,
    /// Whether the client has closed its sending side.
    client_ended: bool,
    /// Whether the backend has closed its sending side.
    backend_ended: bool,
    /// The end of silence.
    deadline: Deadline,
    /// When the backend was removed; a copy, so that an event does not read the shared one.
    removed: Option<Instant>,
}

/// The result of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tunneled {
    /// No bytes can be moved now.
    Wait(Deadline),
    /// The I/O budget of the step is used up.
    BudgetUsed,
}

/// The state of one direction after a step.
enum Direction {
    /// More bytes may follow.
    Open,
    /// The source has closed and all its bytes were delivered.
    Ended,
    /// A side is broken.
    Broken,
}

impl Tunnel {
    /// A tunnel over the connection of this attempt. Bytes that either side has received already
    /// are forwarded first.
    pub(super) fn new(
        attempt: Attempt,
        attempts: u32,
        data: ExchangeData,
        cx: &Context<'_>,
    ) -> Self {
        Self {
            removed: attempt.backend().removed(),
            attempt,
            attempts,
            data,
            client_ended: false,
            backend_ended: false,
            deadline: cx.deadline(Timeout::Tunnel),
        }
    }

    /// Notes whether the backend was removed. If so, the tunnel must be stepped for its new deadline.
    pub(super) fn note_removal(&mut self) -> bool {
        self.removed = self.attempt.backend().removed();
        self.removed.is_some()
    }

    /// Moves the available bytes in both directions.
    pub(super) fn step(
        &mut self,
        client: &mut Client,
        cx: &mut Context<'_>,
    ) -> Result<Tunneled, Reason> {
        // Before any byte: a tunnel that is never silent ends as well.
        if self.drain_deadline(cx).is_some_and(|deadline| deadline.has_passed(cx.now)) {
            return Err(Reason::BackendRemoved);
        }
        // The head of the 101 precedes the bytes of the tunnel.
        client.flush(&cx.local.counters)?;
        if !client.output.is_empty() {
            return self.wait(cx);
        }
        let connection = self.attempt.connection(cx.connections).ok_or(Reason::TunnelBroken)?;
        cx.local.buffers.ensure(&mut client.input);
        cx.local.buffers.ensure(&mut connection.input);
        let (backend, down) = (&mut connection.stream, &mut connection.input);
        let (up_state, sent_up) =
            copy_one_way(&mut client.stream, &mut client.input, backend, &mut self.client_ended);
        let (down_state, sent_down) =
            copy_one_way(backend, down, &mut client.stream, &mut self.backend_ended);
        cx.local.buffers.recycle(&mut connection.input);
        client.count_sent(sent_down, &cx.local.counters);
        self.data.bytes_in += sent_up as u64;
        match (up_state, down_state) {
            (Direction::Broken, _) | (_, Direction::Broken) => return Err(Reason::TunnelBroken),
            (Direction::Ended, Direction::Ended) => return Err(Reason::TunnelDone),
            _ => {}
        }
        let moved = sent_up.max(sent_down);
        if moved > 0 {
            self.deadline = cx.deadline(Timeout::Tunnel);
        }
        if moved >= config::MAX_STEP_BYTES { Ok(Tunneled::BudgetUsed) } else { self.wait(cx) }
    }

    fn wait(&self, cx: &Context<'_>) -> Result<Tunneled, Reason> {
        if self.deadline.has_passed(cx.now) {
            return Err(Reason::TunnelIdle);
        }
        let drained = self.drain_deadline(cx).filter(|drained| drained.at < self.deadline.at);
        Ok(Tunneled::Wait(drained.unwrap_or(self.deadline)))
    }

    /// The end of a tunnel to a removed backend, by the settings of now.
    fn drain_deadline(&self, cx: &Context<'_>) -> Option<Deadline> {
        let timeout = Timeout::TunnelDrain;
        Some(Deadline { timeout, at: self.removed? + cx.shared.settings.timeouts.of(timeout) })
    }

    /// Closes the backend's connection and records the exchange.
    pub(super) fn close(mut self, reason: Reason, client: &Client, cx: &mut Context<'_>) {
        self.attempt.close(cx);
        cx.record(&self.access_record(reason, client, cx.now));
    }

    pub(super) fn access_record(
        &self,
        reason: Reason,
        client: &Client,
        now: Instant,
    ) -> AccessRecord<'_> {
        AccessRecord {
            data: &self.data,
            stage: "tunnel",
            reason: Some(reason).filter(|reason| reason.is_error()),
            backend: Some(self.attempt.backend()),
            is_reused: self.attempt.is_reused(),
            attempts: self.attempts,
            bytes_out: client.sent,
            ended: now,
        }
    }
}

/// Moves the available bytes in one direction and returns the number of forwarded bytes. The
/// source's end is forwarded once, after all its bytes.
fn copy_one_way(
    source: &mut Stream,
    buffer: &mut Buffer,
    sink: &mut Stream,
    ended: &mut bool,
) -> (Direction, usize) {
    let mut delivered = 0;
    loop {
        let waiting = buffer.len();
        let flushed = sink.flush(buffer);
        delivered += waiting - buffer.len();
        match flushed {
            Ok(true) if *ended => return (Direction::Ended, delivered),
            Ok(true) if delivered < config::MAX_STEP_BYTES => {}
            Ok(_) => return (Direction::Open, delivered),
            Err(_) => return (Direction::Broken, delivered),
        }
        match source.read(buffer) {
            Ok(Read::Bytes(_)) => {}
            Ok(Read::Blocked) => return (Direction::Open, delivered),
            Ok(Read::End) => {
                *ended = true;
                sink.shutdown_write();
            }
            Err(_) => return (Direction::Broken, delivered),
        }
    }
}
