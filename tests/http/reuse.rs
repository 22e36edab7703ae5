//! Kept connections on both sides: which one is reused, for how long it is kept, and when it is
//! closed.

use super::MS;
use crate::support::*;
use lb_threads::reason::Reason;
use std::time::Duration;

#[test]
fn a_hundred_requests_on_one_client_connection_use_one_backend_connection() {
    let origin = Origin::responding("x");
    let lb = Lb::over(&[&origin]);
    let mut client = lb.connect();
    for _ in 0..100 {
        assert_eq!(client.get("/").text(), "x");
    }
    drop(client);
    lb.wait_for_closed(Reason::ClientClosed, 1);
    let totals = lb.totals();
    assert_eq!(
        (totals.connections, totals.requests, totals.backend_connects, totals.backend_reuses),
        (1, 100, 1, 99)
    );
    assert_eq!(
        (totals.retries, totals.closed_in_total(), origin.connections(), origin.count()),
        (0, 1, 1, 100)
    );
}

#[test]
fn clients_share_the_idle_connections_of_their_worker() {
    let origin = Origin::responding("x");
    let lb = Lb::with(&[&origin], |config| config.boot.workers = 1);
    for _ in 0..20 {
        assert_eq!(get(lb.address(), "/").text(), "x");
    }
    let totals = lb.totals();
    assert_eq!((totals.connections, totals.backend_connects, totals.backend_reuses), (20, 1, 19));
}

#[test]
fn of_two_idle_connections_the_newest_is_used() {
    for first_done in [0, 1] {
        let gates = [Gate::new(), Gate::new(), Gate::new()];
        let waited = gates.clone();
        gates[2].open();
        let origin = Origin::serve(move |request, reply| {
            let number: usize = request.target.trim_start_matches('/').parse().expect("a number");
            reply.step(&Step::WaitFor(waited[number].clone()));
            reply.ok(request.connection.to_string());
        });
        let lb = Lb::with(&[&origin], |config| config.boot.workers = 1);
        let mut clients = [lb.connect(), lb.connect()];
        for (number, client) in clients.iter_mut().enumerate() {
            client.send(format!("GET /{number} HTTP/1.1\r\nHost: h\r\n\r\n"));
            origin.wait_for_requests(number + 1);
        }
        let last_done = 1 - first_done;
        for number in [first_done, last_done] {
            gates[number].open();
            assert_eq!(clients[number].read_response().text(), number.to_string());
        }
        for _ in 0..3 {
            assert_eq!(clients[0].get("/2").text(), last_done.to_string());
        }
        assert_eq!(origin.connections(), 2);
    }
}

#[test]
fn an_idle_backend_connection_is_closed_at_its_timeout() {
    let origin = Origin::responding("x");
    let lb = Lb::with(&[&origin], |config| config.settings.timeouts.backend_idle = 20 * MS);
    let mut client = lb.connect();
    assert_eq!(client.get("/").text(), "x");
    assert_eq!(origin.wait_for_ending(0), Ending::PeerClosed);
    assert_eq!(client.get("/").text(), "x");
    assert_eq!((origin.connections(), lb.totals().retries), (2, 0));
}

#[test]
fn an_expired_connection_is_not_reused_even_before_it_is_closed() {
    let origin = Origin::responding("x");
    let lb = Lb::with(&[&origin], |config| config.settings.timeouts.backend_idle = Duration::ZERO);
    let mut client = lb.connect();
    for _ in 0..5 {
        assert_eq!(client.get("/").text(), "x");
    }
    assert_eq!((lb.totals().backend_connects, lb.totals().backend_reuses), (5, 0));
}

#[test]
fn the_keep_alive_field_of_a_backend_overrides_the_default() {
    let announcing = |seconds: u32| {
        format!(
            "HTTP/1.1 200 OK\r\nKeep-Alive: timeout={seconds}, max=9\r\nContent-Length: 1\r\n\r\nx"
        )
    };
    let short = Origin::raw(announcing(1), After::Keep);
    let lb = Lb::over(&[&short]);
    let mut client = lb.connect();
    for _ in 0..3 {
        assert_eq!(client.get("/").text(), "x");
    }
    assert_eq!(lb.totals().backend_reuses, 0, "a second of margin leaves nothing of one second");

    let long = Origin::raw(announcing(60), After::Keep);
    let lb = Lb::with(&[&long], |config| config.settings.timeouts.backend_idle = Duration::ZERO);
    let mut client = lb.connect();
    for _ in 0..3 {
        assert_eq!(client.get("/").text(), "x");
    }
    assert_eq!(lb.totals().backend_reuses, 2);
}

#[test]
fn the_backend_connection_of_an_upload_with_an_early_response_is_not_reused() {
    let origin = Origin::start(Script::sequence([
        Script::steps([Step::ReadHead, Step::send(ok("early")), Step::Hang]),
        Script::named("other"),
    ]));
    let lb = Lb::with(&[&origin], |config| {
        config.boot.workers = 1;
        config.settings.timeouts.backend_idle = Duration::from_secs(60);
    });
    let mut client = lb.connect();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\npart");
    assert_eq!(client.read_response().text(), "early");
    assert_eq!(exchange(lb.address(), super::GET).text(), "other");
    origin.wait_for_ending(0);
    assert_eq!(lb.totals().backend_reuses, 0);
}

#[test]
fn many_clients_at_once_get_their_own_responses() {
    let origin = Origin::echo();
    let lb = Lb::over(&[&origin]);
    let address = lb.address();
    let clients: Vec<_> = (0..30)
        .map(|number| {
            std::thread::spawn(move || {
                let mut client = Client::connect(address);
                for round in 0..20 {
                    let body = format!("client {number} round {round}").repeat(1 + number * round);
                    let request = if round % 2 == 0 {
                        super::post(body.as_bytes())
                    } else {
                        super::post_chunked(body.as_bytes(), &[13, 700])
                    };
                    assert_eq!(client.exchange(request).text(), body);
                }
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().expect("each got its own"));
    lb.wait_for_closed(Reason::ClientClosed, 30);
    let totals = lb.totals();
    assert_eq!((totals.requests, totals.retries), (600, 0));
    assert_eq!(totals.backend_connects + totals.backend_reuses, 600);
    assert!(
        totals.backend_connects <= 60,
        "{} connections for 30 clients",
        totals.backend_connects
    );
}
