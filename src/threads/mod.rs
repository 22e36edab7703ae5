//! The threads: who accepts, who serves, who checks.

pub mod handle;
pub mod health_check;
pub mod listener;
pub mod shedding;
pub mod worker;
