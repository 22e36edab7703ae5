//! New connections: how they are spread over the workers, and who may listen on an address.

use crate::support::{Client, Lb, Origin, config, until};
use lb_threads::server::{Server, StartError};
use std::io;

#[test]
fn a_thousand_kept_connections_that_come_at_once_are_spread_evenly_over_the_workers() {
    const CONNECTIONS: usize = 1_000;
    const WORKERS: usize = 4;
    let origin = Origin::responding("hello");
    let lb = Lb::with(&[&origin], |config| config.boot.workers = WORKERS);
    lb.wait_for_up(1);
    let mut clients: Vec<Client> = (0..CONNECTIONS).map(|_| lb.connect()).collect();
    until("all are accepted", || lb.balancer().open_connections() == CONNECTIONS);
    for client in &mut clients {
        assert_eq!(client.get("/").text(), "hello");
    }
    let loads = lb.balancer().connections_by_worker();
    assert_eq!(loads.iter().sum::<usize>(), CONNECTIONS);
    let max = loads.iter().max().expect("there are workers");
    assert!(max * WORKERS * 10 <= CONNECTIONS * 12, "at most 1.2 times the mean: {loads:?}");
}

#[test]
fn a_second_balancer_on_the_same_address_fails_at_its_start() {
    let origin = Origin::responding("hello");
    let lb = Lb::with(&[&origin], |config| config.boot.workers = 3);
    let mut second = config(&[origin.address()]);
    second.boot.listen = vec![lb.address()];
    match Server::start(second) {
        Err(StartError::Listen(address, error)) => {
            assert_eq!((address, error.kind()), (lb.address(), io::ErrorKind::AddrInUse));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(lb.connect().get("/").text(), "hello", "the first one serves on");
}
