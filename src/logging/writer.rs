//! The log thread: writes the lines of all others, behind a bounded buffer.
//!
//! A terminal, pipe or disk that is slow blocks this thread and no other: while the buffer is full,
//! lines are dropped and counted, and the count is written once there is room again. The thread owns
//! the output. A thread that logs must never wait for it, nor pay for waking it each time: it takes
//! lines in batches, with a pause between them.

use super::event;
use super::output::{Output, count};
use crossbeam_channel::{Receiver, Sender};
use log::Level;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

/// The capacity of the buffer, in bytes: about a second of lines at 50,000 requests per second.
const MAX_PENDING_BYTES: usize = 16 << 20;
/// The memory of a line besides its bytes.
const OVERHEAD: usize = 48;
/// The size at which a batch is written.
const BATCH_BYTES: usize = 64 * 1024;
/// The pause between two batches. A sender wakes the thread only if it waits for lines, which it does
/// not in a pause: a wake-up costs more than a line.
const PAUSE: Duration = Duration::from_millis(2);
/// The maximum wait for the last lines when the program ends.
const EXIT_TIMEOUT: Duration = Duration::from_millis(500);

enum Message {
    /// Whole lines.
    Lines(Vec<u8>),
    /// Opens the file again.
    Reopen,
    /// Confirmed when all earlier lines are written.
    Flush(Sender<()>),
    /// The last line: nothing is written after it. Confirmed when it is written.
    Last(Vec<u8>, Sender<()>),
}

/// The sending side of the log thread's buffer.
#[derive(Clone)]
pub struct LogWriter {
    messages: Sender<Message>,
    buffer: Arc<Usage>,
    is_coloured: bool,
    is_file: bool,
}

/// The use of the buffer.
#[derive(Debug, Default)]
struct Usage {
    pending_bytes: AtomicUsize,
    /// Lines that were dropped and not yet reported.
    dropped: AtomicU64,
}

impl std::fmt::Debug for LogWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogWriter").field("buffer", &self.buffer).finish_non_exhaustive()
    }
}

impl LogWriter {
    /// Starts the thread, which writes to `output`.
    pub fn start(output: Output) -> io::Result<Self> {
        // The bytes are bounded, and with them the number of messages.
        let (messages, pending) = crossbeam_channel::unbounded();
        let buffer = Arc::<Usage>::default();
        let (is_coloured, is_file) = (output.is_coloured(), output.is_file());
        let writer = Self { messages, buffer: Arc::clone(&buffer), is_coloured, is_file };
        let log = LogThread { output, pending, buffer, batch: Vec::new() };
        thread::Builder::new().name("log".to_owned()).spawn(move || log.run())?;
        Ok(writer)
    }

    /// Whether levels are coloured.
    pub fn is_coloured(&self) -> bool {
        self.is_coloured
    }

    /// Whether lines go to a file.
    pub fn is_file(&self) -> bool {
        self.is_file
    }

    /// Lines that were dropped and not yet reported.
    pub fn dropped(&self) -> u64 {
        self.buffer.dropped.load(Relaxed)
    }

    /// Hands whole lines to the log thread, or drops them if the buffer is full. Never waits.
    pub fn send(&self, lines: Vec<u8>) {
        let bytes = lines.len() + OVERHEAD;
        let pending = self.buffer.pending_bytes.fetch_add(bytes, Relaxed);
        if pending + bytes > MAX_PENDING_BYTES {
            self.buffer.pending_bytes.fetch_sub(bytes, Relaxed);
            self.buffer.dropped.fetch_add(count(&lines), Relaxed);
            return;
        }
        // Fails only after the last line.
        let _ = self.messages.send(Message::Lines(lines));
    }

    /// Has the file opened again, if the log is one.
    pub fn reopen(&self) {
        let _ = self.messages.send(Message::Reopen);
    }

    /// Waits until all lines so far are written, for a limited time: the output may be blocked.
    pub fn flush_for_exit(&self) {
        self.send_and_wait(Message::Flush);
    }

    /// Writes the error that ends the program at its start, as the last line: after all lines so far,
    /// and none follows it.
    pub fn end_with(&self, message: &str) {
        self.send_and_wait(|done| Message::Last(event::last(message), done));
    }

    fn send_and_wait(&self, message: impl FnOnce(Sender<()>) -> Message) {
        let (done, is_done) = crossbeam_channel::bounded(1);
        if self.messages.send(message(done)).is_ok() {
            let _ = is_done.recv_timeout(EXIT_TIMEOUT);
        }
    }
}

/// The lines of the `log` macros.
impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.send(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The state of the log thread.
struct LogThread {
    output: Output,
    pending: Receiver<Message>,
    buffer: Arc<Usage>,
    /// Lines that are to be written together.
    batch: Vec<u8>,
}

impl LogThread {
    fn run(mut self) {
        while let Ok(message) = self.pending.recv() {
            let mut next = Some(message);
            while let Some(message) = next {
                if !self.take(message) {
                    return;
                }
                next = self.pending.try_recv().ok();
            }
            self.write_batch();
            self.report_losses();
            thread::sleep(PAUSE);
        }
    }

    /// Returns whether further lines may follow.
    fn take(&mut self, message: Message) -> bool {
        match message {
            Message::Lines(lines) => {
                self.batch.extend_from_slice(&lines);
                self.buffer.pending_bytes.fetch_sub(lines.len() + OVERHEAD, Relaxed);
                if self.batch.len() >= BATCH_BYTES {
                    self.write_batch();
                }
            }
            Message::Reopen => {
                self.write_batch();
                self.reopen(true);
            }
            Message::Flush(done) => {
                self.write_batch();
                self.report_losses();
                let _ = done.try_send(());
            }
            Message::Last(line, done) => {
                self.write_batch();
                self.report_losses();
                self.output.write(&line);
                let _ = done.try_send(());
                return false;
            }
        }
        true
    }

    fn write_batch(&mut self) {
        if !self.batch.is_empty() {
            self.reopen(false);
            self.output.write(&self.batch);
            self.batch.clear();
        }
    }

    fn reopen(&mut self, at_a_signal: bool) {
        if let Some((is_failure, message)) = self.output.reopen(at_a_signal, Instant::now()) {
            let level = if is_failure { Level::Warn } else { Level::Info };
            if level <= log::max_level() {
                self.output.write(&event::own(level, &message, self.output.is_coloured()));
            }
        }
    }

    fn report_losses(&mut self) {
        // The report would be lost too.
        if self.output.is_failing() {
            return;
        }
        let dropped = self.buffer.dropped.swap(0, Relaxed);
        let (lost, reason) = self.output.take_lost();
        for (count, what) in [
            (dropped, "dropped: the log was not read fast enough"),
            (lost, &format!("lost: {reason}")),
        ] {
            if count > 0 {
                let message = format!("{count} log line(s) were {what}");
                let coloured = self.output.is_coloured();
                self.output.write(&event::own(Level::Warn, &message, coloured));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::{Condvar, Mutex};

    /// More short lines than the buffer has room for.
    const MAX_LINES: usize = MAX_PENDING_BYTES / OVERHEAD;

    /// A sink that blocks until it is opened.
    #[derive(Clone, Default)]
    struct BlockedSink(Arc<(Mutex<Option<Vec<u8>>>, Condvar)>);

    impl BlockedSink {
        fn open(&self) {
            *self.0.0.lock() = Some(Vec::new());
            self.0.1.notify_all();
        }

        fn text(&self) -> String {
            String::from_utf8(self.0.0.lock().clone().unwrap_or_default()).unwrap()
        }
    }

    impl Write for BlockedSink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut written = self.0.0.lock();
            self.0.1.wait_while(&mut written, |written| written.is_none());
            written.get_or_insert_default().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_sink_that_is_not_read_stalls_no_writer_and_the_loss_is_reported() {
        let sink = BlockedSink::default();
        let mut writer = LogWriter::start(Output::stream(sink.clone(), false)).unwrap();
        for number in 0..2 * MAX_LINES {
            writer.write_all(format!("line {number}\n").as_bytes()).unwrap();
        }
        assert!(writer.dropped() > 0);
        sink.open();
        writer.flush_for_exit();
        writer.flush_for_exit();
        assert!(sink.text().starts_with("line 0\nline 1\n"));
        assert!(sink.text().contains("log line(s) were dropped"), "the loss is reported");
    }

    #[test]
    fn nothing_is_written_after_the_last_line() {
        let sink = BlockedSink::default();
        let mut writer = LogWriter::start(Output::stream(sink.clone(), false)).unwrap();
        let (mut before, mut after) = (writer.clone(), writer.clone());
        writer.write_all(b"received by the thread, which is stuck with it\n").unwrap();
        for _ in 0..2 * MAX_LINES {
            before.write_all(b"before\n").unwrap();
        }
        assert!(writer.dropped() > 0);
        sink.open();
        writer.end_with("the end");
        after.write_all(b"after\n").unwrap();
        writer.flush_for_exit();
        let text = sink.text();
        let last: Vec<&str> = text.lines().rev().take(2).collect();
        assert!(last[0] == "lb-threads: the end" && last[1].contains("were dropped"), "{last:?}");
    }
}
