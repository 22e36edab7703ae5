//! Hostile clients of the control API: none hangs or ends it, and the data port serves all the
//! while. The framing cases of the data port are in `tests/framing`, on both ports.

use super::{SetAtDrop, list, post_bytes, sent};
use crate::support::{Client, Gate, Lb, Next, Origin, get, until, with_admin};
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const GET: &str = "GET /_control/list HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Runs this while a client of the data port gets response after response.
fn while_serving(lb: &Lb, hostile: impl FnOnce()) {
    let (ended, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let serve = || {
            let mut client = lb.connect();
            while !ended.load(Ordering::Relaxed) {
                assert_eq!(client.get("/").text(), "served");
                served.fetch_add(1, Ordering::Relaxed);
            }
        };
        let client = scope.spawn(serve);
        let _end = SetAtDrop(&ended);
        hostile();
        let before = served.load(Ordering::Relaxed);
        until("the data port still serves", || {
            client.is_finished() || served.load(Ordering::Relaxed) > before + 10
        });
    });
}

fn lb() -> (Origin, Lb) {
    let origin = Origin::responding("served");
    let lb = Lb::controlled(&[&origin]);
    (origin, lb)
}

/// Waits until the control API serves again.
#[track_caller]
fn until_served(admin: SocketAddr) {
    until("the control API serves", || {
        let mut client = Client::connect(admin);
        client.try_send(GET).is_ok() && client.try_response().is_some_and(|one| one.status == 200)
    });
}

/// A listener that responds to no health check, so that an addition waits for it.
fn silent() -> TcpListener {
    TcpListener::bind(("127.0.0.1", 0)).expect("a port is free")
}

/// Starts the addition of a silent backend, whose request is being served once this returns.
fn start_addition(lb: &Lb, backend: &TcpListener) -> Client {
    let address = backend.local_addr().expect("it listens");
    let mut client = Client::connect(lb.admin());
    client.send(post_bytes("/_control/add", format!("{{\"url\": \"{address}\"}}").as_bytes()));
    let is_member = || {
        let statuses = lb.balancer().registry().statuses();
        statuses.iter().any(|one| one.backend.authority.literal() == Some(address))
    };
    until("it is a member, and is being checked", is_member);
    client
}

/// A balancer whose additions of silent backends last until these end.
fn lb_with_long_checks() -> (Origin, Lb) {
    let origin = Origin::responding("served");
    let lb = Lb::with(&[&origin], |config| {
        with_admin(config);
        config.settings.health.timeout = Some(Duration::from_secs(30));
    });
    (origin, lb)
}

#[test]
fn beyond_32_requests_at_once_a_client_gets_503_at_once_and_no_thread() {
    let (_origin, lb) = lb_with_long_checks();
    while_serving(&lb, || {
        let backends: Vec<TcpListener> = (0..32).map(|_| silent()).collect();
        let additions: Vec<Client> =
            backends.iter().map(|backend| start_addition(&lb, backend)).collect();
        let started = Instant::now();
        until("no connection is new", || started.elapsed() > Duration::from_millis(300));
        for _ in 0..3 {
            let (response, json) = sent(lb.admin(), GET);
            assert_eq!((response.status, &json["code"]), (503, &"overload".into()));
            assert_eq!(response.header("Retry-After"), Some("1"));
        }
        drop(backends);
        for mut client in additions {
            assert_eq!(client.read_response().status, 201, "those within the limit are served");
        }
        until_served(lb.admin());
    });
}

#[test]
fn idle_and_slow_clients_keep_no_operator_out_nor_end_a_request_that_is_being_served() {
    let (_origin, lb) = lb_with_long_checks();
    let backend = silent();
    let mut addition = start_addition(&lb, &backend);
    let half_body = "POST /_control/add HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{";
    let slow = ["", "GET /_control/list HTTP/1.1\r\nX-Drip: ", half_body, GET];
    let mut crowd: Vec<Client> = Vec::new();
    let start = Instant::now();
    for bytes in slow.iter().cycle().take(31) {
        let mut client = Client::connect(lb.admin());
        client.send(bytes);
        crowd.push(client);
    }
    for _ in 0..3 {
        until_served(lb.admin());
    }
    assert!(start.elapsed() < Duration::from_secs(4), "long before the clients' time is over");
    drop(backend);
    assert_eq!(addition.read_response().status, 201);
}

#[test]
fn a_thousand_connections_at_once_leave_it_serving() {
    let (_origin, lb) = lb();
    while_serving(&lb, || {
        let crowd: Vec<TcpStream> = (0..1000)
            .map(|_| TcpStream::connect(lb.admin()).expect("the backlog takes it"))
            .collect();
        drop(crowd);
        until_served(lb.admin());
    });
}

#[test]
fn a_slow_head_gets_408_after_5_seconds_however_it_drips() {
    let (_origin, lb) = lb();
    let start = Instant::now();
    let mut client = Client::connect(lb.admin());
    client.send("GET /_control/list HTTP/1.1\r\nX-Drip: ");
    until("it is closed", || {
        let _ = client.try_send("a");
        !client.is_open()
    });
    let response = client.read_response();
    assert_eq!((response.status, response.header("X-LB-Error")), (408, Some("request_timeout")));
    assert!((4900..8000).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
}

#[test]
fn a_slow_body_gets_408_after_5_seconds_and_a_silent_connection_is_closed() {
    let (_origin, lb) = lb();
    let start = Instant::now();
    let mut silent = Client::connect(lb.admin());
    let mut client = Client::connect(lb.admin());
    client.send("POST /_control/add HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{");
    let response = client.read_response();
    assert_eq!((response.status, response.header("X-LB-Error")), (408, Some("request_timeout")));
    assert_eq!(silent.comes_next(), Next::End);
    assert!((4900..8000).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
}

#[test]
fn garbage_and_huge_heads_get_one_clear_error() {
    let (_origin, lb) = lb();
    while_serving(&lb, || {
        let huge =
            format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "a".repeat(1 << 20));
        let tls = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec();
        let binary: Vec<u8> = (0..=255).cycle().take(5000).collect();
        let http2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        for (bytes, status) in [
            (huge.into_bytes(), 431),
            (tls, 400),
            (binary, 400),
            (http2, 505),
            (b"\n".to_vec(), 400),
        ] {
            let (response, json) = sent(lb.admin(), &bytes);
            assert_eq!(response.status, status, "{json}");
        }
    });
    assert_eq!(list(&lb)["backends"].as_array().map(Vec::len), Some(1));
}

#[test]
fn random_bytes_never_hang_it() {
    let (_origin, lb) = lb();
    let mut rng = fastrand::Rng::with_seed(11);
    let parts: [&[u8]; 8] = [
        b"POST /_control/add HTTP/1.1\r\n",
        b"Host: localhost\r\n",
        b"Content-Type: application/json\r\n",
        b"Content-Length: 7\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"\r\n",
        b"{\"url\":5}",
        b"\x00\xff",
    ];
    while_serving(&lb, || {
        for _ in 0..200 {
            let pieces = (0..rng.usize(1..8)).map(|_| parts[rng.usize(..parts.len())]);
            let bytes: Vec<u8> = pieces.collect::<Vec<_>>().concat();
            let mut client = Client::connect(lb.admin());
            client.send(&bytes);
            // The end of the input, so that nothing is waited for.
            client.shutdown_write();
            client.read_until_closed();
        }
        until_served(lb.admin());
    });
}

#[test]
fn half_closed_pipelined_and_old_clients_are_served() {
    let (_origin, lb) = lb();
    let mut client = Client::connect(lb.admin());
    client.send(GET.repeat(20));
    client.shutdown_write();
    for _ in 0..20 {
        assert_eq!(client.read_response().status, 200);
    }
    assert!(client.at_end());
    let old = "GET /_control/list HTTP/1.0\r\nHost: localhost\r\n\r\n";
    let mut client = Client::connect(lb.admin());
    client.send(old);
    assert_eq!(client.read_response().status, 200);
    assert!(client.at_end(), "HTTP/1.0 closes");
    let mut client = Client::connect(lb.admin());
    for _ in 0..2 {
        client.send(old.replace("\r\n\r\n", "\r\nConnection: keep-alive\r\n\r\n"));
        assert_eq!(client.read_response().header("Connection"), Some("keep-alive"));
    }
}

#[test]
fn resets_and_clients_that_read_nothing_do_not_use_it_up() {
    let (_origin, lb) = lb();
    while_serving(&lb, || {
        for _ in 0..100 {
            let mut client = Client::connect(lb.admin());
            client.send(GET);
            client.reset();
        }
        let mut deaf: Vec<Client> = (0..8).map(|_| Client::connect(lb.admin())).collect();
        for client in &mut deaf {
            client.send(GET.repeat(50));
        }
        until_served(lb.admin());
    });
}

#[test]
fn it_responds_within_50_ms_while_workers_are_busy_and_the_limit_of_connections_is_reached() {
    let gate = Gate::new();
    let waits = gate.clone();
    let origin = Origin::serve(move |_, reply| {
        waits.wait();
        reply.ok(vec![b'x'; 1 << 20]);
    });
    let lb = Lb::with(&[&origin], |config| {
        with_admin(config);
        config.settings.limits.max_connections = 8;
    });
    let mut clients: Vec<Client> = (0..8).map(|_| lb.connect()).collect();
    clients.iter_mut().for_each(|one| one.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n".repeat(20)));
    origin.wait_for_requests(8);
    assert_eq!(get(lb.address(), "/").status, 503, "the limit is reached");
    gate.open();
    let ended = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = clients
        .iter()
        .map(|client| {
            let (mut stream, ended) = (client.stream(), Arc::clone(&ended));
            thread::spawn(move || {
                let mut piece = vec![0; 1 << 16];
                while !ended.load(Ordering::Relaxed) && matches!(stream.read(&mut piece), Ok(1..)) {
                }
            })
        })
        .collect();
    let mut admin = Client::connect(lb.admin());
    let mut times: Vec<Duration> = (0..40)
        .map(|_| {
            let start = Instant::now();
            admin.send(GET);
            assert_eq!(admin.read_response().status, 200);
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    // The machine may be busy with other tests: nine of ten.
    assert!(times[36] < Duration::from_millis(50), "{times:?}");
    ended.store(true, Ordering::Relaxed);
    drop(clients);
    readers.into_iter().for_each(|reader| reader.join().expect("it does not panic"));
}

#[test]
fn an_idle_connection_is_kept_for_5_seconds() {
    let (_origin, lb) = lb();
    let mut client = Client::connect(lb.admin());
    client.send(GET);
    client.read_response();
    let start = Instant::now();
    until("it is closed", || !client.is_open());
    assert!((4900..8000).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
    assert!(client.at_end());
}
