//! The log thread: writes the lines of all others, behind a bounded buffer.
//!
//! A terminal or pipe that is not read blocks this thread and no other: while the buffer is full,
//! lines are dropped and counted, and the count is written once there is room again. The thread
//! owns the sink. A thread that logs must never wait for it.

use crossbeam_channel::{Receiver, Sender};
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

/// The capacity of the buffer, in lines.
const BUFFER: usize = 8192;
/// The maximum wait for the last lines when the program ends.
const EXIT_TIMEOUT: Duration = Duration::from_millis(500);

enum Line {
    Text(Vec<u8>),
    /// Confirmed when all earlier lines are written.
    Flush(Sender<()>),
    /// The last line: nothing is written after it. Confirmed when it is written.
    Last(String, Sender<()>),
}

/// The sending side of the log thread's buffer.
#[derive(Clone)]
pub struct LogWriter {
    lines: Sender<Line>,
    dropped: Arc<AtomicU64>,
}

impl std::fmt::Debug for LogWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogWriter")
            .field("pending", &self.lines.len())
            .field("dropped", &self.dropped())
            .finish()
    }
}

impl LogWriter {
    /// Starts the thread, which writes to `sink`.
    pub fn start(sink: impl Write + Send + 'static) -> io::Result<Self> {
        let (lines, pending) = crossbeam_channel::bounded(BUFFER);
        let dropped = Arc::new(AtomicU64::new(0));
        let writer = Self { lines, dropped: Arc::clone(&dropped) };
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write_lines(sink, &pending, &dropped))?;
        Ok(writer)
    }

    /// Lines that were dropped and not yet reported.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    /// Waits until all lines so far are written, for a limited time: the sink may be blocked.
    pub fn flush_for_exit(&self) {
        self.send_and_wait(Line::Flush);
    }

    /// Writes the program's last line, unformatted: after all lines so far, and none follows it.
    pub fn end_with(&self, line: &str) {
        self.send_and_wait(|done| Line::Last(line.to_owned(), done));
    }

    fn send_and_wait(&self, line: impl FnOnce(Sender<()>) -> Line) {
        let (done, is_done) = crossbeam_channel::bounded(1);
        if self.lines.send_timeout(line(done), EXIT_TIMEOUT).is_ok() {
            let _ = is_done.recv_timeout(EXIT_TIMEOUT);
        }
    }
}

impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.lines.try_send(Line::Text(line.to_vec())).is_err() {
            self.dropped.fetch_add(1, Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_lines(sink: impl Write, pending: &Receiver<Line>, dropped: &AtomicU64) {
    let mut sink = io::BufWriter::new(sink);
    while let Ok(line) = pending.recv() {
        // A sink that fails, a closed terminal for example, must not end the program: the line is
        // lost.
        match line {
            Line::Text(text) => {
                let _ = sink.write_all(&text);
            }
            Line::Flush(done) => {
                let _ = sink.flush();
                let _ = done.try_send(());
            }
            Line::Last(line, done) => {
                report_dropped(&mut sink, dropped);
                let _ = writeln!(sink, "{line}");
                let _ = sink.flush();
                let _ = done.try_send(());
                return;
            }
        }
        if pending.is_empty() {
            report_dropped(&mut sink, dropped);
            let _ = sink.flush();
        }
    }
}

fn report_dropped(sink: &mut impl Write, dropped: &AtomicU64) {
    let lost = dropped.swap(0, Relaxed);
    if lost > 0 {
        let _ =
            writeln!(sink, "[{lost} log line(s) were dropped: the log was not read fast enough]");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::{Condvar, Mutex};

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
        let mut writer = LogWriter::start(sink.clone()).unwrap();
        for number in 0..3 * BUFFER {
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
        let mut writer = LogWriter::start(sink.clone()).unwrap();
        let (mut before, mut after) = (writer.clone(), writer.clone());
        writer.write_all(b"received by the thread, which is stuck with it\n").unwrap();
        for _ in 0..2 * BUFFER {
            before.write_all(b"before\n").unwrap();
        }
        assert!(writer.dropped() > 0);
        sink.open();
        writer.end_with("the end");
        after.write_all(b"after\n").unwrap();
        writer.flush_for_exit();
        let text = sink.text();
        let last: Vec<&str> = text.lines().rev().take(2).collect();
        assert!(last[0] == "the end" && last[1].contains("were dropped"), "{last:?}");
    }
}
