//! The commands: the balancer, the demo, the demo backend. Each runs on the main thread.

pub mod backend;
pub mod demo;
pub mod serve;
