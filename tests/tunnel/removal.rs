//! Tunnels to a backend that is drained or removed.

use super::*;
use lb_threads::upstream::backend::Backend;
use std::sync::Arc;
use std::time::Instant;

const LONG: Duration = Duration::from_secs(3600);

/// Accepts every upgrade, and returns each byte that it gets.
fn echoing() -> Origin {
    Origin::start(Script::serve_heads(|_, reply| {
        reply.send(AGREE);
        while let Some(byte) = reply.read_bytes(1) {
            reply.send(byte);
        }
    }))
}

fn balancer(origin: &Origin, tunnel_drain: Duration) -> Lb {
    Lb::with(&[origin], |config| config.settings.timeouts.tunnel_drain = tunnel_drain)
}

/// The member of this origin.
fn backend(lb: &Lb, origin: &Origin) -> Arc<Backend> {
    let mut statuses = lb.balancer().registry().statuses().into_iter();
    let status = statuses.find(|one| one.backend.authority == origin.address().into());
    status.expect("it is a member").backend
}

fn remove(lb: &Lb, backend: &Backend) {
    assert!(lb.balancer().registry().remove(backend.id));
}

#[track_caller]
fn echoes(client: &mut Client) {
    client.send("x");
    assert_eq!(client.read_exactly(1), b"x");
}

#[test]
fn a_tunnel_goes_on_when_its_backend_is_removed_until_the_tunnel_drain_has_passed() {
    let by_list = |lb: &Lb, _: &Backend| drop(lb.balancer().registry().apply(&[]));
    for removal in [remove, by_list] {
        let origin = echoing();
        let lb = balancer(&origin, 500 * MS);
        let mut client = upgraded(&lb);
        let backend = backend(&lb, &origin);
        let removed = Instant::now();
        removal(&lb, &backend);
        echoes(&mut client);
        assert!(client.at_end());
        assert!(removed.elapsed() >= 500 * MS, "{:?}", removed.elapsed());
        lb.wait_for_closed(Reason::BackendRemoved, 1);
        assert_eq!(origin.wait_for_ending(0), Ending::PeerClosed);
        until("the slot is free", || backend.in_flight() == 0);
    }
}

#[test]
fn a_tunnel_that_is_never_silent_ends_as_well() {
    let origin = Origin::start(Script::serve_heads(|_, reply| {
        reply.send(AGREE);
        while !reply.has_ended() {
            reply.send([b'x'; 100_000]);
        }
    }));
    let lb = balancer(&origin, 300 * MS);
    let mut client = upgraded(&lb);
    client.read_exactly(100_000);
    remove(&lb, &backend(&lb, &origin));
    let (bytes, _) = client.read_until_closed();
    assert!(bytes.len() > 100_000, "{} bytes came after the removal", bytes.len());
    lb.wait_for_closed(Reason::BackendRemoved, 1);
}

#[test]
fn a_tunnel_drain_that_is_changed_later_counts_from_the_removal() {
    let origin = echoing();
    let lb = balancer(&origin, LONG);
    let mut client = upgraded(&lb);
    remove(&lb, &backend(&lb, &origin));
    echoes(&mut client);
    lb.change(|settings| settings.timeouts.tunnel_drain = 10 * MS);
    assert!(client.at_end());
    lb.wait_for_closed(Reason::BackendRemoved, 1);
}

#[test]
fn a_longer_tunnel_drain_holds_for_tunnels_that_are_draining() {
    let origin = echoing();
    let lb = balancer(&origin, 400 * MS);
    let mut client = upgraded(&lb);
    remove(&lb, &backend(&lb, &origin));
    echoes(&mut client);
    lb.change(|settings| settings.timeouts.tunnel_drain = LONG);
    stays("the tunnel is open", 600 * MS, || client.is_open());
    echoes(&mut client);
}

#[test]
fn a_tunnel_drain_of_zero_ends_tunnels_at_the_removal() {
    let origin = echoing();
    let lb = balancer(&origin, Duration::ZERO);
    let mut client = upgraded(&lb);
    echoes(&mut client);
    remove(&lb, &backend(&lb, &origin));
    assert!(client.at_end());
    lb.wait_for_closed(Reason::BackendRemoved, 1);
}

#[test]
fn tunnels_of_draining_backends_and_of_others_go_on() {
    let (drained, removed, other) = (echoing(), echoing(), echoing());
    let lb = Lb::with(&[&drained, &removed, &other], |config| {
        config.boot.workers = 1;
        config.settings.timeouts.tunnel_drain = 100 * MS;
    });
    lb.wait_for_up(3);
    let mut clients = [upgraded(&lb), upgraded(&lb), upgraded(&lb)];
    assert_eq!([&drained, &removed, &other].map(Origin::count), [1, 1, 1]);
    lb.balancer().registry().drain(backend(&lb, &drained).id);
    remove(&lb, &backend(&lb, &removed));
    lb.wait_for_closed(Reason::BackendRemoved, 1);
    assert_eq!(removed.wait_for_ending(0), Ending::PeerClosed);
    stays("the others are open", 200 * MS, || lb.totals().closed_in_total() == 1);
    let open = clients.iter_mut().filter(|client| client.is_open());
    assert_eq!(open.map(echoes).count(), 2);
}

#[test]
fn a_tunnel_that_begins_after_the_removal_has_the_rest_of_its_time() {
    let gate = Gate::new();
    let origin = Origin::start([
        Step::ReadHead,
        Step::WaitFor(gate.clone()),
        Step::send(AGREE),
        Step::ReadToEnd,
    ]);
    let lb = balancer(&origin, 300 * MS);
    let mut client = lb.connect();
    client.send(ASK);
    origin.wait_for_requests(1);
    remove(&lb, &backend(&lb, &origin));
    gate.open();
    client.read_head().expect_status(101);
    assert!(client.at_end());
    lb.wait_for_closed(Reason::BackendRemoved, 1);
}

#[test]
fn tunnels_of_a_backend_that_is_added_again_are_those_of_a_new_one() {
    let origin = echoing();
    let lb = balancer(&origin, 300 * MS);
    let mut old = upgraded(&lb);
    remove(&lb, &backend(&lb, &origin));
    lb.balancer().registry().add(&origin.address().into());
    lb.wait_for_up(1);
    let mut new = upgraded(&lb);
    assert!(old.at_end());
    lb.wait_for_closed(Reason::BackendRemoved, 1);
    stays("the new tunnel is open", 400 * MS, || new.is_open());
    echoes(&mut new);
}
