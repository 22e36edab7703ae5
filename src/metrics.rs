//! Counters: one table, from which the fields and their sums are made.
//!
//! Each worker and listener owns its [`Counters`]; any thread may sum them. A counter has a single
//! writer, so an increment is a plain load and a plain store: no locked instruction on the data path.

use crate::error::Cause;
use crate::reason::Reason;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A number with a single writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `amount`. Only the owning thread may call this: two writers would lose counts.
    pub fn add(&self, amount: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(amount), Relaxed);
    }

    /// The current number.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

macro_rules! counters {
    ($($name:ident, $meaning:literal;)*) => {
        /// The counters of one thread.
        #[derive(Debug)]
        pub struct Counters {
            $(#[doc = $meaning] pub $name: Counter,)*
            /// Turns of a worker's loop: a worker whose number stays the same while it has a message
            /// is stuck. No part of the totals.
            pub turns: Counter,
            causes: [Counter; Cause::ALL.len()],
            retry_causes: [Counter; Cause::ALL.len()],
            reasons: [Counter; Reason::ALL.len()],
        }

        impl Default for Counters {
            fn default() -> Self {
                Self {
                    $($name: Counter::default(),)*
                    turns: Counter::default(),
                    causes: std::array::from_fn(|_| Counter::default()),
                    retry_causes: std::array::from_fn(|_| Counter::default()),
                    reasons: std::array::from_fn(|_| Counter::default()),
                }
            }
        }

        /// The sums of the counters of several threads.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Totals {
            $(#[doc = $meaning] pub $name: u64,)*
            causes: [u64; Cause::ALL.len()],
            retry_causes: [u64; Cause::ALL.len()],
            reasons: [u64; Reason::ALL.len()],
        }

        impl Default for Totals {
            fn default() -> Self {
                Self {
                    $($name: 0,)*
                    causes: [0; Cause::ALL.len()],
                    retry_causes: [0; Cause::ALL.len()],
                    reasons: [0; Reason::ALL.len()],
                }
            }
        }

        impl Totals {
            fn add(&mut self, counters: &Counters) {
                $(self.$name += counters.$name.get();)*
                for (sum, counter) in self.causes.iter_mut().zip(&counters.causes) {
                    *sum += counter.get();
                }
                for (sum, counter) in self.retry_causes.iter_mut().zip(&counters.retry_causes) {
                    *sum += counter.get();
                }
                for (sum, counter) in self.reasons.iter_mut().zip(&counters.reasons) {
                    *sum += counter.get();
                }
            }
        }
    };
}

counters! {
    connections, "Client connections accepted.";
    requests, "Requests with a valid head, on connections within the limits.";
    retries, "Attempts after the first one of an exchange.";
    retries_over_budget, "Requests that were not retried because the retry budget was used up.";
    backend_connects, "Connections opened to backends.";
    backend_reuses, "Attempts on an idle backend connection.";
    stale_reuses, "Attempts on an idle backend connection that ended before a byte of the response.";
    rejected_overload, "Connections rejected over `--max-connections`, or without a worker that takes them.";
    rejected_client_limit, "Connections rejected over `--max-connections-per-client`.";
    tunnels_opened, "Connections that became tunnels.";
    tunnels_closed, "Tunnels that ended.";
    bytes_sent, "Bytes of responses sent to clients, heads included.";
}

impl Counters {
    /// Counts an error response.
    pub fn failed(&self, cause: Cause) {
        self.causes[cause as usize].add(1);
    }

    /// Counts a connection that is rejected for this cause, whatever requests come on it.
    pub fn rejected(&self, cause: Cause) {
        match cause {
            Cause::ClientLimit => self.rejected_client_limit.add(1),
            _ => self.rejected_overload.add(1),
        }
    }

    /// Counts a retry after an attempt that failed for this cause.
    pub fn retried(&self, cause: Cause) {
        self.retries.add(1);
        self.retry_causes[cause as usize].add(1);
    }

    /// Counts the end of a client connection.
    pub fn closed(&self, reason: Reason) {
        self.reasons[reason as usize].add(1);
    }
}

impl Totals {
    /// Sums the counters of all threads.
    pub fn sum<'c>(threads: impl Iterator<Item = &'c Counters>) -> Self {
        let mut totals = Self::default();
        threads.for_each(|counters| totals.add(counters));
        totals
    }

    /// The number of error responses with this cause.
    pub fn failed(&self, cause: Cause) -> u64 {
        self.causes[cause as usize]
    }

    /// The number of retries after an attempt that failed for this cause.
    pub fn retried(&self, cause: Cause) -> u64 {
        self.retry_causes[cause as usize]
    }

    /// The number of client connections that ended for this reason.
    pub fn closed(&self, reason: Reason) -> u64 {
        self.reasons[reason as usize]
    }

    /// The number of client connections that ended.
    pub fn closed_in_total(&self) -> u64 {
        self.reasons.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_the_sums_of_all_threads() {
        let workers = [Counters::default(), Counters::default()];
        workers[0].requests.add(2);
        workers[1].requests.add(3);
        workers[0].closed(Reason::ClientClosed);
        workers[1].closed(Reason::ClientClosed);
        workers[1].failed(Cause::NoBackend);
        workers[0].retried(Cause::BadResponse);
        let totals = Totals::sum(workers.iter());
        assert_eq!(totals.requests, 5);
        assert_eq!(totals.closed(Reason::ClientClosed), 2);
        assert_eq!(totals.closed_in_total(), 2);
        assert_eq!(totals.failed(Cause::NoBackend), 1);
        assert_eq!((totals.retried(Cause::BadResponse), totals.retries), (1, 1));
    }
}
