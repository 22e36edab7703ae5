//! Health: when a backend goes out and comes back by its checks, what counts as healthy, and what
//! people are told.

use crate::support::program::{Program, balancer_words, command_with_descriptors};
use crate::support::{
    Client, Health, Lb, Origin, Script, Step, config, exchange, get, refused_address, stays, until,
};
use lb_threads::error::Cause;
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);
/// A short one, where the length does not matter: what is due after a second is then due after a
/// period.
const PERIOD: Duration = Duration::from_millis(200);

/// How long it takes until so many backends are up.
#[track_caller]
fn time_until_up(lb: &Lb, count: usize) -> Duration {
    let start = Instant::now();
    lb.wait_for_up(count);
    start.elapsed()
}

#[test]
fn without_traffic_a_dead_backend_is_out_within_period_plus_two_seconds_and_comes_back() {
    let (one, two) = (Origin::named("one"), Origin::named("two"));
    let lb = Lb::over(&[&one, &two]);
    lb.wait_for_up(2);
    one.stop();
    let out_after = time_until_up(&lb, 1);
    assert!(out_after <= 3 * SECOND, "{out_after:?}");
    let _one = Origin::start_on(one.address(), Script::named("one again"));
    let back_after = time_until_up(&lb, 2);
    assert!(back_after <= 2 * SECOND, "{back_after:?}");
    assert_eq!(lb.totals().requests, 0, "nobody asked for anything");
}

#[test]
fn a_hanging_check_times_out_and_delays_nobody_elses_flip() {
    let (hangs, dies, stays_up) =
        (Origin::named("hangs"), Origin::named("dies"), Origin::named("stays"));
    let lb = Lb::with(&[&hangs, &dies, &stays_up], |config| {
        config.settings.health.period = PERIOD;
        config.settings.health.timeout = Some(5 * SECOND);
    });
    lb.wait_for_up(3);
    hangs.set_health(Health::Hang);
    let checks = hangs.health_checks();
    until("its check hangs", || hangs.health_checks() > checks);
    dies.stop();
    let out_after = time_until_up(&lb, 2);
    assert!(out_after <= 3 * SECOND, "{out_after:?}");
    let others = stays_up.health_checks();
    until("the others are checked again and again", || stays_up.health_checks() > others + 3);
    assert_eq!(hangs.health_checks(), checks + 1, "one check of a backend at a time");
    assert_eq!(lb.up(), 2, "the hanging one has not failed yet");
}

#[test]
fn a_hanging_backend_is_out_within_period_plus_one_second_plus_two_timeouts() {
    let (hangs, stays_up) = (Origin::named("hangs"), Origin::named("stays"));
    let timeout = PERIOD;
    let lb = Lb::with(&[&hangs, &stays_up], |config| {
        config.settings.health.period = PERIOD;
        config.settings.health.timeout = Some(timeout);
    });
    lb.wait_for_up(2);
    hangs.set_health(Health::Hang);
    let out_after = time_until_up(&lb, 1);
    assert!(
        out_after >= timeout && out_after <= PERIOD + 2 * SECOND + 2 * timeout,
        "{out_after:?}"
    );
    hangs.set_health(Health::Healthy);
    let back_after = time_until_up(&lb, 2);
    assert!(back_after <= 2 * SECOND + timeout, "{back_after:?}");
}

/// Addresses that take connections, and never respond.
fn silent(count: usize) -> (Vec<TcpListener>, Vec<SocketAddr>) {
    let listeners: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
    let addresses =
        listeners.iter().map(|listener| listener.local_addr().expect("it is bound")).collect();
    (listeners, addresses)
}

#[test]
fn backends_that_hang_at_the_start_delay_it_by_two_seconds_at_most() {
    let (_listeners, hanging) = silent(2);
    let mut config = config(&hanging);
    config.settings.health.timeout = Some(8 * SECOND);
    let start = Instant::now();
    let lb = Lb::start(config);
    let took = start.elapsed();
    assert!(took >= SECOND && took < 5 * SECOND, "the first round has two seconds: {took:?}");
    assert_eq!((lb.up(), get(lb.address(), "/").status), (0, 503));
}

#[test]
fn a_good_backend_serves_beside_two_hundred_that_hang_and_its_period_is_kept() {
    let (_listeners, hanging) = silent(200);
    let good = Origin::named("good");
    let mut config = config(&[hanging, vec![good.address()]].concat());
    config.settings.health.timeout = Some(60 * SECOND);
    let lb = Lb::start(config);
    lb.wait_for_up(1);
    assert_eq!(get(lb.address(), "/").text(), "good", "all first checks start at once");
    until("it is checked again and again while the others hang", || good.health_checks() >= 4);
    assert_eq!(lb.up(), 1);
}

#[test]
fn there_are_no_more_checkers_than_checks_at_once() {
    let (one, two) = (Origin::named("one"), Origin::named("two"));
    let balancer = Program::balancer(&[one.address(), two.address()], &["1"]);
    until("both were checked three times", || one.health_checks() >= 3 && two.health_checks() >= 3);
    let checkers = balancer.threads("checker-");
    assert!((1..=2).contains(&checkers), "{checkers}");
}

#[test]
fn a_backend_whose_check_was_answered_in_http10_gets_no_chunks() {
    let health = b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec();
    let origin = Origin::echo().health(Health::Raw(health));
    let lb = Lb::over(&[&origin]);
    let head = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(exchange(lb.address(), format!("{head}5\r\nhello\r\n0\r\n\r\n")).text(), "hello");
    assert_eq!(origin.only_request().header("Content-Length"), Some("5"));
}

#[test]
fn checks_that_hang_take_no_more_descriptors_than_their_share() {
    let (_listeners, mut backends) = silent(120);
    let good = Origin::named("good");
    backends.push(good.address());
    let words = balancer_words(&backends, &["1", "--health-timeout", "1"]);
    let balancer = Program::start(command_with_descriptors(128, words));
    let address = balancer.address();
    until("the good one serves", || get(address, "/").status == 200);
    assert!(
        balancer.descriptors().len() < 128 / 2,
        "a quarter for checks: {}",
        balancer.descriptors().len()
    );
    assert!(
        !balancer.log().contains("cannot check"),
        "each check has a descriptor: {}",
        balancer.log()
    );
}

#[test]
fn a_balancer_that_was_there_before_its_backend_serves_soon_after_it_whatever_the_period() {
    let address = refused_address();
    let mut config = config(&[address]);
    config.settings.health.period = 60 * SECOND;
    let lb = Lb::start(config);
    assert_eq!(get(lb.address(), "/").status, 503);
    let _origin = Origin::start_on(address, Script::named("late"));
    lb.wait_for_up(1);
    assert_eq!(get(lb.address(), "/").text(), "late");
}

#[test]
fn a_backend_that_was_never_up_is_checked_soon_also_while_another_serves() {
    let (good, address) = (Origin::named("good"), refused_address());
    let mut config = config(&[good.address(), address]);
    config.settings.health.period = 60 * SECOND;
    let lb = Lb::start(config);
    assert_eq!(lb.up(), 1);
    let _origin = Origin::start_on(address, Script::named("late"));
    lb.wait_for_up(2);
    assert_eq!(good.health_checks(), 1, "one that is up is left alone for its period");
}

#[test]
fn the_first_round_is_over_before_anything_is_served() {
    let (one, dead, two) = (Origin::named("one"), refused_address(), Origin::named("two"));
    let lb = Lb::start(config(&[one.address(), dead, two.address()]));
    assert_eq!(lb.up(), 2, "known at once, nobody has to wait for it");
    let names: Vec<String> = (0..4).map(|_| get(lb.address(), "/").text()).collect();
    assert_eq!(names, ["one", "two", "one", "two"]);
    assert_eq!(lb.totals().retries, 0, "the dead one gets nothing");
}

#[test]
fn a_balancer_without_backends_starts_at_once() {
    let start = Instant::now();
    let lb = Lb::start(config(&[]));
    assert!(start.elapsed() < 3 * SECOND / 2, "there is nothing to check: {:?}", start.elapsed());
    assert_eq!(get(lb.address(), "/").status, 503);
}

#[test]
fn every_2xx_and_3xx_is_healthy_and_nothing_else_is() {
    let healthy = [200, 204, 299, 301, 302, 304, 308, 399];
    let ill = [400, 401, 403, 404, 429, 500, 503];
    let origins: Vec<Origin> = healthy
        .iter()
        .chain(&ill)
        .map(|status| Origin::named("any").health(Health::Status(*status)))
        .collect();
    let lb = Lb::over(&origins.iter().collect::<Vec<_>>());
    for (backend, status) in
        lb.server().registry().statuses().iter().zip(healthy.iter().chain(&ill))
    {
        assert_eq!(backend.state.is_up(), healthy.contains(status), "{status}");
    }
}

#[test]
fn a_redirect_is_healthy_and_not_followed() {
    let elsewhere = Origin::named("elsewhere");
    let redirect = |status: u16| {
        let location = format!("http://{}/health", elsewhere.address());
        let answer =
            format!("HTTP/1.1 {status} Moved\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n");
        Origin::named("redirects").health(Health::Raw(answer.into_bytes()))
    };
    let origins = [301, 302, 303, 307, 308].map(redirect);
    let lb = Lb::over(&origins.each_ref());
    assert_eq!(lb.up(), 5);
    assert_eq!((elsewhere.accepted(), elsewhere.health_checks()), (0, 0));
}

#[test]
fn a_check_that_is_not_http_or_not_whole_has_failed() {
    let raw = |bytes: &[u8]| Origin::named("any").health(Health::Raw(bytes.to_vec()));
    let large = [b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), vec![b'x'; 200 * 1024]].concat();
    let origins = [
        raw(b"SSH-2.0-OpenSSH_9.0\r\n"),
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort"),
        Origin::named("closes").health(Health::Close),
        raw(&large),
        raw(b"HTTP/1.0 200 OK\r\n\r\nan old one is as good as any"),
    ];
    let lb = Lb::over(&origins.each_ref());
    let up: Vec<bool> =
        lb.server().registry().statuses().iter().map(|status| status.state.is_up()).collect();
    assert_eq!(up, [false, false, false, true, true], "the size of the page is nobody's business");
}

#[test]
fn a_check_names_its_host_and_path_and_ignores_a_proxy_in_the_environment() {
    let origin = Origin::start(Script::named("one")).health(Health::Scripted);
    let mut command = crate::support::program::command(balancer_words(
        &[origin.address()],
        &["--health-path", "/ready?full=1"],
    ));
    for name in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
        command.env(name, format!("http://{}", refused_address()));
    }
    let balancer = Program::start(command);
    balancer.until_it_says("1 backend(s) up");
    let check = &origin.requests()[0];
    assert_eq!((check.method.as_str(), check.target.as_str()), ("GET", "/ready?full=1"));
    assert_eq!(check.headers_named("Host"), [origin.address().to_string()]);
    assert_eq!(check.header("User-Agent"), Some("lb-threads health check"));
}

const HINT_404: &str = "GET /health answered 404: add that file, or use --health-path /";

#[test]
fn a_backend_without_a_health_page_is_explained_when_it_goes_down() {
    let origin = Origin::named("one");
    let balancer = Program::balancer(&[origin.address()], &["1"]);
    balancer.until_it_says("1 backend(s) up");
    origin.set_health(Health::Status(404));
    balancer.until_it_says(HINT_404);
    let log = balancer.log();
    let flip = log.lines().find(|line| line.contains(HINT_404)).expect("it was said");
    assert!(
        flip.contains(&format!("backend {} down after 2 failure(s)", origin.address())),
        "{flip}"
    );
    origin.set_health(Health::Healthy);
    balancer.until_it_says(&format!("backend {} up: GET /health answered 200", origin.address()));
}

#[test]
fn backends_without_a_health_page_are_explained_at_the_start() {
    let origin = Origin::named("one").health(Health::Status(404));
    let balancer = Program::balancer(&[origin.address()], &[]);
    balancer.until_it_says("0 backend(s) up");
    let log = balancer.log();
    assert!(log.contains(HINT_404), "nobody learns why no backend is up: {log}");
    assert!(log.contains(&origin.address().to_string()), "{log}");
}

#[test]
fn the_503_says_how_to_help_if_the_health_page_is_missing() {
    let origin = Origin::named("one").health(Health::Status(404));
    let lb = Lb::over(&[&origin]);
    let response = get(lb.address(), "/");
    assert_eq!((response.status, response.header("X-LB-Error")), (503, Some("no_backend")));
    assert!(response.text().contains("--health-path"), "{}", response.text());
}

#[test]
fn while_no_backend_is_up_a_503_says_so_and_the_connection_stays() {
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
            !response.says_close() && response.text().contains("no backend is healthy"),
            "{response:?}"
        );
    }
    let head = client.exchange("HEAD / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!((head.status, head.body.len()), (503, 0));
    let post = client.exchange("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc");
    assert_eq!((post.status, post.says_close()), (503, true), "its body was not read");
    until("the refusals are counted", || lb.totals().failed(Cause::NoBackend) == 4);
}

#[test]
fn who_accepts_json_gets_the_503_as_json() {
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

/// An origin that is healthy to checks, and resets every request once it is read.
fn resetting() -> Origin {
    Origin::start([Step::ReadRequest, Step::Reset])
}

#[track_caller]
fn statuses(address: SocketAddr, count: usize) -> Vec<(u16, Option<String>)> {
    let mut client = Client::connect(address);
    let status = |_| {
        let response = client.get("/");
        (response.status, response.header("X-LB-Error").map(str::to_owned))
    };
    (0..count).map(status).collect()
}

#[test]
fn failing_requests_never_take_the_last_backend_out() {
    let (one, two) = (resetting(), resetting());
    let lb = Lb::with(&[&one, &two], |config| config.settings.health.period = 10 * SECOND);
    lb.wait_for_up(2);
    for answer in statuses(lb.address(), 30) {
        assert_eq!(
            answer,
            (502, Some("backend_closed".to_owned())),
            "the truth, rather than `no backend`"
        );
    }
    assert_eq!(lb.up(), 2, "if failed requests would take all out, all serve");
}

#[test]
fn five_requests_in_a_row_that_are_not_answered_take_a_backend_out_until_a_check_passes() {
    let (bad, good) = (resetting(), Origin::named("good"));
    let lb = Lb::with(&[&bad, &good], |config| config.settings.health.period = 10 * SECOND);
    lb.wait_for_up(2);
    let mut client = lb.connect();
    while bad.count() < 5 {
        assert_eq!(lb.up(), 2, "after {} failures", bad.count());
        client.get("/").expect_status(200);
    }
    assert_eq!(lb.up(), 1);
    let start = Instant::now();
    for _ in 0..10 {
        client.get("/").expect_status(200);
    }
    assert!(bad.count() == 5 || start.elapsed() >= SECOND, "it is left alone");
    lb.wait_for_up(2);
    let back_after = start.elapsed();
    assert!(
        back_after >= SECOND / 2 && back_after <= 6 * SECOND,
        "a check comes soon, whatever the period: {back_after:?}"
    );
}

#[test]
fn a_backend_that_answers_errors_is_not_taken_out_by_them() {
    let (errors, other) =
        (Origin::serve(|_, reply| reply.answer(500, &[], "it failed")), Origin::named("other"));
    let lb = Lb::over(&[&errors, &other]);
    for answer in statuses(lb.address(), 40).chunks(2) {
        let codes: Vec<u16> = answer.iter().map(|(status, _)| *status).collect();
        assert!(codes.contains(&500), "its answers are passed on: {codes:?}");
    }
    assert_eq!(lb.totals().retries, 0);
}

#[test]
fn slowness_never_takes_a_backend_out() {
    let (slow, other) = (
        Origin::start([Step::ReadRequest, Step::Hang]),
        Origin::start([Step::ReadRequest, Step::Hang]),
    );
    let lb = Lb::with(&[&slow, &other], |config| {
        config.settings.timeouts.first_byte = Duration::from_millis(20);
        config.settings.health.period = 10 * SECOND;
    });
    lb.wait_for_up(2);
    for answer in statuses(lb.address(), 24) {
        assert_eq!(answer, (504, Some("first_byte_timeout".to_owned())));
    }
    assert_eq!((lb.up(), lb.totals().retries), (2, 0));
    stays("both are up", Duration::from_millis(50), || lb.up() == 2);
}
