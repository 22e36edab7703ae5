//! Chaos: the real program under load while its backends die, pause, send invalid responses and
//! truncate, and while it is itself stopped and started.
//!
//! - `plan`: a request; all of it follows from its key.
//! - `clients` send requests without end, each over its `client_connection`; `backend` accepts,
//!   `backend_connection` is its end of a connection, `serving` its behaviour there.
//! - `faults` and `outages`: the faults, and when they are active. At most n - 1 of n backends are
//!   bad at any moment.
//! - `ledger` counts every key on both sides, `report` prints the result, `scenario` runs it all in
//!   front of a `balancer`.
//!
//! How to run it, and its results, are in `tests/README.md`.

mod backend;
mod backend_connection;
mod balancer;
mod client_connection;
mod clients;
mod faults;
mod http;
mod ledger;
mod outages;
mod plan;
mod report;
mod scenario;
mod serving;

use scenario::{Settings, run};
use std::time::Duration;

const TWENTY_MINUTES: u64 = 1200;

/// A number from the environment.
fn number(name: &str, default: u64) -> u64 {
    let Ok(text) = std::env::var(name) else {
        return default;
    };
    text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}"))
}

#[test]
fn a_few_seconds_of_chaos_violate_nothing() {
    let report = run(Settings {
        seed: number("CHAOS_SEED", fastrand::u64(..1_000_000)),
        span: Duration::from_secs(4),
        clients: 12,
        thinking: (100, Duration::from_millis(60)),
        longest_run: Duration::from_millis(1500),
        longest_episode: Duration::from_millis(400),
        is_printed: false,
    });
    println!("{report}");
    assert_eq!(report.ledger.violations().1, 0, "see the report: violations");
    assert!(report.served() > 100, "hardly anything was served");
}

#[test]
#[ignore = "takes 20 minutes: see tests/README.md"]
fn twenty_minutes_of_chaos_violate_nothing() {
    let settings = Settings {
        seed: number("CHAOS_SEED", fastrand::u64(..1_000_000)),
        span: Duration::from_secs(number("CHAOS_SECONDS", TWENTY_MINUTES)),
        clients: number("CHAOS_CLIENTS", 48) as usize,
        thinking: (10, Duration::from_millis(300)),
        longest_run: Duration::from_secs(number("CHAOS_BALANCER_SECONDS", 30)),
        longest_episode: Duration::from_secs(8),
        is_printed: true,
    };
    println!("{settings:?}");
    let report = run(settings);
    println!("{report}");
    assert_eq!(report.ledger.violations().1, 0, "see the report: violations");
}
