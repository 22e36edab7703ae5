//! Too much of everything: connections beyond the limit, no descriptors left, garbage by the
//! thousand.

mod admission;
mod descriptors;

use crate::support::program::Program;
use crate::support::{Client, Lb, Origin, get, stays, until};
use lb_threads::error::Cause;
use lb_threads::reason::Reason;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

/// A balancer with a limit of four connections.
#[track_caller]
fn for_four(origin: &Origin) -> Lb {
    let lb = Lb::with(&[origin], |config| config.settings.limits.max_connections = 4);
    lb.wait_for_up(1);
    lb
}

/// Four clients that have been served and stay.
#[track_caller]
fn four_clients(lb: &Lb) -> Vec<Client> {
    let served = |_| {
        let mut client = lb.connect();
        client.get("/").expect_status(200);
        client
    };
    (0..4).map(served).collect()
}

#[test]
fn connections_over_the_limit_get_503_and_close() {
    let origin = Origin::responding("hello");
    let lb = for_four(&origin);
    let mut clients = four_clients(&lb);
    for number in 1..=3 {
        let mut extra = lb.connect();
        let response = extra.get("/");
        assert_eq!((response.status, response.header("X-LB-Error")), (503, Some("overload")));
        assert_eq!(response.header("Retry-After"), Some("1"));
        assert!(
            response.header("Date").is_some() && response.header("Server") == Some("lb-threads")
        );
        assert!(response.announces_close() && extra.at_end(), "{response:?}");
        drop(extra);
        lb.wait_for_closed(Reason::Overload, number);
    }
    assert_eq!((lb.totals().failed(Cause::Overload), origin.count()), (3, 4));
    for client in &mut clients {
        assert_eq!(client.get("/").text(), "hello", "those within the limit notice nothing");
    }
}

#[test]
fn after_a_close_new_connections_are_served_again() {
    let origin = Origin::responding("hello");
    let lb = for_four(&origin);
    let mut clients = four_clients(&lb);
    get(lb.address(), "/").expect_status(503);
    until("the rejected connection is gone", || lb.balancer().open_connections() == 4);
    clients.truncate(3);
    until("one is gone", || lb.balancer().open_connections() == 3);
    let mut new = lb.connect();
    assert_eq!(new.get("/").text(), "hello");
    assert_eq!(new.get("/").text(), "hello", "for good, not for one request");
}

#[test]
fn connections_far_over_the_limit_are_shed_without_a_trace() {
    let origin = Origin::responding("hello");
    let lb = Lb::with(&[&origin], |config| {
        (config.settings.limits.max_connections, config.boot.max_graceful_rejections) = (4, 20);
    });
    lb.wait_for_up(1);
    let clients = four_clients(&lb);
    // 20 more wait for their requests; further ones get 503 at once, without a request.
    let mut extra: Vec<Client> = (0..100).map(|_| lb.connect()).collect();
    let last = extra.last_mut().expect("there are many").read_head();
    assert_eq!(
        (last.status, last.header("X-LB-Error"), last.announces_close()),
        (503, Some("overload"), true)
    );
    assert!(last.header("Date").is_some() && last.header("Retry-After").is_some(), "{last:?}");
    // Workers accept in parallel: the last connection may be accepted before others are.
    until("all were accepted", || lb.totals().connections == 104);
    until("the limit holds", || lb.balancer().open_connections() == 24);
    assert_eq!(extra[0].get("/").status, 503);
    drop((extra, clients));
    until("all are gone", || lb.balancer().open_connections() == 0);
    let totals = lb.totals();
    assert_eq!(
        (totals.connections, totals.closed_in_total()),
        (104, 104),
        "each has a reason, the shed ones as well"
    );
    assert!(
        totals.closed(Reason::Overload) >= 80 && totals.failed(Cause::Overload) >= 80,
        "{totals:?}"
    );
    assert_eq!(get(lb.address(), "/").text(), "hello");
}

#[test]
fn a_request_that_comes_after_its_rejection_meets_no_reset_for_a_moment() {
    let origin = Origin::responding("hello");
    let lb = Lb::with(&[&origin], |config| {
        (config.settings.limits.max_connections, config.boot.max_graceful_rejections) = (1, 1);
    });
    lb.wait_for_up(1);
    let mut served = lb.connect();
    served.get("/").expect_status(200);
    let held = lb.connect();
    until("both are known", || lb.balancer().open_connections() == 2);
    let mut rejected = lb.connect();
    lb.wait_for_closed(Reason::Overload, 1);
    assert_eq!(rejected.get("/").status, 503, "at once, before it asked");
    assert!(rejected.at_end());
    stays("no reset comes", Duration::from_millis(200), || rejected.try_send("x").is_ok());
    until("it is closed, though no other connection comes", || rejected.try_send("x").is_err());
    drop(held);
    assert_eq!(served.get("/").text(), "hello");
}

#[test]
fn a_silent_connection_over_the_limit_gets_503_soon() {
    let origin = Origin::responding("hello");
    let lb = for_four(&origin);
    let _clients = four_clients(&lb);
    let mut silent = lb.connect();
    let response = silent.read_response();
    assert_eq!((response.status, response.header("X-LB-Error")), (503, Some("overload")));
    assert!(response.announces_close() && silent.at_end());
    drop(silent);
    lb.wait_for_closed(Reason::Overload, 1);
}

/// Sends garbage on so many short connections: some are closed at once, some are read to their end,
/// some are reset.
fn send_garbage(address: SocketAddr, connections: u64, seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    for number in 0..connections {
        let mut stream = TcpStream::connect(address).expect("the balancer accepts");
        let mut bytes: Vec<u8> = (0..rng.usize(0..400)).map(|_| rng.u8(..)).collect();
        match number % 4 {
            0 => bytes.splice(0..0, *b"GET / HTTP/1.1\r\n").for_each(drop),
            1 => bytes
                .splice(0..0, *b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n")
                .for_each(drop),
            _ => {}
        }
        // The balancer may close first.
        let _ = stream.write_all(&bytes);
        match rng.u8(0..3) {
            0 => {}
            1 => {
                let _ = stream.shutdown(Shutdown::Write);
                stream
                    .set_read_timeout(Some(Duration::from_secs(5)))
                    .expect("a socket takes a timeout");
                let _ = stream.read_to_end(&mut Vec::new());
            }
            _ => rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))
                .expect("a socket takes SO_LINGER"),
        }
    }
}

#[track_caller]
fn two_thousand_garbage_connections(address: SocketAddr) {
    thread::scope(|scope| {
        for seed in 0..4 {
            scope.spawn(move || send_garbage(address, 500, seed));
        }
    });
}

#[test]
fn two_thousand_short_connections_of_garbage_leave_no_session() {
    let origin = Origin::responding("hello");
    let lb = Lb::over(&[&origin]);
    lb.wait_for_up(1);
    two_thousand_garbage_connections(lb.address());
    until("all were taken over", || lb.totals().connections == 2_000);
    until("no connection is left", || lb.balancer().open_connections() == 0);
    let totals = lb.totals();
    assert_eq!(
        (totals.connections, totals.closed_in_total()),
        (2_000, 2_000),
        "each has ended, for one reason"
    );
    assert_eq!(totals.closed(Reason::Panicked), 0);
    assert!(totals.closed(Reason::Rejected) > 100, "much of it was rejected");
    assert_eq!(lb.balancer().registry().statuses()[0].backend.in_flight(), 0);
    assert_eq!((lb.up(), get(lb.address(), "/").status), (1, 200));
}

#[test]
fn two_thousand_short_connections_of_garbage_leave_no_descriptor_open() {
    let origin = Origin::responding("hello");
    let program =
        Program::balancer(&[origin.address()], &["--no-health-checks", "--log-level", "info"]);
    let address = program.address();
    get(address, "/").expect_status(200);
    until("its backend connections are idle or gone", || origin.open_connections() <= 1);
    let before = program.descriptors().len();
    two_thousand_garbage_connections(address);
    // Kept connections to the backend, a few at the most, are closed after four seconds.
    until("all descriptors are closed again", || program.descriptors().len() <= before);
    assert_eq!(get(address, "/").status, 200);
    assert!(!program.log().contains("panicked"), "{}", program.log());
}
