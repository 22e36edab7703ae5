//! The algorithms that choose a backend for each request: one file each, and one row of the table in
//! `config::algorithm`, which has their names.
//!
//! An algorithm is two pure functions: `cycle` runs once per snapshot, under the registry's mutex,
//! and `choose` once per request, on workers. `choose` reads the snapshot and the backends' counts,
//! and must never lock or allocate.

mod choice;
mod ip_hash;
mod least_conn;
mod least_response_time;
mod p2c;
mod random;
mod round_robin;
#[cfg(test)]
mod shares;
#[cfg(test)]
mod simulation;
mod weighted;

pub use choice::Choice;

use super::backend::Backend;
use crate::config::{Algorithm, algorithms};
use fastrand::Rng;
use std::sync::Arc;

/// The functions of an algorithm.
#[derive(Debug)]
pub struct Functions {
    /// The order of the backends that are up: indices; empty if the algorithm needs none.
    pub(super) cycle: fn(&[Arc<Backend>]) -> Box<[u32]>,
    /// The index of the chosen backend; none if no backend is usable.
    pub(super) choose: fn(&Choice<'_>, &mut Rng) -> Option<usize>,
}

macro_rules! functions {
    ($($(#[$meta:meta])* $variant:ident, $module:ident, $($name:literal),+;)*) => {
        /// The functions of an algorithm: those of its module.
        pub(super) const fn functions(algorithm: Algorithm) -> &'static Functions {
            match algorithm {
                $(Algorithm::$variant => {
                    &Functions { cycle: $module::cycle, choose: $module::choose }
                })*
            }
        }
    };
}
algorithms!(functions);
