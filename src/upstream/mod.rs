//! The backends: membership, health, choice, queue, and the connections to them.
//!
//! `registry` writes (to `pool`, its data) and publishes snapshots, from which workers pick through
//! `cluster`; `backend` has the counts that all threads share. Nearly every lock of the program is
//! here, each a leaf that must never be held across a system call. `health`, `retry`, `reuse` and
//! `balance` are pure: `now` is a parameter. `connection_pool` belongs to one worker.

pub mod backend;
pub mod balance;
pub mod cluster;
pub mod connection_pool;
pub mod health;
mod pool;
pub mod queue;
pub mod registry;
pub mod retry;
pub mod reuse;
#[cfg(test)]
mod stress;
