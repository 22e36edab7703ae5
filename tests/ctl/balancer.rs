//! `lb-threads ctl` and a real balancer: each command, and the balancer after it.

use super::{command, ctl, done, failed};
use crate::support::program::Program;
use crate::support::{Gate, Health, Lb, Origin, Step, get, ok, refused_address, until, with_admin};
use lb_threads::config::Token;

/// The host and the port of an origin, as two words.
fn words(origin: &Origin) -> [String; 2] {
    [origin.address().ip().to_string(), origin.address().port().to_string()]
}

#[test]
fn backends_are_added_weighted_drained_resumed_and_removed() {
    let (one, two) = (Origin::named("one"), Origin::named("two"));
    let lb = Lb::controlled(&[&one]);
    let [host, port] = &words(&two);
    let url = format!("http://{host}:{port}");
    let served = || (0..4).filter(|_| get(lb.address(), "/").text() == "two").count();

    let output = done(lb.admin(), &["add", host, port, "2"]);
    assert_eq!(output, format!("added {url}, weight 2: up (GET /health returned 200)\n"));
    assert!(served() > 0, "the next requests are served by it");
    let output = done(lb.admin(), &["list"]);
    assert!(output.contains(&format!("{url}  up")) && output.contains("2 of 2 up"), "{output}");
    let output = done(lb.admin(), &["weight", &url, "7"]);
    assert!(output.starts_with(&format!("{url} has weight 7: up")), "{output}");
    assert_eq!(
        done(lb.admin(), &["drain", host, port]),
        format!("drained {url}: none in flight\n")
    );
    assert_eq!(served(), 0);
    let output = done(lb.admin(), &["resume", &url]);
    assert!(output.starts_with(&format!("resumed {url}: up")), "{output}");
    assert!(served() > 0);
    assert_eq!(done(lb.admin(), &["remove", &url]), format!("removed {url}\n"));
    assert_eq!(served(), 0);
    assert!(done(lb.admin(), &["list"]).contains("1 of 1 up"));
}

#[test]
fn a_drain_waits_for_requests_in_flight_and_reports_those_that_are_left() {
    let gate = Gate::new();
    let slow =
        Origin::start([Step::ReadRequest, Step::WaitFor(gate.clone()), Step::send(ok("late"))]);
    let lb = Lb::controlled(&[&slow]);
    let mut client = lb.connect();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    slow.wait_for_requests(1);
    let [host, port] = &words(&slow);
    let error = failed(&ctl(lb.admin(), &["drain", host, port, "--wait", "100ms"]), 1);
    assert!(error.ends_with("has 1 request in flight after 100ms; it stays draining"), "{error}");
    let output = done(lb.admin(), &["drain", host, port]);
    assert!(output.ends_with(": 1 request in flight\n"), "{output}");

    let waiting = Program::start(command(lb.admin(), &["drain", host, port, "--wait", "9s"]));
    gate.open();
    client.read_response().expect_status(200);
    let ended = waiting.wait_for_end();
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    assert!(ended.stdout.ends_with(": none in flight\n"), "{ended:?}");
}

#[test]
fn a_request_that_the_balancer_rejects_is_explained_with_exit_code_four() {
    let one = Origin::named("one");
    let lb = Lb::controlled(&[&one]);
    let [host, port] = &words(&one);
    let error = failed(&ctl(lb.admin(), &["add", host, port]), 4);
    assert!(error.contains(&format!("http://{host}:{port}")), "{error}");
    let error = failed(&ctl(lb.admin(), &["remove", &refused_address().to_string()]), 4);
    assert!(error.contains("no backend"), "{error}");
    let error = failed(&ctl(lb.admin(), &["algorithm", "round_robbin"]), 4);
    assert!(error.contains("round_robin"), "{error}");
}

#[test]
fn the_algorithm_is_shown_and_set_in_every_spelling() {
    let one = Origin::named("one");
    let lb = Lb::controlled(&[&one]);
    for words in [&["algorithm"][..], &["algorithm", "Round-Robin"], &["algorithm", "rr"]] {
        assert_eq!(done(lb.admin(), words), "round_robin\n", "{words:?}");
    }
}

#[test]
fn health_follows_the_balancer() {
    let one = Origin::named("one");
    let lb = Lb::controlled(&[&one]);
    let output = done(lb.admin(), &["health"]);
    assert!(
        output.starts_with("ready\n") && output.contains("GET /health returned 200"),
        "{output}"
    );
    one.set_health(Health::Status(503));
    until("no backend is up", || lb.up() == 0);
    let ended = ctl(lb.admin(), &["health"]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stdout.contains("GET /health returned 503"), "{ended:?}");
    let error = failed(&ctl(lb.address(), &["health"]), 1);
    assert!(error.contains("the port of lb-threads for traffic"), "{error}");
}

#[test]
fn a_balancer_with_a_token_wants_it_and_health_needs_none() {
    let one = Origin::named("one");
    let lb = Lb::with(&[&one], |config| {
        with_admin(config);
        config.boot.control.token = Some(Token::parse("s3cret").expect("a token"));
    });
    let error = failed(&ctl(lb.admin(), &["list"]), 4);
    let places = "--admin-token-file or LB_ADMIN_TOKEN";
    assert_eq!(error.matches(places).count(), 1, "{error}");
    for (token, code) in [("s3cret", 0), ("wrong", 4)] {
        let mut command = command(lb.admin(), &["list"]);
        command.env("LB_ADMIN_TOKEN", token);
        assert_eq!(Program::start(command).wait_for_end().code, Some(code), "{token}");
    }
    done(lb.admin(), &["health"]);
}
