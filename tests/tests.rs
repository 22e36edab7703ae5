//! The integration tests: one binary over modules, each about one side of the balancer.
//!
//! They run in parallel, on port 0, against scripted origins, and never sleep: they wait for
//! conditions (`support`).

mod support;
mod support_tests;

mod accepting;
mod algorithms;
mod change_under_load;
mod chaos;
mod cli;
mod control;
mod ctl;
mod data_port;
mod docs;
mod drain;
mod failover;
mod framing;
mod health;
mod http;
mod logs;
mod membership;
mod memory;
mod metrics;
mod names;
mod overload;
mod panics;
mod queue;
mod regressions;
mod reload;
mod retry;
mod settings;
mod starvation;
mod statistics;
mod systemd;
mod tidy;
mod tunnel;
