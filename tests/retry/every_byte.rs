//! Origins that reset at every possible byte of an exchange: a POST is never executed twice, a GET
//! is never lost before a response byte, and no response is ever joined from two.

use super::{assert_failed, balancer, body_of, origin, request};
use crate::support::{Lb, Origin, Step};

const BODY: usize = 7;

/// The number of bytes that a backend receives for this request.
fn length_at_the_backend(sent: &[u8]) -> usize {
    let origin = Origin::named("measure");
    let lb = balancer(&[origin.address()]);
    lb.connect().exchange(sent).expect_status(200);
    origin.bytes_received()[0].len()
}

/// A world in which the first backend runs these steps on one connection, and the second responds.
struct World {
    first: Origin,
    next: Origin,
    lb: Lb,
}

impl World {
    /// The first backend's first connection begins with these steps.
    fn with_a_fresh_connection(steps: Vec<Step>) -> Self {
        Self::over(origin("first", [steps]))
    }

    /// The first backend's first connection has served a request before.
    fn with_a_kept_connection(steps: Vec<Step>) -> Self {
        let world = Self::over(super::origin_with_a_kept_connection("first", steps));
        let mut client = world.lb.connect();
        assert_eq!([client.get("/").text(), client.get("/").text()], ["first", "next"]);
        world
    }

    fn over(first: Origin) -> Self {
        let next = Origin::named("next");
        let lb = balancer(&[first.address(), next.address()]);
        Self { first, next, lb }
    }

    /// The number of requests at each of the two, by their first bytes.
    fn times(&self, method: &str) -> [usize; 2] {
        let line = format!("{method} /it ");
        [&self.first, &self.next].map(|origin| {
            let bytes = origin.bytes_received().concat();
            bytes.windows(line.len()).filter(|window| *window == line.as_bytes()).count()
        })
    }
}

fn resets_after(bytes: usize) -> Vec<Step> {
    vec![Step::ReadBytes(bytes), Step::Reset]
}

#[test]
fn a_fresh_connection_that_is_reset_at_any_byte_of_a_post_executes_it_once() {
    let sent = request("POST", "/it", BODY);
    for bytes in 1..=length_at_the_backend(&sent) {
        let world = World::with_a_fresh_connection(resets_after(bytes));
        assert_failed(&world.lb.connect().exchange(&sent), 502, "backend_closed");
        assert_eq!(world.times("POST"), [1, 0], "reset after {bytes} bytes");
    }
}

#[test]
fn a_kept_connection_that_is_reset_at_any_byte_of_a_post_executes_it_once() {
    let sent = request("POST", "/it", BODY);
    for bytes in (1..=length_at_the_backend(&sent)).step_by(3) {
        let world = World::with_a_kept_connection(resets_after(bytes));
        assert_failed(&world.lb.connect().exchange(&sent), 502, "backend_closed");
        assert_eq!(world.times("POST"), [1, 0], "reset after {bytes} bytes");
    }
}

#[test]
fn a_fresh_connection_that_is_reset_at_any_byte_of_a_put_loses_nothing() {
    let sent = request("PUT", "/it", BODY);
    for bytes in (1..=length_at_the_backend(&sent)).step_by(2) {
        let world = World::with_a_fresh_connection(resets_after(bytes));
        assert_eq!(world.lb.connect().exchange(&sent).text(), "next", "reset after {bytes} bytes");
        assert_eq!(world.next.only_request().body, body_of(&sent));
        assert_eq!(world.times("PUT"), [1, 1]);
    }
}

#[test]
fn a_kept_connection_that_is_reset_at_any_byte_of_a_put_loses_nothing() {
    let sent = request("PUT", "/it", BODY);
    for bytes in (1..=length_at_the_backend(&sent)).step_by(5) {
        let world = World::with_a_kept_connection(resets_after(bytes));
        assert_eq!(world.lb.connect().exchange(&sent).text(), "first", "reset after {bytes} bytes");
        assert_eq!(world.first.requests().pop().expect("it came").body, body_of(&sent));
        assert_eq!(world.times("PUT"), [2, 0], "once more on a fresh connection");
    }
}

#[test]
fn a_post_whose_connection_is_reset_at_once_is_executed_at_most_once() {
    for _ in 0..20 {
        let world = World::over(
            origin("first", [vec![Step::Reset]]).health(crate::support::Health::Scripted),
        );
        let response = world.lb.connect().exchange(request("POST", "/it", BODY));
        let executed: usize = world.times("POST").iter().sum();
        // Before a byte was written it may go elsewhere; after the first byte it must not.
        match response.status {
            200 => assert_eq!(executed, 1),
            _ => {
                assert_failed(&response, 502, "backend_closed");
                assert_eq!(executed, 0);
            }
        }
    }
}

/// Checks a request whose response was truncated at this byte.
#[track_caller]
fn check_truncated_response(world: &World, method: &str, raw: &[u8], cut: usize) {
    let head = raw.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("it has a head") + 4;
    let response = world.lb.connect().exchange(request(method, "/it", BODY));
    let goes_on = cut < head && method == "GET";
    if goes_on {
        assert_eq!(response.text(), "next", "cut at {cut}: nothing was forwarded yet");
    } else if cut < head {
        assert_failed(&response, 502, "bad_response");
    } else {
        assert!(response.status == 200 && response.truncated, "cut at {cut}: {response:?}");
        assert_eq!(response.body, raw[head..cut], "the received bytes are forwarded");
    }
    assert_eq!(world.times(method), [1, usize::from(goes_on)], "{method} cut at {cut}");
}

#[test]
fn a_response_reset_at_any_byte_of_its_body_or_to_a_post_is_never_retried() {
    let raw = crate::support::response(200, &[("X-A", "b")], "abcdefghij");
    for cut in 1..raw.len() {
        let steps = vec![Step::ReadRequest, Step::send(&raw[..cut]), Step::Reset];
        for method in ["POST", "GET"] {
            check_truncated_response(
                &World::with_a_fresh_connection(steps.clone()),
                method,
                &raw,
                cut,
            );
        }
        if cut % 4 == 1 {
            check_truncated_response(&World::with_a_kept_connection(steps), "GET", &raw, cut);
        }
    }
}

#[test]
fn a_chunked_response_closed_at_any_byte_is_never_complete() {
    let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let raw = [&head[..], b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"].concat();
    for cut in head.len()..raw.len() {
        let steps = vec![Step::ReadRequest, Step::send(&raw[..cut]), Step::Close];
        let world = World::with_a_fresh_connection(steps);
        let response = world.lb.connect().exchange(request("GET", "/it", BODY));
        assert!(response.status == 200 && response.truncated, "cut at {cut}: {response:?}");
        assert!(b"abcde".starts_with(&response.body), "cut at {cut}: {response:?}");
        assert_eq!(world.times("GET"), [1, 0]);
    }
}
