//! The input of an algorithm for one request. Plain references, made by a worker for each pick.

use crate::upstream::backend::Backend;
use std::net::IpAddr;
use std::sync::Arc;

/// One choice among the backends that are up.
pub struct Choice<'c> {
    /// The backends that are up.
    pub up: &'c [Arc<Backend>],
    /// The algorithm's precomputed order of them: indices into `up`.
    pub cycle: &'c [u32],
    /// The number of the pick, over all workers.
    pub turn: usize,
    /// The client's address, for algorithms that send a client to the same backend each time.
    pub client: IpAddr,
    /// Whether a backend may be chosen: it has capacity, and the request has not tried it.
    pub usable: &'c dyn Fn(&Backend) -> bool,
}

impl Choice<'_> {
    /// Whether the backend at this index may be chosen.
    pub fn is_usable(&self, index: usize) -> bool {
        (self.usable)(&self.up[index])
    }
}
