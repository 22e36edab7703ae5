//! The backends: membership, health, choice, queue, and the connections to them.
//!
//! `registry` writes (to `pool`, its data) and publishes snapshots, from which workers pick through
//! `cluster`; `backend` has the counts that all threads share. Nearly every lock of the program is
//! here, each a leaf that must never be held across a system call. `health`, `retry`, `reuse` and
//! `balance` are pure: `now` is a parameter. `response_time` is the data of one algorithm, `hash` the
//! function of another. `connection_pool` belongs to one worker.
//!
//! The conditions under which a backend gets requests:
//!
//! | Predicate | Decided by | True for a backend |
//! |---|---|---|
//! | `State::is_up` | checks and attempts | that both consider healthy |
//! | `State::passes_checks` | checks | that is up or ejected |
//! | `State::is_last_resort` | checks and attempts | that is ejected, or whose port was closed at the last check |
//! | `Backend::is_active` | the operator | that is neither draining nor removed |
//! | `Backend::is_serving` | the states of the whole pool | that is up, or ejected while no backend is up; if it drains, that passes its checks |
//! | `Backend::accepts_work` | all of these | that is serving and active: it gets new requests |
//! | `Backend::has_capacity` | its requests | that has a free slot |

pub mod addresses;
pub mod backend;
pub mod balance;
pub mod cluster;
pub mod connection_pool;
mod hash;
pub mod health;
pub mod health_counts;
mod pool;
pub mod queue;
pub mod registry;
mod resolution;
pub mod response_time;
pub mod retry;
pub mod reuse;
#[cfg(test)]
mod stress;
mod subscriber;
