//! The addresses of a backend's name.
//!
//! Written by the registry when the name is resolved, read by workers for each connect and by health
//! checks. Every address may be tried; the one that worked last is tried first.

use parking_lot::RwLock;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering, Ordering::Relaxed};

/// The addresses of a backend; none while its name is not resolved.
#[derive(Debug)]
pub struct Addresses {
    /// Protects the pointer to the list; taken for reading by each connect and each check, for
    /// writing when the addresses change.
    list: RwLock<Arc<List>>,
    /// The number of changes of the list.
    changes: AtomicU32,
    /// Whether the host of the backend is an address: there is nothing to resolve.
    is_fixed: bool,
    /// Connects or checks have failed since the name was resolved.
    is_suspect: AtomicBool,
}

/// The addresses in the order in which they are tried, from that in use on.
#[derive(Debug)]
struct List {
    addresses: Vec<SocketAddr>,
    /// The index of the address that was connected to last.
    in_use: AtomicUsize,
}

/// The addresses for one attempt, each once.
#[derive(Debug)]
pub struct Walk {
    list: Arc<List>,
    first: usize,
    tried: usize,
}

impl Addresses {
    pub(super) fn new(addresses: &[SocketAddr], is_fixed: bool) -> Self {
        Self {
            list: RwLock::new(Arc::new(List::new(addresses.to_vec(), 0))),
            changes: AtomicU32::new(0),
            is_fixed,
            is_suspect: AtomicBool::new(false),
        }
    }

    /// All addresses, in the order in which they are tried.
    pub fn all(&self) -> Vec<SocketAddr> {
        self.walk().collect()
    }

    /// The addresses for an attempt.
    pub fn walk(&self) -> Walk {
        let list = Arc::clone(&self.list.read());
        let first = list.in_use.load(Relaxed);
        Walk { list, first, tried: 0 }
    }

    /// The address in use: the one that was connected to last, or the first.
    pub fn in_use(&self) -> Option<SocketAddr> {
        self.walk().next()
    }

    /// Whether there is no address, because the name is not resolved.
    pub fn is_empty(&self) -> bool {
        self.list.read().addresses.is_empty()
    }

    /// Whether this is one of the addresses.
    pub fn contains(&self, address: SocketAddr) -> bool {
        self.list.read().addresses.contains(&address)
    }

    /// A number that increases with each change of the list.
    pub fn changes(&self) -> u32 {
        // Pairs with the store in `set`: after a new number, the new list is read.
        self.changes.load(Ordering::Acquire)
    }

    /// Whether the host of the backend is an address, not a name.
    pub fn is_fixed(&self) -> bool {
        self.is_fixed
    }

    /// Replaces the list, unless it only has another order: name servers rotate it. The address in
    /// use stays in use if it is in the new list. Returns whether there was a change.
    pub(super) fn set(&self, addresses: &[SocketAddr]) -> bool {
        let now = self.walk();
        let is_same = now.list.addresses.len() == addresses.len()
            && addresses.iter().all(|address| now.list.addresses.contains(address));
        if is_same {
            return false;
        }
        let in_use = self.in_use();
        let index = addresses.iter().position(|address| Some(*address) == in_use);
        let list = Arc::new(List::new(addresses.to_vec(), index.unwrap_or(0)));
        // The old list is freed after the lock is released.
        let _old = std::mem::replace(&mut *self.list.write(), list);
        self.changes.fetch_add(1, Ordering::Release);
        true
    }

    /// Notes that a connect or a check has failed: the name may have other addresses by now. Returns
    /// whether that is to be reported to the resolver.
    pub(super) fn suspect(&self) -> bool {
        !self.is_fixed && !self.is_suspect.swap(true, Relaxed)
    }

    /// Whether connects or checks have failed since the last call.
    pub fn take_suspicion(&self) -> bool {
        self.is_suspect.swap(false, Relaxed)
    }
}

impl List {
    fn new(addresses: Vec<SocketAddr>, in_use: usize) -> Self {
        Self { addresses, in_use: AtomicUsize::new(in_use) }
    }
}

impl Walk {
    /// The number of addresses that were not tried.
    pub fn left(&self) -> usize {
        self.list.addresses.len() - self.tried
    }

    /// Records that the connect to the last address has succeeded: later attempts begin with it.
    pub fn record_success(&self) {
        let index = (self.first + self.tried.saturating_sub(1)) % self.list.addresses.len().max(1);
        if self.list.in_use.load(Relaxed) != index {
            self.list.in_use.store(index, Relaxed);
        }
    }
}

impl Iterator for Walk {
    type Item = SocketAddr;

    fn next(&mut self) -> Option<SocketAddr> {
        let addresses = &self.list.addresses;
        if self.tried == addresses.len() {
            return None;
        }
        let address = addresses[(self.first + self.tried) % addresses.len()];
        self.tried += 1;
        Some(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(last_bytes: &[u8]) -> Vec<SocketAddr> {
        last_bytes.iter().map(|last| ([10, 0, 0, *last], 80).into()).collect()
    }

    #[test]
    fn a_walk_has_each_address_once_and_begins_with_the_one_that_worked_last() {
        let addresses = Addresses::new(&list(&[1, 2, 3]), false);
        let mut walk = addresses.walk();
        assert_eq!((walk.left(), addresses.in_use()), (3, Some(list(&[1])[0])));
        walk.next();
        walk.next();
        walk.record_success();
        assert_eq!((walk.left(), addresses.in_use()), (1, Some(list(&[2])[0])));
        assert_eq!(addresses.all(), list(&[2, 3, 1]));
        assert_eq!(Addresses::new(&[], false).walk().next(), None);
    }

    #[test]
    fn another_order_is_no_change_and_the_address_in_use_survives_one() {
        let addresses = Addresses::new(&list(&[1, 2]), false);
        let mut walk = addresses.walk();
        walk.nth(1);
        walk.record_success();
        assert!(!addresses.set(&list(&[2, 1])) && addresses.changes() == 0);
        assert!(addresses.set(&list(&[3, 2])));
        assert_eq!((addresses.all(), addresses.changes()), (list(&[2, 3]), 1));
        assert!(addresses.set(&list(&[4, 5])));
        assert_eq!(addresses.in_use(), Some(list(&[4])[0]));
    }

    #[test]
    fn an_attempt_keeps_its_addresses_while_the_list_changes() {
        let addresses = Addresses::new(&list(&[1, 2]), false);
        let mut walk = addresses.walk();
        walk.next();
        addresses.set(&[]);
        assert_eq!(walk.next(), Some(list(&[2])[0]));
        walk.record_success();
        assert!(addresses.is_empty() && addresses.in_use().is_none());
    }

    #[test]
    fn a_failure_is_reported_once_until_the_resolver_has_seen_it_and_never_for_an_address() {
        let addresses = Addresses::new(&list(&[1]), false);
        assert!(addresses.suspect() && !addresses.suspect());
        assert!(addresses.take_suspicion() && !addresses.take_suspicion());
        assert!(addresses.suspect());
        assert!(!Addresses::new(&list(&[1]), true).suspect());
    }
}
