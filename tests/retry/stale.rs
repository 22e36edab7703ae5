//! A backend whose kept connections keep dying: no GET is lost, only the first POSTs are, and other
//! connections are still reused.

use super::{DIES, assert_failed, balancer, request};
use crate::support::program::Program;
use crate::support::{Client, Ending, Gate, Lb, Origin, Script, Step, ok};
use std::time::Duration;

/// Closes each connection 0 to 6 ms after each response, with or without a further request.
fn hasty() -> Origin {
    Origin::serve(|request, reply| {
        reply.ok("served");
        reply.step(&Step::Pause(Duration::from_millis((request.connection as u64 * 5 + 3) % 7)));
        reply.step(&Step::Close);
    })
}

/// Sends this many requests one after the other; returns the failed ones.
fn failures(client: &mut Client, method: &str, count: usize) -> Vec<usize> {
    let is_lost = |number: &usize| {
        let response = client.exchange(request(method, &format!("/{number}"), 0));
        if response.status != 200 {
            assert_failed(&response, 502, "backend_closed");
        }
        response.status != 200
    };
    (0..count).filter(is_lost).collect()
}

#[test]
fn stale_connections_lose_no_get() {
    let origin = hasty();
    let lb = balancer(&[origin.address()]);
    assert_eq!(failures(&mut lb.connect(), "GET", 500), [0; 0]);
    let totals = lb.totals();
    assert!(totals.stale_reuses >= 3 && totals.stale_reuses == totals.retries, "{totals:?}");
    assert!(totals.stale_reuses < 50, "after a few it gets fresh connections: {totals:?}");
}

#[test]
fn stale_connections_lose_no_get_of_many_clients_at_once() {
    let origin = hasty();
    let lb = Lb::with(&[&origin], |config| config.settings.health.checks = false);
    std::thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| assert_eq!(failures(&mut lb.connect(), "GET", 50), [0; 0]));
        }
    });
    let totals = lb.totals();
    assert!(totals.stale_reuses >= 3 && totals.stale_reuses < 250, "{totals:?}");
}

#[test]
fn stale_connections_lose_at_most_a_few_posts() {
    let origin = hasty();
    let lb = balancer(&[origin.address()]);
    let lost = failures(&mut lb.connect(), "POST", 300);
    assert!(lost.len() <= 2 && lost.iter().all(|number| *number < 10), "{lost:?}");
    assert_eq!((lb.totals().stale_reuses, origin.count()), (lost.len() as u64, 300 - lost.len()));
}

#[test]
fn stale_connections_seen_by_gets_save_the_posts() {
    let origin = hasty();
    let lb = balancer(&[origin.address()]);
    let mut client = lb.connect();
    assert_eq!(failures(&mut client, "GET", 20), [0; 0]);
    assert_eq!(failures(&mut client, "POST", 100), [0; 0]);
}

#[test]
fn a_backend_that_closes_idle_connections_shows_how_long_they_live() {
    let origin = hasty();
    let lb = balancer(&[origin.address()]);
    let mut client = lb.connect();
    for connection in 0..2 {
        client.get("/").expect_status(200);
        assert_eq!(origin.wait_for_ending(connection), Ending::Closed);
    }
    // The balancer has seen the end that a GET finds.
    client.get("/").expect_status(200);
    assert_eq!(failures(&mut client, "POST", 100), [0; 0]);
    assert_eq!(lb.totals().stale_reuses, 0);
}

#[test]
fn after_a_restart_connections_are_reused_as_before() {
    let (old, gates) = (10, [Gate::new(), Gate::new()]);
    let responds =
        |gate: &Gate, text| [Step::ReadRequest, Step::WaitFor(gate.clone()), Step::send(ok(text))];
    // All were open at the same time, and all die: half of them idle, half under the next request.
    let dies =
        |number: usize| if number.is_multiple_of(2) { vec![Step::Reset] } else { DIES.to_vec() };
    let script = |number| {
        Script::steps(
            responds(&gates[0], "old").into_iter().chain(dies(number)).collect::<Vec<_>>(),
        )
    };
    let origin = Origin::start(Script::sequence(
        (0..old).map(script).chain([responds(&gates[1], "new").into()]),
    ));
    let lb = balancer(&[origin.address()]);
    let mut clients: Vec<Client> = (0..old).map(|_| lb.connect()).collect();
    for (gate, requests, text) in [(&gates[0], old, "old"), (&gates[1], old + old / 2 + old, "new")]
    {
        for client in &mut clients {
            client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        }
        origin.wait_for_requests(requests);
        gate.open();
        for client in &mut clients {
            assert_eq!(client.read_response().text(), text);
        }
        for connection in (0..old).step_by(2) {
            origin.wait_for_ending(connection);
        }
    }
    let before = lb.totals();
    assert_eq!((before.stale_reuses, before.backend_connects), (old as u64 / 2, 2 * old as u64));
    assert_eq!(failures(&mut clients[0], "GET", 50), [0; 0]);
    let totals = lb.totals();
    assert_eq!(
        (totals.backend_connects, totals.backend_reuses),
        (before.backend_connects, before.backend_reuses + 50)
    );
    assert_eq!(failures(&mut clients[1], "POST", 20), [0; 0]);
}

#[test]
fn stale_connections_are_logged_once_with_the_flag_to_set() {
    let origin = hasty();
    let program = Program::balancer(&[origin.address()], &["--no-health-checks"]);
    let mut client = Client::connect(program.address());
    assert_eq!(failures(&mut client, "GET", 100), [0; 0]);
    let notice = format!("backend {} closes idle connections after about", origin.address());
    program.until_logged(&notice);
    let log = program.log();
    assert_eq!(log.matches(&notice).count(), 1, "{log}");
    assert!(log.contains("raise its keep-alive timeout above ours (4s)"), "{log}");
}
