//! The file of the log, which may be rotated, removed or full at any time.
//!
//! Opened on the main thread, owned by the log thread. A replaced file is noticed by its identity,
//! once a second at most, and not for each line.

use rustix::fs::{FileType, Mode, OFlags, fcntl_getfl, fcntl_setfl, open};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The minimum time between two looks at the path.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// The permissions of a new file: lines may have secrets in their paths.
const MODE: u32 = 0o640;

/// The file at a path.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    file: File,
    checked: Instant,
    /// Why the file could not be opened again; until then lines go to the earlier one.
    problem: Option<String>,
}

/// The result of a look at the path that changed something.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Lines go to another file from now on, or to the same one, opened again.
    Reopened,
    /// The file cannot be opened again, for this reason, which was another one before.
    Failed(String),
}

impl LogFile {
    /// Opens a file for appending, and creates it if it is missing. Never waits. The error names the
    /// file and the reason.
    pub fn open(path: &Path) -> Result<Self, String> {
        // Not the working directory at the time of a later rotation.
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let file = open_appending(&absolute)
            .map_err(|reason| format!("cannot open the log file {}: {reason}", path.display()))?;
        Ok(Self { path: absolute, file, checked: Instant::now(), problem: None })
    }

    /// The path, for messages.
    pub(super) fn path(&self) -> std::path::Display<'_> {
        self.path.display()
    }

    /// Looks at the path if that is due, and opens it again if there is another file, or none.
    pub(super) fn follow(&mut self, now: Instant) -> Option<Change> {
        if now.saturating_duration_since(self.checked) < CHECK_INTERVAL {
            return None;
        }
        self.checked = now;
        let is_replaced = self.problem.is_some() || !self.is_at_its_path();
        if is_replaced { self.reopen() } else { None }
    }

    /// Opens the path again. If that fails, lines still go to the earlier file.
    pub(super) fn reopen(&mut self) -> Option<Change> {
        match open_appending(&self.path) {
            Ok(file) => {
                (self.file, self.problem) = (file, None);
                Some(Change::Reopened)
            }
            Err(reason) if self.problem.as_ref() == Some(&reason) => None,
            Err(reason) => {
                self.problem = Some(reason.clone());
                Some(Change::Failed(reason))
            }
        }
    }

    fn is_at_its_path(&self) -> bool {
        let (Ok(ours), Ok(there)) = (self.file.metadata(), fs::metadata(&self.path)) else {
            return false;
        };
        (ours.dev(), ours.ino()) == (there.dev(), there.ino())
    }
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A file without a name is read by no program: its lines would be lost without a count.
        if let Some(problem) = &self.problem
            && self.file.metadata().is_ok_and(|file| file.nlink() == 0)
        {
            return Err(io::Error::other(problem.clone()));
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Opens without waiting for the reader of a FIFO.
fn open_appending(path: &Path) -> Result<File, String> {
    let flags = OFlags::WRONLY
        | OFlags::APPEND
        | OFlags::CREATE
        | OFlags::NONBLOCK
        | OFlags::NOCTTY
        | OFlags::CLOEXEC;
    let file: File = open(path, flags, Mode::from_raw_mode(MODE))
        .map_err(|error| reason(path, &io::Error::from(error)))?
        .into();
    // Only the log thread waits, for a FIFO that is full.
    let flags = fcntl_getfl(&file).map_err(|error| error.to_string())?;
    fcntl_setfl(&file, flags - OFlags::NONBLOCK).map_err(|error| error.to_string())?;
    Ok(file)
}

fn reason(path: &Path, error: &io::Error) -> String {
    let file_type = rustix::fs::stat(path).map(|stat| FileType::from_raw_mode(stat.st_mode));
    match (error.kind(), file_type) {
        (_, Ok(FileType::Directory)) => "it is a directory; name a file in it".to_owned(),
        (_, Ok(FileType::Fifo)) if error.kind() != io::ErrorKind::PermissionDenied => {
            "it is a FIFO without a reader; start its reader first".to_owned()
        }
        (_, Ok(FileType::Socket)) => "it is a socket; name a file".to_owned(),
        (io::ErrorKind::NotFound, _) => "its directory does not exist; create it first".to_owned(),
        (io::ErrorKind::PermissionDenied, _) => {
            "no permission to write it; change its owner or its directory's".to_owned()
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A new folder, removed at the end.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("lb-log-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_file_is_appended_to_and_reopened_when_another_one_has_its_name() {
        let folder = Folder::new("follow");
        let (path, rotated) = (folder.0.join("log"), folder.0.join("log.1"));
        fs::write(&path, "earlier\n").unwrap();
        let mut file = LogFile::open(&path).unwrap();
        file.write_all(b"one\n").unwrap();
        fs::rename(&path, &rotated).unwrap();
        let now = file.checked;
        assert_eq!(file.follow(now + CHECK_INTERVAL / 2), None, "not looked at yet");
        assert_eq!(file.follow(now + CHECK_INTERVAL), Some(Change::Reopened));
        file.write_all(b"two\n").unwrap();
        assert_eq!(file.follow(now + 2 * CHECK_INTERVAL), None, "it is at its path");
        assert_eq!(fs::read_to_string(&rotated).unwrap(), "earlier\none\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
        let mode = fs::metadata(&path).unwrap().mode();
        assert_eq!(mode & 0o027, 0, "no other user can read it: {mode:o}");
    }

    #[test]
    fn a_file_that_cannot_be_reopened_is_reported_once_and_the_earlier_one_is_used() {
        let folder = Folder::new("fails");
        let (path, rotated) = (folder.0.join("log"), folder.0.join("log.1"));
        let mut file = LogFile::open(&path).unwrap();
        fs::rename(&path, &rotated).unwrap();
        fs::create_dir(&path).unwrap();
        let now = file.checked;
        let Some(Change::Failed(reason)) = file.follow(now + CHECK_INTERVAL) else {
            panic!("a directory cannot be opened");
        };
        assert!(reason.contains("a directory"), "{reason}");
        assert_eq!(file.follow(now + 2 * CHECK_INTERVAL), None, "reported once");
        file.write_all(b"one\n").unwrap();
        fs::remove_file(&rotated).unwrap();
        assert!(file.write_all(b"lost\n").is_err(), "the earlier file has no name any more");
        fs::remove_dir(&path).unwrap();
        assert_eq!(file.follow(now + 3 * CHECK_INTERVAL), Some(Change::Reopened));
        file.write_all(b"two\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
    }

    #[test]
    fn a_path_that_cannot_be_opened_is_an_error_and_no_wait() {
        let folder = Folder::new("kinds");
        let fifo = folder.0.join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, Mode::RWXU).unwrap();
        for (path, expected) in [
            (folder.0.clone(), "it is a directory"),
            (fifo, "a FIFO without a reader"),
            (folder.0.join("missing/log"), "its directory does not exist"),
        ] {
            let error = LogFile::open(&path).unwrap_err();
            assert!(error.contains(expected) && error.contains(&path.display().to_string()));
        }
    }
}
