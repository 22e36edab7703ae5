//! `/livez`, `/readyz` and `/healthz` in each state of the balancer.

use super::{post_url, url};
use crate::support::{Client, Gate, Health, Lb, Origin, exchange, get, until};
use lb_threads::server::Drained;
use std::time::Duration;

#[track_caller]
fn page(lb: &Lb, path: &str) -> (u16, String) {
    let response = get(lb.admin(), path);
    assert_eq!(response.header("Content-Type"), Some("text/plain; charset=utf-8"));
    (response.status, response.text())
}

fn is(status: u16, text: &str) -> (u16, String) {
    (status, format!("{text}\n"))
}

#[test]
fn it_is_ready_while_a_backend_is_up() {
    let origin = Origin::named("one");
    let lb = Lb::controlled(&[]);
    assert_eq!(page(&lb, "/readyz"), is(503, "not ready: no backends yet"));
    post_url(&lb, "add", &origin);
    assert_eq!(page(&lb, "/readyz"), is(200, "ready"));
    post_url(&lb, "drain", &origin);
    assert_eq!(page(&lb, "/readyz"), is(503, "not ready: no backend is up"));
    post_url(&lb, "resume", &origin);
    assert_eq!(page(&lb, "/readyz"), is(200, "ready"));
    origin.set_health(Health::Status(503));
    lb.wait_for_up(0);
    let (status, text) = page(&lb, "/readyz?verbose");
    assert_eq!(status, 503);
    for line in
        ["not ready: no backend is up", "serving: yes", "draining: no", "backends up: 0 of 1"]
    {
        assert!(text.lines().any(|other| other == line), "{line}: {text}");
    }
    let backend = text.lines().last().expect("a line per backend");
    assert!(backend.starts_with(&format!("backend {} down since 20", url(&origin))), "{backend}");
    assert!(backend.ends_with(": GET /health returned 503"), "{backend}");
}

#[test]
fn it_is_alive_whatever_its_backends_do() {
    let lb = Lb::controlled(&[]);
    for path in ["/livez", "/healthz", "/livez?verbose"] {
        assert_eq!(page(&lb, path), is(200, "alive"), "{path}");
    }
    let mut client = Client::connect(lb.admin());
    for (path, status) in [("/livez", 200), ("/readyz", 503), ("/readyz?verbose=1", 503)] {
        client.send(format!("HEAD {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert_eq!(client.read_response_to("HEAD").status, status, "{path}");
    }
    assert_eq!(exchange(lb.admin(), "GET /livez HTTP/1.0\r\n\r\n").status, 200, "no Host");
}

#[test]
fn during_a_drain_it_responds_and_is_not_ready() {
    let gate = Gate::new();
    let waits = gate.clone();
    let origin = Origin::serve(move |_, reply| {
        waits.wait();
        reply.ok("late");
    });
    let mut lb = Lb::controlled(&[&origin]);
    let admin = lb.admin();
    let mut client = lb.connect();
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    origin.wait_for_requests(1);
    assert_eq!(page(&lb, "/readyz"), is(200, "ready"));
    lb.begin_drain(Duration::from_secs(60));
    assert_eq!(page(&lb, "/readyz"), is(503, "not ready: draining"));
    assert_eq!(page(&lb, "/livez"), is(200, "alive"));
    assert_eq!(super::list(&lb)["backends"][0]["in_flight"], 1);
    gate.open();
    assert_eq!(client.read_response().text(), "late");
    assert_eq!(lb.wait_for_end(), Drained::Clean);
    until("its port is closed", || std::net::TcpStream::connect(admin).is_err());
}
