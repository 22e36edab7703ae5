//! How many connections one client address has: only if that is limited.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::IpAddr;

/// The connections of each client address.
#[derive(Debug)]
pub struct ClientLimit {
    limit: usize,
    /// Protects the counts; taken by listeners for each accept and by workers for each close.
    counts: Mutex<HashMap<IpAddr, usize>>,
}

impl ClientLimit {
    /// Nobody is connected yet.
    pub fn new(limit: usize) -> Self {
        Self { limit, counts: Mutex::default() }
    }

    /// Counts a connection, if it is within the limit.
    pub fn enter(&self, address: IpAddr) -> bool {
        let mut counts = self.counts.lock();
        let count = counts.entry(address).or_insert(0);
        let is_within = *count < self.limit;
        *count += usize::from(is_within);
        is_within
    }

    /// A connection that was counted has ended.
    pub fn leave(&self, address: IpAddr) {
        let mut counts = self.counts.lock();
        if let Some(count) = counts.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_its_own_count_and_leaves_nothing_behind() {
        let limit = ClientLimit::new(1);
        let (one, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        assert!(limit.enter(one) && limit.enter(other));
        assert!(!limit.enter(one));
        limit.leave(one);
        limit.leave(other);
        assert!(limit.counts.lock().is_empty());
        assert!(limit.enter(one));
    }
}
