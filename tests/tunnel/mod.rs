//! Upgrades to WebSocket: the handshake, then opaque bytes both ways until both ends have closed.

mod handshake;
mod removal;

use std::time::Duration;

use lb_threads::reason::Reason;

use crate::support::*;

const ASK: &str = "GET /chat HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nX-Request-Id: i\r\n\r\n";
const AGREE: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                     Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
const MS: Duration = Duration::from_millis(1);

/// Accepts the upgrade and then runs these steps.
fn agreeing(then: impl IntoIterator<Item = Step>) -> Origin {
    let steps = [Step::ReadHead, Step::send(AGREE)].into_iter().chain(then);
    Origin::start(steps.collect::<Vec<_>>())
}

/// Requests the upgrade and gets it.
#[track_caller]
fn upgraded(lb: &Lb) -> Client {
    let mut client = lb.connect();
    client.send(ASK);
    client.read_head().expect_status(101);
    client
}

fn in_flight(lb: &Lb) -> usize {
    lb.balancer().registry().statuses().iter().map(|status| status.backend.in_flight()).sum()
}

#[test]
fn an_upgrade_is_forwarded_with_its_fields_and_then_bytes_flow_both_ways() {
    let origin = agreeing([
        Step::ReadBytes(4),
        Step::send(b"\x81\x02hi"),
        Step::ReadBytes(3),
        Step::send("bye"),
        Step::Hang,
    ]);
    let lb = Lb::over(&[&origin]);
    let mut client = lb.connect();
    client.send(ASK);
    let response = client.read_head();
    assert_eq!(
        String::from_utf8_lossy(&response.raw_head),
        "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
         X-Request-Id: i\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    );
    assert_eq!(
        String::from_utf8_lossy(&origin.only_request().raw_head),
        "GET /chat HTTP/1.1\r\nHost: h\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
         X-Request-Id: i\r\n\
         Connection: Upgrade\r\nUpgrade: websocket\r\nX-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\n\
         X-Forwarded-Host: h\r\n\r\n"
    );
    client.send(b"\x89\x00\r\n");
    assert_eq!(client.read_exactly(4), b"\x81\x02hi");
    client.send("\0\n\n");
    assert_eq!(client.read_exactly(3), b"bye");
    assert!(origin.bytes_received()[0].ends_with(b"\r\n\r\n\x89\x00\r\n\0\n\n"));
    assert_eq!((in_flight(&lb), lb.totals().requests), (1, 1));
    client.shutdown_write();
    assert!(client.at_end());
    lb.wait_for_closed(Reason::TunnelDone, 1);
    assert_eq!(origin.wait_for_ending(0), Ending::PeerClosed);
    until("the backend is free", || in_flight(&lb) == 0);
}

#[test]
fn bytes_pipelined_after_the_request_are_not_lost() {
    let origin = agreeing([Step::ReadBytes(5), Step::send("got it"), Step::Hang]);
    let lb = Lb::over(&[&origin]);
    let mut client = lb.connect();
    client.send(format!("{ASK}hello"));
    client.read_head().expect_status(101);
    assert_eq!(client.read_exactly(6), b"got it");
    assert!(origin.bytes_received()[0].ends_with(b"\r\n\r\nhello"));
}

#[test]
fn bytes_directly_after_the_101_are_not_lost() {
    let origin = Origin::start([Step::ReadHead, Step::send(format!("{AGREE}hello")), Step::Hang]);
    let lb = Lb::over(&[&origin]);
    let mut client = upgraded(&lb);
    assert_eq!(client.read_exactly(5), b"hello");
}

#[test]
fn a_101_received_byte_by_byte_is_accepted() {
    let origin = Origin::start([
        Step::ReadHead,
        Step::send_slowly(format!("{AGREE}hello"), 1, MS / 4),
        Step::Hang,
    ]);
    let lb = Lb::over(&[&origin]);
    let mut client = lb.connect();
    client.send_in_pieces(ASK, std::iter::repeat_n(7, 20));
    client.read_head().expect_status(101);
    assert_eq!(client.read_exactly(5), b"hello");
}

#[test]
fn early_hints_before_the_101_are_forwarded() {
    let origin = Origin::start([
        Step::ReadHead,
        Step::send(format!("HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n{AGREE}")),
        Step::Hang,
    ]);
    let lb = Lb::over(&[&origin]);
    let mut client = lb.connect();
    client.send(ASK);
    assert_eq!(client.read_interim().status, 103);
    client.read_head().expect_status(101);
}

#[test]
fn a_half_closed_client_still_receives() {
    let origin = agreeing([Step::ReadToEnd, Step::send("all of it"), Step::Close]);
    let lb = Lb::over(&[&origin]);
    let mut client = upgraded(&lb);
    client.send("question");
    client.shutdown_write();
    assert_eq!(client.read_to_end(), b"all of it");
    assert!(origin.bytes_received()[0].ends_with(b"question"));
    lb.wait_for_closed(Reason::TunnelDone, 1);
    assert_eq!(origin.wait_for_ending(0), Ending::Closed);
}

#[test]
fn a_half_closed_backend_still_receives() {
    let origin = agreeing([Step::send("that is all"), Step::ShutdownWrite, Step::Hang]);
    let lb = Lb::over(&[&origin]);
    let mut client = upgraded(&lb);
    assert_eq!(client.read_exactly(11), b"that is all");
    assert!(client.at_end());
    stays("half of the tunnel is open", 20 * MS, || lb.totals().closed_in_total() == 0);
    for part in ["still ", "here"] {
        client.send(part);
        until("it is at the backend", || origin.bytes_received()[0].ends_with(part.as_bytes()));
    }
    client.shutdown_write();
    assert_eq!(origin.wait_for_ending(0), Ending::PeerClosed);
    lb.wait_for_closed(Reason::TunnelDone, 1);
}

#[test]
fn a_client_half_closed_with_its_request_is_still_tunnelled() {
    let origin = agreeing([Step::ReadToEnd, Step::send("reply"), Step::Close]);
    let lb = Lb::over(&[&origin]);
    let mut client = lb.connect();
    client.send(format!("{ASK}all I have"));
    client.shutdown_write();
    client.read_head().expect_status(101);
    assert_eq!(client.read_to_end(), b"reply");
    lb.wait_for_closed(Reason::TunnelDone, 1);
}

#[test]
fn megabytes_pass_in_both_directions_at_once() {
    let up: Vec<u8> = (0..3_000_000_u32)
        .flat_map(|number| (number.wrapping_mul(2_654_435_761) >> 24).to_le_bytes()[..1].to_vec())
        .collect();
    let down: Vec<u8> = up.iter().rev().copied().collect();
    let sent_down = down.clone();
    let origin = Origin::start(Script::serve_heads(move |_, reply| {
        reply.send(AGREE);
        for piece in sent_down.chunks(100_000) {
            reply.send(piece);
            reply.read_bytes(100_000);
        }
        reply.step(&Step::Close);
    }));
    let lb = Lb::over(&[&origin]);
    let raw = raw_exchange(lb.address(), [ASK.as_bytes(), &up].concat());
    let head = raw.windows(4).position(|window| window == b"\r\n\r\n").expect("a head") + 4;
    assert!(raw[head..] == down, "{} bytes came down", raw.len() - head);
    let received = &origin.bytes_received()[0];
    assert!(received.ends_with(&up), "{} bytes went up", received.len());
}

#[test]
fn a_client_that_does_not_read_stops_the_backend_and_loses_nothing() {
    let body = vec![b'x'; 30_000_000];
    let origin = agreeing([Step::Send(body), Step::Close]);
    let lb = Lb::over(&[&origin]);
    let mut client = upgraded(&lb);
    let stuck = || origin.ending(0).is_none();
    stays("the backend's sending is at a halt", 50 * MS, stuck);
    assert_eq!(client.read_exactly(30_000_000).len(), 30_000_000);
    client.shutdown_write();
    assert!(client.at_end());
    lb.wait_for_closed(Reason::TunnelDone, 1);
}

#[test]
fn a_reset_on_either_side_ends_both() {
    let origin = agreeing([Step::send("x"), Step::Hang]);
    let lb = Lb::over(&[&origin]);
    let mut client = upgraded(&lb);
    client.read_exactly(1);
    client.reset();
    assert!(matches!(origin.wait_for_ending(0), Ending::PeerClosed | Ending::PeerReset));
    until("it is closed", || lb.totals().closed_in_total() == 1);
    let totals = lb.totals();
    assert_eq!(totals.closed(Reason::ClientReset) + totals.closed(Reason::TunnelBroken), 1);

    let origin = agreeing([Step::send("x"), Step::ReadBytes(1), Step::Reset]);
    let lb = Lb::over(&[&origin]);
    let mut client = upgraded(&lb);
    client.read_exactly(1);
    client.send("y");
    until("the client's connection ends", || !client.is_open());
    lb.wait_for_closed(Reason::TunnelBroken, 1);
    until("the backend is free", || in_flight(&lb) == 0);
}

#[test]
fn an_idle_tunnel_is_closed_at_its_timeout() {
    let origin = agreeing([Step::ReadBytes(1), Step::send("x"), Step::Hang]);
    let lb = Lb::with(&[&origin], |config| config.settings.timeouts.tunnel = 500 * MS);
    let mut client = upgraded(&lb);
    let since = std::time::Instant::now();
    stays("it is open", 150 * MS, || client.is_open());
    client.send("y");
    assert_eq!(client.read_exactly(1), b"x");
    assert!(client.at_end());
    assert!(since.elapsed() >= 640 * MS, "a byte puts the end off: {:?}", since.elapsed());
    lb.wait_for_closed(Reason::TunnelIdle, 1);
    assert_eq!(origin.wait_for_ending(0), Ending::PeerClosed);
    until("the backend is free", || in_flight(&lb) == 0);
}

#[test]
fn other_timeouts_do_not_end_a_tunnel() {
    let origin = agreeing([Step::ReadBytes(1), Step::send("x"), Step::Hang]);
    let lb = Lb::with(&[&origin], |config| {
        let timeouts = &mut config.settings.timeouts;
        for timeout in [
            &mut timeouts.idle,
            &mut timeouts.head,
            &mut timeouts.first_byte,
            &mut timeouts.body,
            &mut timeouts.backend_idle,
        ] {
            *timeout = 250 * MS;
        }
    });
    let mut client = upgraded(&lb);
    stays("the tunnel is open", 600 * MS, || client.is_open());
    client.send("y");
    assert_eq!(client.read_exactly(1), b"x");
}

#[test]
fn a_tunnels_backend_connection_is_never_reused() {
    let origin = Origin::start(Script::sequence([
        Script::steps([Step::ReadHead, Step::send(AGREE), Step::ReadToEnd, Step::Close]),
        Script::named("next"),
    ]));
    let lb = Lb::with(&[&origin], |config| config.boot.workers = 1);
    let mut client = upgraded(&lb);
    client.shutdown_write();
    assert!(client.at_end());
    lb.wait_for_closed(Reason::TunnelDone, 1);
    assert_eq!(exchange(lb.address(), "GET / HTTP/1.1\r\nHost: h\r\n\r\n").text(), "next");
    assert_eq!((origin.connections(), lb.totals().backend_reuses), (2, 0));
}

#[test]
fn many_tunnels_live_side_by_side() {
    let origin = Origin::start(Script::serve_heads(|_, reply| {
        reply.send(AGREE);
        while let Some(bytes) = reply.read_bytes(4) {
            reply.send(bytes);
        }
    }));
    let lb = Lb::over(&[&origin]);
    let mut clients: Vec<Client> = (0..40).map(|_| upgraded(&lb)).collect();
    for round in 0..3 {
        for (number, client) in clients.iter_mut().enumerate() {
            client.send(format!("{number:02}.{round}"));
        }
        for (number, client) in clients.iter_mut().enumerate() {
            assert_eq!(client.read_exactly(4), format!("{number:02}.{round}").as_bytes());
        }
    }
    assert_eq!(in_flight(&lb), 40);
    drop(clients);
    lb.wait_for_closed(Reason::TunnelDone, 40);
}

#[test]
fn many_bytes_directly_after_the_request_or_the_101_are_not_lost() {
    let (up, down) = (vec![b'u'; 300_000], vec![b'd'; 300_000]);
    let origin = Origin::start([
        Step::ReadHead,
        Step::send([AGREE.as_bytes(), &down].concat()),
        Step::ReadBytes(up.len()),
        Step::send("end"),
        Step::ReadToEnd,
        Step::Close,
    ]);
    let lb = Lb::over(&[&origin]);
    let mut client = lb.connect();
    client.send([ASK.as_bytes(), &up].concat());
    client.read_head().expect_status(101);
    assert!(client.read_exactly(down.len()) == down);
    assert_eq!(client.read_exactly(3), b"end");
    client.shutdown_write();
    assert!(client.at_end());
    lb.wait_for_closed(Reason::TunnelDone, 1);
    assert!(origin.bytes_received()[0].ends_with(&up));
}
