//! The test support against itself: the client talks to the origin with no balancer in between.

use std::io::Write;
use std::net::{IpAddr, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::*;

const GET: &str = "GET /a HTTP/1.1\r\nHost: x\r\n\r\n";
const MS: Duration = Duration::from_millis(1);

fn panic_of(act: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(act)).expect_err("it should have panicked");
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => panic.downcast_ref::<&str>().expect("a text").to_string(),
    }
}

#[test]
fn an_answering_origin_answers_and_records() {
    let origin = Origin::answering("hello");
    let mut client = Client::connect(origin.address());
    let response = client.exchange("GET /a?b HTTP/1.1\r\nHost: x\r\nX-Two: 1\r\nx-two:  2 \r\n\r\n");
    assert_eq!((response.status, response.text().as_str()), (200, "hello"));
    assert_eq!(response.reason, "Scripted");
    assert!(!response.truncated);
    let request = origin.only_request();
    assert_eq!((request.method.as_str(), request.target.as_str(), request.version.as_str()), ("GET", "/a?b", "HTTP/1.1"));
    assert_eq!(request.header("HOST"), Some("x"));
    assert_eq!(request.headers_named("X-Two"), ["1", "2"]);
    assert_eq!(request.raw_head, b"GET /a?b HTTP/1.1\r\nHost: x\r\nX-Two: 1\r\nx-two:  2 \r\n\r\n");
    assert!(request.complete);
    assert_eq!(client.get("/second").text(), "hello");
    assert_eq!((origin.connections(), origin.open_connections(), origin.count()), (1, 1, 2));
    assert_eq!((origin.requests()[1].connection, origin.requests()[1].index), (0, 1));
    assert!(client.is_open());
    drop(client);
    assert_eq!(origin.wait_for_ending(0), Ending::PeerClosed);
    assert_eq!(origin.open_connections(), 0);
}

#[test]
fn get_closes_behind_its_answer_and_head_has_no_body() {
    let origin = Origin::named("one");
    let response = get(origin.address(), "/");
    assert!(response.says_close());
    assert_eq!((response.text().as_str(), response.header("x-origin")), ("one", Some("one")));
    assert_eq!(origin.wait_for_ending(0), Ending::Closed);
    let mut client = Client::connect(origin.address());
    let response = client.exchange("HEAD / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!((response.header("content-length"), response.body.len()), (Some("3"), 0));
    assert_eq!(client.get("/").text(), "one");
}

#[test]
fn an_echo_keeps_the_framing_and_the_trailers() {
    let origin = Origin::echo();
    let mut client = Client::connect(origin.address());
    let sized = client.exchange("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc");
    assert_eq!((sized.framing, sized.text().as_str()), (Framing::Length(3), "abc"));
    let mut request = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    let body = chunked_with_trailers(&[b"abc", b"defghijklmnopqrstuvwxyz"], &[("X-Sum".to_owned(), "9".to_owned())]);
    request.extend_from_slice(&body);
    for size in [1, 2, 3, 7, 50] {
        client.send_in_pieces(&request, std::iter::repeat(size));
        let echoed = client.read_response();
        assert_eq!((echoed.framing, echoed.text().as_str()), (Framing::Chunked, "abcdefghijklmnopqrstuvwxyz"));
        assert_eq!(echoed.trailers, [("X-Sum".to_owned(), "9".to_owned())]);
        assert_eq!(origin.requests().last().expect("it works").raw_body, body);
    }
    let empty = client.exchange("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    assert_eq!((empty.body.len(), empty.raw_body.as_slice()), (0, &b"0\r\n\r\n"[..]));
    assert_eq!(chunked(["ab", "c"]), b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n");
}

#[test]
fn large_bodies_pass_both_ways_at_once() {
    let origin = Origin::start(Script::serve_heads(|_, reply| {
        reply.send(b"HTTP/1.1 200 OK\r\nContent-Length: 20000000\r\n\r\n");
        reply.send(vec![b'x'; 20_000_000]);
    }));
    let mut request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 20000000\r\n\r\n".to_vec();
    request.resize(request.len() + 20_000_000, b'y');
    let mut client = Client::connect(origin.address());
    assert_eq!(client.exchange(&request).body.len(), 20_000_000);
    assert_eq!(client.get("/next").body.len(), 20_000_000);
    assert_eq!(origin.requests()[0].body.len(), 20_000_000);
    assert!(origin.requests()[0].complete);
}

#[test]
fn expect_continue_is_answered_with_an_interim_response() {
    let origin = Origin::echo();
    let mut client = Client::connect(origin.address());
    client.send("POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    assert_eq!(client.read_interim().status, 100);
    client.send("ok");
    assert_eq!(client.read_response().text(), "ok");

    let early = b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n";
    let origin = Origin::raw(early, After::Keep);
    let mut client = Client::connect(origin.address());
    let response = client.get("/");
    assert_eq!((response.status, response.interim.len(), response.interim[0].header("link")), (204, 1, Some("<a>")));
    assert_eq!(client.get("/again").status, 204);
}

#[test]
fn raw_answers_end_as_their_framing_says() {
    let close_delimited = Origin::raw("HTTP/1.0 200 OK\r\n\r\nto the end", After::Close);
    let response = exchange(close_delimited.address(), GET);
    assert_eq!((response.framing, response.text().as_str(), response.truncated), (Framing::ToEnd, "to the end", false));

    for cut in
        ["HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort"]
    {
        let origin = Origin::raw(cut, After::Close);
        let response = exchange(origin.address(), GET);
        assert_eq!((response.text().as_str(), response.truncated), ("short", true));
    }
    let origin = Origin::raw("anything", After::Close);
    assert_eq!(raw_exchange(origin.address(), GET), b"anything");
    assert_eq!(origin.bytes_received(), [GET.as_bytes()]);
}

#[test]
fn what_no_correct_peer_sends_fails_the_test_and_shows_the_bytes() {
    for (answer, complaint) in [
        ("HTTP/1.1 2x0 OK\r\n\r\n", "not a status line"),
        ("HTTP/1.1 200 OK\r\nA : b\r\n\r\n", "not a field name"),
        ("HTTP/1.1 200 OK\r\nA: b\nC: d\r\n\r\n", "a control character"),
        ("HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n12345", "not a framing"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "not a framing"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n", "not a chunk size"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n", "ends with CRLF"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n", "behind a chunk's data"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n", "chunk size"),
        ("HTTP/1.1 200 OK\r\nCont", "End instead of a response's head"),
    ] {
        let origin = Origin::raw(answer, After::Close);
        let message = panic_of(|| drop(exchange(origin.address(), GET)));
        assert!(message.contains(complaint) && message.contains("HTTP/1.1 2"), "{answer:?} gave {message:?}");
    }
}

#[test]
fn health_checks_are_answered_but_not_counted_or_recorded() {
    let origin = Origin::answering("x");
    let check = || exchange(origin.address(), "GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert_eq!(check().status, 200);
    origin.set_health(Health::Status(503));
    assert_eq!(check().status, 503);
    origin.set_health(Health::Raw(b"HTTP/1.1 302 Go\r\n\r\n".to_vec()));
    assert_eq!(check().status, 302);
    assert_eq!((origin.health_checks(), origin.connections(), origin.count(), origin.accepted()), (3, 0, 0, 3));

    // One connection for both kinds: recorded is only what is no check, piece by piece or in one.
    origin.set_health(Health::Healthy);
    let mut client = Client::connect(origin.address());
    client.send_in_pieces("GET /health HTTP/1.1\r\n\r\nGET /healthy HTTP/1.1\r\n\r\n", [3, 7, 9]);
    client.read_response();
    client.read_response();
    client.send("GET /a HTTP/1.1\r\n\r\nGET /health HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\n");
    (0..3).for_each(|_| drop(client.read_response()));
    let expected = "GET /healthy HTTP/1.1\r\n\r\nGET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\n";
    assert_eq!(origin.bytes_received(), [expected.as_bytes()]);
    assert_eq!((origin.count(), origin.health_checks()), (3, 5));

    origin.set_health(Health::Close);
    let mut client = Client::connect(origin.address());
    client.send("GET /health HTTP/1.1\r\n\r\n");
    assert!(client.at_end());
    origin.set_health(Health::Hang);
    let mut client = Client::connect(origin.address());
    client.send("GET /health HTTP/1.1\r\n\r\n");
    until("the check is seen", || origin.health_checks() == 7);
    stays("the check is unanswered", 20 * MS, || client.is_open());

    let scripted = Origin::answering("x").health(Health::Scripted);
    let client = Client::connect(scripted.address());
    until("the connection counts without a byte", || scripted.connections() == 1);
    drop(client);
    assert_eq!(get(scripted.address(), "/health").text(), "x");
    assert_eq!((scripted.count(), scripted.health_checks()), (1, 0));
}

#[test]
fn the_client_tells_a_reset_from_an_orderly_end() {
    let origin = Origin::start([Step::ReadHead, Step::Reset]);
    let mut client = Client::connect(origin.address());
    client.send(GET);
    assert_eq!(client.comes_next(), Next::Reset);
    assert!(!client.at_end() && !client.is_open());
    assert_eq!(origin.wait_for_ending(0), Ending::Reset);

    let origin = Origin::start([Step::ReadHead, Step::send("abc"), Step::Reset]);
    let mut client = Client::connect(origin.address());
    client.send(GET);
    assert_eq!(client.read_until_closed(), (b"abc".to_vec(), Next::Reset));
    assert_eq!(client.comes_next(), Next::Reset);
    let message = panic_of(|| drop(raw_exchange(origin.address(), GET)));
    assert!(message.contains("was reset") && message.contains("abc"), "{message}");

    let origin = Origin::start([Step::ReadHead, Step::Close]);
    let mut client = Client::connect(origin.address());
    client.send(format!("{GET}and what nobody reads"));
    assert!(client.at_end());
    assert!(client.try_response().is_none());
    assert_eq!(origin.wait_for_ending(0), Ending::Closed);
    assert_eq!(origin.bytes_received()[0].len(), GET.len() + 21);
}

#[test]
fn a_reset_that_the_sender_is_told_of_is_not_lost() {
    let origin = Origin::start([Step::ReadHead, Step::Pause(20 * MS), Step::Reset]);
    let mut request = b"POST / HTTP/1.1\r\nContent-Length: 90000000\r\n\r\n".to_vec();
    request.resize(90_000_000, b'x');
    let message = panic_of(|| drop(raw_exchange(origin.address(), &request)));
    assert!(message.contains("reset"), "{message}");
}

#[test]
fn the_origin_sees_how_its_peer_ends() {
    let origin = Origin::start([Step::ReadHead, Step::Hang]);
    let mut client = Client::connect(origin.address());
    client.send(GET);
    origin.wait_for_requests(1);
    client.send("swallowed");
    until("the bytes came", || origin.bytes_received()[0].ends_with(b"swallowed"));
    client.reset();
    assert_eq!(origin.wait_for_ending(0), Ending::PeerReset);
    let mut client = Client::connect(origin.address());
    client.send(GET);
    client.shutdown_write();
    assert_eq!(origin.wait_for_ending(1), Ending::PeerClosed);
    assert!(client.at_end());

    let stalled = Origin::start([Step::ReadHead, Step::Stall]);
    for reset in [true, false] {
        let mut client = Client::connect(stalled.address());
        client.send(GET);
        stalled.wait_for_requests(1);
        if reset {
            client.reset();
            assert_eq!(stalled.wait_for_ending(0), Ending::PeerReset);
        } else {
            drop(client);
            assert_eq!(stalled.wait_for_ending(1), Ending::PeerClosed);
        }
    }
}

#[test]
fn a_stalled_origin_stops_the_senders() {
    let origin = Origin::start([Step::ReadHead, Step::Stall]);
    let mut stream = TcpStream::connect(origin.address()).expect("it works");
    stream.set_write_timeout(Some(50 * MS)).expect("it works");
    stream.write_all(GET.as_bytes()).expect("it works");
    assert!(stream.write_all(&vec![0; 100_000_000]).is_err());
    drop(origin);
}

#[test]
fn gates_and_slow_pieces_are_under_the_tests_control() {
    let (seen, go) = (Gate::new(), Gate::new());
    let origin = Origin::start([
        Step::ReadHead,
        Step::Open(seen.clone()),
        Step::WaitFor(go.clone()),
        Step::send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n"),
        Step::send_slowly("abcdef", 2, 5 * MS),
    ]);
    let mut client = Client::connect(origin.address());
    client.send(GET);
    seen.wait();
    assert!(client.is_open() && !go.is_open());
    go.open();
    let began = Instant::now();
    client.read_head();
    assert_eq!(client.read_exactly(2), b"ab");
    assert_eq!(client.read_until("ef"), b"cdef");
    assert!(began.elapsed() >= 10 * MS);
}

#[test]
fn steps_read_bytes_ends_and_bodies() {
    let origin = Origin::start([
        Step::ReadHead,
        Step::ReadBody,
        Step::ReadBytes(3),
        Step::send("three"),
        Step::ReadToEnd,
        Step::send("end"),
        Step::ShutdownWrite,
        Step::Close,
    ]);
    let mut client = Client::connect(origin.address());
    client.send("POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi123");
    assert_eq!(client.read_until("three"), b"three");
    client.send("rest");
    client.shutdown_write();
    assert_eq!(client.read_to_end(), b"end");
    assert_eq!(origin.only_request().body, b"hi");
    assert!(origin.bytes_received()[0].ends_with(b"hi123rest"));
}

#[test]
fn a_body_that_is_cut_is_recorded_as_far_as_it_came() {
    let origin = Origin::start([Step::ReadRequest]);
    let mut client = Client::connect(origin.address());
    client.send("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n5\r\nfg");
    until("what came is recorded", || origin.requests().first().is_some_and(|request| request.body == b"abcdefg"));
    drop(client);
    assert_eq!(origin.wait_for_ending(0), Ending::PeerClosed);
    assert!(!origin.only_request().complete);

    let mut client = Client::connect(origin.address());
    client.send("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n");
    assert!(client.at_end());
    assert!(matches!(origin.wait_for_ending(1), Ending::Fault(why) if why.contains("chunk size")));
}

#[test]
fn a_sequence_gives_each_connection_its_script() {
    let origin = Origin::start(Script::sequence([
        Script::steps([Step::ReadHead, Step::Reset]),
        Script::steps([Step::ReadHead, Step::send(ok("1")), Step::ReadHead, Step::Close]),
        Script::named("last"),
    ]));
    assert_eq!(exchange(origin.address(), "GET /health HTTP/1.1\r\nConnection: close\r\n\r\n").text(), "ok");
    let mut first = Client::connect(origin.address());
    first.send(GET);
    assert_eq!(first.comes_next(), Next::Reset);
    let mut second = Client::connect(origin.address());
    assert_eq!(second.get("/").text(), "1");
    second.send(GET);
    assert!(second.at_end());
    assert_eq!(get(origin.address(), "/").text(), "last");
    assert_eq!(get(origin.address(), "/").text(), "last");
    assert_eq!(origin.connections(), 4);
}

#[test]
fn a_closure_is_free_to_do_anything() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let origin = Origin::start(Script::serve_heads(move |request, reply| {
        counted.fetch_add(1, Ordering::Relaxed);
        match request.target.as_str() {
            "/upgrade" => {
                reply.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: upgrade\r\n\r\n");
                let bytes = reply.read_bytes(4).expect("it works");
                reply.send(bytes);
                reply.step(&Step::Close);
                assert!(reply.has_ended() && reply.read_bytes(1).is_none());
            }
            _ => {
                let body = reply.read_body().text();
                reply.answer(201, &[("X-Body", &body)], "made");
            }
        }
    }));
    let mut client = Client::connect(origin.address());
    let made = client.exchange("PUT / HTTP/1.1\r\nContent-Length: 2\r\n\r\nab");
    assert_eq!((made.expect_status(201).header("x-body"), made.text().as_str()), (Some("ab"), "made"));
    client.send("GET /upgrade HTTP/1.1\r\n\r\npi");
    assert_eq!(client.read_response().status, 101);
    client.send("ng");
    assert_eq!(client.read_to_end(), b"ping");
    assert_eq!(calls.load(Ordering::Relaxed), 2);
}

#[test]
fn an_origin_that_talks_first_is_not_kept_waiting() {
    let origin = Origin::start([Step::send("220 hello\r\n"), Step::ReadToEnd, Step::Close]);
    let mut client = Client::connect(origin.address());
    assert_eq!(client.read_until("\r\n"), b"220 hello\r\n");
    client.shutdown_write();
    assert!(client.at_end());

    let origin = Origin::start([Step::Reset]).health(Health::Scripted);
    assert_eq!(Client::connect(origin.address()).comes_next(), Next::Reset);
    let origin = Origin::start([]);
    let mut client = Client::connect(origin.address());
    client.send(GET);
    until("the connection is held", || origin.open_connections() == 1);
    stays("it is held", 10 * MS, || client.is_open());
}

#[test]
fn a_stopped_origin_refuses_and_comes_back_on_its_port() {
    let origin = Origin::named("one");
    let address = origin.address();
    let mut idle = Client::connect(address);
    assert_eq!(idle.get("/").text(), "one");
    let untouched = Client::connect(address);
    until("both are accepted", || origin.accepted() == 2);
    origin.stop();
    assert!(idle.at_end());
    assert!(!untouched.is_open());
    assert_eq!(origin.ending(0), Some(Ending::Stopped));
    for _ in 0..100 {
        assert!(TcpStream::connect(address).is_err());
    }
    let back = Origin::start_on(address, Script::named("two"));
    assert_eq!(back.address(), address);
    assert_eq!(get(address, "/").text(), "two");
    assert_eq!((origin.count(), back.count()), (1, 1));
    drop(origin);
    assert_eq!(get(address, "/").text(), "two");
    drop(back);
    assert_eq!(get(Origin::start_on(address, Script::named("three")).address(), "/").text(), "three");
}

#[test]
fn an_origin_that_is_busy_in_any_way_stops_at_once() {
    let shut = Gate::new();
    let big = vec![b'x'; 50_000_000];
    let scripts: Vec<Vec<Step>> = vec![
        vec![Step::ReadHead, Step::WaitFor(shut)],
        vec![Step::ReadHead, Step::Pause(PATIENCE)],
        vec![Step::ReadHead, Step::send_slowly("ab", 1, PATIENCE)],
        vec![Step::ReadHead, Step::Send(big)],
        vec![Step::ReadHead, Step::Hang],
        vec![Step::ReadHead, Step::Stall],
        vec![Step::ReadHead, Step::ReadBytes(1)],
    ];
    for steps in scripts {
        let origin = Origin::start(steps);
        let mut client = Client::connect(origin.address());
        client.send(GET);
        origin.wait_for_requests(1);
        let began = Instant::now();
        origin.stop();
        assert_eq!(origin.ending(0), Some(Ending::Stopped));
        assert!(began.elapsed() < 500 * MS, "{:?}", began.elapsed());
    }
}

#[test]
fn a_closure_that_panics_fails_the_test() {
    let origin = Origin::serve(|request, _| assert_eq!(request.target, "/other"));
    let mut client = Client::connect(origin.address());
    client.send(GET);
    assert!(client.try_response().is_none());
    assert!(panic_of(|| origin.stop()).contains("/other"));
    assert!(panic_of(|| drop(origin)).contains("a script panicked"));
}

#[test]
#[ignore = "takes the whole patience"]
fn a_failed_wait_tells_the_story() {
    let origin = Origin::answering("x");
    get(origin.address(), "/seen");
    origin.wait_for_ending(0);
    let message = panic_of(|| drop(origin.wait_for_requests(2)));
    assert!(message.contains("no 2 requests") && message.contains("GET /seen") && message.contains("Closed"), "{message}");
}

#[test]
#[ignore = "takes the whole patience"]
fn until_panics_with_what_was_waited_for() {
    let began = Instant::now();
    assert_eq!(panic_of(|| until("pigs fly", || false)), "waited 10s in vain until pigs fly");
    assert!(began.elapsed() >= PATIENCE);
    assert_eq!(until_some("a number", || Some(1)), 1);
    assert!(panic_of(|| stays("one is two", MS, || 1 == 2)).contains("stay true that one is two"));
}

#[test]
#[ignore = "takes the whole patience"]
fn a_silent_peer_ends_the_patience_of_the_client() {
    let origin = Origin::start([Step::Hang]);
    let mut client = Client::connect(origin.address());
    client.send("x");
    let began = Instant::now();
    let message = panic_of(|| drop(client.comes_next()));
    assert!(message.contains("nothing in 10s"), "{message}");
    assert!(began.elapsed() < PATIENCE + PATIENCE / 5);
}

#[test]
fn a_refused_address_refuses_for_ever() {
    let address = refused_address();
    for _ in 0..1000 {
        let error = TcpStream::connect(address).expect_err("nobody listens");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    }
    assert_ne!(refused_address(), address);
}

#[test]
fn a_black_hole_lets_connects_hang() {
    let hole = Blackhole::start();
    for _ in 0..3 {
        let error = TcpStream::connect_timeout(&hole.address(), 50 * MS).expect_err("it hangs");
        assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    }
}

#[test]
fn a_client_can_come_from_any_loopback_address() {
    let origin = Origin::answering("x");
    let local: IpAddr = "127.0.0.77".parse().expect("it works");
    let mut client = Client::connect_from(local, origin.address());
    assert_eq!(client.local_address().ip(), local);
    assert_eq!(client.get("/").text(), "x");
}

#[test]
fn two_hundred_clients_at_once_are_all_recorded() {
    let origin = Origin::echo();
    let address = origin.address();
    let clients: Vec<_> = (0..200)
        .map(|number| {
            thread::spawn(move || {
                let body = format!("client {number}");
                let request = format!("POST / HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                assert_eq!(exchange(address, request).text(), body);
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().expect("it works"));
    assert_eq!((origin.count(), origin.connections()), (200, 200));
    until("all have ended", || origin.open_connections() == 0);
}

#[test]
fn long_bytes_are_shown_without_their_middle() {
    assert_eq!(escaped(b"a\r\n\xff"), r#""a\r\n\xff""#);
    let long = escaped(&[b'a'; 5000]);
    assert!(long.contains(" ... 2952 bytes ... ") && long.len() < 2200, "{long}");
}
