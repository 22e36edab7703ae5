//! What happened, in numbers: counters that one thread writes and any thread reads.
//!
//! Each worker owns one [`Counters`]; readers sum them. A counter has a single writer, so an
//! increment is a plain load and a plain store: no locked instruction on the data path.

use crate::error::Cause;
use crate::reason::Reason;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A number that only its owner increments.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `amount`. To be called from the owning thread alone: two writers would lose counts.
    pub fn add(&self, amount: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(amount), Relaxed);
    }

    /// The number now.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// The counters of one worker.
#[derive(Debug)]
pub struct Counters {
    /// Client connections taken over.
    pub connections: Counter,
    /// Requests whose head was valid, on connections that are served.
    pub requests: Counter,
    /// Attempts after the first one of an exchange.
    pub retries: Counter,
    /// ConnectionPool opened to backends.
    pub backend_connects: Counter,
    /// Attempts that went out on an idle backend connection.
    pub backend_reuses: Counter,
    /// Those of them that found the connection dead: it ended before a byte of the response.
    pub stale_reuses: Counter,
    /// Bytes of answers sent to clients, heads included.
    pub bytes_sent: Counter,
    causes: [Counter; Cause::ALL.len()],
    reasons: [Counter; Reason::ALL.len()],
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            connections: Counter::default(),
            requests: Counter::default(),
            retries: Counter::default(),
            backend_connects: Counter::default(),
            backend_reuses: Counter::default(),
            stale_reuses: Counter::default(),
            bytes_sent: Counter::default(),
            causes: std::array::from_fn(|_| Counter::default()),
            reasons: std::array::from_fn(|_| Counter::default()),
        }
    }
}

impl Counters {
    /// Counts an error answer.
    pub fn failed(&self, cause: Cause) {
        self.causes[cause as usize].add(1);
    }

    /// Counts the end of a client connection.
    pub fn closed(&self, reason: Reason) {
        self.reasons[reason as usize].add(1);
    }
}

/// The sum of all workers' counters at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Client connections taken over.
    pub connections: u64,
    /// Requests whose head was valid, on connections that are served.
    pub requests: u64,
    /// Attempts after the first one of an exchange.
    pub retries: u64,
    /// ConnectionPool opened to backends.
    pub backend_connects: u64,
    /// Attempts that went out on an idle backend connection.
    pub backend_reuses: u64,
    /// Those of them that found the connection dead: it ended before a byte of the response.
    pub stale_reuses: u64,
    /// Bytes of answers sent to clients.
    pub bytes_sent: u64,
    causes: Vec<u64>,
    reasons: Vec<u64>,
}

impl Totals {
    /// Sums the counters of all workers.
    pub fn sum<'c>(workers: impl Iterator<Item = &'c Counters>) -> Self {
        let mut totals = Self {
            causes: vec![0; Cause::ALL.len()],
            reasons: vec![0; Reason::ALL.len()],
            ..Self::default()
        };
        for counters in workers {
            totals.connections += counters.connections.get();
            totals.requests += counters.requests.get();
            totals.retries += counters.retries.get();
            totals.backend_connects += counters.backend_connects.get();
            totals.backend_reuses += counters.backend_reuses.get();
            totals.stale_reuses += counters.stale_reuses.get();
            totals.bytes_sent += counters.bytes_sent.get();
            for (sum, counter) in totals.causes.iter_mut().zip(&counters.causes) {
                *sum += counter.get();
            }
            for (sum, counter) in totals.reasons.iter_mut().zip(&counters.reasons) {
                *sum += counter.get();
            }
        }
        totals
    }

    /// How many error answers had this cause.
    pub fn failed(&self, cause: Cause) -> u64 {
        self.causes[cause as usize]
    }

    /// How many client connections ended for this reason.
    pub fn closed(&self, reason: Reason) -> u64 {
        self.reasons[reason as usize]
    }

    /// How many client connections have ended.
    pub fn closed_in_all(&self) -> u64 {
        self.reasons.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_the_sum_over_the_workers() {
        let workers = [Counters::default(), Counters::default()];
        workers[0].requests.add(2);
        workers[1].requests.add(3);
        workers[0].closed(Reason::ClientDone);
        workers[1].closed(Reason::ClientDone);
        workers[1].failed(Cause::NoBackend);
        let totals = Totals::sum(workers.iter());
        assert_eq!(totals.requests, 5);
        assert_eq!(totals.closed(Reason::ClientDone), 2);
        assert_eq!(totals.closed_in_all(), 2);
        assert_eq!(totals.failed(Cause::NoBackend), 1);
    }
}
