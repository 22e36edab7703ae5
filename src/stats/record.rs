//! The numbers that one worker counts for one backend, and the worker's table of these records.
//!
//! [`Recorder`] belongs to a worker. A [`Record`] has a single writer, that worker, and is read by
//! the threads that collect: a number is written by a plain load and a plain store, between two
//! stores of a version that show a reader whether it has read in the middle of an exchange. Counting
//! takes no lock and, but for the first request to a backend, allocates nothing.

use super::numbers::{Cell, Event, Numbers, Read};
use super::sample::Sample;
use crate::metrics::Counter;
use crate::upstream::backend::{Backend, BackendId};
use crossbeam_channel::Sender;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, fence};
use std::time::Duration;

/// The reads that a reader attempts before it takes one from the middle of an exchange, whose worker
/// was interrupted. The next read corrects it.
const READ_ATTEMPTS: u32 = 256;

/// A number with a single writer that wraps.
#[derive(Debug, Default)]
pub struct SmallCounter(AtomicU32);

impl Cell for SmallCounter {
    fn add(&self, amount: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(amount as u32), Relaxed);
    }
}

impl Cell for Counter {
    fn add(&self, amount: u64) {
        Counter::add(self, amount);
    }
}

/// The numbers that one worker has counted for one backend, or for none.
#[derive(Debug, Default)]
pub struct Record {
    /// The backend; none for requests that reached none.
    pub backend: Option<Arc<Backend>>,
    /// Even, or odd while the worker is counting.
    version: AtomicU64,
    /// The longest response time, in nanoseconds.
    max: AtomicU64,
    numbers: Numbers<SmallCounter, Counter>,
    /// Whether the worker shall forget it.
    is_retired: AtomicBool,
}

impl Record {
    fn new(backend: Option<Arc<Backend>>) -> Arc<Self> {
        Arc::new(Self { backend, ..Self::default() })
    }

    /// Changes numbers. Only for the worker. A change that panics leaves an odd version, which the
    /// next change makes even again.
    fn write(&self, change: impl FnOnce(&Self)) {
        let odd = self.version.load(Relaxed) | 1;
        self.version.store(odd, Relaxed);
        fence(Release);
        change(self);
        self.version.store(odd.wrapping_add(1), Release);
    }

    /// Reads the numbers, all of the same moment, unless the worker is interrupted for long.
    /// Returns the longest response time.
    pub fn read(&self, into: &mut Read) -> Duration {
        for _ in 0..READ_ATTEMPTS {
            let before = self.version();
            let max = self.copy_to(into);
            if self.is_whole_since(before) {
                return max;
            }
            std::hint::spin_loop();
        }
        self.copy_to(into)
    }

    /// Whether no exchange was being counted at this version, or since.
    fn is_whole_since(&self, version: u64) -> bool {
        fence(Acquire);
        version.is_multiple_of(2) && self.version.load(Relaxed) == version
    }

    fn copy_to(&self, into: &mut Read) -> Duration {
        into.merge(
            &self.numbers,
            |to, from| *to = from.0.load(Relaxed),
            |to, from| *to = from.get(),
        );
        Duration::from_nanos(self.max.load(Relaxed))
    }

    /// A number that changes with each change of the others.
    pub fn version(&self) -> u64 {
        self.version.load(Acquire)
    }

    /// Has the worker forget the record at its next look. It may count until then.
    pub fn retire(&self) {
        self.is_retired.store(true, Relaxed);
    }

    /// Whether the worker shall forget it, or has done so.
    pub fn is_retired(&self) -> bool {
        self.is_retired.load(Relaxed)
    }
}

/// Spreads consecutive numbers over a table. Others than workers choose no key.
#[derive(Debug, Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32(u32::from(*byte)));
    }

    fn write_u32(&mut self, id: u32) {
        // The golden ratio of 2^64 (Knuth, The Art of Computer Programming 3, section 6.4).
        self.0 = (self.0 ^ u64::from(id)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// A worker's records.
#[derive(Debug)]
pub struct Recorder {
    records: Vec<Arc<Record>>,
    /// The index of each backend's record.
    index: HashMap<BackendId, usize, BuildHasherDefault<IdHasher>>,
    without_backend: Arc<Record>,
    created: Sender<Arc<Record>>,
}

impl Recorder {
    /// A recorder whose records are sent to `created` when they are made.
    pub(super) fn new(created: Sender<Arc<Record>>) -> Self {
        let without_backend = Record::new(None);
        let (records, index) = (Vec::new(), HashMap::default());
        let recorder = Self { records, index, without_backend, created };
        recorder.share(&recorder.without_backend);
        recorder
    }

    /// Counts an exchange, which is over.
    pub fn record(&mut self, backend: Option<&Arc<Backend>>, sample: &Sample) {
        let Some(record) = self.of(backend) else {
            return;
        };
        record.write(|record| {
            let nanos = record.numbers.record(sample);
            if let Some(nanos) = nanos.filter(|nanos| *nanos > record.max.load(Relaxed)) {
                record.max.store(nanos, Relaxed);
            }
        });
    }

    /// Counts an event of an attempt at this backend.
    pub fn count(&mut self, backend: &Arc<Backend>, event: Event) {
        if let Some(record) = self.of(Some(backend)) {
            record.write(|record| record.numbers.events[event as usize].add(1));
        }
    }

    /// The record of a backend; none of the control threads.
    fn of(&mut self, backend: Option<&Arc<Backend>>) -> Option<&Record> {
        let Some(backend) = backend else {
            return Some(&self.without_backend);
        };
        if backend.id == BackendId::CONTROL {
            return None;
        }
        let index = match self.index.get(&backend.id) {
            Some(index) => *index,
            None => self.create(backend),
        };
        Some(&self.records[index])
    }

    /// Makes the record of a backend, and forgets those of backends that were removed long ago.
    /// Returns its index.
    fn create(&mut self, backend: &Arc<Backend>) -> usize {
        self.records.retain(|record| !record.is_retired());
        let record = Record::new(Some(Arc::clone(backend)));
        self.share(&record);
        self.records.push(record);
        let ids = self.records.iter().filter_map(|record| Some(record.backend.as_ref()?.id));
        self.index = ids.enumerate().map(|(index, id)| (id, index)).collect();
        self.records.len() - 1
    }

    fn share(&self, record: &Arc<Record>) {
        // Fails only if no statistics are collected any more.
        let _ = self.created.send(Arc::clone(record));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn sample(micros: u64) -> Sample {
        let now = Instant::now();
        Sample {
            status: Some(500),
            reason: None,
            request_ended: Some(now),
            responded: Some(now),
            ended: now + Duration::from_micros(micros),
            queued: Duration::ZERO,
            bytes_in: 1,
            bytes_out: 1,
        }
    }

    #[test]
    fn counts_never_fall_while_the_worker_counts() {
        let (created, records) = crossbeam_channel::unbounded();
        let mut recorder = Recorder::new(created);
        let record = records.recv().unwrap();
        const COUNT: u64 = 50_000;
        let worker = std::thread::spawn(move || {
            (0..COUNT).for_each(|micros| recorder.record(None, &sample(micros % 5000)));
        });
        let (mut read, mut last) = (Read::default(), 0);
        while last < COUNT {
            record.read(&mut read);
            assert!(read.tally.requests >= last);
            last = read.tally.requests;
        }
        worker.join().unwrap();
        record.read(&mut read);
        let timed: u32 = read.tally.histogram.iter().sum();
        let all = [read.tally.errors, read.tally.bytes_in, timed.into(), read.statuses[400].into()];
        assert_eq!(all, [COUNT; 4]);
    }

    #[test]
    fn a_read_in_the_middle_of_an_exchange_is_noticed() {
        let record = Record::default();
        let before = record.version();
        assert!(record.is_whole_since(before));
        record.write(|record| assert!(!record.is_whole_since(record.version())));
        assert!(!record.is_whole_since(before) && record.is_whole_since(record.version()));
    }

    #[test]
    fn a_change_that_panics_leaves_a_record_that_works() {
        let record = Record::default();
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            record.write(|_| panic!("a bug"));
        }));
        assert!(panicked.is_err());
        record.write(|record| _ = record.numbers.record(&sample(1)));
        let mut read = Read::default();
        record.read(&mut read);
        assert_eq!((record.version() % 2, read.tally.requests), (0, 1));
    }

    #[test]
    fn requests_to_the_control_threads_do_not_count() {
        let (created, records) = crossbeam_channel::unbounded();
        let mut recorder = Recorder::new(created);
        let control = Arc::new(Backend::control(([127, 0, 0, 1], 1).into()));
        recorder.count(&control, Event::Connect);
        recorder.record(Some(&control), &sample(1));
        let (mut read, records) = (Read::default(), records.try_iter().collect::<Vec<_>>());
        records[0].read(&mut read);
        assert_eq!((records.len(), read.tally.requests), (1, 0));
    }

    #[test]
    fn a_retired_record_counts_until_the_worker_forgets_it() {
        let (created, records) = crossbeam_channel::unbounded();
        let mut recorder = Recorder::new(created);
        let backends = [0, 1].map(|id| Arc::new(Backend::at(id, ([127, 0, 0, 1], 1).into())));
        recorder.record(Some(&backends[0]), &sample(1));
        let record = records.try_iter().nth(1).unwrap();
        record.retire();
        recorder.record(Some(&backends[0]), &sample(1));
        let mut read = Read::default();
        record.read(&mut read);
        assert_eq!((read.tally.requests, Arc::strong_count(&record)), (2, 2));
        recorder.record(Some(&backends[1]), &sample(1));
        assert_eq!(Arc::strong_count(&record), 1);
    }
}
