//! The collection of what workers have counted: a row per backend, and the total.
//!
//! Data behind the mutex of [`Stats`](super::Stats). Must never wait for a worker. A row reads the
//! records of all workers, and the difference to its totals goes to its windows and to the total's.
//! A backend that is added again has a new row, which begins at zero; the counters of `/metrics`, whose
//! identity is the name, add up the rows of a name. A row of a removed backend is hidden after an
//! hour, or earlier if there are many of them or a later row of its name. It lives on until no worker
//! has its record any more, so that no request is missing in the totals.

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
    /// The totals of the rows before it that had its name and are gone.
    earlier: Option<Box<Totals>>,
    history: History,
    /// When its backend was found removed.
    removed: Option<Instant>,
    is_hidden: bool,
    /// Hidden, and without an owner before its last read: nothing is added to it any more.
    is_unused: bool,
}

impl Row {
    fn new(backend: Option<Arc<Backend>>) -> Box<Self> {
        let (records, history) = (Vec::new(), History::default());
        let (earlier, removed) = (None, None);
        Box::new(Self {
            backend,
            records,
            earlier,
            history,
            removed,
            is_hidden: false,
            is_unused: false,
        })
    }

    /// Whether it is reported for a backend of its own.
    fn shown(&self) -> Option<&Arc<Backend>> {
        self.backend.as_ref().filter(|_| !self.is_hidden)
    }

    /// Whether a worker has a record of it.
    fn has_owner(&self) -> bool {
        let has_owner = self.records.iter().any(|(record, _)| Arc::strong_count(record) > 1);
        // The counts of the last owner are seen from here on.
        fence(Acquire);
        has_owner
    }

    /// Whether its backend is that of the other row, added earlier.
    fn is_before(&self, other: &Self) -> bool {
        self.backend.as_ref().zip(other.backend.as_ref()).is_some_and(|(earlier, later)| {
            earlier.id < later.id && earlier.authority == later.authority
        })
    }

    /// Adds its totals, and those of the rows that it has replaced.
    fn add_to(&self, sum: &mut Totals) {
        self.earlier.iter().for_each(|earlier| sum.add(earlier));
        sum.add(&self.history.totals);
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
        let (mut has_changed, mut has_unused) = (false, false);
        for row in &mut *rows {
            // Before its last read.
            row.is_unused = row.is_hidden && !row.has_owner();
            has_unused |= row.is_unused;
            if scratch.read(row) {
                if !std::mem::replace(&mut has_changed, true) {
                    scratch.total = Change::default();
                }
                row.history.add(&scratch.change, timelines);
                scratch.total.add(&scratch.change);
            }
        }
        if has_changed {
            self.total.add(&scratch.total, timelines);
        }
        let histories = rows.iter_mut().map(|row| &mut row.history).chain([&mut self.total]);
        timelines.advance(now, histories);
        if has_unused {
            self.drop_unused();
        }
        self.hide_removed(now);
        self.timelines.next_slot_at()
    }

    fn add_record(&mut self, record: Arc<Record>) {
        let row = self.row_of(record.backend.as_ref());
        if row.is_hidden {
            record.retire();
        }
        row.records.push((record, 0));
    }

    /// The row of a backend, which is made if there is none.
    fn row_of(&mut self, backend: Option<&Arc<Backend>>) -> &mut Row {
        let id = |backend: Option<&Arc<Backend>>| backend.map(|backend| backend.id);
        let is_same = |row: &Row| id(row.backend.as_ref()) == id(backend);
        let index = self.rows.iter().position(|row| is_same(row)).unwrap_or_else(|| {
            self.rows.push(Row::new(backend.cloned()));
            self.rows.len() - 1
        });
        &mut self.rows[index]
    }

    /// Has a row for each of these backends from now on.
    pub fn add_members<'b>(&mut self, members: impl Iterator<Item = &'b Arc<Backend>>) {
        members.for_each(|backend| _ = self.row_of(Some(backend)));
    }

    /// Drops the rows that no worker has a record of; the last row of their name keeps their totals.
    fn drop_unused(&mut self) {
        let (unused, rows) =
            std::mem::take(&mut self.rows).into_iter().partition(|row| row.is_unused);
        self.rows = rows;
        let unused: Vec<Box<Row>> = unused;
        for row in unused {
            let later = self.rows.iter_mut().filter(|later| row.is_before(later));
            if let Some(last) = later.max_by_key(|later| later.backend.as_ref().map(|one| one.id)) {
                row.add_to(last.earlier.get_or_insert_default());
            }
        }
    }

    /// Notes which backends were removed, and hides those whose time is over, and those that were
    /// added again.
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
            let row = &self.rows[index];
            let has_later = || self.rows.iter().any(|later| row.is_before(later));
            if is_over || number >= MAX_REMOVED || has_later() {
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

    /// The numbers since the start, by name.
    pub fn cumulative(&self) -> Cumulative {
        let hidden: Vec<_> = self.rows.iter().filter(|row| row.is_hidden).collect();
        let of_name = |row: &Row| {
            let mut sum = Totals::default();
            row.add_to(&mut sum);
            let earlier = hidden.iter().filter(|earlier| earlier.is_before(row));
            earlier.for_each(|earlier| earlier.add_to(&mut sum));
            BackendTotals::from(&sum)
        };
        let rows = self.rows.iter().filter_map(|row| Some((row.shown()?, row)));
        Cumulative {
            total: BackendTotals::from(&self.total.totals),
            without_backend: BackendTotals::from(&self.rows[0].history.totals),
            backends: rows.map(|(backend, row)| (Arc::clone(backend), of_name(row))).collect(),
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
