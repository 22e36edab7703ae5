//! The threads: listeners, workers and health checks, and the handles by which they reach each
//! other.

pub mod acceptor;
pub mod handle;
pub mod health_check;
pub mod listeners;
pub mod shedding;
pub mod worker;
