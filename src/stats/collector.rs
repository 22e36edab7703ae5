//! The collection of what workers have counted: a row per backend, and the total.
//!
//! Data behind the mutex of [`Stats`](super::Stats). Must never wait for a worker. A row reads the
//! records of all workers, and the difference to its totals goes to its windows and to the total's.
//! A backend that is added again goes on with its row, since its name is its identity. A row of a
//! removed backend is hidden after an hour, or earlier if there are many of them. It lives on until
//! no worker has its record any more, so that no request is missing in the total.

use super::numbers::{Read, Totals};
use super::period::Period;
use super::query::{BackendTotals, Cumulative, PeriodStats, Summary};
use super::record::Record;
use super::windows::{Change, History, Timelines};
use crate::upstream::backend::{AdminState, Backend, BackendId};
use crossbeam_channel::Receiver;
use std::sync::Arc;
use std::sync::atomic::{Ordering::Acquire, fence};
use std::time::{Duration, Instant};

/// The time for which a removed backend keeps its row.
const REMOVED_FOR: Duration = Duration::from_secs(3600);
/// The most rows of removed backends. The one that was removed first is hidden before its hour.
pub const MAX_REMOVED: usize = 32;

/// The numbers of one backend, or of requests without one.
#[derive(Debug)]
pub struct Row {
    backend: Option<Arc<Backend>>,
    /// The records of the workers, each with its version at the last read.
    records: Vec<(Arc<Record>, u64)>,
    /// The sum of the records that were dropped, after the backend was added again.
    dropped: Option<Box<Read>>,
    history: History,
    /// When its backend was found removed.
    removed: Option<Instant>,
    is_hidden: bool,
}

impl Row {
    fn new(backend: Option<Arc<Backend>>) -> Box<Self> {
        let (records, history) = (Vec::new(), History::default());
        let (dropped, removed) = (None, None);
        Box::new(Self { backend, records, dropped, history, removed, is_hidden: false })
    }

    /// Whether it is reported for a backend of its own.
    fn shown(&self) -> Option<&Arc<Backend>> {
        self.backend.as_ref().filter(|_| !self.is_hidden)
    }

    /// Whether no worker has a record of it.
    fn is_unused(&self) -> bool {
        let is_unused = self.records.iter().all(|(record, _)| Arc::strong_count(record) == 1);
        // The counts of the last owner are seen from here on.
        fence(Acquire);
        is_unused
    }

    /// Adds the record of a worker, and has workers forget the records from before the backend was
    /// added again.
    fn add(&mut self, record: Arc<Record>) {
        if self.backend.as_ref().map(|one| one.id) < record.backend.as_ref().map(|one| one.id) {
            self.backend.clone_from(&record.backend);
            self.removed = None;
        }
        self.records.push((record, 0));
        let id = self.backend.as_ref().map(|backend| backend.id);
        let is_earlier = |record: &Record| record.backend.as_ref().map(|one| one.id) != id;
        let outdated = self.records.iter().filter(|(record, _)| is_earlier(record));
        outdated.for_each(|(record, _)| record.retire());
    }

    /// Drops the records that workers have forgotten.
    fn drop_forgotten(&mut self, scratch: &mut Read) {
        let Self { records, dropped, .. } = self;
        records.retain(|(record, version)| {
            let is_forgotten = record.is_retired() && Arc::strong_count(record) == 1;
            // The counts of the last owner are seen from here on.
            fence(Acquire);
            let is_done = is_forgotten && record.version() == *version;
            if is_done {
                record.read(scratch);
                dropped.get_or_insert_default().add(scratch);
            }
            !is_done
        });
    }

    /// Hides it, and has the workers forget its records.
    fn hide(&mut self) {
        self.is_hidden = true;
        self.history.drop_windows();
        self.records.iter().for_each(|(record, _)| record.retire());
    }
}

/// Memory to read into, so that a collection allocates none.
#[derive(Debug, Default)]
struct Scratch {
    one: Read,
    sum: Read,
    change: Change,
    total: Change,
}

impl Scratch {
    /// Reads what was counted since the last read of this row; false if nothing was.
    fn read(&mut self, row: &mut Row) -> bool {
        let is_old = |(record, version): &(Arc<Record>, u64)| record.version() == *version;
        if row.records.iter().all(is_old) {
            return false;
        }
        self.sum = Read::default();
        row.dropped.iter().for_each(|dropped| self.sum.add(dropped));
        let mut peak = Duration::ZERO;
        for (record, version) in &mut row.records {
            // Before the numbers, which may change meanwhile.
            *version = record.version();
            peak = peak.max(record.read(&mut self.one));
            self.sum.add(&self.one);
        }
        self.change.numbers.set_difference(&self.sum, &row.history.totals);
        self.change.set_max(peak, row.history.max);
        true
    }
}

/// All rows, and the total.
#[derive(Debug)]
pub struct Collector {
    /// Records that workers have made.
    created: Receiver<Arc<Record>>,
    timelines: Timelines,
    rows: Vec<Box<Row>>,
    total: History,
    scratch: Box<Scratch>,
}

impl Collector {
    /// A collector without numbers, whose windows begin now.
    pub fn new(created: Receiver<Arc<Record>>, now: Instant) -> Self {
        Self {
            created,
            timelines: Timelines::new(now),
            rows: vec![Row::new(None)],
            total: History::default(),
            scratch: Box::default(),
        }
    }

    /// Collects what was counted up to now. Returns when the next collection is due.
    pub fn collect(&mut self, now: Instant) -> Instant {
        while let Ok(record) = self.created.try_recv() {
            self.add_record(record);
        }
        let Self { rows, scratch, timelines, .. } = self;
        let mut has_changed = false;
        rows.retain_mut(|row| {
            let is_last_read = row.is_hidden && row.is_unused();
            if scratch.read(row) {
                if !std::mem::replace(&mut has_changed, true) {
                    scratch.total = Change::default();
                }
                row.history.add(&scratch.change, timelines);
                scratch.total.add(&scratch.change);
            }
            if !row.is_hidden {
                row.drop_forgotten(&mut scratch.one);
            }
            !is_last_read
        });
        if has_changed {
            self.total.add(&scratch.total, timelines);
        }
        let histories = rows.iter_mut().map(|row| &mut row.history).chain([&mut self.total]);
        timelines.advance(now, histories);
        self.hide_removed(now);
        self.timelines.next_slot_at()
    }

    fn add_record(&mut self, record: Arc<Record>) {
        let is_same = |row: &Row| match (&row.backend, &record.backend) {
            (Some(one), Some(other)) if row.is_hidden => one.id == other.id,
            (Some(one), Some(other)) => one.authority == other.authority,
            (one, other) => one.is_none() && other.is_none(),
        };
        let row = match self.rows.iter().position(|row| is_same(row)) {
            Some(index) => &mut self.rows[index],
            None => {
                self.rows.push(Row::new(record.backend.clone()));
                self.rows.last_mut().expect("it was pushed in the line above")
            }
        };
        if row.is_hidden {
            record.retire();
        }
        row.add(record);
    }

    /// Notes which backends were removed, and hides those whose time is over.
    fn hide_removed(&mut self, now: Instant) {
        let is_removed = |backend: &Arc<Backend>| backend.admin_state() == AdminState::Removed;
        let mut removed: Vec<usize> = (0..self.rows.len())
            .filter(|index| self.rows[*index].shown().is_some_and(is_removed))
            .collect();
        for index in &removed {
            self.rows[*index].removed.get_or_insert(now);
        }
        removed.sort_by_key(|index| std::cmp::Reverse(self.rows[*index].removed));
        for (number, index) in removed.into_iter().enumerate() {
            let since = self.rows[index].removed.unwrap_or(now);
            let is_over = now.saturating_duration_since(since) >= REMOVED_FOR;
            if is_over || number >= MAX_REMOVED {
                self.rows[index].hide();
            }
        }
    }

    /// The statistics of a period.
    pub fn report(&self, period: Period, now: Instant) -> PeriodStats {
        let covered = self.timelines.covered(period, now);
        let all = self.total.of(period).map_or(0, |(tally, _)| tally.requests);
        let summary = |history: &History| {
            history.of(period).map_or_else(Summary::default, |of| Summary::new(of, all, covered))
        };
        let backends = self.shown().map(|(backend, row)| (Arc::clone(backend), summary(row)));
        PeriodStats {
            covered,
            total: summary(&self.total),
            without_backend: summary(&self.rows[0].history),
            backends: backends.collect(),
        }
    }

    /// The numbers since the start.
    pub fn cumulative(&self) -> Cumulative {
        let totals = |totals: &Totals| BackendTotals::from(totals);
        let backends =
            self.shown().map(|(backend, row)| (Arc::clone(backend), totals(&row.totals)));
        Cumulative {
            total: totals(&self.total.totals),
            without_backend: totals(&self.rows[0].history.totals),
            backends: backends.collect(),
        }
    }

    /// The shares of the requests of the last minute.
    pub fn shares(&self) -> Vec<(BackendId, f64)> {
        let all = self.total.last_minute().max(1) as f64;
        self.shown().map(|(backend, row)| (backend.id, row.last_minute() as f64 / all)).collect()
    }

    fn shown(&self) -> impl Iterator<Item = (&Arc<Backend>, &History)> {
        self.rows.iter().filter_map(|row| Some((row.shown()?, &row.history)))
    }
}
