//! Whole exchanges, over plain sockets and over masked ones: the session is the same.

use super::*;

/// The outcome of a request.
struct Scene {
    /// The bytes that the origin has received.
    received: Vec<u8>,
    /// The bytes that the client has received.
    response: Vec<u8>,
    reason: Reason,
    local: Local,
}

/// Runs a session with this request; the origin responds after `length` bytes of body.
fn play(is_masked: bool, request: &[u8], length: usize, response: &[u8]) -> Scene {
    let (address, served) = origin(is_masked, vec![(length, response.to_vec())]);
    let (socket, ours) = pair();
    let request = request.to_vec();
    let client = thread::spawn(move || {
        let mut peer = Peer { socket, is_masked };
        let mut sender = Peer { socket: peer.socket.try_clone().unwrap(), is_masked };
        let sending = thread::spawn(move || sender.write(&request));
        let response = peer.read_until(|_| false);
        sending.join().unwrap();
        response
    });
    let mut worker = TestWorker::new(&[address], is_masked);
    let mut session = session(ours);
    let reason = worker.run(&mut session);
    session.close(Reason::ClientClosed, &mut worker.context());
    let received = served.join().unwrap().remove(0);
    Scene { received, response: client.join().unwrap(), reason, local: worker.resources.local }
}

pub(super) fn request(method: &str, framing: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("{method} /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{framing}\r\n");
    [head.as_bytes(), body].concat()
}

pub(super) fn response(framing: &str, body: &[u8]) -> Vec<u8> {
    [format!("HTTP/1.1 200 OK\r\n{framing}\r\n").as_bytes(), body].concat()
}

#[test]
fn bodies_of_every_framing_pass_both_ways() {
    for is_masked in [false, true] {
        let upload = vec![b'u'; 100_000];
        let sent = request("PUT", "Content-Length: 100000\r\n", &upload);
        let scene =
            play(is_masked, &sent, upload.len(), &response("Content-Length: 5\r\n", b"hello"));
        assert_eq!(body_of(&scene.received), Some(&upload[..]), "masked: {is_masked}");
        assert_eq!(
            (body_of(&scene.response), scene.reason),
            (Some(&b"hello"[..]), Reason::ClosedAfterResponse)
        );

        let sent = request("PUT", "Transfer-Encoding: chunked\r\n", b"3;x\r\nabc\r\n0\r\n\r\n");
        let chunked = response("Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n0\r\n\r\n");
        let scene = play(is_masked, &sent, b"3\r\nabc\r\n0\r\n\r\n".len(), &chunked);
        assert_eq!(body_of(&scene.received), Some(&b"3\r\nabc\r\n0\r\n\r\n"[..]));
        assert_eq!(body_of(&scene.response), Some(&b"5\r\nhello\r\n0\r\n\r\n"[..]));

        let scene = play(is_masked, &request("GET", "", b""), 0, &response("", b"until close"));
        assert_eq!(
            body_of(&scene.response),
            Some(&b"b\r\nuntil close\r\n0\r\n\r\n"[..]),
            "masked: {is_masked}"
        );
    }
}

#[test]
fn a_long_body_passes_with_or_without_a_pipe_and_every_pipe_is_returned() {
    for is_masked in [false, true] {
        let body: Vec<u8> = (0..3_000_000_u32).map(|index| (index % 251) as u8).collect();
        let framing = format!("Content-Length: {}\r\n", body.len());
        let mut scene = play(is_masked, &request("GET", "", b""), 0, &response(&framing, &body));
        assert!(body_of(&scene.response) == Some(&body[..]), "masked: {is_masked}");
        let pipes: Vec<_> = std::iter::from_fn(|| scene.local.pipes.get()).collect();
        assert_eq!(pipes.len(), 4, "every pipe was returned");
    }
}

#[test]
fn a_rejected_request_gets_an_error_and_reaches_no_backend() {
    for is_masked in [false, true] {
        let (socket, ours) = pair();
        let mut client = Peer { socket, is_masked };
        client.write(b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\n");
        client.socket.shutdown(std::net::Shutdown::Write).unwrap();
        let mut worker = TestWorker::new(&[], is_masked);
        let mut session = session(ours);
        assert_eq!(worker.run(&mut session), Reason::Rejected);
        session.close(Reason::ClientClosed, &mut worker.context());
        let response = client.read_until(|_| false);
        assert!(
            response.starts_with(b"HTTP/1.1 400 ") && response.ends_with(b"given once\n"),
            "{response:?}"
        );
    }
}

#[test]
fn a_failed_attempt_is_followed_by_another() {
    let (one, served) = origin(false, vec![(0, b"garbage\r\n\r\n".to_vec())]);
    let (two, serves) = origin(false, vec![(0, response("Content-Length: 3\r\n", b"two"))]);
    let (socket, ours) = pair();
    let mut client = Peer { socket, is_masked: false };
    client.write(&request("GET", "", b""));
    let mut worker = TestWorker::new(&[one, two], false);
    let mut session = session(ours);
    assert_eq!(worker.run(&mut session), Reason::ClosedAfterResponse);
    session.close(Reason::ClientClosed, &mut worker.context());
    assert_eq!(body_of(&client.read_until(|_| false)), Some(&b"two"[..]));
    assert_eq!(served.join().unwrap(), serves.join().unwrap(), "the same request");
    assert_eq!(worker.resources.local.counters.retries.get(), 1);
}

#[test]
fn a_session_that_waits_for_its_backend_holds_no_buffer() {
    let begun = response("Transfer-Encoding: chunked\r\n", b"3\r\nabc\r\n");
    let interim = b"HTTP/1.1 103 Early Hints\r\n\r\n".to_vec();
    for (sent_bytes, stage_name) in [(begun, "response body"), (interim, "await response")] {
        let (listener, address) = listen();
        let length = sent_bytes.len();
        let backend = thread::spawn(move || {
            let mut peer = Peer { socket: listener.accept().unwrap().0, is_masked: false };
            peer.read_until(|all| body_of(all).is_some());
            peer.write(&sent_bytes);
            peer
        });
        let (socket, ours) = pair();
        let mut client = Peer { socket, is_masked: false };
        client.write(&request("GET", "", b""));
        let mut worker = TestWorker::new(&[address], false);
        let mut session = session(ours);
        worker.run_until(&mut session, |session| {
            session.stage() == stage_name && session.client.sent as usize >= length.min(40)
        });
        assert_eq!(worker.resources.connections.buffered(), 0, "{stage_name}");
        assert_eq!(
            (session.client.input.room(), session.client.output.room()),
            (0, 0),
            "{stage_name}"
        );
        session.close(Reason::ClientClosed, &mut worker.context());
        drop(backend.join().unwrap());
    }
}

#[test]
fn an_upgrade_becomes_a_tunnel() {
    for is_masked in [false, true] {
        let (listener, address) = listen();
        let echo = thread::spawn(move || {
            let mut peer = Peer { socket: listener.accept().unwrap().0, is_masked };
            peer.read_until(|all| body_of(all).is_some());
            peer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhi ");
            let sent_bytes = peer.read_until(|all| all.ends_with(b"bye"));
            peer.write(&sent_bytes);
        });
        let (socket, ours) = pair();
        let client = thread::spawn(move || {
            let mut peer = Peer { socket, is_masked };
            peer.write(
                b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
            );
            let head = peer.read_until(|all| body_of(all).is_some_and(|body| body == b"hi "));
            peer.write(b"bye");
            peer.socket.shutdown(std::net::Shutdown::Write).unwrap();
            [head, peer.read_until(|_| false)].concat()
        });
        let mut worker = TestWorker::new(&[address], is_masked);
        let mut session = session(ours);
        assert_eq!(worker.run(&mut session), Reason::TunnelDone);
        session.close(Reason::ClientClosed, &mut worker.context());
        assert_eq!(body_of(&client.join().unwrap()), Some(&b"hi bye"[..]), "masked: {is_masked}");
        echo.join().unwrap();
    }
}
