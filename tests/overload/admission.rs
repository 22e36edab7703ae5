//! The limit of connections per client address, and permits that are given back however a
//! connection ends.

use crate::support::{Client, Gate, Lb, Origin, Reply, refused_address, until};
use lb_threads::error::Cause;
use lb_threads::reason::Reason;
use lb_threads::server::Drained;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// Another client address.
const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
const GET: &str = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";

#[test]
fn connections_of_one_client_address_are_limited() {
    let origin = Origin::responding("served");
    let lb =
        Lb::with(&[&origin], |config| config.settings.limits.max_connections_per_client = Some(2));
    let mut clients = [lb.connect(), lb.connect()];
    for client in &mut clients {
        assert_eq!(client.get("/").text(), "served");
    }
    let rejected = lb.connect().get("/");
    assert_eq!((rejected.status, rejected.header("X-LB-Error")), (429, Some("client_limit")));
    let mut elsewhere = Client::connect_from(ELSEWHERE, lb.address());
    assert_eq!(elsewhere.get("/").text(), "served", "another address has its own limit");
    drop(clients);
    until("they are gone", || lb.balancer().open_connections() == 1);
    assert_eq!(lb.connect().get("/").text(), "served");
}

#[test]
fn an_ipv4_client_of_a_listener_for_both_families_has_its_ipv4_address() {
    let origin = Origin::responding("served");
    // A port that a listener gets only by its number. Without IPv6, the balancer listens only there.
    let ipv4 = refused_address();
    let lb = Lb::with(&[&origin], |config| {
        config.boot.listen = vec![(Ipv6Addr::UNSPECIFIED, 0).into(), ipv4];
        config.settings.limits.max_connections_per_client = Some(1);
    });
    let connect = |to: &SocketAddr| Client::connect((Ipv4Addr::LOCALHOST, to.port()).into());
    let addresses = lb.balancer().addresses();
    let [first, last] = [addresses.first(), addresses.last()].map(Option::unwrap);
    let mut client = connect(first);
    assert_eq!(client.get("/").text(), "served");
    assert_eq!(origin.requests()[0].header("X-Forwarded-For"), Some("127.0.0.1"));
    let rejected = connect(last).get("/");
    assert_eq!((rejected.status, rejected.header("X-LB-Error")), (429, Some("client_limit")));
}

#[test]
fn connections_over_a_clients_limit_do_not_count_towards_the_limit_of_all() {
    let origin = Origin::responding("served");
    let lb = Lb::with(&[&origin], |config| {
        (
            config.settings.limits.max_connections,
            config.settings.limits.max_connections_per_client,
        ) = (5, Some(2));
    });
    let mut crowd: Vec<Client> = (0..2).map(|_| lb.connect()).collect();
    // Workers accept in parallel: later connections must not overtake these.
    until("both are accepted", || lb.balancer().open_connections() == 2);
    crowd.extend((0..8).map(|_| lb.connect()));
    for client in &mut crowd[2..] {
        assert_eq!(client.read_response().status, 429, "without a request, because it sends none");
    }
    let mut crowd_again: Vec<Client> = (0..10).map(|_| lb.connect()).collect();
    let mut elsewhere = Client::connect_from(ELSEWHERE, lb.address());
    assert_eq!(elsewhere.get("/").text(), "served");
    assert_eq!(crowd_again[9].read_response().status, 429);
    assert_eq!(crowd[0].get("/").text(), "served", "and those within it notice nothing");
}

#[test]
fn a_client_at_its_limit_that_sees_its_connection_end_may_open_another_at_once() {
    let origin = Origin::serve(|_, reply: &mut Reply<'_>| reply.ok("served"));
    let lb = Lb::with(&[&origin], |config| {
        (
            config.settings.limits.max_connections,
            config.settings.limits.max_connections_per_client,
        ) = (1, Some(1));
        config.settings.timeouts.idle = Duration::from_millis(1);
    });
    for number in 1..=200 {
        let mut client = lb.connect();
        // It sends nothing, and is closed: no lingering keeps the connection open after its end.
        assert!(client.at_end());
        drop(client);
        assert_eq!(lb.totals().closed(Reason::IdleTimeout), number);
    }
    assert_eq!(lb.totals().failed(Cause::Overload) + lb.totals().failed(Cause::ClientLimit), 0);
}

#[test]
fn stopping_under_load_leaves_no_permit() {
    let gate = Gate::new();
    let waits = gate.clone();
    let origin = Origin::serve(move |_, reply| {
        waits.wait();
        reply.ok("late");
    });
    let mut lb = Lb::with(&[&origin], |config| {
        (
            config.settings.limits.max_connections,
            config.settings.limits.max_connections_per_client,
        ) = (6, Some(4));
        config.boot.max_graceful_rejections = 4;
        config.settings.health.checks = false;
    });
    // Four at the backend, one idle, one with half a head, four to be rejected, ten shed.
    let mut clients: Vec<Client> = (0..4).map(|_| lb.connect()).collect();
    clients.iter_mut().for_each(|client| client.send(GET));
    origin.wait_for_requests(4);
    clients.extend((0..2).map(|_| Client::connect_from(ELSEWHERE, lb.address())));
    clients[5].send("GET / HT");
    until("all within the limits are accepted", || lb.balancer().open_connections() == 6);
    clients.extend((0..14).map(|_| lb.connect()));
    until("all were accepted", || lb.totals().failed(Cause::Overload) >= 10);
    assert!((6..=10).contains(&lb.balancer().open_connections()));
    lb.begin_drain(Duration::ZERO);
    assert_eq!(lb.wait_for_end(), Drained::Aborted(5), "which sees that no permit is left");
    gate.open();
}
