//! The algorithms through sockets: each works with retries, limits, drains and changes under load,
//! and what only some of them look at, the client's address and the response time, is right.

use crate::support::{Client, Gate, Lb, Origin, Step, config, get, until};
use lb_threads::config::{Algorithm, Config};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";

fn balancer(origins: &[&Origin], algorithm: Algorithm, change: impl FnOnce(&mut Config)) -> Lb {
    Lb::with(origins, |config| {
        config.settings.algorithm = algorithm;
        change(config);
    })
}

/// Connects as the client with this number.
fn client(lb: &Lb, number: u8) -> Client {
    Client::connect_from(IpAddr::from([127, 0, 1, number]), lb.address())
}

/// The body of the response to the client with this number.
fn served_by(lb: &Lb, number: u8) -> String {
    client(lb, number).get("/").text()
}

#[test]
fn under_every_algorithm_a_retry_goes_to_another_backend() {
    for algorithm in Algorithm::ALL {
        let broken = Origin::serve(|_, reply| reply.step(&Step::Reset));
        let (one, two) = (Origin::named("one"), Origin::named("two"));
        let lb = balancer(&[&one, &broken, &two], *algorithm, |config| {
            // Checks would bring it back from its ejection.
            config.settings.health.checks = false;
        });
        for number in 0..40 {
            assert!(["one", "two"].contains(&served_by(&lb, number).as_str()), "{algorithm:?}");
        }
        assert!(broken.count() >= 1, "{algorithm:?} never sends it a request");
        assert_eq!(lb.totals().retries, broken.count() as u64, "{algorithm:?}");
    }
}

#[test]
fn under_every_algorithm_full_backends_are_passed_over() {
    for algorithm in Algorithm::ALL {
        let gate = Gate::new();
        let origins = [(); 3].map(|()| {
            let gate = gate.clone();
            Origin::serve(move |_, reply| {
                gate.wait();
                reply.ok("late");
            })
        });
        let lb = balancer(&origins.each_ref(), *algorithm, |config| {
            config.settings.limits.max_requests_per_backend = Some(2);
        });
        let mut clients: Vec<Client> = (0..6).map(|_| client(&lb, 1)).collect();
        clients.iter_mut().for_each(|client| client.send(GET));
        for origin in &origins {
            origin.wait_for_requests(2);
        }
        gate.open();
        for client in &mut clients {
            assert_eq!(client.read_response().text(), "late", "{algorithm:?}");
        }
    }
}

#[test]
fn under_every_algorithm_a_draining_backend_gets_no_new_request() {
    for algorithm in Algorithm::ALL {
        let (one, two) = (Origin::named("one"), Origin::named("two"));
        let lb = balancer(&[&one, &two], *algorithm, |_| {});
        let registry = lb.balancer().registry();
        let statuses = registry.statuses();
        assert!(registry.drain(statuses[0].backend.id));
        for number in 0..20 {
            assert_eq!(served_by(&lb, number), "two", "{algorithm:?}");
        }
        registry.resume(statuses[0].backend.id);
        let names: Vec<String> = (0..60).map(|number| served_by(&lb, number)).collect();
        assert!(names.contains(&"one".to_owned()), "{algorithm:?}");
    }
}

#[test]
fn a_change_of_the_algorithm_under_load_loses_no_request() {
    let origins = ["one", "two", "three"].map(Origin::named);
    let lb = balancer(&origins.each_ref(), Algorithm::RoundRobin, |_| {});
    let (served, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        for number in 0..4 {
            let (lb, served, is_over) = (&lb, &served, &is_over);
            scope.spawn(move || {
                let mut client = client(lb, number);
                while !is_over.load(Ordering::SeqCst) {
                    client.get("/").expect_status(200);
                    served.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        for algorithm in Algorithm::ALL.iter().cycle().take(3 * Algorithm::ALL.len()) {
            lb.change(|settings| settings.algorithm = *algorithm);
            let before = served.load(Ordering::SeqCst);
            until("requests are served", || served.load(Ordering::SeqCst) > before + 20);
        }
        is_over.store(true, Ordering::SeqCst);
    });
    assert_eq!((lb.totals().retries, lb.totals().requests), (0, served.into_inner() as u64));
}

#[test]
fn a_new_algorithm_applies_to_the_next_request() {
    let (one, two) = (Origin::named("one"), Origin::named("two"));
    let lb = balancer(&[&one, &two], Algorithm::RoundRobin, |_| {});
    lb.change(|settings| settings.algorithm = Algorithm::IpHash);
    let first = get(lb.address(), "/").text();
    for _ in 0..10 {
        assert_eq!(get(lb.address(), "/").text(), first);
    }
    assert_eq!(lb.balancer().settings().algorithm, Algorithm::IpHash);
}

#[test]
fn weights_decide_over_shares() {
    let (heavy, light) = (Origin::named("heavy"), Origin::named("light"));
    let mut config = config(&[heavy.address(), light.address()]);
    config.settings.algorithm = Algorithm::Weighted;
    config.backends[0].weight = 3;
    let lb = Lb::start(config);
    for _ in 0..40 {
        get(lb.address(), "/").expect_status(200);
    }
    assert_eq!((heavy.count(), light.count()), (30, 10));
}

/// The backend for a request with this `X-Forwarded-For`, from a peer.
fn forwarded(lb: &Lb, peer: u8, field: &str) -> String {
    let request = format!("GET / HTTP/1.1\r\nHost: h\r\n{field}\r\n");
    client(lb, peer).exchange(request).text()
}

#[test]
fn behind_a_trusted_proxy_each_client_has_its_own_backend() {
    let origins = ["one", "two", "three"].map(Origin::named);
    let lb = balancer(&origins.each_ref(), Algorithm::IpHash, |config| {
        let trusted = ["127.0.1.1/32", "10.0.0.0/8"];
        config.settings.trusted_proxies =
            trusted.map(|network| network.parse().expect("a network")).to_vec();
    });
    let of = |address: &str| forwarded(&lb, 1, &format!("X-Forwarded-For: {address}\r\n"));
    let addresses: Vec<String> = (0..20).map(|number| format!("192.0.2.{number}")).collect();
    let first: Vec<String> = addresses.iter().map(|address| of(address)).collect();
    assert!(["one", "two", "three"].iter().all(|name| first.contains(&(*name).to_owned())));
    for (address, backend) in addresses.iter().zip(&first) {
        for chain in [
            format!("{address}:1234"),
            format!("[::ffff:{address}]:80"),
            format!("203.0.113.9, {address}, 10.0.0.1"),
            format!("unknown\r\nX-Forwarded-For: {address}\r\nX-Forwarded-For: 10.0.0.1"),
        ] {
            assert_eq!(of(&chain), *backend, "{chain}");
        }
    }
    let of_proxy = forwarded(&lb, 1, "");
    assert!(addresses.iter().all(|address| of(&format!("{address}, unknown")) == of_proxy));
    let of_peer = forwarded(&lb, 2, "");
    for address in &addresses {
        let backend = forwarded(&lb, 2, &format!("X-Forwarded-For: {address}\r\n"));
        assert_eq!(backend, of_peer, "the peer is not trusted");
    }
}

/// Requests of one client after the other; how many each origin has served.
fn sequential(origins: &[&Origin], count: usize) -> Vec<usize> {
    let lb = balancer(origins, Algorithm::LeastResponseTime, |config| {
        config.boot.workers = 1;
        config.settings.health.checks = false;
    });
    let mut client = lb.connect();
    for _ in 0..count {
        client.get("/");
    }
    origins.iter().map(|origin| origin.count()).collect()
}

#[test]
fn a_backend_that_was_slow_for_ten_responses_ends_with_its_share() {
    let slow = AtomicUsize::new(0);
    let slow = Origin::serve(move |_, reply| {
        if slow.fetch_add(1, Ordering::SeqCst) < 10 {
            reply.step(&Step::Pause(Duration::from_millis(20)));
        }
        reply.ok("x");
    });
    // Two backends, because the shares of three differ by as much on a busy machine.
    let shares = sequential(&[&slow, &Origin::responding("x")], 1500);
    assert!(shares[0].abs_diff(750) <= 150, "{shares:?}");
}

#[test]
fn a_slow_backend_gets_few_requests_and_one_that_fails_fast_no_more_than_others() {
    let slow = |pause| {
        Origin::serve(move |_, reply| {
            reply.step(&Step::Pause(Duration::from_millis(pause)));
            reply.ok("x");
        })
    };
    let fast = Origin::responding("x");
    let shares = sequential(&[&slow(20), &fast], 600);
    assert!((1..100).contains(&shares[0]), "{shares:?}");
    let failing = Origin::serve(|_, reply| reply.respond(500, &[], "x"));
    let shares = sequential(&[&failing, &slow(5)], 100);
    assert!(shares[0] < 75, "{shares:?}");
}

#[test]
fn an_attempt_without_a_response_counts_as_slow() {
    let hangs = Gate::new();
    let is_hanging = hangs.clone();
    let origin = Origin::serve(move |_, reply| match is_hanging.is_open() {
        true => reply.step(&Step::Hang),
        false => reply.ok("x"),
    });
    let lb = balancer(&[&origin], Algorithm::RoundRobin, |config| {
        config.settings.health.checks = false;
        config.settings.timeouts.first_byte = Duration::from_millis(200);
    });
    let average = || {
        let backend = &lb.balancer().registry().statuses()[0].backend;
        backend.response_time.average().expect("it has responded")
    };
    for _ in 0..20 {
        get(lb.address(), "/").expect_status(200);
    }
    let before = average();
    assert!(before < 0.1, "{before}");
    hangs.open();
    get(lb.address(), "/").expect_status(504);
    assert!(average() > 1.1 * before, "{} is not longer than {before}", average());
}

#[test]
fn equal_balancers_send_a_client_to_the_same_backend() {
    let origins = ["one", "two", "three"].map(Origin::named);
    let addresses: Vec<SocketAddr> = origins.iter().map(Origin::address).collect();
    let start = |addresses: &[SocketAddr]| {
        let mut config = config(addresses);
        config.settings.algorithm = Algorithm::IpHash;
        Lb::start(config)
    };
    let lb = start(&addresses);
    let other = start(&[addresses[2], addresses[0], addresses[1]]);
    for number in 0..20 {
        assert_eq!(served_by(&lb, number), served_by(&other, number));
    }
}
