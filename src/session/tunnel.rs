//! After a 101: bytes both ways, whatever they mean, until both ends have closed.

use super::exchange::Exchange;
use super::{Client, Context, Flow, Verdict};
use crate::config::{self, Timeout};
use crate::net::{Buffer, Read, Stream};
use crate::reason::Reason;

/// Who has closed its sending side of a tunnel.
#[derive(Debug, Default)]
pub(super) struct TunnelEnds {
    pub(super) client: bool,
    pub(super) backend: bool,
}

/// How one direction stands after a step.
enum Direction {
    /// The source or the sink has had enough for now.
    Open,
    /// The source has closed and everything was delivered.
    Ended,
    /// A side is broken.
    Broken,
}

impl Exchange {
    /// State `Tunnel`.
    pub(super) fn tunnel(&mut self, client: &mut Client, context: &mut Context<'_>) -> Flow {
        if context.has_expired() {
            return self.end_tunnel(Reason::TunnelIdle, client, context);
        }
        // The 101 itself, and then what came right behind it.
        match self.flush_output(client, context) {
            Ok(0) => {}
            Ok(_) => return Flow::wait(self.ending.deadline),
            Err(reason) => return Flow::close(reason),
        }
        context.buffers.lend(&mut self.input);
        context.buffers.lend(&mut self.answer.bytes);
        let Some(backend) = self.attempt.stream(context.connections) else {
            return self.end_tunnel(Reason::TunnelBroken, client, context);
        };
        let (up, sent_up) = relay(&mut client.stream, &mut self.input, backend, &mut self.tunnel_ends.client);
        let (down, sent_down) = relay(backend, &mut self.answer.bytes, &mut client.stream, &mut self.tunnel_ends.backend);
        self.download.sent += sent_down as u64;
        context.counters.bytes_sent.add(sent_down as u64);
        match (up, down) {
            (Direction::Broken, _) | (_, Direction::Broken) => return self.end_tunnel(Reason::TunnelBroken, client, context),
            (Direction::Ended, Direction::Ended) => return self.end_tunnel(Reason::TunnelDone, client, context),
            _ => {}
        }
        let moved = sent_up.max(sent_down);
        if moved > 0 {
            self.ending.deadline = context.deadline(Timeout::Tunnel);
        }
        if moved >= config::STEP_BYTES {
            return Flow::Yield(Verdict::Again);
        }
        Flow::wait(self.ending.deadline)
    }

    fn end_tunnel(&mut self, reason: Reason, client: &Client, context: &mut Context<'_>) -> Flow {
        self.drop_link(context);
        self.log_summary(client, context);
        Flow::close(reason)
    }
}

/// Moves what can be moved in one direction and says how many bytes were delivered. The source's end is passed on once, when all
/// its bytes are.
fn relay(source: &mut Stream, buffer: &mut Buffer, sink: &mut Stream, ended: &mut bool) -> (Direction, usize) {
    let mut delivered = 0;
    loop {
        let waiting = buffer.len();
        let flushed = sink.flush(buffer);
        delivered += waiting - buffer.len();
        match flushed {
            Ok(true) if *ended => return (Direction::Ended, delivered),
            Ok(true) if delivered < config::STEP_BYTES => {}
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
