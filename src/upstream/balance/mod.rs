//! Which of the healthy backends comes next: one file an algorithm, each a pure function over the
//! snapshot.

pub mod round_robin;
