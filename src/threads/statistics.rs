//! The statistics thread: it collects what workers have counted, whenever a slot of a window ends.
//!
//! Blocks until then; queries collect on the threads that have them. Must never be waited for.

use crate::stats::Stats;
use crossbeam_channel::{RecvTimeoutError, Sender};
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

/// The running thread; it ends when this is dropped.
#[derive(Debug)]
pub struct StatisticsThread {
    _ends_with_it: Sender<()>,
}

impl StatisticsThread {
    /// Starts the thread.
    pub fn start(stats: &Arc<Stats>) -> io::Result<Self> {
        let stats = Arc::clone(stats);
        let (sender, ended) = crossbeam_channel::bounded(0);
        let run = move || {
            let mut due = stats.collect(Instant::now());
            while ended.recv_deadline(due) == Err(RecvTimeoutError::Timeout) {
                due = stats.collect(Instant::now());
            }
        };
        thread::Builder::new().name("statistics".to_owned()).spawn(run)?;
        Ok(Self { _ends_with_it: sender })
    }
}
