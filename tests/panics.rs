//! A bug in the balancer, played by a log that panics: it closes the connection whose step it is,
//! and nothing else.

use crate::support::{
    Client, Gate, Lb, Next, Origin, Script, Step, exchange, get, until, with_admin,
};
use lb_threads::config::{BackendSpec, Config, HostPort};
use lb_threads::reason::Reason;
use log::{LevelFilter, Log, Metadata, Record};
use std::sync::Once;

/// Logging this path panics.
const PATH: &str = "/panic-in-a-step";
/// Logging a bad response of a backend of this name panics, while the connection to that backend is
/// in use.
const BACKEND: &str = "panic-in-a-step";

/// Discards everything, and panics at the set trap.
struct Trap;

impl Log for Trap {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= LevelFilter::Info
    }

    fn log(&self, record: &Record<'_>) {
        let line = record.args().to_string();
        let is_marked = line.contains(PATH)
            || line.starts_with(&format!("bad response from backend {BACKEND}"));
        assert!(!is_marked, "{PATH}");
    }

    fn flush(&self) {}
}

/// Sets the trap, once for all tests of the process, and keeps its panics off the terminal.
fn set_the_trap() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_boxed_logger(Box::new(Trap)).expect("no other logger is set");
        log::set_max_level(LevelFilter::Info);
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if panic.payload().downcast_ref::<String>().is_none_or(|text| text != PATH) {
                usual(panic);
            }
        }));
    });
}

#[track_caller]
fn balancer(origin: &Origin, change: impl FnOnce(&mut Config)) -> Lb {
    set_the_trap();
    let lb = Lb::with(&[origin], |config| {
        config.boot.workers = 1;
        config.settings.health.checks = false;
        change(config);
    });
    assert_eq!(lb.up(), 1);
    lb
}

/// Sends a request whose step panics, and waits for the end of its connection.
#[track_caller]
fn panic_on(client: &mut Client, lb: &Lb, path: &str) {
    let before = lb.totals().closed(Reason::Panicked);
    client.send(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
    client.read_until_closed();
    lb.wait_for_closed(Reason::Panicked, before + 1);
}

#[test]
fn a_panic_in_a_step_closes_only_its_connection() {
    let origin = Origin::named("one");
    let lb = balancer(&origin, |_| {});
    let mut other = lb.connect();
    other.get("/").expect_status(200);
    let mut client = lb.connect();
    client.get("/before").expect_status(200);
    panic_on(&mut client, &lb, PATH);
    assert_eq!(other.get("/").text(), "one", "another connection of the same worker");
    assert_eq!(get(lb.address(), "/").text(), "one", "a new one");
    drop(other);
    until("nothing is left of any of them", || lb.balancer().open_connections() == 0);
    assert_eq!(lb.totals().closed_in_total(), lb.totals().connections);
}

#[test]
fn many_panics_leak_nothing_and_the_backend_stays_up() {
    let origin = Origin::named("one");
    let lb = balancer(&origin, |_| {});
    for number in 1..=50 {
        panic_on(&mut lb.connect(), &lb, PATH);
        assert_eq!(lb.totals().closed(Reason::Panicked), number);
        get(lb.address(), "/").expect_status(200);
    }
    assert_eq!(lb.balancer().registry().statuses()[0].backend.in_flight(), 0);
    assert!(
        origin.open_connections() <= 1,
        "one kept connection serves one client at a time: {}",
        origin.story()
    );
    assert_eq!(lb.up(), 1);
    until("nothing is left of them", || lb.balancer().open_connections() == 0);
}

#[test]
fn a_panic_while_a_backend_connection_is_in_use_closes_it() {
    // Half of its response is forwarded when the step panics: the connection must never be reused.
    let gate = Gate::new();
    let bad = [
        Step::ReadRequest,
        Step::send("NOT HTTP\r\n\r\n"),
        Step::WaitFor(gate.clone()),
        Step::send("the rest"),
        Step::Hang,
    ];
    let origin = Origin::start(Script::sequence([Script::steps(bad), Script::named("one")]));
    let lb = balancer(&origin, |config| {
        config.backends = vec![BackendSpec {
            authority: HostPort::new(BACKEND, 80).unwrap(),
            ..origin.address().into()
        }];
    });
    let mut client = lb.connect();
    client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(matches!(client.comes_next(), Next::End | Next::Reset), "no partial response");
    lb.wait_for_closed(Reason::Panicked, 1);
    assert_eq!(
        lb.balancer().registry().statuses()[0].backend.in_flight(),
        0,
        "it is not at the backend any more"
    );
    assert_eq!(get(lb.address(), "/").text(), "one");
    gate.open();
    until("its connection is closed", || origin.ending(0).is_some());
    assert_eq!(
        origin.requests().iter().map(|request| request.connection).collect::<Vec<_>>(),
        [0, 1]
    );
    assert_eq!(lb.totals().backend_reuses, 0);
    until("nothing is left of them", || lb.balancer().open_connections() == 0);
}

#[test]
fn a_panic_in_a_request_to_the_control_api_costs_that_request() {
    let origin = Origin::named("one");
    let lb = balancer(&origin, with_admin);
    let mut other = Client::connect(lb.admin());
    for _ in 0..40 {
        // Its line in the log has the path, and panics.
        let response =
            exchange(lb.admin(), format!("POST {PATH} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        let found = (response.status, response.header("X-LB-Error"));
        assert_eq!(found, (500, Some("panicked")), "{}", response.text());
        assert!(response.announces_close());
    }
    assert_eq!(other.get("/livez").status, 200, "other connections stay");
    assert_eq!(get(lb.address(), "/").text(), "one");
}

#[test]
fn a_panic_on_one_connection_leaves_a_request_in_flight_alone() {
    let gate = Gate::new();
    let (waits, opens) = (gate.clone(), gate.clone());
    let origin = Origin::serve(move |request, reply| {
        if request.target == "/slow" {
            reply.step(&Step::WaitFor(waits.clone()));
        }
        reply.ok("fine");
    });
    let lb = balancer(&origin, |_| {});
    let mut slow = lb.connect();
    slow.send("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n");
    origin.wait_for_requests(1);
    panic_on(&mut lb.connect(), &lb, PATH);
    opens.open();
    assert_eq!(slow.read_response().text(), "fine");
    slow.get("/again").expect_status(200);
}

#[test]
fn a_session_that_panics_in_a_step_gives_its_permit_back() {
    let origin = Origin::named("one");
    let lb = balancer(&origin, |config| {
        (
            config.settings.limits.max_connections,
            config.settings.limits.max_connections_per_client,
        ) = (1, Some(1));
    });
    for _ in 0..10 {
        panic_on(&mut lb.connect(), &lb, PATH);
        until("its permit is back", || lb.balancer().open_connections() == 0);
    }
    assert_eq!(get(lb.address(), "/").text(), "one");
}

#[test]
fn a_session_that_panics_in_its_close_gives_its_permit_back() {
    let gate = Gate::new();
    let waits = gate.clone();
    let origin = Origin::serve(move |request, reply| {
        if request.target == PATH {
            waits.wait();
        }
        reply.ok("fine");
    });
    let lb = balancer(&origin, |config| {
        (
            config.settings.limits.max_connections,
            config.settings.limits.max_connections_per_client,
        ) = (1, Some(1));
    });
    for number in 1..=10 {
        let mut client = lb.connect();
        client.send(format!("GET {PATH} HTTP/1.1\r\nHost: x\r\n\r\n"));
        origin.wait_for_requests(number);
        // The close logs the unfinished exchange, and panics there.
        client.reset();
        lb.wait_for_closed(Reason::ClientReset, number as u64);
        until("its permit is back", || lb.balancer().open_connections() == 0);
    }
    assert_eq!(lb.balancer().registry().statuses()[0].backend.in_flight(), 0);
    assert_eq!(get(lb.address(), "/").text(), "fine");
    gate.open();
}
