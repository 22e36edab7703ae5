//! Statistics: requests per backend, in windows of time and since the start.
//!
//! A worker counts into records of its own (`record`); [`Stats`] collects them into windows and
//! totals (`collector`, `windows`) and responds to queries (`query`). `sample` defines what is an
//! error and what is the response time. Collecting runs on the statistics thread whenever a slot
//! ends, and on each thread that has a query, so that a report has everything up to its moment. No
//! worker takes the mutex, and nothing waits for a worker.
//!
//! Memory, if every bucket of every slot is used:
//!
//! | per backend | bytes |
//! |---|---:|
//! | five windows of 12 slots, 1,984 bytes each | 119,040 |
//! | the sums of the windows, and pointers to the slots | 21,080 |
//! | the totals | 8,510 |
//! | per worker, its record | 4,250 |
//!
//! 300 backends, 32 removed ones and 8 workers: 59 MiB at most. A slot without a request takes
//! 16 bytes, so that 3 backends of which one is used take 0.3 MB.

mod collector;
mod histogram;
mod numbers;
mod period;
mod query;
mod record;
mod sample;
#[cfg(test)]
mod tests;
mod windows;

pub use numbers::Event;
pub use period::{Period, UnknownPeriod};
pub use query::{
    BackendTotals, Cumulative, Distribution, PeriodStats, Report, ResponseTimes, Summary,
};
pub use record::Recorder;
pub use sample::Sample;

use crate::upstream::backend::{Backend, BackendId};
use collector::Collector;
use crossbeam_channel::Sender;
use parking_lot::Mutex;
use record::Record;
use std::sync::Arc;
use std::time::Instant;

/// The statistics of a balancer.
#[derive(Debug)]
pub struct Stats {
    /// Where workers send the records that they make.
    created: Sender<Arc<Record>>,
    /// Protects rows and windows; taken by the statistics thread for each slot, and by each query.
    collector: Mutex<Collector>,
}

impl Stats {
    /// Statistics that begin now.
    pub fn new(now: Instant) -> Self {
        let (created, records) = crossbeam_channel::unbounded();
        Self { created, collector: Mutex::new(Collector::new(records, now)) }
    }

    /// The recorder of a new worker.
    pub fn recorder(&self) -> Recorder {
        Recorder::new(self.created.clone())
    }

    /// Collects what was counted up to now. Returns when the next collection is due: the end of a
    /// slot, which is as exact as the calls of this are timely.
    pub fn collect(&self, now: Instant) -> Instant {
        self.collector.lock().collect(now)
    }

    /// The statistics of these periods up to now.
    pub fn report(&self, periods: &[Period], now: Instant) -> Report {
        let mut collector = self.collector.lock();
        collector.collect(now);
        let report = |period: &Period| (*period, collector.report(*period, now));
        Report { periods: periods.iter().map(report).collect() }
    }

    /// Has numbers for each of these backends from now on, so that the counters of a name go on,
    /// however long a backend that was added again waits for a request.
    pub fn add_members<'b>(&self, members: impl Iterator<Item = &'b Arc<Backend>>) {
        self.collector.lock().add_members(members);
    }

    /// The numbers since the start, up to now.
    pub fn cumulative(&self, now: Instant) -> Cumulative {
        let mut collector = self.collector.lock();
        collector.collect(now);
        collector.cumulative()
    }

    /// The share of each backend in all requests of the last minute, from 0 to 1. Exact for the last
    /// 55 to 60 seconds; a backend without requests since the start is missing.
    pub fn shares(&self, now: Instant) -> Vec<(BackendId, f64)> {
        let mut collector = self.collector.lock();
        collector.collect(now);
        collector.shares()
    }
}
