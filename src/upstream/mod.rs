//! The backends: which there are, which are up, which one is next, and the connections to them.
//!
//! `cluster` and `backend` are what workers share; nearly every lock of the program is here, each a
//! leaf that is never held across a system call. `health`, `retry` and `reuse` are pure judgement:
//! `now` is a parameter. `connection_pool` belongs to one worker.

pub mod backend;
pub mod balance;
pub mod cluster;
pub mod connection_pool;
pub mod health;
pub mod queue;
pub mod retry;
pub mod reuse;
