//! Backends that go down and come back: the requests meanwhile, none of which is lost if another
//! backend is up.

mod hanging;
mod last_backend;

use crate::support::{
    After, Client, Gate, Health, Lb, Origin, Script, Step, config, exchange, get, ok,
    refused_address, until,
};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

/// A request of a crowd, and its outcome.
#[derive(Debug)]
struct Sent {
    target: String,
    status: u16,
    cause: Option<String>,
}

/// Opens its gate at the end of its scope: a crowd must not outlive a failed test.
struct OpensAtEnd<'g>(&'g Gate);

impl Drop for OpensAtEnd<'_> {
    fn drop(&mut self) {
        self.0.open();
    }
}

/// Four clients send one request after the other, each on a connection of its own, for as long as
/// `act` takes.
fn under_load<R>(address: SocketAddr, method: &str, act: impl FnOnce() -> R) -> (Vec<Sent>, R) {
    const CLIENTS: usize = 4;

    let end = Gate::new();
    let client = |number: usize| {
        let (mut client, mut all) = (Client::connect(address), Vec::new());
        while !end.is_open() {
            let target = format!("/{number}-{}", all.len());
            client.send(format!(
                "{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
            ));
            let response = client.read_response();
            let cause = response.header("X-LB-Error").map(str::to_owned);
            all.push(Sent { target, status: response.status, cause });
        }
        all
    };
    thread::scope(|scope| {
        let client = &client;
        let clients: Vec<_> =
            (0..CLIENTS).map(|number| scope.spawn(move || client(number))).collect();
        let ending = OpensAtEnd(&end);
        let result = act();
        drop(ending);
        let sent = clients
            .into_iter()
            .flat_map(|client| client.join().expect("every request gets a response"))
            .collect();
        (sent, result)
    })
}

/// How often each target came to any of the origins.
fn seen(origins: &[&Origin]) -> HashMap<String, u64> {
    let mut seen = HashMap::new();
    for request in origins.iter().flat_map(|origin| origin.requests()) {
        *seen.entry(request.target).or_default() += 1;
    }
    seen
}

fn named() -> [Origin; 3] {
    ["one", "two", "three"].map(Origin::named)
}

#[test]
fn three_backends_take_turns_whatever_connections_the_requests_come_on() {
    let [one, two, three] = named();
    let lb = Lb::over(&[&one, &two, &three]);
    lb.wait_for_up(3);
    let mut client = lb.connect();
    let kept: Vec<String> = (0..6).map(|_| client.get("/").text()).collect();
    assert_eq!(kept, ["one", "two", "three", "one", "two", "three"]);
    let own: Vec<String> = (0..6).map(|_| get(lb.address(), "/").text()).collect();
    assert_eq!(own, kept, "a connection a request");
    assert_eq!([one.count(), two.count(), three.count()], [4, 4, 4]);
}

#[test]
fn a_backend_that_is_killed_under_load_and_comes_back_fails_no_request() {
    let [one, two, three] = named();
    // Checks are far apart: it is the requests that take the dead backend out.
    let lb = Lb::with(&[&one, &two, &three], |config| {
        config.settings.health.period = Duration::from_secs(10);
    });
    lb.wait_for_up(3);
    let (sent, (again, out_after)) = under_load(lb.address(), "GET", || {
        until("all backends are busy", || {
            [&one, &two, &three].iter().all(|origin| origin.count() > 20)
        });
        let killed_at = Instant::now();
        two.stop();
        lb.wait_for_up(2);
        let out_after = killed_at.elapsed();
        let before = one.count();
        until("the others go on", || one.count() > before + 50);
        let again = Origin::start_on(two.address(), Script::named("two again"));
        lb.wait_for_up(3);
        until("it gets work again", || again.count() > 20);
        (again, out_after)
    });
    assert!(
        out_after < Duration::from_secs(2),
        "out at once, not at the next check: {out_after:?}"
    );
    let failed: Vec<&Sent> = sent.iter().filter(|sent| sent.status != 200).collect();
    assert!(failed.is_empty(), "{} of {} failed: {failed:?}", failed.len(), sent.len());
    let seen = seen(&[&one, &two, &three, &again]);
    let lost: Vec<&Sent> = sent.iter().filter(|sent| !seen.contains_key(&sent.target)).collect();
    assert!(lost.is_empty(), "a response, though no backend has seen the request: {lost:?}");
    let totals = lb.totals();
    assert_eq!(totals.requests, sent.len() as u64);
    let surplus = seen.values().sum::<u64>() - sent.len() as u64;
    assert!(surplus <= totals.retries, "{surplus} came twice, {} were sent again", totals.retries);
}

#[test]
fn posts_to_a_backend_that_is_killed_under_load_are_never_executed_twice() {
    let [one, two, three] = named();
    let lb = Lb::with(&[&one, &two, &three], |config| {
        config.settings.health.period = Duration::from_secs(10);
    });
    lb.wait_for_up(3);
    let (sent, ()) = under_load(lb.address(), "POST", || {
        until("all backends are busy", || {
            [&one, &two, &three].iter().all(|origin| origin.count() > 20)
        });
        two.stop();
        lb.wait_for_up(2);
        let before = one.count();
        until("the others go on", || one.count() > before + 50);
    });
    let seen = seen(&[&one, &two, &three]);
    let twice: Vec<_> = seen.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
    for sent in &sent {
        let cause = sent.cause.as_deref();
        assert!(
            matches!((sent.status, cause), (200, None) | (502, Some("backend_closed"))),
            "{sent:?}"
        );
        assert!(sent.status == 502 || seen.contains_key(&sent.target), "{sent:?}");
    }
    // At most one request per client was at the backend when it died.
    assert!(sent.iter().filter(|sent| sent.status != 200).count() <= 4, "{sent:?}");
}

#[test]
fn two_refused_connects_take_a_backend_down_at_once() {
    let origin = Origin::named("one");
    let lb = Lb::start({
        let mut config = config(&[refused_address(), origin.address()]);
        config.settings.health.checks = false;
        config
    });
    assert_eq!(lb.up(), 2, "without checks all are up");
    for number in 1..=2 {
        assert_eq!(get(lb.address(), "/").text(), "one");
        assert_eq!(lb.totals().retries, number, "it is picked, and the request goes to the next");
        assert_eq!(lb.up(), if number == 2 { 1 } else { 2 });
        // The origin is next.
        if number == 1 {
            get(lb.address(), "/");
        }
    }
    get(lb.address(), "/").expect_status(200);
    assert_eq!(lb.totals().retries, 2, "it is not tried any more");
}

#[test]
fn without_checks_a_probe_request_brings_a_backend_back() {
    let (one, two) = (Origin::named("one"), Origin::named("two"));
    let lb = Lb::with(&[&one, &two], |config| config.settings.health.checks = false);
    one.stop();
    let mut client = lb.connect();
    until("the dead backend is out", || {
        assert_eq!(client.get("/").text(), "two");
        lb.up() == 1
    });
    let tried = lb.totals().retries;
    assert_eq!(tried, 2);
    // So many requests that each probe is sent as soon as it is due.
    let (sent, one) = under_load(lb.address(), "GET", || {
        until("a probe has failed", || lb.totals().retries > tried);
        assert_eq!(lb.up(), 1);
        let one = Origin::start_on(one.address(), Script::named("one again"));
        let start = Instant::now();
        lb.wait_for_up(2);
        // The second time it is out for two seconds.
        assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
        one
    });
    assert!(sent.iter().all(|sent| sent.status == 200), "no request failed");
    let names: Vec<String> = (0..2).map(|_| client.get("/").text()).collect();
    assert!(names.contains(&"one again".to_owned()), "{names:?}");
    assert_eq!((one.health_checks(), two.health_checks()), (0, 0));
}

#[test]
fn a_probe_is_one_request_and_its_response_decides() {
    let (one, two) = (Origin::named("one"), Origin::named("two"));
    let lb = Lb::with(&[&one, &two], |config| config.settings.health.checks = false);
    one.stop();
    until("the dead backend is out", || {
        get(lb.address(), "/").expect_status(200);
        lb.up() == 1
    });
    let gate = Gate::new();
    let hesitant = Script::steps([
        Step::ReadRequest,
        Step::WaitFor(gate.clone()),
        Step::send(ok("one again")),
    ]);
    let one = Origin::start_on(one.address(), hesitant);
    let (sent, ()) = under_load(lb.address(), "GET", || {
        one.wait_for_requests(1);
        let before = two.count();
        until("the others go on", || two.count() > before + 50);
        assert_eq!((one.count(), lb.up()), (1, 1), "one request is tried, no other waits for it");
        gate.open();
        lb.wait_for_up(2);
    });
    assert!(sent.iter().all(|sent| sent.status == 200), "{sent:?}");
}

#[test]
fn without_checks_every_request_is_tried_at_the_only_backend() {
    let origin = Origin::named("one");
    let lb = Lb::with(&[&origin], |config| config.settings.health.checks = false);
    origin.stop();
    for _ in 0..10 {
        let response = get(lb.address(), "/");
        assert_eq!((response.status, response.header("X-LB-Error")), (502, Some("connect_failed")));
    }
    assert_eq!(lb.up(), 1);
    let _origin = Origin::start_on(origin.address(), Script::named("again"));
    assert_eq!(
        get(lb.address(), "/").text(),
        "again",
        "the first request after its return is served"
    );
}

/// A backend that supports only HTTP/1.0.
fn old_origin(name: &str) -> Origin {
    let raw = format!("HTTP/1.0 200 OK\r\nX-Origin: {name}\r\n\r\n{name}");
    Origin::raw(raw, After::Close).health(Health::Raw(b"HTTP/1.0 200 OK\r\n\r\nok".to_vec()))
}

#[test]
fn http_1_0_backends_take_turns_too() {
    let (one, two) = (old_origin("one"), old_origin("two"));
    let lb = Lb::over(&[&one, &two]);
    lb.wait_for_up(2);
    let mut client = lb.connect();
    for expected in ["one", "two", "one", "two"] {
        let response = client.get("/");
        assert_eq!(
            (response.version.as_str(), response.text().as_str(), response.truncated),
            ("HTTP/1.1", expected, false)
        );
    }
    let chunked = "POST /up HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    assert_eq!(client.exchange(chunked).text(), "one");
    let received = one.requests().pop().expect("it came");
    assert_eq!(
        (received.header("Content-Length"), received.text().as_str()),
        (Some("5"), "abcde"),
        "no chunks for HTTP/1.0"
    );
    assert_eq!(received.header("Transfer-Encoding"), None);
    two.stop();
    assert_eq!(
        client.exchange(chunked).text(),
        "one",
        "buffered, refused by the dead one, sent to the other"
    );
    assert_eq!(one.requests().pop().expect("it came").text(), "abcde");
}

#[test]
fn a_chunked_body_over_64_kib_for_http_1_0_gets_411() {
    let origin = old_origin("one");
    let lb = Lb::over(&[&origin]);
    lb.wait_for_up(1);
    let body = crate::support::chunked([vec![b'x'; 40_000], vec![b'y'; 40_000]]);
    let request =
        [b"POST /up HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec(), body]
            .concat();
    let response = exchange(lb.address(), request);
    assert_eq!((response.status, response.header("X-LB-Error")), (411, Some("length_required")));
    assert_eq!(origin.count(), 0);
}
