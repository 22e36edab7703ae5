//! Membership, weights and algorithm that change while clients are busy: no request fails, and each
//! is counted once by its client, by the balancer and by one backend.

use crate::support::{Lb, TEST_TIMEOUT, config, stays, until};
use lb_threads::config::{Algorithm, BackendSpec, HostPort};
use lb_threads::upstream::backend::BackendId;
use lb_threads::upstream::registry::Registry;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

pub(crate) const CLIENTS: usize = 16;
const UPGRADE: &[u8] = b"Upgrade: websocket";
const AGREE: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
/// A cycle of six changes takes half a second: each kind of change comes twice a second.
const PAUSE: Duration = Duration::from_millis(83);

/// A backend that only counts. It keeps no record of its requests, as an `Origin` does: there are
/// hundreds of thousands of them. It agrees to upgrades, and returns each byte of them.
pub(crate) struct CountingBackend {
    listener: Arc<TcpListener>,
    pub(crate) served: Arc<AtomicUsize>,
}

impl CountingBackend {
    pub(crate) fn start() -> Self {
        let listener = Arc::new(TcpListener::bind("127.0.0.1:0").expect("a free port"));
        let served = Arc::<AtomicUsize>::default();
        let (accepting, counter) = (Arc::clone(&listener), Arc::clone(&served));
        thread::spawn(move || {
            while let Ok((stream, _)) = accepting.accept() {
                let counter = Arc::clone(&counter);
                thread::spawn(move || serve(stream, &counter));
            }
        });
        Self { listener, served }
    }

    fn spec(&self, weight: u32) -> BackendSpec {
        BackendSpec::new(self.authority(), weight)
    }

    pub(crate) fn authority(&self) -> HostPort {
        self.listener.local_addr().expect("it is bound").into()
    }
}

impl Drop for CountingBackend {
    fn drop(&mut self) {
        // Ends the accept. It cannot fail on a listening socket.
        let _ = rustix::net::shutdown(&*self.listener, rustix::net::Shutdown::Both);
    }
}

/// Reads a head that comes alone, to its end; none at the end of the connection.
fn read_head(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let (mut received, mut piece) = (Vec::new(), [0; 4096]);
    while !received.ends_with(b"\r\n\r\n") {
        match stream.read(&mut piece)? {
            0 if received.is_empty() => return Ok(None),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => received.extend_from_slice(&piece[..count]),
        }
    }
    Ok(Some(received))
}

fn serve(mut stream: TcpStream, served: &AtomicUsize) {
    while let Ok(Some(head)) = read_head(&mut stream) {
        if !head.starts_with(b"GET /health ") {
            served.fetch_add(1, Relaxed);
        }
        if head.windows(UPGRADE.len()).any(|part| part == UPGRADE) {
            let _ = stream.write_all(AGREE).and_then(|()| io::copy(&mut &stream, &mut &stream));
            return;
        }
        if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").is_err() {
            return;
        }
    }
    let _ = stream.shutdown(Shutdown::Both);
}

/// The state that all clients share.
#[derive(Debug)]
pub(crate) struct Run {
    /// When clients stop at the latest, so that a panic of the test ends.
    end: Instant,
    pub(crate) is_over: AtomicBool,
    pub(crate) served: AtomicUsize,
    failures: Mutex<Vec<String>>,
}

impl Run {
    /// A run that ends then at the latest.
    pub(crate) fn until(end: Instant) -> Self {
        let (is_over, served) = (AtomicBool::default(), AtomicUsize::default());
        Self { end, is_over, served, failures: Mutex::default() }
    }

    /// Sends GET and POST requests, most of them on a kept connection, until the run is over.
    pub(crate) fn be_busy(&self, address: SocketAddr, number: usize) {
        let mut kept = None;
        for turn in number.. {
            if self.is_over.load(Relaxed) || Instant::now() > self.end {
                return;
            }
            let (method, closes) = (["GET", "POST"][turn % 2], turn % 9 == 0);
            match exchange(&mut kept, address, method, closes) {
                Ok(()) => self.served.fetch_add(1, Relaxed),
                Err(error) => {
                    self.failures
                        .lock()
                        .expect("no holder panics")
                        .push(format!("{method}: {error}"));
                    return;
                }
            };
        }
    }

    pub(crate) fn failures(&self) -> Vec<String> {
        self.failures.lock().expect("no holder panics").clone()
    }
}

fn exchange(
    kept: &mut Option<TcpStream>,
    address: SocketAddr,
    method: &str,
    closes: bool,
) -> io::Result<()> {
    let mut stream = match kept.take() {
        Some(stream) => stream,
        None => TcpStream::connect(address)?,
    };
    stream.set_read_timeout(Some(TEST_TIMEOUT))?;
    let connection = if closes { "close" } else { "keep-alive" };
    let head = format!(
        "{method} / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nConnection: {connection}\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    let response = read_head(&mut stream)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    if !response.starts_with(b"HTTP/1.1 200 ") {
        return Err(io::Error::other(String::from_utf8_lossy(&response).into_owned()));
    }
    if !closes {
        *kept = Some(stream);
    }
    Ok(())
}

fn id(registry: &Registry, backend: &CountingBackend) -> BackendId {
    let authority = backend.authority();
    let mut statuses = registry.statuses().into_iter();
    let status = statuses.find(|status| status.backend.authority == authority);
    status.expect("it is a member").backend.id
}

/// One change of each kind, each followed by `pause`. The members before and after are the first
/// two; the third comes and goes.
fn change_all(lb: &Lb, backends: &[CountingBackend], round: usize, pause: impl Fn()) {
    let registry = lb.balancer().registry();
    let [kept, drained, guest] = backends else { panic!("there are three") };
    registry.add(&guest.spec(1));
    pause();
    registry.drain(id(registry, drained));
    pause();
    registry.add(&kept.spec(1 + round as u32 % 5));
    pause();
    registry.resume(id(registry, drained));
    pause();
    registry.remove(id(registry, guest));
    pause();
    lb.change(|settings| settings.algorithm = Algorithm::ALL[round % Algorithm::ALL.len()]);
    pause();
}

/// Changes everything for this long while clients are busy.
#[track_caller]
fn change_under_load(duration: Duration) {
    let backends: Vec<CountingBackend> = (0..3).map(|_| CountingBackend::start()).collect();
    let mut config = config(&[]);
    config.backends = backends[..2].iter().map(|backend| backend.spec(1)).collect();
    let lb = Lb::start(config);
    lb.wait_for_up(2);
    let started = Instant::now();
    let run = Run::until(started + duration + TEST_TIMEOUT);
    let rounds = thread::scope(|scope| {
        let clients = (0..CLIENTS).map(|number| {
            let (run, address) = (&run, lb.address());
            scope.spawn(move || run.be_busy(address, number))
        });
        let _clients: Vec<_> = clients.collect();
        until("the clients are busy", || run.served.load(Relaxed) > CLIENTS);
        let mut round = 0;
        while started.elapsed() < duration && run.failures().is_empty() {
            change_all(&lb, &backends, round, || stays("the pause is on", PAUSE, || true));
            round += 1;
        }
        run.is_over.store(true, Relaxed);
        round
    });
    let served: Vec<usize> = backends.iter().map(|one| one.served.load(Relaxed)).collect();
    assert_eq!(run.failures(), Vec::<String>::new(), "{run:?}, {rounds} rounds");
    let (sent, totals) = (run.served.into_inner(), lb.totals());
    println!("{sent} requests, {rounds} rounds of six changes, by backend: {served:?}");
    assert_eq!(served.iter().sum::<usize>(), sent, "each was executed once: {served:?}");
    assert_eq!((totals.requests, totals.retries), (sent as u64, 0));
    assert!(served.iter().all(|count| *count > 0), "each had its share: {served:?}");
    assert_eq!(lb.balancer().cluster().up(), 2);
}

#[test]
fn no_request_fails_while_everything_changes_twice_a_second() {
    change_under_load(Duration::from_secs(2));
}

#[test]
#[ignore = "the whole bar: a minute of full load"]
fn no_request_fails_in_a_minute_of_changes() {
    change_under_load(Duration::from_secs(60));
}
