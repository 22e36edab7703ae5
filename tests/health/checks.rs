//! A health check: its request, and the responses that pass it.

use crate::support::program::{Program, balancer_words, command};
use crate::support::{Health, Lb, Origin, Script, exchange, refused_address};
use std::time::Duration;

#[test]
fn a_backend_whose_check_got_http_1_0_receives_no_chunks() {
    let health = b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec();
    let origin = Origin::echo().health(Health::Raw(health));
    let lb = Lb::over(&[&origin]);
    let head = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(exchange(lb.address(), format!("{head}5\r\nhello\r\n0\r\n\r\n")).text(), "hello");
    assert_eq!(origin.only_request().header("Content-Length"), Some("5"));
}

#[test]
fn only_2xx_and_3xx_are_healthy() {
    let healthy = [200, 204, 299, 301, 302, 304, 308, 399];
    let ill = [400, 401, 403, 404, 429, 500, 503];
    let origins: Vec<Origin> = healthy
        .iter()
        .chain(&ill)
        .map(|status| Origin::named("any").health(Health::Status(*status)))
        .collect();
    let lb = Lb::over(&origins.iter().collect::<Vec<_>>());
    for (backend, status) in
        lb.balancer().registry().statuses().iter().zip(healthy.iter().chain(&ill))
    {
        assert_eq!(backend.state.is_up(), healthy.contains(status), "{status}");
    }
}

#[test]
fn a_redirect_is_healthy_and_not_followed() {
    let elsewhere = Origin::named("elsewhere");
    let redirect = |status: u16| {
        let location = format!("http://{}/health", elsewhere.address());
        let response =
            format!("HTTP/1.1 {status} Moved\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n");
        Origin::named("redirects").health(Health::Raw(response.into_bytes()))
    };
    let origins = [301, 302, 303, 307, 308].map(redirect);
    let lb = Lb::over(&origins.each_ref());
    assert_eq!(lb.up(), 5);
    assert_eq!((elsewhere.accepted(), elsewhere.health_checks()), (0, 0));
}

#[test]
fn a_malformed_or_incomplete_response_fails_the_check() {
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
        lb.balancer().registry().statuses().iter().map(|status| status.state.is_up()).collect();
    assert_eq!(up, [false, false, false, true, true], "the size of the page does not matter");
}

#[test]
fn a_check_names_its_host_and_path_and_ignores_a_proxy_in_the_environment() {
    let origin = Origin::start(Script::named("one")).health(Health::Scripted);
    let mut command =
        command(balancer_words(&[origin.address()], &["--health-path", "/ready?full=1"]));
    for name in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
        command.env(name, format!("http://{}", refused_address()));
    }
    let balancer = Program::start(command);
    balancer.until_logged("1 backend(s) up");
    let check = &origin.requests()[0];
    assert_eq!((check.method.as_str(), check.target.as_str()), ("GET", "/ready?full=1"));
    assert_eq!(check.headers_named("Host"), [origin.address().to_string()]);
    assert_eq!(check.header("User-Agent"), Some("lb-threads health check"));
}

#[test]
fn checks_and_transitions_are_counted_by_backend() {
    let origin = Origin::named("one");
    let lb = Lb::over(&[&origin]);
    let counts = || lb.balancer().registry().statuses().remove(0).counts;
    lb.wait_for_up(1);
    let first = counts();
    assert_eq!((first.to_up, first.to_down, first.failed), (1, 0, 0));
    assert!(first.passed >= 1 && first.duration_sum > Duration::ZERO);
    origin.set_health(Health::Status(500));
    lb.wait_for_up(0);
    let later = counts();
    assert_eq!((later.to_up, later.to_down, later.failed), (1, 1, 2), "--fall 2");
    assert_eq!(later.durations.iter().sum::<u64>(), later.passed + later.failed);
}
