//! The addresses of a backend's name. Written when the name is resolved, read by workers for each
//! connect and by health checks.

use parking_lot::RwLock;
use std::net::SocketAddr;
use std::sync::Arc;

/// The addresses of a backend; none while its name is not resolved.
#[derive(Debug)]
pub struct Addresses {
    /// Protects the pointer to the list; taken for reading by each connect and each check, for
    /// writing when the addresses change.
    list: RwLock<Arc<[SocketAddr]>>,
}

impl Addresses {
    pub(super) fn new(list: &[SocketAddr]) -> Self {
        Self { list: RwLock::new(list.into()) }
    }

    /// All addresses, in the order in which they are tried.
    pub fn all(&self) -> Arc<[SocketAddr]> {
        Arc::clone(&self.list.read())
    }

    /// The address to connect to, if there is one.
    pub fn first(&self) -> Option<SocketAddr> {
        self.list.read().first().copied()
    }
}
