//! The control API on the data port: a worker forwards requests to its threads.

use super::{post_bytes, sent, url};
use crate::support::{Client, Lb, Origin, exchange, get, until};
use lb_threads::config::{DataPortControl, Token};

fn lb(origin: &Origin, requests: DataPortControl) -> Lb {
    Lb::with(&[origin], |config| config.boot.control.on_data_port = Some(requests))
}

#[test]
fn with_all_requests_allowed_backends_change_through_the_data_port_while_the_admin_port_is_off() {
    let (one, two) = (Origin::named("one"), Origin::named("two"));
    let lb = lb(&one, DataPortControl::All);
    assert!(lb.balancer().admin_addresses().is_empty());
    let mut client = lb.connect();
    client.send(post_bytes("/_control/add", format!("{{\"url\": {:?}}}", url(&two)).as_bytes()));
    let response = client.read_response();
    assert_eq!(response.status, 201, "{}", response.text());
    let mut bodies = [get(lb.address(), "/").text(), get(lb.address(), "/").text()];
    bodies.sort_unstable();
    assert_eq!(bodies, ["one", "two"]);
    let (response, list) =
        sent(lb.address(), "GET /_control/list HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let rows = list["backends"].as_array().map(Vec::len);
    assert_eq!((response.status, rows), (200, Some(2)), "control is no backend of the pool");
    let foreign = "GET /_control/list HTTP/1.1\r\nHost: shop.example\r\n\r\n";
    assert_eq!(exchange(lb.address(), foreign).status, 403);
    assert_eq!(one.count() + two.count(), 2);
}

#[test]
fn with_reads_alone_any_client_lists_and_none_writes() {
    let origin = Origin::named("one");
    let lb = lb(&origin, DataPortControl::Read);
    let mut client = lb.connect();
    for _ in 0..3 {
        client.send("GET /_control/list HTTP/1.1\r\nHost: shop.example\r\n\r\n");
        assert_eq!(client.read_response().status, 200);
    }
    let write =
        post_bytes("/_control/remove", format!("{{\"url\": {:?}}}", url(&origin)).as_bytes());
    let (response, json) = sent(lb.address(), write);
    assert_eq!((response.status, &json["code"]), (403, &"read_only".into()));
    assert_eq!(client.get("/").text(), "one", "the connection and the backend are still there");
}

#[test]
fn with_a_token_the_data_port_needs_it_too() {
    let origin = Origin::named("one");
    let lb = Lb::with(&[&origin], |config| {
        config.boot.control.on_data_port = Some(DataPortControl::All);
        config.boot.control.token = Token::parse("s3cret").ok();
    });
    let list = "GET /_control/list HTTP/1.1\r\nHost: shop.example\r\n";
    assert_eq!(exchange(lb.address(), format!("{list}\r\n")).status, 401);
    let authorised = format!("{list}Authorization: Bearer s3cret\r\n\r\n");
    assert_eq!(exchange(lb.address(), authorised).status, 200);
}

#[test]
fn clients_of_the_data_port_do_not_take_connections_of_the_admin_port() {
    let origin = Origin::named("one");
    let lb = Lb::with(&[&origin], |config| {
        crate::support::with_admin(config);
        config.boot.control.on_data_port = Some(DataPortControl::Read);
    });
    let internal = lb.balancer().control_address().expect("the data port has control");
    let crowd: Vec<Client> = (0..40).map(|_| Client::connect(internal)).collect();
    until("their limit is reached", || crowd.iter().any(|client| !client.is_open()));
    let list = "GET /_control/list HTTP/1.1\r\nHost: localhost\r\n\r\n";
    assert_eq!(exchange(lb.admin(), list).status, 200);
}
