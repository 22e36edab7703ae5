//! The commands: the balancer, the demo, the demo backend, the control client. Each runs on the main thread.

pub mod backend;
pub mod ctl;
pub mod demo;
pub mod serve;
