//! Micro-benchmarks of the wire floor.
fn main() {}
