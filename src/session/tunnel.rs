//! After a 101: bytes both ways, whatever they mean, until both ends have closed.

use super::exchange::Exchange;
use super::{Client, Context, Flow, Verdict};
use crate::config::{self, Timeout};
use crate::net::{Buffer, Read, Stream};
use crate::reason::Reason;

/// How far one direction came in one step.
enum Moved {
    /// This many bytes; the source or the sink has had enough for now.
    Some(usize),
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
        let head = self.output.len();
        match client.stream.flush(&mut self.output) {
            Ok(true) => context.counters.bytes_sent.add(head as u64),
            Ok(false) => return Flow::wait(self.last_deadline),
            Err(_) => return Flow::close(Reason::ClientReset),
        }
        context.buffers.lend(&mut self.input);
        context.buffers.lend(&mut self.answer);
        let Some(connection) = self.link.and_then(|link| context.connections.get(link)) else {
            return self.end_tunnel(Reason::TunnelBroken, client, context);
        };
        let backend = &mut connection.stream;
        let up = relay(&mut client.stream, &mut self.input, backend, &mut self.client_ended);
        let down = relay(backend, &mut self.answer, &mut client.stream, &mut self.backend_ended);
        let moved = match (up, down) {
            (Moved::Broken, _) | (_, Moved::Broken) => return self.end_tunnel(Reason::TunnelBroken, client, context),
            (Moved::Ended, Moved::Ended) => return self.end_tunnel(Reason::TunnelDone, client, context),
            (Moved::Some(up), Moved::Some(down)) => up.max(down),
            (Moved::Some(moved), Moved::Ended) | (Moved::Ended, Moved::Some(moved)) => moved,
        };
        if moved > 0 {
            self.last_deadline = context.deadline(Timeout::Tunnel);
        }
        if moved >= config::STEP_BYTES {
            return Flow::Yield(Verdict::Again);
        }
        Flow::wait(self.last_deadline)
    }

    fn end_tunnel(&mut self, reason: Reason, client: &Client, context: &mut Context<'_>) -> Flow {
        self.drop_link(context);
        self.log_summary(client, context);
        Flow::close(reason)
    }
}

/// Moves what can be moved in one direction. The source's end is passed on once, when all its bytes are.
fn relay(source: &mut Stream, buffer: &mut Buffer, sink: &mut Stream, ended: &mut bool) -> Moved {
    let mut moved = 0;
    loop {
        match sink.flush(buffer) {
            Ok(true) => {}
            Ok(false) => return Moved::Some(moved),
            Err(_) => return Moved::Broken,
        }
        if *ended {
            return Moved::Ended;
        }
        if moved >= config::STEP_BYTES {
            return Moved::Some(moved);
        }
        match source.read(buffer) {
            Ok(Read::Bytes(count)) => moved += count,
            Ok(Read::Blocked) => return Moved::Some(moved),
            Ok(Read::End) => {
                *ended = true;
                sink.shutdown_write();
            }
            Err(_) => return Moved::Broken,
        }
    }
}
