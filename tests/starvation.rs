//! Fairness: beside idle, slow, stuck or greedy clients a fresh request is served at once.
//!
//! A fresh request has 50 ms, in the best of a few tries: a blocked worker would take seconds for
//! each.

use crate::support::{Client, Gate, Lb, Origin, Reply, Response, Script, Step, config, get, until};
use lb_threads::config::Config;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

const AT_ONCE: Duration = Duration::from_millis(50);
const TRIES: usize = 20;
const LARGE: usize = 10_000_000;

/// Responds at once, but for `/slow` after its gate, `/large` with 10 MB and `/endless` without an
/// end.
fn origin(gate: &Gate) -> Origin {
    let (gate, large) = (gate.clone(), vec![b'x'; LARGE]);
    Origin::start(Script::serve_heads(move |request, reply| match request.target.as_str() {
        "/slow" => {
            reply.step(&Step::WaitFor(gate.clone()));
            reply.ok("slow");
        }
        "/large" => {
            reply.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n"));
            reply.send(&large);
        }
        "/endless" => send_endlessly(
            reply,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"10000\r\n",
            b"\r\n",
        ),
        "/long" => send_endlessly(
            reply,
            "HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n",
            b"",
            b"",
        ),
        _ => reply.ok("fast"),
    }))
}

fn send_endlessly(reply: &mut Reply<'_>, head: &str, prefix: &[u8], suffix: &[u8]) {
    let piece = [prefix, &vec![b'x'; 0x10000], suffix].concat();
    reply.send(head);
    while !reply.has_ended() {
        reply.send(&piece);
    }
}

/// Sends a fresh request on a connection of its own, a few times, and expects one response at once.
#[track_caller]
fn expect_a_fresh_response_at_once(address: SocketAddr, is_right: impl Fn(&Response) -> bool) {
    let mut times = Vec::new();
    while times.len() < TRIES {
        let start = Instant::now();
        let response = get(address, "/fresh");
        assert!(is_right(&response), "{response:?}");
        times.push(start.elapsed());
        if start.elapsed() < AT_ONCE {
            return;
        }
    }
    panic!("a fresh request took {times:?}");
}

fn is_fast(response: &Response) -> bool {
    response.status == 200 && response.text() == "fast"
}

#[track_caller]
fn balancer(origin: &Origin, change: impl FnOnce(&mut Config)) -> Lb {
    let lb = Lb::with(&[origin], change);
    lb.wait_for_up(1);
    lb
}

#[test]
fn idle_clients_partial_heads_and_waiting_requests_block_no_worker() {
    const IDLE: usize = 1_000;
    const HALF: usize = 100;
    const WAITING: usize = 100;

    let gate = Gate::new();
    let origin = origin(&gate);
    let lb = balancer(&origin, |_| {});
    let idle = |_| {
        let mut client = lb.connect();
        client.get("/").expect_status(200);
        client
    };
    let idle: Vec<Client> = (0..IDLE).map(idle).collect();
    let sends = |bytes: &'static str| {
        let mut client = lb.connect();
        client.send(bytes);
        client
    };
    let _half: Vec<Client> = (0..HALF).map(|_| sends("GET /half HTTP/1.1\r\nHost: exa")).collect();
    let waiting: Vec<Client> =
        (0..WAITING).map(|_| sends("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")).collect();
    until("all requests are at the backend", || origin.count() == IDLE + WAITING);
    assert_eq!(lb.balancer().open_connections(), IDLE + HALF + WAITING);
    expect_a_fresh_response_at_once(lb.address(), is_fast);
    gate.open();
    for mut client in waiting {
        assert_eq!(client.read_response().text(), "slow");
    }
    for mut client in idle.into_iter().step_by(100) {
        assert_eq!(client.get("/").text(), "fast", "the idle ones were not forgotten");
    }
}

#[test]
fn slow_readers_of_large_responses_block_no_worker() {
    let origin = origin(&Gate::new());
    let lb = balancer(&origin, |_| {});
    let reader = |_| {
        let mut client = lb.connect();
        client.send("GET /large HTTP/1.1\r\nHost: x\r\n\r\n");
        client
    };
    let readers: Vec<Client> = (0..20).map(reader).collect();
    origin.wait_for_requests(readers.len());
    let mut last = (0, Instant::now());
    until("nothing flows any more", || {
        let sent = lb.totals().bytes_sent;
        if sent != last.0 {
            last = (sent, Instant::now());
        }
        last.1.elapsed() > Duration::from_millis(100)
    });
    assert!(lb.totals().bytes_sent < (readers.len() * LARGE) as u64, "they are slow");
    expect_a_fresh_response_at_once(lb.address(), is_fast);
    for mut reader in readers.into_iter().take(2) {
        assert_eq!(reader.read_response().body.len(), LARGE, "slow, but not lost");
    }
}

/// Reads as fast as it can for as long as `meanwhile` takes.
#[track_caller]
fn while_reading(address: SocketAddr, target: &str, meanwhile: impl FnOnce()) {
    let read = AtomicU64::new(0);
    let mut stream = TcpStream::connect(address).expect("the balancer accepts");
    let ending = Closes(stream.try_clone().expect("a socket can be cloned"));
    write!(stream, "GET {target} HTTP/1.1\r\nHost: x\r\n\r\n").expect("the balancer reads");
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut piece = vec![0; 0x40000];
            while let Ok(count @ 1..) = stream.read(&mut piece) {
                read.fetch_add(count as u64, Relaxed);
            }
        });
        let _ending = ending;
        until("it flows", || read.load(Relaxed) > 20_000_000);
        meanwhile();
    });
}

/// Closes a connection, and so ends the threads that use it, even if the test fails before.
struct Closes(TcpStream);

impl Drop for Closes {
    fn drop(&mut self) {
        // Fails only if it is closed already.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

/// A backend that discards uploads, faster than a scripted origin, which records them.
struct Sink {
    address: SocketAddr,
    listener: TcpListener,
}

impl Sink {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port can be bound");
        let address = listener.local_addr().expect("it is bound");
        let accepting = listener.try_clone().expect("a socket can be cloned");
        thread::spawn(move || {
            for stream in accepting.incoming().map_while(Result::ok) {
                thread::spawn(move || Self::serve(stream));
            }
        });
        Self { address, listener }
    }

    fn serve(mut stream: TcpStream) -> io::Result<u64> {
        let mut piece = vec![0; 0x40000];
        let count = stream.read(&mut piece)?;
        if piece[..count].starts_with(b"GET") {
            stream.write_all(
                b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nfast",
            )?;
            return Ok(0);
        }
        let mut discarded = 0;
        while let count @ 1.. = stream.read(&mut piece)? {
            discarded += count as u64;
        }
        Ok(discarded)
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        // Wakes the accept. It cannot fail on a listening socket.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
    }
}

#[test]
fn an_endless_download_starves_no_other_session() {
    let origin = origin(&Gate::new());
    for target in ["/endless", "/long"] {
        let lb = balancer(&origin, |config| config.boot.workers = 1);
        while_reading(lb.address(), target, || {
            expect_a_fresh_response_at_once(lb.address(), is_fast);
        });
    }
}

#[test]
fn an_endless_upload_starves_no_other_session() {
    let sink = Sink::start();
    let mut config = config(&[sink.address]);
    config.boot.workers = 1;
    config.settings.health.checks = false;
    let lb = Lb::start(config);
    let sent = AtomicU64::new(0);
    let mut stream = TcpStream::connect(lb.address()).expect("the balancer accepts");
    let ending = Closes(stream.try_clone().expect("a socket can be cloned"));
    thread::scope(|scope| {
        scope.spawn(|| {
            let _ = stream
                .write_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000000\r\n\r\n");
            while let Ok(count @ 1..) = stream.write(&[b'x'; 0x40000]) {
                sent.fetch_add(count as u64, Relaxed);
            }
        });
        let _ending = ending;
        until("it flows", || sent.load(Relaxed) > 20_000_000);
        expect_a_fresh_response_at_once(lb.address(), is_fast);
    });
}

#[test]
fn a_pipeline_longer_than_the_buffer_is_served_completely() {
    const REQUESTS: usize = 2_000;

    let origin = origin(&Gate::new());
    let lb = balancer(&origin, |_| {});
    let mut pipeline: String =
        (0..REQUESTS).map(|number| format!("GET /{number} HTTP/1.1\r\nHost: x\r\n\r\n")).collect();
    pipeline.push_str("GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let responses = crate::support::raw_exchange(lb.address(), pipeline);
    assert_eq!(String::from_utf8_lossy(&responses).matches("\r\n\r\nfast").count(), REQUESTS + 1);
    let came: Vec<String> =
        origin.requests().into_iter().map(|request| request.target).take(3).collect();
    assert_eq!(
        (came, origin.count()),
        (["/0", "/1", "/2"].map(str::to_owned).to_vec(), REQUESTS + 1)
    );
}

#[test]
fn endless_pipelined_requests_without_a_backend_starve_no_other_session() {
    // No backend is up: each response is made at once, so only the budget of a step can end the
    // greedy session's step.
    let dead = Origin::named("dead");
    dead.stop();
    let lb = Lb::with(&[&dead], |config| config.boot.workers = 1);
    let requests = "GET /greedy HTTP/1.1\r\nHost: x\r\n\r\n".repeat(2_000);
    let stream = TcpStream::connect(lb.address()).expect("the balancer accepts");
    let cloned = || stream.try_clone().expect("a socket can be cloned");
    let (mut sending, mut reading, ending) = (cloned(), cloned(), Closes(cloned()));
    thread::scope(|scope| {
        scope.spawn(move || io::copy(&mut reading, &mut io::sink()));
        scope.spawn(move || while sending.write_all(requests.as_bytes()).is_ok() {});
        let _ending = ending;
        until("it flows", || lb.totals().requests > 5_000);
        expect_a_fresh_response_at_once(lb.address(), |response| response.status == 503);
    });
}
