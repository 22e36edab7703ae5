//! Host, token and origin: the matrix of what reaches the control API, on each of its ports.

use super::{post_bytes, sent};
use crate::support::{Lb, Origin, exchange, with_admin};
use lb_threads::config::{Config, DataPortControl, Token};
use std::net::SocketAddr;

const TOKEN: &str = "s3cret-token";

fn lb(change: impl FnOnce(&mut Config)) -> Lb {
    Lb::with(&[], |config| {
        with_admin(config);
        change(config);
    })
}

fn with_token(config: &mut Config) {
    config.boot.control.token = Token::parse(TOKEN).ok();
}

/// The status of a GET with these field lines.
#[track_caller]
fn status(admin: SocketAddr, path: &str, fields: &str) -> u16 {
    exchange(admin, format!("GET {path} HTTP/1.1\r\n{fields}Connection: close\r\n\r\n")).status
}

#[test]
fn without_a_token_a_request_needs_a_host_of_this_machine() {
    let lb = lb(|_| {});
    let admin = lb.admin();
    for host in ["localhost", "127.0.0.1:1", "[::1]", "x.localhost", &admin.to_string()] {
        assert_eq!(status(admin, "/_control/list", &format!("Host: {host}\r\n")), 200, "{host}");
    }
    for host in ["evil.example", "localhost.evil.example:9190", "0.0.0.0", "10.0.0.1"] {
        let request = format!("GET /_control/list HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let (response, json) = sent(admin, request);
        assert_eq!((response.status, &json["code"]), (403, &"host_not_allowed".into()), "{host}");
        assert_eq!((&json["field"], &json["value"]), (&"Host".into(), &host.into()));
        assert_eq!(
            status(admin, "/nonsense", &format!("Host: {host}\r\n")),
            403,
            "no list of paths"
        );
    }
    let absolute = "GET http://evil.example/_control/list HTTP/1.1\r\nHost: localhost\r\n\r\n";
    assert_eq!(exchange(admin, absolute).status, 403);
    assert_eq!(exchange(admin, "GET /_control/list HTTP/1.0\r\n\r\n").status, 403);
}

#[test]
fn the_configured_name_is_allowed_as_host() {
    let lb = lb(|config| {
        let admin = config.boot.control.admin.as_mut().expect("there is one");
        admin.host = Some("LB.internal".to_owned());
    });
    assert_eq!(status(lb.admin(), "/_control/list", "Host: lb.internal:9190\r\n"), 200);
    assert_eq!(status(lb.admin(), "/_control/list", "Host: other.internal\r\n"), 403);
}

#[test]
fn with_a_token_every_request_needs_it_and_any_host_will_do() {
    let lb = lb(with_token);
    let admin = lb.admin();
    for authorization in [format!("Bearer {TOKEN}"), format!("bearer  {TOKEN}")] {
        let fields = format!("Host: evil.example\r\nAuthorization: {authorization}\r\n");
        assert_eq!(status(admin, "/_control/list", &fields), 200, "{authorization}");
    }
    let wrong = [
        String::new(),
        "Authorization: Bearer\r\n".to_owned(),
        "Authorization: Bearer \r\n".to_owned(),
        format!("Authorization: Bearer {TOKEN}x\r\n"),
        format!("Authorization: Bearer {}\r\n", &TOKEN[1..]),
        format!("Authorization: Bearer {}\r\n", TOKEN.to_uppercase()),
        format!("Authorization: Basic {TOKEN}\r\n"),
        format!("Authorization: Bearer{TOKEN}\r\n"),
        format!("Authorization: {TOKEN}\r\n"),
        format!("Authorization: Bearer {TOKEN}\r\nAuthorization: Bearer {TOKEN}\r\n"),
    ];
    for fields in wrong {
        for path in ["/_control/list", "/_control/add", "/nonsense"] {
            let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
            let (response, json) = sent(admin, request);
            assert_eq!((response.status, &json["code"]), (401, &"unauthorized".into()), "{fields}");
            assert_eq!(response.header("WWW-Authenticate"), Some("Bearer"));
            assert!(!response.text().contains(TOKEN));
        }
    }
}

#[test]
fn the_health_pages_need_neither_host_nor_token() {
    let lb = lb(with_token);
    for path in ["/livez", "/healthz"] {
        assert_eq!(status(lb.admin(), path, "Host: evil.example\r\n"), 200);
    }
    assert_eq!(status(lb.admin(), "/readyz", "Host: evil.example\r\n"), 503, "no backends");
}

#[test]
fn a_page_of_another_site_does_not_write() {
    let lb = lb(|_| {});
    let body = "{\"algorithm\": \"rr\"}";
    let write = |fields: &str| {
        let head = "POST /_control/scheduler HTTP/1.1\r\nHost: localhost:9190\r\nContent-Type: \
                    application/json\r\n";
        let request = format!("{head}{fields}Content-Length: {}\r\n\r\n{body}", body.len());
        let (response, json) = sent(lb.admin(), request);
        (response.status, json["code"].clone())
    };
    for fields in [
        "",
        "Origin: http://localhost:9190\r\nSec-Fetch-Site: same-origin\r\n",
        "Sec-Fetch-Site: none\r\n",
    ] {
        assert_eq!(write(fields).0, 200, "{fields}");
    }
    for fields in [
        "Origin: http://evil.example\r\n",
        "Origin: http://localhost:3000\r\n",
        "Origin: null\r\n",
        "Sec-Fetch-Site: cross-site\r\n",
        "Sec-Fetch-Site: same-site\r\n",
        "Origin: http://localhost:9190\r\nSec-Fetch-Site: cross-site\r\n",
    ] {
        assert_eq!(write(fields), (403, "cross_site".into()), "{fields}");
    }
}

#[test]
fn no_response_allows_another_site_to_read_it() {
    let lb = lb(|_| {});
    let request =
        "GET /_control/list HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\n\r\n";
    let response = exchange(lb.admin(), request);
    let names = response.headers.iter().map(|(name, _)| name.to_ascii_lowercase());
    assert!(!names.into_iter().any(|name| name.starts_with("access-control")), "{response:?}");
    assert_eq!(response.header("Cache-Control"), Some("no-store"));
}

#[test]
fn the_internal_port_for_reads_takes_get_of_any_client_and_nothing_else() {
    let lb = lb(|config| {
        with_token(config);
        config.boot.control.on_data_port = Some(DataPortControl::Read);
    });
    let internal = lb.balancer().control_address().expect("the data port has control");
    assert!(internal.ip().is_loopback());
    assert_eq!(status(internal, "/_control/list", "Host: shop.example\r\n"), 200);
    let (response, json) =
        sent(internal, post_bytes("/_control/scheduler", b"{\"algorithm\": \"rr\"}"));
    assert_eq!((response.status, &json["code"]), (403, &"read_only".into()));
    assert_eq!(status(lb.admin(), "/_control/list", "Host: localhost\r\n"), 401, "its own rules");
}

#[test]
fn the_internal_port_for_all_requests_has_the_rules_of_the_admin_port() {
    let lb = Lb::with(&[], |config| {
        config.boot.listen = vec![([127, 0, 0, 2], 0).into()];
        config.boot.control.on_data_port = Some(DataPortControl::All);
    });
    assert!(lb.balancer().admin_addresses().is_empty(), "it works with the admin port off");
    let internal = lb.balancer().control_address().expect("the data port has control");
    let data = format!("Host: {}\r\n", lb.address());
    assert_eq!(status(internal, "/_control/list", &data), 200);
    assert_eq!(status(internal, "/_control/list", "Host: shop.example\r\n"), 403);
    let write = post_bytes("/_control/scheduler", b"{\"algorithm\": \"rr\"}");
    assert_eq!(exchange(internal, write).status, 200);
    let with_token = self::lb(|config| {
        with_token(config);
        config.boot.control.on_data_port = Some(DataPortControl::All);
    });
    let internal = with_token.balancer().control_address().expect("the data port has control");
    assert_eq!(status(internal, "/_control/list", "Host: localhost\r\n"), 401);
    let fields = format!("Host: shop.example\r\nAuthorization: Bearer {TOKEN}\r\n");
    assert_eq!(status(internal, "/_control/list", &fields), 200);
}

#[test]
fn the_control_api_is_not_on_the_data_port_unless_it_is_asked_for() {
    let origin = Origin::named("backend");
    let lb = Lb::controlled(&[&origin]);
    let request = "GET /_control/list HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert_eq!(exchange(lb.address(), request).text(), "backend");
    assert_eq!(lb.balancer().control_address(), None);
}
