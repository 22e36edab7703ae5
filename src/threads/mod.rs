//! The threads: listeners, workers, health checks, the resolver and supervision, and the handles
//! through which they send
//! messages to each other.

pub mod acceptor;
pub mod handle;
pub mod health_check;
pub mod listeners;
pub mod resolver;
pub mod shedding;
pub mod statistics;
pub mod supervision;
pub mod worker;
