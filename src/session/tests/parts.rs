//! The parts of an exchange alone: tables of input, state and output.

use super::*;
use crate::config;
use crate::session::attempt::{Attempt, Opened, Reuse};
use crate::session::download::{BodyError, BodyStart, Download, Downloaded};
use crate::session::progress::{Blocked, Progress};
use crate::session::stop::AttemptError;
use crate::session::upload::{FramingSupport, Upload, Uploaded};
use crate::upstream::backend::Slot;
use crate::upstream::cluster::{Picked, Wanted};
use crate::upstream::health::{Observation, Outcome};
use crate::upstream::retry::FailureKind;
use crate::wire::rewrite::ResponseFraming;
use crate::wire::{Body, fields, request};

/// A client that has sent these bytes, and its socket.
fn client(input: &[u8]) -> (TcpStream, Client) {
    let (theirs, ours) = pair();
    let permit = permit(&ours);
    let mut client = Client::new(ours, permit);
    client.input.append(input);
    (theirs, client)
}

fn upload(framing: &str, worker: &mut TestWorker) -> Upload {
    let head = format!("PUT / HTTP/1.1\r\nHost: x\r\n{framing}\r\n");
    let mut storage = fields::field_storage();
    let head = request::parse(head.as_bytes(), &mut storage).unwrap();
    let mut upload = Upload::new(&head, 0, &worker.context());
    upload.head_mut().extend_from_slice(b"HEAD ");
    upload.mark_common_end();
    upload
}

/// A writable stream, and the other end of it.
fn sink() -> (Peer, Stream) {
    let (theirs, ours) = pair();
    (Peer { socket: theirs, is_masked: false }, Stream::accepted(ours))
}

#[test]
fn an_upload_moves_received_bytes_and_returns_the_blocked_side() {
    let all = Uploaded::All;
    let waits = Uploaded::Blocked(Blocked::OnClient);
    // framing, received body, result of the upload, bytes for the backend after the head, rest
    type Row<'b> = (&'b str, &'b [u8], Uploaded, &'b [u8], usize);
    let rows: [Row<'_>; 8] = [
        ("", b"GET", all, b"", 3),
        ("Content-Length: 3\r\n", b"abcGET", all, b"abc", 3),
        ("Content-Length: 3\r\n", b"ab", waits, b"ab", 0),
        ("Content-Length: 3\r\n", b"", waits, b"", 0),
        (
            "Transfer-Encoding: chunked\r\n",
            b"3;x\r\nabc\r\n0\r\n\r\nGET",
            all,
            b"3\r\nabc\r\n0\r\n\r\n",
            3,
        ),
        ("Transfer-Encoding: chunked\r\n", b"3\r\nab", waits, b"2\r\nab\r\n", 0),
        ("Transfer-Encoding: chunked\r\n", b"3", waits, b"", 1),
        (
            "Transfer-Encoding: chunked\r\n",
            b"0\r\nX-Sum: 1\r\n\r\n",
            all,
            b"0\r\nX-Sum: 1\r\n\r\n",
            0,
        ),
    ];
    for (framing, input, result, sent, left) in rows {
        let mut worker = TestWorker::new(&[], false);
        let (_theirs, mut client) = client(input);
        let (mut peer, mut backend) = sink();
        let mut upload = upload(framing, &mut worker);
        assert_eq!(upload.choose_framing(false), FramingSupport::Ready);
        upload.start_attempt(None);
        assert_eq!(
            upload.pump(&mut client, &mut backend, &mut worker.resources.local),
            Ok(result),
            "{framing}{input:?}"
        );
        drop(backend);
        let received = peer.read_until(|_| false);
        let end = if framing.starts_with('T') {
            &b"HEAD Transfer-Encoding: chunked\r\n\r\n"[..]
        } else {
            b"HEAD \r\n"
        };
        assert_eq!(received.strip_prefix(end), Some(sent), "{framing}{input:?}: {received:?}");
        assert_eq!((client.input.len(), upload.is_sent()), (left, result == all));
    }
}

#[test]
fn an_upload_rejects_a_malformed_or_too_large_body() {
    for (framing, input, cause) in [
        ("Transfer-Encoding: chunked\r\n", &b"x\r\n"[..], Cause::BadChunk),
        ("Transfer-Encoding: chunked\r\n", b"0\r\nbad field\r\n\r\n", Cause::BadChunk),
        ("Transfer-Encoding: chunked\r\n", b"b\r\n", Cause::BodyTooLarge),
    ] {
        let mut worker = TestWorker::new(&[], false);
        Arc::make_mut(&mut worker.resources.shared.settings).limits.max_body_bytes = Some(10);
        let (_theirs, mut client) = client(input);
        let (_peer, mut backend) = sink();
        let mut upload = upload(framing, &mut worker);
        upload.start_attempt(None);
        assert_eq!(
            upload.pump(&mut client, &mut backend, &mut worker.resources.local),
            Err(Stop::Reject(cause)),
            "{input:?}"
        );
    }
    let mut worker = TestWorker::new(&[], false);
    Arc::make_mut(&mut worker.resources.shared.settings).limits.max_body_bytes = Some(10);
    assert!(upload("Content-Length: 11\r\n", &mut worker).is_too_large());
    assert!(!upload("Content-Length: 10\r\n", &mut worker).is_too_large());
}

#[test]
fn a_buffered_body_is_sent_with_its_length() {
    let mut worker = TestWorker::new(&[], false);
    let (_theirs, mut client) = client(b"3\r\nabc\r\n2\r\nde\r\n0\r\nA: b\r\n\r\n");
    let (mut peer, mut backend) = sink();
    let mut upload = upload("Transfer-Encoding: chunked\r\n", &mut worker);
    assert_eq!(upload.choose_framing(true), FramingSupport::AfterBuffering);
    assert_eq!(upload.buffer(&mut client, &mut worker.resources.local), Ok(Uploaded::All));
    assert_eq!(upload.choose_framing(true), FramingSupport::Ready);
    upload.start_attempt(Some("h"));
    assert_eq!(
        upload.pump(&mut client, &mut backend, &mut worker.resources.local),
        Ok(Uploaded::All)
    );
    drop(backend);
    let received = String::from_utf8(peer.read_until(|_| false)).unwrap();
    assert!(received.starts_with("HEAD ") && received.ends_with("\r\n\r\nabcde"), "{received}");
    assert!(
        received.contains("Content-Length: 5\r\n") && received.contains("Host: h\r\n"),
        "{received}"
    );
    assert!(upload.is_replayable());
}

#[test]
fn chunks_that_were_sent_cannot_become_a_length() {
    let mut worker = TestWorker::new(&[], false);
    let (_theirs, mut client) = client(b"3\r\nabc\r\n");
    let (_peer, mut backend) = sink();
    let mut upload = upload("Transfer-Encoding: chunked\r\n", &mut worker);
    assert_eq!(upload.choose_framing(false), FramingSupport::Ready);
    upload.reopen_framing();
    assert_eq!(upload.choose_framing(true), FramingSupport::AfterBuffering, "no chunk was sent");
    assert_eq!(upload.choose_framing(false), FramingSupport::Ready);
    upload.start_attempt(None);
    upload.pump(&mut client, &mut backend, &mut worker.resources.local).unwrap();
    upload.reopen_framing();
    assert_eq!(upload.choose_framing(true), FramingSupport::Unsupported);
}

/// The result of a download of these bytes from the backend, which then closes if `closes`, and the
/// client's bytes.
fn download(
    body: Body,
    framing: ResponseFraming,
    bytes: &[u8],
    closes: bool,
) -> (Result<Downloaded, BodyError>, Vec<u8>) {
    let (listener, address) = listen();
    let mut worker = TestWorker::new(&[address], false);
    let (theirs, mut client) = client(b"");
    let mut attempt = attempt_at(&mut worker);
    attempt.open(Reuse::Never, &mut worker.context()).unwrap();
    let (mut origin, _) = listener.accept().unwrap();
    origin.write_all(bytes).unwrap();
    let open = if closes {
        drop(origin);
        None
    } else {
        Some(origin)
    };
    let progress = Progress::new(Instant::now());
    let mut download =
        Download::new(BodyStart { body, framing, starts_at: 0, is_last: false }, &client, progress);
    let result = loop {
        let backend = attempt
            .connection(&mut worker.resources.connections)
            .filter(|_| !download.is_received());
        match download.pump(&mut client, backend, &mut worker.resources.local) {
            Ok(Downloaded::Received) => {}
            // The last event is the end of the connection, or room for a write.
            Ok(Downloaded::Blocked(Blocked::OnBackend)) if worker.note_backend_events() => {}
            result => break result,
        }
    };
    drop((client, open));
    (result, Peer { socket: theirs, is_masked: false }.read_until(|_| false))
}

#[test]
fn a_download_forwards_each_framing_to_its_end() {
    let (all, waits) = (Ok(Downloaded::All), Ok(Downloaded::Blocked(Blocked::OnBackend)));
    let closed = || Err(BodyError::Backend("it closed the connection inside the body".to_owned()));
    let bad = || Err(BodyError::Backend("its chunks are not well-formed".to_owned()));
    let chunks = b"3\r\nabc\r\n0\r\n\r\n";
    // framing, response framing, the backend's bytes, whether it closes, result of the download,
    // the client's bytes
    type Row<'b> = (Body, ResponseFraming, &'b [u8], bool, Result<Downloaded, BodyError>, &'b [u8]);
    let rows: [Row<'_>; 10] = [
        (Body::Length(3), ResponseFraming::Plain, b"abc", false, all.clone(), b"abc"),
        (Body::Length(3), ResponseFraming::Plain, b"abcSURPLUS", false, all.clone(), b"abc"),
        (Body::Length(3), ResponseFraming::Plain, b"ab", false, waits.clone(), b"ab"),
        (Body::Length(3), ResponseFraming::Plain, b"ab", true, closed(), b"ab"),
        (Body::Chunked, ResponseFraming::Chunked, chunks, false, all.clone(), chunks),
        (Body::Chunked, ResponseFraming::UntilClose, chunks, false, all.clone(), b"abc"),
        (Body::Chunked, ResponseFraming::Chunked, b"3\r\nabc\r\nx", false, bad(), b""),
        (Body::Chunked, ResponseFraming::Chunked, b"3\r\nabc\r\n", true, closed(), b"3\r\nabc\r\n"),
        (Body::UntilClose, ResponseFraming::Chunked, b"abc", true, all.clone(), chunks),
        (Body::UntilClose, ResponseFraming::UntilClose, b"abc", true, all, b"abc"),
    ];
    for (body, framing, bytes, closes, result, gets) in rows {
        assert_eq!(
            download(body, framing, bytes, closes),
            (result, gets.to_vec()),
            "{body:?} {framing:?} {bytes:?}"
        );
    }
}

#[test]
fn an_unsent_response_can_be_replaced() {
    let (_theirs, mut client) = client(b"");
    client.output.append(b"1xx");
    let progress = Progress::new(Instant::now());
    let start = BodyStart {
        body: Body::Chunked,
        framing: ResponseFraming::Chunked,
        starts_at: client.output.len(),
        is_last: false,
    };
    let download = Download::new(start, &client, progress);
    client.output.append(b"HEAD");
    assert!(download.retract(&mut client));
    assert_eq!(client.output.unread(), b"1xx");
    client.sent += 1;
    assert!(!download.retract(&mut client));
}

/// Whether a response that is sent whole reaches the client before its connection ends.
fn leaves_before_the_end(is_last: bool) -> bool {
    let mut worker = TestWorker::new(&[], false);
    let (theirs, mut client) = client(b"");
    client.output.append(b"HEAD");
    let start =
        BodyStart { body: Body::None, framing: ResponseFraming::Plain, starts_at: 0, is_last };
    let mut download = Download::new(start, &client, Progress::new(Instant::now()));
    let pumped = download.pump(&mut client, None, &mut worker.resources.local);
    assert_eq!((pumped, client.output.is_empty()), (Ok(Downloaded::All), true));
    theirs.set_nonblocking(true).unwrap();
    let leaves = theirs.peek(&mut [0; 8]).is_ok();
    theirs.set_nonblocking(false).unwrap();
    drop(client);
    assert_eq!(Peer { socket: theirs, is_masked: false }.read_until(|_| false), b"HEAD");
    leaves
}

#[test]
fn the_last_response_of_a_connection_leaves_together_with_its_end() {
    assert!(leaves_before_the_end(false));
    // The kernel sends it after 200 ms in any case: a machine that pauses for so long tries again.
    assert!((0..20).any(|_| !leaves_before_the_end(true)));
}

pub(super) fn attempt_at(worker: &mut TestWorker) -> Attempt {
    let slot = pick(worker).expect("a backend is up");
    Attempt::new(slot, true, &worker.context())
}

/// A slot at a backend that is up.
pub(super) fn pick(worker: &mut TestWorker) -> Option<Slot> {
    let cx = worker.context();
    let wanted = Wanted { tried: &[], is_idempotent: true, client: [127, 0, 0, 1].into() };
    match cx.shared.cluster.pick(&wanted, cx.now, &mut cx.local.rng) {
        Picked::Backend(slot) => Some(slot),
        Picked::Unhealthy(_) | Picked::AllFull | Picked::NoneUp => None,
    }
}

#[test]
fn a_connection_is_kept_after_an_attempt_and_is_reused() {
    let (_listener, address) = listen();
    let mut worker = TestWorker::new(&[address], false);
    let mut attempt = attempt_at(&mut worker);
    assert_eq!(attempt.open(Reuse::Any, &mut worker.context()), Ok(Opened::Connecting));
    while attempt.poll_connect(&mut worker.context()).unwrap().is_some() {
        assert!(worker.note_backend_events());
    }
    assert_eq!(attempt.closed(true, String::new()).kind, FailureKind::Fresh { written: true });
    attempt.release(Some(TEST_TIMEOUT), &mut worker.context());
    assert_eq!(attempt.backend().in_flight(), 0);
    for reuse in [Reuse::Any, Reuse::Verified] {
        let mut next = attempt_at(&mut worker);
        assert_eq!(next.open(reuse, &mut worker.context()), Ok(Opened::Reused));
        assert_eq!(next.closed(false, String::new()).kind, FailureKind::Reused { written: false });
        next.release(Some(TEST_TIMEOUT), &mut worker.context());
    }
    let mut fresh = attempt_at(&mut worker);
    assert_eq!(fresh.open(Reuse::Never, &mut worker.context()), Ok(Opened::Connecting));
    fresh.release(None, &mut worker.context());
    assert_eq!((worker.resources.connections.len(), fresh.backend().in_flight()), (1, 0));
}

#[test]
fn a_backend_may_be_marked_down_between_its_choice_and_the_attempt() {
    let ((_one, one), (_two, two)) = (listen(), listen());
    let mut worker = TestWorker::new(&[one, two], false);
    let slot = pick(&mut worker).expect("both are up");
    let now = Instant::now();
    let failed = Observation::Attempt { outcome: Outcome::ConnectFailed, started: now };
    for _ in 0..2 {
        worker.resources.shared.registry.observe(slot.backend().id, failed, "failed", now);
    }
    assert!(!slot.backend().is_serving());
    assert!(Attempt::new(slot, true, &worker.context()).was_marked_down());
}

#[test]
fn a_refused_connect_is_a_failed_attempt() {
    let (listener, address) = listen();
    drop(listener);
    let mut worker = TestWorker::new(&[address], false);
    let mut attempt = attempt_at(&mut worker);
    let mut opened = attempt.open(Reuse::Any, &mut worker.context()).map(drop);
    while opened.is_ok() {
        assert!(worker.note_backend_events());
        opened = attempt.poll_connect(&mut worker.context()).map(drop);
    }
    let Err(Stop::AttemptFailed(AttemptError { kind, cause, detail })) = opened else {
        panic!("{opened:?}")
    };
    assert_eq!((kind, cause), (FailureKind::Connect, Cause::ConnectFailed));
    assert!(detail.contains("Connection refused"), "{detail}");
}

#[test]
fn a_body_within_the_replay_buffer_is_replayable() {
    for (length, is_replayable) in
        [(config::MAX_REPLAY_BYTES, true), (config::MAX_REPLAY_BYTES + 1, false)]
    {
        let mut worker = TestWorker::new(&[], false);
        let (_theirs, mut client) = client(&vec![b'x'; length]);
        let (peer, mut backend) = sink();
        let reader = thread::spawn(move || { peer }.read_until(|_| false).len());
        let mut upload = upload(&format!("Content-Length: {length}\r\n"), &mut worker);
        upload.choose_framing(false);
        upload.start_attempt(None);
        while upload.pump(&mut client, &mut backend, &mut worker.resources.local).unwrap()
            != Uploaded::All
        {
            backend.retry_write();
        }
        drop(backend);
        assert_eq!(
            (upload.is_replayable(), reader.join().unwrap()),
            (is_replayable, length + 7),
            "{length} bytes"
        );
    }
}
