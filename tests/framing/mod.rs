//! Rejected requests: raw bytes in, one clear response out, and nothing of it at a backend. The
//! control API rejects the same bytes with the same status and code.
//!
//! Statuses and codes are literals here, not read from the product's table: a row that changes
//! there fails here.

mod chunks;
mod fields;
mod hosts;
mod lengths;
mod limits;
mod pipelines;
mod protocols;
mod request_lines;
mod response_grammar;

use std::cell::Cell;

use lb_threads::error::Cause;
use lb_threads::reason::Reason;

use crate::support::*;

/// A balancer over one origin that would accept anything, and the number of its rejections so far.
struct Scene {
    origin: Origin,
    lb: Lb,
    rejections: Cell<u64>,
}

impl Scene {
    fn new() -> Self {
        let origin = Origin::responding("served");
        let lb = Lb::controlled(&[&origin]);
        Self { origin, lb, rejections: Cell::new(0) }
    }

    /// Each of these requests is rejected with this status and code, and no byte of it reaches a
    /// backend.
    #[track_caller]
    fn rejects(&self, status: u16, code: &str, requests: &[impl AsRef<[u8]>]) {
        for request in requests {
            self.rejects_one(status, code, request.as_ref());
            assert_eq!(
                self.lb.totals().backend_connects,
                0,
                "a backend was connected to for {}",
                escaped(request.as_ref())
            );
        }
        assert_eq!(
            (self.origin.connections(), self.origin.count()),
            (0, 0),
            "{}",
            self.origin.story()
        );
    }

    /// Each of these field lines, in an otherwise valid request, is rejected.
    #[track_caller]
    fn rejects_fields(&self, status: u16, code: &str, lines: &[&str]) {
        let request = |line: &&str| {
            format!(
                "POST / HTTP/1.1\r\nHost: h\r\n{line}\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"
            )
        };
        let requests: Vec<String> = lines.iter().map(request).collect();
        self.rejects(status, code, &requests);
    }

    #[track_caller]
    fn rejects_one(&self, status: u16, code: &str, request: &[u8]) {
        let shown = escaped(request);
        let cause = *Cause::ALL
            .iter()
            .find(|cause| cause.code() == code)
            .expect("the code is in the table of causes");
        let counted = self.lb.totals().failed(cause);
        rejects_on(Client::connect(self.lb.admin()), (status, code), request);
        rejects_on(self.lb.connect(), (status, code), request);
        self.rejections.set(self.rejections.get() + 1);
        self.lb.wait_for_closed(Reason::Rejected, self.rejections.get());
        assert_eq!(self.lb.totals().failed(cause), counted + 1, "{shown} is counted as {code}");
    }

    /// Each of these requests is served.
    #[track_caller]
    fn serves(&self, requests: &[impl AsRef<[u8]>]) {
        for request in requests {
            let mut client = self.lb.connect();
            client.send(request);
            let response = client.read_response();
            assert_eq!(
                (response.status, response.text().as_str()),
                (200, "served"),
                "{}",
                escaped(request.as_ref())
            );
        }
    }
}

/// Sends a request that gets this status and code, and nothing else.
#[track_caller]
fn rejects_on(mut client: Client, (status, code): (u16, &str), request: &[u8]) {
    let shown = escaped(request);
    client.send(request);
    let response = client.read_response();
    let found = (response.status, response.header("X-LB-Error"));
    assert_eq!(found, (status, Some(code)), "{shown} gave {response:?}");
    assert!(
        response.announces_close() && response.header("Date").is_some(),
        "{shown} gave {response:?}"
    );
    assert_eq!(response.header("Server"), Some("lb-threads"));
    assert!(response.text().contains(code), "{shown} gave {response:?}");
    assert!(client.at_end(), "one rejection and nothing after it for {shown}");
}

/// A GET whose head is exactly this long.
fn head_of(length: usize) -> String {
    let (start, end) = ("GET / HTTP/1.1\r\nHost: h\r\nX-Pad: ", "\r\n\r\n");
    format!("{start}{}{end}", "a".repeat(length - start.len() - end.len()))
}
