//! The access records of exchanges and tunnels.

use super::parts::attempt_at;
use super::scenes::{request, response};
use super::*;
use crate::session::attempt::Reuse;
use crate::upstream::backend::Backend;

fn exchange(session: &Session) -> &Exchange {
    let Phase::Exchange(exchange) = &session.phase else { panic!("a request is served") };
    exchange
}

#[test]
fn the_record_has_the_time_in_the_queue() {
    let (_listener, address) = listen();
    let mut worker = TestWorker::new(&[address], false);
    let (sender, grants) = crossbeam_channel::unbounded();
    worker.resources.mailbox = Mailbox::new(sender, worker.resources.local.poller.waker());
    let mut settings = (*worker.resources.shared.settings).clone();
    settings.limits.max_requests_per_backend = Some(1);
    worker.resources.shared.registry.apply_settings(&settings);
    let earlier = attempt_at(&mut worker);
    let (socket, ours) = pair();
    Peer { socket: socket.try_clone().unwrap(), is_masked: false }.write(&request("GET", "", b""));
    let mut session = session(ours);
    let ended = worker.run_until(&mut session, |session| session.stage() == "queue");
    assert_eq!(ended, None);
    drop(earlier);
    assert!(session.grant(grants.try_recv().unwrap()));
    worker.resources.local.clock.update();
    session.step(&mut worker.context());
    let record = exchange(&session).access_record(None, &session.client, Instant::now());
    assert!(session.stage() == "connect" && record.data.queued > Duration::ZERO, "{record}");
}

#[test]
fn a_request_that_times_out_in_the_queue_has_its_time_there_in_its_record() {
    let (_listener, address) = listen();
    let mut worker = TestWorker::new(&[address], false);
    let mut settings = (*worker.resources.shared.settings).clone();
    settings.limits.max_requests_per_backend = Some(1);
    settings.timeouts.queue = Duration::from_millis(10);
    worker.resources.shared.registry.apply_settings(&settings);
    worker.resources.shared.settings = Arc::new(settings);
    let _earlier = attempt_at(&mut worker);
    let (socket, ours) = pair();
    Peer { socket: socket.try_clone().unwrap(), is_masked: false }.write(&request("GET", "", b""));
    let mut session = session(ours);
    worker.run_until(&mut session, |session| session.stage() == "queue");
    let Phase::Exchange(exchange) = &mut session.phase else { panic!("a request is served") };
    let later = Instant::now() + TEST_TIMEOUT;
    let mut cx = worker.context();
    cx.now = later;
    assert!(matches!(exchange.step(&mut session.client, &mut cx), Flow::Closing(_)));
    exchange.record(None, &session.client, &mut cx);
    let record = exchange.access_record(None, &session.client, later);
    assert!(record.data.queued > Duration::from_millis(10), "{record}");
}

#[test]
fn bytes_that_were_not_sent_before_the_end_of_the_connection_are_not_counted() {
    let chunk = [format!("{:x}\r\n", 8 << 20).as_bytes(), &vec![b'x'; 8 << 20]].concat();
    let long = response("Transfer-Encoding: chunked\r\n", &chunk);
    let (address, served) = origin(false, vec![(0, long)]);
    let (socket, ours) = pair();
    Peer { socket: socket.try_clone().unwrap(), is_masked: false }.write(&request("GET", "", b""));
    let mut worker = TestWorker::new(&[address], false);
    let mut session = session(ours);
    worker.run_until(&mut session, |session| !session.client.output.is_empty());
    let (sent, unsent) = (session.client.sent, session.client.output.len() as u64);
    let bytes_out = |reason| {
        exchange(&session).access_record(reason, &session.client, Instant::now()).bytes_out
    };
    assert_eq!(bytes_out(Some(Reason::SlowReader)), sent);
    assert_eq!(bytes_out(None), sent + unsent);
    session.close(Reason::SlowReader, &mut worker.context());
    served.join().unwrap();
}

#[test]
fn the_record_of_a_tunnel_counts_the_bytes_of_its_last_step() {
    let (listener, address) = listen();
    let mut worker = TestWorker::new(&[address], false);
    let mut attempt = attempt_at(&mut worker);
    attempt.open(Reuse::Never, &mut worker.context()).unwrap();
    let (mut origin, _) = listener.accept().unwrap();
    let (mut theirs, ours) = pair();
    let permit = permit(&ours);
    let mut client = Client::new(ours, permit);
    origin.write_all(b"down").unwrap();
    theirs.write_all(b"upload").unwrap();
    for socket in [&origin, &theirs] {
        socket.shutdown(std::net::Shutdown::Write).unwrap();
    }
    let (poller, mut events) = (&mut worker.resources.local.poller, Vec::new());
    poller.register(&client.stream, Source::Client(worker.token)).unwrap();
    poller.wait(&mut events, Some(TEST_TIMEOUT), || true).unwrap();
    for event in events {
        match event.source {
            Source::Backend(token) => {
                worker.resources.connections.note(token, event, Instant::now());
            }
            _ => client.stream.note(event),
        }
    }
    assert_eq!(attempt.poll_connect(&mut worker.context()), Ok(None));
    let data = ExchangeData::new(client.peer(), RequestId::generate(1), Instant::now());
    let mut tunnel = Tunnel::new(attempt, 1, data, &worker.context());
    assert_eq!(tunnel.step(&mut client, &mut worker.context()), Err(Reason::TunnelDone));
    let record = tunnel.access_record(Reason::TunnelDone, &client, Instant::now());
    assert_eq!((record.data.bytes_in, record.bytes_out), (6, 4));
}

#[test]
fn the_record_of_a_tunnel_counts_the_failed_attempts_before_it() {
    let switch = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                   Connection: Upgrade\r\n\r\n";
    let (one, served) = origin(false, vec![(0, b"garbage\r\n\r\n".to_vec())]);
    let (two, serves) = origin(false, vec![(0, switch.to_vec())]);
    let (socket, ours) = pair();
    let mut client = Peer { socket, is_masked: false };
    client.write(b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n");
    client.socket.shutdown(std::net::Shutdown::Write).unwrap();
    let mut worker = TestWorker::new(&[one, two], false);
    let mut session = session(ours);
    assert_eq!(worker.run(&mut session), Reason::TunnelDone);
    let Phase::Tunnel(tunnel) = &session.phase else { panic!("it was upgraded") };
    let record = tunnel.access_record(Reason::TunnelDone, &session.client, Instant::now());
    assert_eq!((record.attempts, record.data.status), (2, Some(101)));
    served.join().unwrap();
    serves.join().unwrap();
}

/// Checks the record of a PUT that fails at one backend and gets `last` from another.
fn check_the_record_of_a_retried_put(last: &[u8], status: u16, cause: Option<Cause>) {
    let (one, served) = origin(false, vec![(5, b"garbage\r\n\r\n".to_vec())]);
    let (listener, two) = listen();
    let (socket, ours) = pair();
    let sent = request("PUT", "Content-Length: 5\r\n", b"hello");
    Peer { socket: socket.try_clone().unwrap(), is_masked: false }.write(&sent);
    let mut worker = TestWorker::new(&[one, two], false);
    let mut session = session(ours);
    worker.run_until(&mut session, |session| {
        let attempts = || {
            let record = exchange(session).access_record(None, &session.client, Instant::now());
            record.attempts
        };
        session.stage() == "await response" && attempts() == 2
    });
    served.join().unwrap();
    let (mut second, _) = listener.accept().unwrap();
    second.write_all(last).unwrap();
    let Phase::Exchange(exchange) = &mut session.phase else { panic!("a request is served") };
    let mut flow = Flow::BudgetUsed;
    while !matches!(flow, Flow::Closing(_) | Flow::Close(_)) {
        assert!(worker.note_backend_events());
        flow = exchange.step(&mut session.client, &mut worker.context());
    }
    exchange.record(None, &session.client, &mut worker.context());
    let record = exchange.access_record(None, &session.client, Instant::now());
    let data = record.data;
    assert_eq!((record.attempts, data.bytes_in), (2, sent.len() as u64), "{record}");
    assert_eq!(
        record.backend.and_then(|backend| backend.addresses.in_use()),
        Some(two),
        "{record}"
    );
    assert_eq!((data.status, data.cause), (Some(status), cause), "{record}");
    assert_eq!((data.first_byte.is_some(), record.reason), (cause.is_none(), None), "{record}");
    assert!(data.request.is_none() && data.queued.is_zero(), "{record}");
}

#[test]
fn the_record_of_a_retried_put_counts_its_attempts_and_its_body_once() {
    let served = response("Content-Length: 3\r\n", b"two");
    check_the_record_of_a_retried_put(&served, 200, None);
    check_the_record_of_a_retried_put(b"garbage\r\n\r\n", 502, Some(Cause::BadResponse));
}

#[test]
fn a_request_to_the_control_api_is_recorded_with_the_backend_control() {
    // Connections succeed, and no response comes.
    let (_listeners, [of_pool, of_control]) = {
        let (pool, control) = (listen(), listen());
        ([pool.0, control.0], [pool.1, control.1])
    };
    for (target, backend) in [("/_control/list", None), ("/_control", Some(of_pool))] {
        let mut worker = TestWorker::new(&[of_pool], false);
        worker.resources.shared.control = Some(Arc::new(Backend::control(of_control)));
        let (socket, ours) = pair();
        let head = format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n");
        Peer { socket: socket.try_clone().unwrap(), is_masked: false }.write(head.as_bytes());
        let mut session = session(ours);
        worker.run_until(&mut session, |session| session.stage() == "await response");
        let record = exchange(&session).access_record(None, &session.client, Instant::now());
        let name = record.backend.map(|backend| backend.name.clone());
        let expected = backend.map_or("control".to_owned(), |address| address.to_string());
        assert_eq!((name, record.attempts), (Some(expected), 1));
    }
}
