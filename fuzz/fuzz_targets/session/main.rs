//! The whole balancer over loopback: clients and origin follow the input.
//!
//! Invariants: nothing panics. The origin gets only well-formed requests, each of them from a
//! client, and not more than were sent or retried. Clients get valid responses, in order, at most
//! one per request, none that the origin did not send, and no rejection of a well-formed request.
//! Every connection ends and is counted. Afterwards plain requests are served, on the remaining
//! backend connections, and in the end no session and no descriptor is left. One thread plays all
//! parts but the balancer's.

#![no_main]

mod client;
mod origin;
mod requests;
mod responses;
mod script;
mod stage;

use client::Client;
use lb_threads::reason::Reason;
use libfuzzer_sys::fuzz_target;
use requests::{Request, Requests};
use responses::Response;
use script::Script;
use stage::Stage;
use std::collections::HashSet;
use std::sync::{Mutex, OnceLock};

fuzz_target!(|input: &[u8]| {
    static STAGE: OnceLock<Mutex<Stage>> = OnceLock::new();
    let Some(script) = Script::of(input) else { return };
    let stage = STAGE.get_or_init(|| Mutex::new(Stage::start()));
    run(&mut stage.lock().expect("a panic ends the process"), script);
});

fn run(stage: &mut Stage, script: Script) {
    let before = stage.server.balancer().totals();
    let scripted = responses::scripted(&script.responses, origin::PLAIN);
    stage.origin.play(script.responses);
    let sends = script.clients.into_iter().filter(|pieces| !pieces.is_empty());
    let mut clients: Vec<Client> =
        sends.map(|pieces| stage.connect(pieces, script.ending, script.reads_late)).collect();
    stage.play(&mut clients);
    stage.origin.play(Vec::new());
    clients.extend(stage.serve_plain_requests());
    let seen = stage.settle();
    let after = stage.server.balancer().totals();

    assert_eq!(after.closed(Reason::Panicked), 0, "a step has panicked");
    assert_eq!(
        after.closed_in_total(),
        after.connections,
        "a connection has ended without a reason"
    );
    let asked: Vec<Requests> = clients.iter().map(|client| Requests::of(&client.sent)).collect();
    let all: Vec<&Request> = asked.iter().flat_map(|asked| &asked.all).collect();
    let (sent, taken, retried) =
        (all.len() as u64, after.requests - before.requests, after.retries - before.retries);
    assert!(taken <= sent, "more requests than were sent");
    assert!(seen.len() as u64 <= taken + retried, "the origin saw more requests than were taken");
    let whole: HashSet<_> =
        all.iter().filter(|request| request.whole).map(|request| request.words()).collect();
    for request in seen.iter().filter(|request| request.whole) {
        assert!(whole.contains(&request.words()), "no client sent {request:?}");
    }
    let checked = clients.iter().zip(&asked).flat_map(|(client, asked)| client.check(asked));
    let forwarded: Vec<Response> = checked.collect();
    assert!(forwarded.len() <= seen.len(), "more responses of the origin than requests");
    if let Some(scripted) = scripted.filter(|_| all.iter().all(|request| request.method != "HEAD"))
    {
        for response in forwarded.into_iter().filter(|response| !response.ends_by_close) {
            let (status, body) = (response.status, response.body);
            assert!(
                body.is_none_or(|body| scripted.contains(&(status, body))),
                "the origin did not send this {status}"
            );
        }
    }
}
