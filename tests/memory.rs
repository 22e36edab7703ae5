//! The balancer's memory while requests are held, and after them, from `/proc`.

use crate::support::program::Program;
use crate::support::{Client, Gate, Origin, TEST_TIMEOUT, until};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const BODY: usize = 60 * 1024;
/// The number of concurrent requests: requests in transfer are held, of course.
const FEW: usize = 20;
const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// A backend that holds the requests for `/0`, `/1` and so on until their gate opens, and how many
/// it has read to their ends.
fn holding(gates: &[Gate]) -> (Origin, Arc<AtomicUsize>) {
    let (gates, count) = (gates.to_vec(), Arc::<AtomicUsize>::default());
    let read = Arc::clone(&count);
    let origin = Origin::serve(move |request, reply| {
        let number: usize = request.target.trim_start_matches('/').parse().expect("a number");
        read.fetch_add(1, Ordering::Relaxed);
        // On a busy machine it takes longer than one timeout until all are there.
        while !gates[number].wait_for(TEST_TIMEOUT) {}
        reply.ok("held");
    });
    (origin, count)
}

/// So many clients send a POST each, on new connections and a few at a time; `held` is run when the
/// backend has read them.
fn hold(count: usize, round: usize, balancer: &Program, read: &AtomicUsize, held: impl FnOnce()) {
    let (address, before) = (balancer.address(), read.load(Ordering::Relaxed));
    let mut request =
        format!("POST /{round} HTTP/1.1\r\nHost: x\r\nContent-Length: {BODY}\r\n\r\n").into_bytes();
    request.resize(request.len() + BODY, b'x');
    let mut clients = Vec::new();
    while clients.len() < count {
        for _ in 0..FEW {
            let mut client = Client::connect(address);
            client.send(&request);
            clients.push(client);
        }
        until("the backend has read these", || {
            read.load(Ordering::Relaxed) == before + clients.len()
        });
    }
    held();
    for mut client in clients {
        assert_eq!(client.read_response().text(), "held");
    }
}

#[test]
fn a_post_that_was_sent_is_not_kept_in_memory() {
    let gates = [Gate::new(), Gate::new()];
    let (origin, read) = holding(&gates);
    let balancer = Program::balancer(&[origin.address()], &["--no-health-checks"]);
    // The memory of the first few stays: a warm start.
    hold(FEW, 0, &balancer, &read, || gates[0].open());
    let before = balancer.resident_kib() as usize * KIB;
    hold(300, 1, &balancer, &read, || {
        let more = (balancer.resident_kib() as usize * KIB).saturating_sub(before);
        assert!(more < 300 * BODY / 2, "{more} bytes for 300 times {BODY}");
        gates[1].open();
    });
}

#[test]
#[ignore = "needs a gigabyte and half a minute: cargo test --release -- --ignored memory"]
fn after_three_times_1500_held_posts_less_than_20_mb_stay() {
    let gates = [Gate::new(), Gate::new(), Gate::new()];
    let (origin, read) = holding(&gates);
    let balancer = Program::balancer(&[origin.address()], &["--no-health-checks"]);
    for (round, gate) in gates.iter().enumerate() {
        hold(1500, round, &balancer, &read, || {
            println!("round {round}: {} MiB held", balancer.resident_kib() as usize * KIB / MIB);
            gate.open();
        });
    }
    until("less than 20 MB are left", || balancer.resident_kib() as usize * KIB < 20_000_000);
    println!("{} MiB left", balancer.resident_kib() as usize * KIB / MIB);
}
