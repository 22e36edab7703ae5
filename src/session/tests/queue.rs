//! Queued requests: the rest of their time, their position, and the grants that they accept.

use super::parts::pick;
use super::*;
use crate::config::Timeout;
use crate::upstream::backend::Slot;
use crate::upstream::queue::Position;
use crossbeam_channel::Receiver;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";

/// A worker in front of backends with one slot each, all of which are taken.
struct Full {
    worker: TestWorker,
    grants: Receiver<Grant>,
    /// In the order of the origins.
    slots: Vec<Option<Slot>>,
}

impl Full {
    fn new(origins: &[SocketAddr]) -> Self {
        let mut worker = TestWorker::new(origins, false);
        let (sender, grants) = crossbeam_channel::unbounded();
        worker.resources.mailbox = Mailbox::new(sender, worker.resources.local.poller.waker());
        let mut settings = (*worker.resources.shared.settings).clone();
        settings.limits.max_requests_per_backend = Some(1);
        worker.resources.shared.registry.apply_settings(&settings);
        let mut slots: Vec<Slot> =
            origins.iter().map(|_| pick(&mut worker).expect("one is free")).collect();
        slots.sort_by_key(|slot| {
            origins.iter().position(|origin| Some(*origin) == slot.backend().addresses.in_use())
        });
        Self { worker, grants, slots: slots.into_iter().map(Some).collect() }
    }

    fn queue_timeout(&self) -> Duration {
        self.worker.resources.shared.settings.timeouts.queue
    }

    /// A session whose request is queued, and its client's socket. The client has sent all `input`.
    fn queued(&mut self, input: &[u8]) -> (TcpStream, Session) {
        let (socket, ours) = pair();
        Peer { socket: socket.try_clone().unwrap(), is_masked: false }.write(input);
        let mut session = session(ours);
        let ended = self.worker.run_until(&mut session, |session| session.stage() == "queue");
        assert_eq!(ended, None);
        (socket, session)
    }

    /// Queues another request.
    fn enqueue(&self) -> Position {
        let Resources { shared, mailbox, .. } = &self.worker.resources;
        shared.cluster.enqueue(self.worker.token, mailbox, &[], None).expect("it is not full")
    }

    /// Releases the slot at this backend.
    fn release(&mut self, origin: usize) {
        drop(self.slots[origin].take().expect("it is taken"));
    }

    /// The grant that has come.
    fn granted(&self) -> Grant {
        self.grants.try_recv().expect("a slot was granted")
    }

    fn step_at(&mut self, now: Instant, session: &mut Session) -> Verdict {
        let mut cx = self.worker.context();
        cx.now = now;
        session.step(&mut cx)
    }

    /// Passes the grant of the slot at the first backend at `granted`; the attempt there fails at
    /// `failed`, when the origin closes the connection. Returns the verdict after it.
    fn retry(
        &mut self,
        session: &mut Session,
        origin: &TcpListener,
        granted: Instant,
        failed: Instant,
    ) -> Verdict {
        self.release(0);
        assert!(session.grant(self.granted()));
        let mut verdict = self.step_at(granted, session);
        while session.stage() == "connect" {
            assert!(self.worker.note_backend_events());
            verdict = self.step_at(granted, session);
        }
        drop(origin.accept().unwrap());
        while session.stage() == "await response" {
            assert!(self.worker.note_backend_events());
            verdict = self.step_at(failed, session);
        }
        verdict
    }

    /// No request is queued: a slot that is released is free.
    fn assert_nothing_queued(mut self) {
        self.release(0);
        assert!(self.grants.is_empty() && pick(&mut self.worker).is_some());
    }
}

#[test]
fn a_retry_that_is_queued_again_has_the_rest_of_its_time_in_the_queue() {
    let ((origin, one), (_listener, two)) = (listen(), listen());
    let mut full = Full::new(&[one, two]);
    let (_socket, mut session) = full.queued(GET);
    let granted = Instant::now() + Duration::from_secs(2);
    let failed = granted + TEST_TIMEOUT;
    let verdict = full.retry(&mut session, &origin, granted, failed);
    let Verdict::Wait(deadline) = verdict else { panic!("{verdict:?}") };
    assert_eq!((session.stage(), deadline.timeout), ("queue", Timeout::Queue));
    let left = deadline.at - failed;
    let rest = full.queue_timeout() - Duration::from_secs(2);
    assert!(left <= rest && left + Duration::from_secs(1) > rest, "{left:?} of {rest:?}");
    full.release(1);
    assert!(session.grant(full.granted()), "it may use the slot");
}

#[test]
fn a_retry_without_time_in_the_queue_reports_the_failure_of_its_attempt() {
    for left in [Duration::ZERO, Duration::from_secs(1)] {
        let ((origin, one), (_listener, two)) = (listen(), listen());
        let mut full = Full::new(&[one, two]);
        let (socket, mut session) = full.queued(GET);
        // A grant wins over the timeout.
        let granted = Instant::now() + full.queue_timeout() - left;
        full.retry(&mut session, &origin, granted, granted);
        if !left.is_zero() {
            assert_eq!(session.stage(), "queue");
            full.step_at(granted + TEST_TIMEOUT, &mut session);
        }
        session.close(Reason::ClientClosed, &mut full.worker.context());
        let response = Peer { socket, is_masked: false }.read_until(|_| false);
        let response = String::from_utf8(response).unwrap();
        assert!(response.starts_with("HTTP/1.1 502 "), "{response}");
        assert!(response.contains("X-LB-Error: backend_closed\r\n"), "{response}");
    }
}

#[test]
fn a_request_that_is_queued_again_is_served_before_newer_ones() {
    let ((origin, one), (_listener, two)) = (listen(), listen());
    let mut full = Full::new(&[one, two]);
    let (_socket, mut session) = full.queued(GET);
    let newer = [full.enqueue(), full.enqueue()];
    let now = Instant::now();
    full.retry(&mut session, &origin, now, now);
    assert_eq!(session.stage(), "queue");
    let other = full.granted();
    assert_eq!(other.position, newer[0], "the slot that the failed attempt has released");
    full.release(1);
    let next = full.granted();
    assert!(next.position < newer[0]);
    assert!(session.grant(next));
}

#[test]
fn a_request_that_ends_in_the_queue_leaves_it() {
    let (_listener, address) = listen();
    let mut full = Full::new(&[address]);
    let (_socket, session) = full.queued(GET);
    session.close(Reason::ClientReset, &mut full.worker.context());
    full.assert_nothing_queued();

    let mut full = Full::new(&[address]);
    let (_socket, mut session) = full.queued(GET);
    let late = Instant::now() + full.queue_timeout();
    full.step_at(late, &mut session);
    assert_eq!(session.stage(), "idle", "it was rejected");
    full.assert_nothing_queued();
}

#[test]
fn a_grant_for_an_earlier_request_of_the_session_goes_to_the_next_one() {
    let (_listener, address) = listen();
    let mut full = Full::new(&[address]);
    let (_socket, mut session) = full.queued(&[GET, GET].concat());
    let other = full.enqueue();
    full.release(0);
    let earlier = full.granted();
    let late = Instant::now() + full.queue_timeout();
    full.step_at(late, &mut session);
    assert_eq!(session.stage(), "queue", "the second request, after the first was rejected");
    assert!(!session.grant(earlier));
    let next = full.granted();
    assert_eq!(next.position, other);
    assert!(!session.grant(next), "it is another request's");
    assert!(session.grant(full.granted()));
}

#[test]
fn a_grant_for_a_client_whose_connection_is_broken_goes_to_the_next_request() {
    let (_listener, address) = listen();
    let mut full = Full::new(&[address]);
    let (socket, mut session) = full.queued(GET);
    let other = full.enqueue();
    full.release(0);
    let grant = full.granted();
    let stream = Stream::accepted(socket);
    stream.reset_on_close();
    drop(stream);
    let mut events = Vec::new();
    while !session.client.stream.is_broken() {
        let poller = &mut full.worker.resources.local.poller;
        poller.wait(&mut events, Some(TEST_TIMEOUT), || true).unwrap();
        assert!(!events.is_empty(), "the reset is an event");
        let of_client = |event: &&Event| matches!(event.source, Source::Client(_));
        events.iter().filter(of_client).for_each(|event| session.note(*event));
    }
    assert!(!session.grant(grant));
    assert_eq!(full.granted().position, other);
}
