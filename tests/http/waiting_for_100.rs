//! Clients that wait for a 100 before they send their body: for how long, and which timeout
//! applies.

use super::timeouts::{SHORT, only, times_out};
use crate::support::*;
use lb_threads::error::Cause;
use std::time::Instant;

#[test]
fn a_backend_that_never_sends_100_is_a_gateway_timeout() {
    let origin = Origin::start([Step::ReadHead, Step::Hang]);
    let lb = Lb::with(&[&origin], only(|timeouts| timeouts.first_byte = SHORT));
    let mut client = lb.connect();
    let since = Instant::now();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    let response = times_out(&lb, &mut client, since, 504, Cause::FirstByteTimeout);
    assert!(response.announces_close(), "its body may still come");
}

#[test]
fn the_body_timeout_starts_at_the_100() {
    let gate = Gate::new();
    let go_on = Step::send("HTTP/1.1 100 Continue\r\n\r\n");
    let origin = Origin::start([Step::ReadHead, Step::WaitFor(gate.clone()), go_on, Step::Hang]);
    let lb = Lb::with(&[&origin], only(|timeouts| timeouts.body = SHORT));
    let mut client = lb.connect();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    let asked = Instant::now();
    until("more than the time for a body has passed", || asked.elapsed() > 2 * SHORT);
    let since = Instant::now();
    gate.open();
    assert_eq!(client.read_interim().status, 100);
    times_out(&lb, &mut client, since, 408, Cause::RequestBodyTimeout);
}

#[test]
fn the_body_timeout_starts_when_a_client_stops_waiting_for_a_100() {
    let late = Step::send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate");
    let origin = Origin::start([Step::ReadHead, Step::ReadBody, late, Step::Hang]);
    let lb = Lb::with(&[&origin], only(|timeouts| timeouts.body = 2 * SHORT));
    let mut client = lb.connect();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    let asked = Instant::now();
    until("more than the time for a body has passed", || asked.elapsed() > 3 * SHORT);
    client.send("he");
    until("some of the time has passed", || asked.elapsed() > 4 * SHORT);
    client.send("llo");
    assert_eq!(client.read_response().text(), "late");
}

#[test]
fn the_wait_for_a_100_does_not_count_towards_the_first_byte_timeout() {
    let gate = Gate::new();
    let late = Step::send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate");
    let origin = Origin::start([
        Step::ReadHead,
        Step::ReadBody,
        Step::WaitFor(gate.clone()),
        late,
        Step::Hang,
    ]);
    let lb = Lb::with(&[&origin], only(|timeouts| timeouts.first_byte = 10 * SHORT));
    let mut client = lb.connect();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    let asked = Instant::now();
    until("most of the wait is over", || asked.elapsed() > 8 * SHORT);
    client.send("hello");
    until("the first wait would be over", || asked.elapsed() > 12 * SHORT);
    gate.open();
    assert_eq!(client.read_response().text(), "late");
}
