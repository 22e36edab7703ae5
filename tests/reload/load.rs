//! Reloads every 100 ms while clients are busy and WebSockets are open: no request is lost, and no
//! WebSocket is cut.

use super::Configured;
use crate::change_under_load::{CLIENTS, CountingBackend, Run};
use crate::support::{Client, TEST_TIMEOUT, stays, until};
use lb_threads::reason::Reason;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_millis(100);
const WEBSOCKETS: usize = 8;
const ASK: &str = "GET /socket HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
/// Settings that come and go.
const MORE: [&str; 4] = [
    "",
    ", \"algorithm\": \"least_conn\", \"body_timeout\": \"20s\"",
    ", \"algorithm\": \"p2c\", \"rise\": 2, \"trusted_proxies\": [\"10.0.0.0/8\"]",
    ", \"algorithm\": \"weighted\", \"max_connections\": 5000, \"health_timeout\": \"1s\"",
];

/// The file of this round: either pair of backends, so that each round replaces all members.
fn text(backends: &[CountingBackend], round: usize) -> String {
    let (pair, weight) = (&backends[round % 2 * 2..][..2], 1 + round % 5);
    let servers: Vec<String> =
        pair.iter().map(|backend| format!("\"{}={weight}\"", backend.authority())).collect();
    let (servers, more) = (servers.join(", "), MORE[round % MORE.len()]);
    format!("{{\"port\": 0, \"health_check_interval\": 1, \"servers\": [{servers}]{more}}}")
}

#[track_caller]
fn echo(sockets: &mut [Client], round: usize) {
    let byte = [b'a' + (round % 26) as u8];
    for socket in sockets.iter_mut() {
        socket.send(byte);
    }
    for socket in sockets {
        assert_eq!(socket.read_exactly(1), byte, "round {round}");
    }
}

/// Reloads for this long while clients are busy.
#[track_caller]
fn reload_under_load(duration: Duration) {
    let backends: Vec<CountingBackend> = (0..4).map(|_| CountingBackend::start()).collect();
    let configured = Configured::start(&text(&backends, 0));
    configured.lb.wait_for_up(2);
    let started = Instant::now();
    let run = Run::until(started + duration + TEST_TIMEOUT);
    let mut sockets = Vec::new();
    let (rounds, slowest) = thread::scope(|scope| {
        for number in 0..CLIENTS {
            let (run, address) = (&run, configured.lb.address());
            scope.spawn(move || run.be_busy(address, number));
        }
        until("the clients are busy", || run.served.load(Relaxed) > CLIENTS);
        let (mut round, mut slowest) = (0, Duration::ZERO);
        while started.elapsed() < duration && run.failures().is_empty() {
            if sockets.len() < WEBSOCKETS {
                let mut socket = configured.lb.connect();
                socket.send(ASK);
                socket.read_head().expect_status(101);
                sockets.push(socket);
            }
            round += 1;
            let before = Instant::now();
            let effects = configured.reload(&text(&backends, round));
            slowest = slowest.max(before.elapsed());
            assert_eq!(effects.changes[0], "servers: +2 -2", "{effects:?}");
            echo(&mut sockets, round);
            stays("the pause is on", PAUSE, || true);
        }
        run.is_over.store(true, Relaxed);
        (round, slowest)
    });
    let served: Vec<usize> = backends.iter().map(|one| one.served.load(Relaxed)).collect();
    assert_eq!(run.failures(), Vec::<String>::new(), "{rounds} reloads");
    let (sent, totals) = (run.served.load(Relaxed) + sockets.len(), configured.lb.totals());
    println!("{sent} requests, {rounds} reloads, the slowest {slowest:?}, by backend: {served:?}");
    assert_eq!(served.iter().sum::<usize>(), sent, "each was executed once: {served:?}");
    assert_eq!((totals.requests, totals.retries), (sent as u64, 0));
    assert!(served.iter().all(|count| *count > 0), "each had its share: {served:?}");
    echo(&mut sockets, rounds);
    assert_eq!(configured.lb.totals().closed(Reason::BackendRemoved), 0);
    let reloads = configured.lb.balancer().reloads().expect("there is a file");
    assert_eq!((reloads.succeeded, reloads.failed), (rounds as u64, 0));
}

#[test]
fn three_seconds_of_reloads_lose_no_request_and_cut_no_websocket() {
    reload_under_load(Duration::from_secs(3));
}

#[test]
#[ignore = "the whole bar: half a minute of full load"]
fn half_a_minute_of_reloads_loses_no_request_and_cuts_no_websocket() {
    reload_under_load(Duration::from_secs(30));
}
