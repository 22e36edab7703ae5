//! What the program does when it is called: balance, show a demo, be a demo backend.

pub mod backend;
pub mod demo;
pub mod serve;
