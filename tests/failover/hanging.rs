//! A backend that hangs with requests in it: once it is marked down, its retryable requests go to
//! another.

use crate::support::{Client, Gate, Health, Lb, Origin, Script, Step, stays, until, until_some};
use std::time::Duration;

/// A backend that responds to checks until it hangs, and then to nothing.
fn hanging() -> Origin {
    Origin::start(Script::steps([Step::ReadRequest, Step::Hang]))
}

#[test]
fn retryable_requests_at_a_backend_that_is_marked_down_go_to_another() {
    let (hangs, other) = (hanging(), Origin::named("other"));
    let lb = Lb::with(&[&hangs, &other], |config| {
        config.boot.workers = 1;
        config.settings.health.period = Duration::from_millis(200);
        config.settings.health.timeout = Some(Duration::from_millis(200));
    });
    lb.wait_for_up(2);
    let mut clients: Vec<Client> = (0..20).map(|_| lb.connect()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        let method = if number >= 16 { "POST" } else { "GET" };
        client.send(format!("{method} /{number} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"));
    }
    hangs.wait_for_requests(10);
    other.wait_for_requests(10);
    hangs.set_health(Health::Hang);
    lb.wait_for_up(1);
    for client in &mut clients[..16] {
        assert_eq!(
            client.read_response().text(),
            "other",
            "it has the time of a new request, and is done at once"
        );
    }
    let posts = |origin: &Origin| {
        origin.requests().into_iter().filter(|request| request.method == "POST").count()
    };
    assert_eq!((posts(&hangs), posts(&other)), (2, 2), "a POST is where it was");
    assert_eq!(lb.totals().retries, 8);
    hangs.stop();
    let statuses: Vec<u16> =
        clients[16..].iter_mut().map(|client| client.read_response().status).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 2, "{statuses:?}");
}

#[test]
fn a_request_leaves_a_backend_marked_down_at_most_once() {
    let (one, two, three) = (hanging(), hanging(), hanging());
    let lb = Lb::with(&[&one, &two, &three], |config| {
        config.boot.workers = 1;
        config.settings.health.period = Duration::from_millis(200);
        config.settings.health.timeout = Some(Duration::from_millis(200));
    });
    lb.wait_for_up(3);
    let mut client = lb.connect();
    client.send("GET /it HTTP/1.1\r\nHost: x\r\n\r\n");
    let all = [&one, &two, &three];
    let at = |all: &[&Origin]| all.iter().filter(|origin| origin.count() > 0).count();
    let first = until_some("it is somewhere", || all.into_iter().find(|origin| origin.count() > 0));
    first.set_health(Health::Hang);
    until("it went on", || at(&all) == 2);
    let second = all
        .iter()
        .find(|origin| origin.count() > 0 && origin.address() != first.address())
        .expect("two have it");
    second.set_health(Health::Hang);
    lb.wait_for_up(1);
    stays("no other backend is tried", Duration::from_millis(100), || at(&all) == 2);
}

#[test]
fn a_stranded_request_moves_once_another_backend_has_a_free_slot() {
    let gate = Gate::new();
    let opened = gate.clone();
    let hangs = hanging();
    let busy = Origin::serve(move |_, reply| {
        opened.wait();
        reply.ok("busy");
    });
    let lb = Lb::with(&[&hangs, &busy], |config| {
        config.boot.workers = 1;
        config.settings.limits.max_requests_per_backend = Some(1);
        config.settings.health.fall = 1;
        config.settings.health.period = Duration::from_millis(200);
    });
    lb.wait_for_up(2);
    let mut clients = [lb.connect(), lb.connect()];
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    }
    hangs.wait_for_requests(1);
    busy.wait_for_requests(1);
    hangs.set_health(Health::Status(500));
    lb.wait_for_up(1);
    // The worker responds to this one itself, after it has seen that the backend is down.
    lb.connect()
        .exchange("OPTIONS * HTTP/1.1\r\nHost: x\r\nMax-Forwards: 0\r\n\r\n")
        .expect_status(200);
    gate.open();
    for client in &mut clients {
        assert_eq!(client.read_response().text(), "busy");
    }
    assert_eq!(lb.totals().retries, 1);
}
