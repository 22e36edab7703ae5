//! The threads: who accepts, who serves, who checks, who writes the log.

pub mod client_limit;
pub mod handle;
pub mod health_check;
pub mod listener;
pub mod log_writer;
pub mod shedding;
pub mod worker;
