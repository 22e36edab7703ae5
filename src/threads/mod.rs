//! The threads: listeners, workers and health checks, and the handles through which they send
//! messages to each other.

pub mod acceptor;
pub mod handle;
pub mod health_check;
pub mod listeners;
pub mod shedding;
pub mod statistics;
pub mod worker;
