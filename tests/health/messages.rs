//! The log lines and the 503 about backends that are down.

use crate::support::program::Program;
use crate::support::{Health, Lb, Origin, config, exchange, get, refused_address, until};
use lb_threads::error::Cause;

const HINT_404: &str = "GET /health returned 404: add that file, or use --health-path /";

#[test]
fn a_backend_without_a_health_page_is_explained_when_it_goes_down() {
    let origin = Origin::named("one");
    let balancer = Program::balancer(&[origin.address()], &["1"]);
    balancer.until_logged("1 backend(s) up");
    origin.set_health(Health::Status(404));
    balancer.until_logged(HINT_404);
    let log = balancer.log();
    let flip = log.lines().find(|line| line.contains(HINT_404)).expect("it is in the log");
    assert!(
        flip.contains(&format!("backend {} down after 2 failure(s)", origin.address())),
        "{flip}"
    );
    origin.set_health(Health::Healthy);
    balancer.until_logged(&format!("backend {} up: GET /health returned 200", origin.address()));
}

#[test]
fn backends_without_a_health_page_are_explained_at_the_start() {
    let origin = Origin::named("one").health(Health::Status(404));
    let balancer = Program::balancer(&[origin.address()], &[]);
    balancer.until_logged("0 backend(s) up");
    let log = balancer.log();
    assert!(log.contains(HINT_404), "the reason is not in the log: {log}");
    assert!(log.contains(&origin.address().to_string()), "{log}");
}

#[test]
fn the_503_names_a_missing_health_page() {
    let origin = Origin::named("one").health(Health::Status(404));
    let lb = Lb::over(&[&origin]);
    let response = get(lb.address(), "/");
    assert_eq!((response.status, response.header("X-LB-Error")), (503, Some("no_backend")));
    assert!(response.text().contains("--health-path"), "{}", response.text());
}

#[test]
fn without_a_healthy_backend_requests_get_503_and_the_connection_stays_open() {
    let lb = Lb::start(config(&[refused_address()]));
    let mut client = lb.connect();
    for target in ["/first", "/second"] {
        let response = client.get(target);
        assert_eq!((response.status, response.header("X-LB-Error")), (503, Some("no_backend")));
        assert_eq!(
            (response.header("Retry-After"), response.header("Server")),
            (Some("1"), Some("lb-threads"))
        );
        assert!(response.header("Date").is_some_and(|date| date.ends_with(" GMT")));
        assert!(
            !response.announces_close() && response.text().contains("no backend is healthy"),
            "{response:?}"
        );
    }
    let head = client.exchange("HEAD / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!((head.status, head.body.len()), (503, 0));
    let post = client.exchange("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc");
    assert_eq!((post.status, post.announces_close()), (503, true), "its body was not read");
    until("the rejections are counted", || lb.totals().failed(Cause::NoBackend) == 4);
}

#[test]
fn the_503_is_json_if_the_client_accepts_json() {
    let lb = Lb::start(config(&[refused_address()]));
    for accept in ["application/json", "text/html;q=0.5, application/json", "Application/JSON"] {
        let response = exchange(
            lb.address(),
            format!("GET / HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\n\r\n"),
        );
        assert_eq!(response.header("Content-Type"), Some("application/json"), "{accept}");
        let body: serde_json::Value = serde_json::from_slice(&response.body).expect("it is JSON");
        assert_eq!((&body["status"], &body["error"]), (&503.into(), &"no_backend".into()));
        assert!(
            body["message"]
                .as_str()
                .is_some_and(|message| message.contains("no backend is healthy")),
            "{body}"
        );
    }
    for accept in ["text/html", "*/*", "application/jsonp"] {
        let response = exchange(
            lb.address(),
            format!("GET / HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\n\r\n"),
        );
        assert_eq!(response.header("Content-Type"), Some("text/plain; charset=utf-8"), "{accept}");
    }
}
