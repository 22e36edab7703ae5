//! A TCP session made of the same parts, without HTTP.

use super::*;
use crate::session::attempt::{Attempt, Reuse};
use crate::session::record::ExchangeData;
use crate::upstream::cluster::{Picked, Wanted};

/// A client connection that is forwarded as opaque bytes.
struct TcpSession {
    client: Client,
    phase: TcpPhase,
}

enum TcpPhase {
    Dispatch,
    Connecting(Attempt),
    Tunnel(Box<Tunnel>),
}

impl Steps for TcpSession {
    fn stream(&mut self) -> &mut Stream {
        &mut self.client.stream
    }

    fn step(&mut self, cx: &mut Context<'_>) -> Verdict {
        self.advance(cx).unwrap_or_else(Verdict::Close)
    }
}

impl TcpSession {
    fn advance(&mut self, cx: &mut Context<'_>) -> Result<Verdict, Reason> {
        loop {
            self.phase = match std::mem::replace(&mut self.phase, TcpPhase::Dispatch) {
                TcpPhase::Dispatch => {
                    let client = self.client.peer().ip();
                    let wanted = Wanted { tried: &[], is_idempotent: false, client };
                    let picked = cx.shared.cluster.pick(&wanted, cx.now, &mut cx.local.rng);
                    let Picked::Backend(slot) = picked else {
                        return Err(Reason::TunnelBroken);
                    };
                    let mut attempt = Attempt::new(slot, true, cx);
                    attempt.open(Reuse::Never, cx).map_err(|_| Reason::TunnelBroken)?;
                    TcpPhase::Connecting(attempt)
                }
                TcpPhase::Connecting(mut attempt) => {
                    match attempt.poll_connect(cx).map_err(|_| Reason::TunnelBroken)? {
                        Some(deadline) => {
                            self.phase = TcpPhase::Connecting(attempt);
                            return Ok(Verdict::Wait(deadline));
                        }
                        None => TcpPhase::Tunnel(Box::new(Tunnel::new(
                            attempt,
                            1,
                            ExchangeData::new(self.client.peer(), RequestId::generate(1), cx.now),
                            cx,
                        ))),
                    }
                }
                TcpPhase::Tunnel(mut tunnel) => {
                    let tunneled = tunnel.step(&mut self.client, cx);
                    self.phase = TcpPhase::Tunnel(tunnel);
                    return Ok(match tunneled? {
                        Tunneled::Wait(deadline) => Verdict::Wait(deadline),
                        Tunneled::BudgetUsed => Verdict::Again,
                    });
                }
            };
        }
    }
}

#[test]
fn a_tcp_session_is_an_attempt_and_a_tunnel() {
    for is_masked in [false, true] {
        let (listener, address) = listen();
        let backend = thread::spawn(move || {
            let mut peer = Peer { socket: listener.accept().unwrap().0, is_masked };
            peer.write(b"220 ready\r\n");
            let sent_bytes = peer.read_until(|_| false);
            peer.write(&sent_bytes);
        });
        let (socket, ours) = pair();
        let client = thread::spawn(move || {
            let mut peer = Peer { socket, is_masked };
            let greeting = peer.read_until(|all| all.ends_with(b"\r\n"));
            peer.write(&[b'x'; 50_000]);
            peer.socket.shutdown(std::net::Shutdown::Write).unwrap();
            [greeting, peer.read_until(|_| false)].concat()
        });
        let mut worker = TestWorker::new(&[address], is_masked);
        let permit = permit(&ours);
        let mut session =
            TcpSession { client: Client::new(ours, permit), phase: TcpPhase::Dispatch };
        assert_eq!(worker.run(&mut session), Reason::TunnelDone);
        let TcpPhase::Tunnel(tunnel) = session.phase else { panic!("the phase was a tunnel") };
        tunnel.close(Reason::TunnelDone, &session.client, &mut worker.context());
        assert!(worker.resources.connections.is_empty(), "no backend connection remains");
        assert!(
            client.join().unwrap() == [&b"220 ready\r\n"[..], &[b'x'; 50_000]].concat(),
            "masked: {is_masked}"
        );
        backend.join().unwrap();
    }
}
