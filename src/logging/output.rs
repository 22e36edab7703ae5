//! The output of the log: whole lines, to a stream or a file that may fail at any time.
//!
//! Owned by the log thread. Lines that cannot be written are lost and counted; a line whose beginning
//! was written is completed first, so that none is torn.

use super::file::{Change, LogFile};
use std::io::{self, ErrorKind, Write};
use std::time::Instant;

/// Where lines are written.
pub struct Output {
    sink: Sink,
    is_coloured: bool,
    /// The rest of a line whose beginning was written.
    torn: Vec<u8>,
    lost: u64,
    /// Why they are lost.
    reason: String,
    /// Why the last write failed, if it did.
    error: Option<io::Error>,
}

enum Sink {
    Stream(Box<dyn Write + Send>),
    File(LogFile),
}

impl Output {
    /// Lines go to a stream.
    pub fn stream(stream: impl Write + Send + 'static, is_coloured: bool) -> Self {
        Self::new(Sink::Stream(Box::new(stream)), is_coloured)
    }

    /// Lines go to a file.
    pub fn file(file: LogFile) -> Self {
        Self::new(Sink::File(file), false)
    }

    fn new(sink: Sink, is_coloured: bool) -> Self {
        Self { sink, is_coloured, torn: Vec::new(), lost: 0, reason: String::new(), error: None }
    }

    /// Whether levels are coloured.
    pub(super) fn is_coloured(&self) -> bool {
        self.is_coloured
    }

    /// Whether lines go to a file.
    pub(super) fn is_file(&self) -> bool {
        matches!(self.sink, Sink::File(_))
    }

    /// Writes whole lines.
    pub(super) fn write(&mut self, lines: &[u8]) {
        let torn = std::mem::take(&mut self.torn);
        self.error = None;
        let unwritten = self.write_some(&torn);
        if self.error.is_some() {
            self.torn = unwritten.to_vec();
            self.lost += count(lines);
            return;
        }
        let rest = self.write_some(lines);
        let written = &lines[..lines.len() - rest.len()];
        let is_torn = !rest.is_empty() && written.last().is_some_and(|byte| *byte != b'\n');
        let end =
            if is_torn { memchr::memchr(b'\n', rest).map_or(rest.len(), |at| at + 1) } else { 0 };
        self.torn = rest[..end].to_vec();
        self.lost += count(&rest[end..]);
    }

    /// Writes as much as possible, and returns the rest.
    fn write_some<'l>(&mut self, mut lines: &'l [u8]) -> &'l [u8] {
        let sink: &mut dyn Write = match &mut self.sink {
            Sink::Stream(stream) => stream,
            Sink::File(file) => file,
        };
        while !lines.is_empty() {
            match sink.write(lines) {
                Ok(0) => self.error = Some(ErrorKind::WriteZero.into()),
                Ok(count) => lines = &lines[count..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => self.error = Some(error),
            }
            if let Some(error) = &self.error {
                self.reason = error.to_string();
                break;
            }
        }
        lines
    }

    /// Whether the last write failed.
    pub(super) fn is_failing(&self) -> bool {
        self.error.is_some()
    }

    /// The number of lines that are lost, and not reported yet, and the reason.
    pub(super) fn take_lost(&mut self) -> (u64, String) {
        (std::mem::take(&mut self.lost), std::mem::take(&mut self.reason))
    }

    /// Opens the file again: at a signal, or else if it was replaced and a look at it is due. Returns
    /// what is to be logged about that, and whether it is a failure.
    pub(super) fn reopen(&mut self, at_a_signal: bool, now: Instant) -> Option<(bool, String)> {
        let Sink::File(file) = &mut self.sink else { return None };
        let path = file.path().to_string();
        match if at_a_signal { file.reopen() } else { file.follow(now) }? {
            Change::Reopened => {
                // The rest of the line is no use to another file.
                self.lost += count(&std::mem::take(&mut self.torn));
                Some((false, format!("log file {path} opened again")))
            }
            Change::Failed(reason) => Some((
                true,
                format!("cannot open the log file {path} again: {reason}; using the earlier one"),
            )),
        }
    }
}

/// The number of lines.
pub(super) fn count(lines: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', lines).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use std::sync::Arc;

    /// A disk with so much space.
    #[derive(Clone)]
    struct Disk(Arc<Mutex<(Vec<u8>, usize)>>);

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let (written, space) = &mut *self.0.lock();
            let count = bytes.len().min(*space - written.len());
            written.extend_from_slice(&bytes[..count]);
            if count == 0 { Err(ErrorKind::StorageFull.into()) } else { Ok(count) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_tears_no_line_and_the_lost_ones_are_counted() {
        for space in 0..=16 {
            let disk = Disk(Arc::new(Mutex::new((Vec::new(), space))));
            let mut output = Output::stream(disk.clone(), false);
            output.write(b"one\ntwo\nsix\n");
            output.write(b"ten\n");
            assert_eq!(output.is_failing(), space < 16, "{space}");
            disk.0.lock().1 = 1000;
            output.write(b"end\n");
            let text = String::from_utf8(disk.0.lock().0.clone()).unwrap();
            // A line whose beginning was written is complete.
            let kept = space.div_ceil(4);
            let lines = ["one", "two", "six", "ten"];
            let expected: Vec<&str> = lines[..kept].iter().copied().chain(["end"]).collect();
            assert_eq!(text.lines().collect::<Vec<_>>(), expected, "{space}");
            assert!(!output.is_failing());
            assert_eq!(output.take_lost().0, 4 - kept as u64, "{space}");
            assert_eq!(output.take_lost().0, 0, "reported once");
        }
    }
}
