//! The commands: balance, run a demo, be a demo backend.

pub mod backend;
pub mod demo;
pub mod serve;
