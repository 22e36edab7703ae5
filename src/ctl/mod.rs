//! The client's side of the control API: the words that people type, the requests that they become,
//! and the tables that show the results.
//!
//! Runs on the main thread of `lb-threads ctl`; grammar and tables are pure, so that a console can
//! share them. Must never touch a balancer of this process.

pub mod client;
pub mod grammar;
pub mod outcome;
pub mod rows;
pub mod statistics;
pub mod table;
