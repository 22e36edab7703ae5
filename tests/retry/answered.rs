//! Row four: a byte of an answer was seen. Then nobody else is asked, whatever happens.

use super::{answers_once_then, assert_failed, balancer, origin, request};
use crate::support::{Origin, Step, exchange, get};

#[test]
fn a_head_that_breaks_off_is_a_502_and_nobody_else_is_asked() {
    for said in ["H", "HTTP/1.1 200", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n"] {
        for end in [Step::Reset, Step::Close] {
            let first = origin("first", [vec![Step::ReadRequest, Step::send(said), end]]);
            let next = Origin::named("next");
            let lb = balancer(&[first.address(), next.address()]);
            assert_failed(&get(lb.address(), "/"), 502, "bad_answer");
            assert_eq!((first.count(), next.count(), lb.totals().retries), (1, 0, 0), "{said:?}");
        }
    }
}

#[test]
fn a_reused_connection_that_breaks_off_inside_a_head_is_not_tried_again_either() {
    let then = [Step::ReadRequest, Step::send("HTTP/1.1 2"), Step::Reset];
    let first = origin("first", [answers_once_then("first", then)]);
    let lb = balancer(&[first.address()]);
    let mut client = lb.connect();
    client.get("/1").expect_status(200);
    assert_failed(&client.get("/2"), 502, "bad_answer");
    assert_eq!(first.count(), 2);
}

#[test]
fn a_body_that_breaks_off_is_shown_as_such_and_nobody_else_is_asked() {
    let heads = ["Content-Length: 10\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"];
    for head in heads {
        let answer = format!("HTTP/1.1 200 OK\r\n{head}");
        let first = origin("first", [vec![Step::ReadRequest, Step::send(answer), Step::Close]]);
        let next = Origin::named("next");
        let lb = balancer(&[first.address(), next.address()]);
        let response = get(lb.address(), "/");
        assert!(response.truncated && response.status == 200 && response.text() == "abc", "{response:?}");
        assert_eq!((first.count(), next.count(), lb.totals().retries), (1, 0, 0));
        lb.wait_for_closed(lb_threads::reason::Reason::AnswerTruncated, 1);
    }
}

#[test]
fn a_1xx_that_was_passed_on_counts_as_an_answer_byte() {
    let hints = Step::send("HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n");
    let first = origin("first", [vec![Step::ReadRequest, hints, Step::Reset]]);
    let next = Origin::named("next");
    let lb = balancer(&[first.address(), next.address()]);
    let response = get(lb.address(), "/");
    assert_failed(&response, 502, "backend_closed");
    assert_eq!(response.interim.len(), 1);
    assert_eq!((next.count(), lb.totals().retries), (0, 0));
}

#[test]
fn an_answer_that_is_not_http_is_a_502_and_nobody_else_is_asked() {
    for method in ["GET", "POST"] {
        let first = origin("first", [vec![Step::ReadRequest, Step::send("SSH-2.0-OpenSSH_9.0\r\n\r\n"), Step::Hang]]);
        let next = Origin::named("next");
        let lb = balancer(&[first.address(), next.address()]);
        assert_failed(&exchange(lb.address(), request(method, "/a", 5)), 502, "bad_answer");
        assert_eq!((first.count(), next.count()), (1, 0));
    }
}

#[test]
fn a_1xx_counts_as_an_answer_byte_also_where_it_is_not_passed_on() {
    for version in ["HTTP/1.0", "HTTP/1.1"] {
        let first = origin("first", [vec![Step::ReadRequest, Step::send("HTTP/1.1 103 Early Hints\r\n\r\n"), Step::Reset]]);
        let next = Origin::named("next");
        let lb = balancer(&[first.address(), next.address()]);
        let response = exchange(lb.address(), format!("GET / {version}\r\nHost: x\r\n\r\n"));
        assert_failed(&response, 502, "backend_closed");
        assert_eq!((first.count(), next.count()), (1, 0), "{version}");
    }
}
