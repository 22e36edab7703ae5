//! Windows of time in 12 slots each, and the numbers of one backend in them. `now` is a parameter.
//!
//! A [`Timeline`] has the slots of a window, the same for all backends: the running one, and 11
//! before it. A slot begins when the statistics are collected and the one before has had its time,
//! so its numbers are exactly those of the time between; a window of 5 minutes covers 4:35 to 5:00.
//! Each window has the sum of its slots, to which a collection adds and from which a slot is
//! subtracted when it ends: a report sums nothing.

use super::histogram::{self, BUCKETS};
use super::numbers::{Tally, Totals};
use super::period::Period;
use std::time::{Duration, Instant};

/// The slots of a window, the running one included.
pub const SLOTS: usize = 12;
/// The number of periods that have a window: all but [`Period::All`].
pub const WINDOWS: usize = Period::ALL.len() - 1;

/// The slots of a window in time.
#[derive(Debug)]
pub struct Timeline {
    slot_length: Duration,
    /// The beginnings of the slots.
    starts: [Instant; SLOTS],
    /// The index of the running slot.
    running: usize,
}

impl Timeline {
    /// A window of this length that begins now.
    pub fn new(length: Duration, now: Instant) -> Self {
        Self { slot_length: length / SLOTS as u32, starts: [now; SLOTS], running: 0 }
    }

    /// The time that the window covers.
    pub fn covered(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.starts[(self.running + 1) % SLOTS])
    }

    /// When the next slot is due.
    fn next_slot_at(&self) -> Instant {
        self.starts[self.running] + self.slot_length
    }

    /// Begins a new slot if it is due, or several after a pause. Each one takes the place of the
    /// oldest, whose index is passed to `clear`.
    pub fn advance(&mut self, now: Instant, mut clear: impl FnMut(usize)) {
        let since = now.saturating_duration_since(self.starts[self.running]);
        let due = (since.as_nanos() / self.slot_length.as_nanos()).min(SLOTS as u128);
        for _ in 0..due {
            self.running = (self.running + 1) % SLOTS;
            self.starts[self.running] = now;
            clear(self.running);
        }
    }
}

/// The numbers of one slot.
#[derive(Debug, Default)]
struct Slot {
    /// None without a request. Small counts saturate at 2^32 - 1, above which percentiles are no
    /// longer exact: 596,000 requests per second for two hours in one bucket.
    tally: Option<Box<Tally<u32, u64>>>,
    max: Duration,
}

/// The numbers of one window.
#[derive(Debug, Default)]
pub struct Window {
    slots: [Slot; SLOTS],
    /// The sum of the slots.
    sum: Tally<u64, u64>,
}

/// The numbers that were counted between two collections.
#[derive(Debug, Default)]
pub struct Change {
    pub numbers: Totals,
    /// The longest response time.
    pub max: Duration,
}

impl Change {
    /// Adds another change of the same time.
    pub fn add(&mut self, other: &Self) {
        self.numbers.add(&other.numbers);
        self.max = self.max.max(other.max);
    }

    /// Sets the longest response time; `peak` is that of all time, and was `earlier` before. If it
    /// did not rise, the maximum is that of the histogram, within 3 %.
    pub fn set_max(&mut self, peak: Duration, earlier: Duration) {
        let highest = histogram::highest(&self.numbers.tally.histogram).unwrap_or_default();
        self.max = if peak > earlier { peak } else { highest.min(peak) };
    }
}

impl Window {
    fn add(&mut self, change: &Change, running: usize) {
        let Slot { tally, max } = &mut self.slots[running];
        *max = change.max.max(*max);
        let (slot, sum, added) =
            (tally.get_or_insert_default(), &mut self.sum, &change.numbers.tally);
        let add = |sum: &mut u64, more: &u64| *sum += more;
        slot.merge(added, |_, _| {}, add);
        sum.merge(added, |_, _| {}, add);
        for index in 0..BUCKETS {
            let room = u64::from(u32::MAX - slot.histogram[index]);
            let more = added.histogram[index].min(room);
            slot.histogram[index] += more as u32;
            sum.histogram[index] += more;
        }
    }

    fn clear(&mut self, slot: usize) {
        if let Some(ended) = std::mem::take(&mut self.slots[slot]).tally {
            let subtract = |sum: &mut u64, less: &u64| *sum -= less;
            self.sum.merge(&ended, |sum, less| *sum -= u64::from(*less), subtract);
        }
    }

    fn max(&self) -> Duration {
        self.slots.iter().map(|slot| slot.max).max().unwrap_or_default()
    }
}

/// The numbers of one backend, or of all: since the start, in every window, and in the last minute.
#[derive(Debug)]
pub struct History {
    pub totals: Totals,
    /// The longest response time since the start.
    pub max: Duration,
    /// Empty once nothing but totals is of interest.
    windows: Vec<Window>,
    /// The requests of the last minute, by slot.
    minute: [u64; SLOTS],
}

impl Default for History {
    fn default() -> Self {
        Self {
            totals: Totals::default(),
            max: Duration::ZERO,
            windows: (0..WINDOWS).map(|_| Window::default()).collect(),
            minute: [0; SLOTS],
        }
    }
}

impl History {
    /// Adds a change to the running slots.
    pub fn add(&mut self, change: &Change, timelines: &Timelines) {
        self.totals.add(&change.numbers);
        self.max = self.max.max(change.max);
        self.minute[timelines.minute.running] += change.numbers.tally.requests;
        for (window, timeline) in self.windows.iter_mut().zip(&timelines.windows) {
            window.add(change, timeline.running);
        }
    }

    /// The numbers of a period, and its longest response time; none if the windows were dropped.
    pub fn of(&self, period: Period) -> Option<(&Tally<u64, u64>, Duration)> {
        match period {
            Period::All => Some((&self.totals.tally, self.max)),
            _ => self.windows.get(period as usize).map(|window| (&window.sum, window.max())),
        }
    }

    /// The requests of the last minute.
    pub fn last_minute(&self) -> u64 {
        self.minute.iter().sum()
    }

    /// Drops the windows.
    pub fn drop_windows(&mut self) {
        self.windows = Vec::new();
    }
}

/// The slots of all windows in time.
#[derive(Debug)]
pub struct Timelines {
    start: Instant,
    windows: [Timeline; WINDOWS],
    minute: Timeline,
}

impl Timelines {
    /// Timelines that begin now.
    pub fn new(now: Instant) -> Self {
        let length = |index: usize| Period::ALL[index].length().expect("only the last has none");
        Self {
            start: now,
            windows: std::array::from_fn(|index| Timeline::new(length(index), now)),
            minute: Timeline::new(Duration::from_secs(60), now),
        }
    }

    /// The time that a period covers.
    pub fn covered(&self, period: Period, now: Instant) -> Duration {
        let window = self.windows.get(period as usize);
        window.map_or(now.saturating_duration_since(self.start), |window| window.covered(now))
    }

    /// Begins the slots that are due, and clears those whose place they take.
    pub fn advance<'h>(&mut self, now: Instant, histories: impl Iterator<Item = &'h mut History>) {
        let mut histories: Vec<&mut History> = histories.collect();
        for (number, timeline) in self.windows.iter_mut().enumerate() {
            timeline.advance(now, |slot| {
                let windows = histories.iter_mut().filter_map(|one| one.windows.get_mut(number));
                windows.for_each(|window| window.clear(slot));
            });
        }
        self.minute.advance(now, |slot| {
            histories.iter_mut().for_each(|history| history.minute[slot] = 0);
        });
    }

    /// When the next slot is due.
    pub fn next_slot_at(&self) -> Instant {
        let next = self.windows.iter().map(Timeline::next_slot_at);
        next.fold(self.minute.next_slot_at(), Instant::min)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_collection_makes_no_later_slot_longer() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut timelines = Timelines::new(start);
        for (now, next) in [(7, 12), (12, 17), (17, 22), (22, 25), (25, 27), (27, 32)] {
            timelines.advance(at(now), std::iter::empty());
            assert_eq!(timelines.next_slot_at(), at(next));
        }
    }
}
