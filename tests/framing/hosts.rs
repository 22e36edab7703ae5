//! The Host field: present, once, and `host[:port]` by its grammar.

use super::Scene;

#[test]
fn http_1_1_needs_exactly_one_host() {
    Scene::new().rejects(
        400,
        "bad_host",
        &[
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nX-Host: h\r\n\r\n",
            "GET http://h/ HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\nhost: b\r\n\r\n",
            "GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n",
            "GET http://a/ HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        ],
    );
}

#[test]
fn a_host_follows_its_grammar_in_either_version_and_beside_an_absolute_target() {
    let scene = Scene::new();
    let bad: [&[u8]; 30] = [
        b"",
        b":80",
        b"user@host",
        b"user:pass@host",
        b"[::1",
        b"::1]",
        b"::1",
        b"[::1]x",
        b"[]",
        b"[g]",
        b"[::1]:x",
        b"host:1a",
        b"host:-1",
        b"host:+1",
        b"host:65536",
        b"host:000080",
        b"host:80:80",
        b"host: 80",
        b"a b",
        b"a/b",
        b"a\\b",
        b"a?b",
        b"a#b",
        b"http://a",
        b"a%4",
        b"a%zz",
        b"<a>",
        b"h\xc3\xa9",
        b"\xff",
        b"a\tb",
    ];
    for (target, version) in [("/", "1.1"), ("/", "1.0"), ("http://real/", "1.1")] {
        let request = |host: &&[u8]| {
            let start = format!("GET {target} HTTP/{version}\r\nHost: ");
            [start.as_bytes(), host, b"\r\n\r\n"].concat()
        };
        let requests: Vec<Vec<u8>> = bad.iter().map(request).collect();
        scene.rejects(400, "bad_host", &requests);
    }
}

#[test]
fn valid_hosts_are_forwarded_unchanged() {
    let scene = Scene::new();
    let good = [
        "a",
        "a:",
        "a:0",
        "example.com:65535",
        "127.0.0.1:8080",
        "[::1]",
        "[::1]:80",
        "[::ffff:1.2.3.4]",
        "a_b",
        "xn--nxa.de",
        "a%2Eb",
        "A.B",
    ];
    for host in good {
        scene.serves(&[format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")]);
        let request = scene.origin.requests().pop().expect("it came");
        assert_eq!(
            (request.header("Host"), request.header("X-Forwarded-Host")),
            (Some(host), Some(host))
        );
    }
}
