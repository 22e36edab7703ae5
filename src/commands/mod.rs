//! The commands: the balancer, the demo, the demo backend, the check, the control client. Each runs on
//! the main thread.

pub mod backend;
pub mod check;
pub mod ctl;
pub mod demo;
pub mod serve;
pub mod shell;
