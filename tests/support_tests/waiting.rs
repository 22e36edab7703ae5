//! Waits that time out, addresses without a server, and the messages of failures.

use std::net::{IpAddr, TcpStream};
use std::time::Instant;

use super::{MS, panic_of};
use crate::support::*;

#[test]
#[ignore = "takes a whole timeout"]
fn a_failed_wait_shows_the_recorded_history() {
    let origin = Origin::responding("x");
    get(origin.address(), "/seen");
    origin.wait_for_ending(0);
    let message = panic_of(|| drop(origin.wait_for_requests(2)));
    assert!(
        message.contains("no 2 requests")
            && message.contains("GET /seen")
            && message.contains("Closed"),
        "{message}"
    );
}

#[test]
#[ignore = "takes a whole timeout"]
fn until_panics_with_what_was_waited_for() {
    let began = Instant::now();
    assert_eq!(
        panic_of(|| until("pigs fly", || false)),
        "timed out after 10s waiting until pigs fly"
    );
    assert!(began.elapsed() >= TEST_TIMEOUT);
    assert_eq!(until_some("a number", || Some(1)), 1);
    assert!(panic_of(|| stays("one is two", MS, || 1 == 2)).contains("stay true: one is two"));
}

#[test]
#[ignore = "takes a whole timeout"]
fn a_silent_peer_times_the_client_out() {
    let origin = Origin::start([Step::Hang]);
    let mut client = Client::connect(origin.address());
    client.send("x");
    let began = Instant::now();
    let message = panic_of(|| drop(client.comes_next()));
    assert!(message.contains("nothing in 10s"), "{message}");
    assert!(began.elapsed() < TEST_TIMEOUT + TEST_TIMEOUT / 5);
}

#[test]
fn a_refused_address_refuses_every_connect() {
    let address = refused_address();
    for _ in 0..1000 {
        let error = TcpStream::connect(address).expect_err("no socket listens");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    }
    assert_ne!(refused_address(), address);
}

#[test]
fn a_black_hole_lets_connects_hang() {
    let hole = Blackhole::start();
    for _ in 0..3 {
        let error = TcpStream::connect_timeout(&hole.address(), 50 * MS).expect_err("it hangs");
        assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    }
}

#[test]
fn a_client_can_come_from_any_loopback_address() {
    let origin = Origin::responding("x");
    let local: IpAddr = "127.0.0.77".parse().expect("it works");
    let mut client = Client::connect_from(local, origin.address());
    assert_eq!(client.local_address().ip(), local);
    assert_eq!(client.get("/").text(), "x");
}

#[test]
fn long_bytes_are_shown_without_their_middle() {
    assert_eq!(escaped(b"a\r\n\xff"), r#""a\r\n\xff""#);
    let long = escaped(&[b'a'; 5000]);
    assert!(long.contains(" ... 2952 bytes ... ") && long.len() < 2200, "{long}");
}
