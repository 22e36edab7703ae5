//! Reading the configuration file. Blocks on the disk, and so must never run on a worker.
//!
//! A reload calls [`Sources::load`] again: a file that cannot be read is one problem, whatever it is
//! now (missing, a directory, a FIFO, 100 MB), and never a wait.

use crate::config::{FileText, Given, Loaded, MAX_CONFIG_BYTES, Problem, load};
use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use std::fs::File;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The sources of a configuration, apart from the text of the file.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The values that were typed, or in the environment at the start.
    pub given: Vec<Given>,
    /// The file.
    pub path: Option<PathBuf>,
    /// Lines about what is there, but not used.
    pub notes: Vec<String>,
    /// The addresses that a service manager listens on; host and port are not used if there are any.
    pub inherited: Vec<SocketAddr>,
}

impl Sources {
    /// Reads the file and makes the configuration, or finds all problems.
    pub fn load(&self) -> Result<Loaded, Vec<Problem>> {
        let text = self.path.as_deref().map(read).transpose()?;
        load(&self.given, text, &self.inherited)
    }

    /// The same of a file that was read before.
    pub fn load_contents(&self, contents: Contents) -> Result<Loaded, Vec<Problem>> {
        let text = self.path.as_deref().map(|path| text(path, contents)).transpose()?;
        load(&self.given, text, &self.inherited)
    }
}

/// The bytes of a file, or why there are none.
pub type Contents = Result<Vec<u8>, String>;

/// Reads the text of a configuration file; an error is one problem.
pub fn read(path: &Path) -> Result<FileText, Vec<Problem>> {
    text(path, read_bytes(path))
}

fn text(path: &Path, contents: Contents) -> Result<FileText, Vec<Problem>> {
    let name = path.display().to_string();
    match contents {
        Ok(bytes) => match String::from_utf8(bytes) {
            Ok(text) => Ok(FileText::new(name, text)),
            Err(error) => {
                let valid = error.utf8_error().valid_up_to();
                let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
                let file = FileText::new(name, text);
                let message = "the file is not UTF-8 from here on; save it as UTF-8";
                Err(vec![Problem::new(message).at(&file, &(valid..valid + 1))])
            }
        },
        Err(message) => Err(vec![Problem::new(&message).in_file(&name)]),
    }
}

/// Reads a file. Opens without waiting for the other end of a FIFO, and looks at the kind of what
/// was opened.
pub fn read_bytes(path: &Path) -> Contents {
    let cannot = |error: rustix::io::Errno| {
        let error = io::Error::from(error);
        match error.kind() {
            io::ErrorKind::NotFound => "there is no such file; is the path right?".to_owned(),
            io::ErrorKind::PermissionDenied => {
                "no permission to read the file; run chmod +r, or start as its owner".to_owned()
            }
            _ => format!("cannot read the file: {error}"),
        }
    };
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = open(path, flags, Mode::empty()).map_err(cannot)?;
    let stat = fstat(&file).map_err(cannot)?;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => None,
        FileType::Directory => Some("a directory"),
        FileType::Fifo => Some("a FIFO"),
        _ => Some("a device"),
    };
    if let Some(kind) = kind {
        return Err(format!("it is {kind}, not a file; is the path right?"));
    }
    // One more byte than allowed, whatever the size was a moment ago.
    let mut bytes = Vec::new();
    let mut limited = File::from(file).take(MAX_CONFIG_BYTES as u64 + 1);
    limited.read_to_end(&mut bytes).map_err(|error| format!("cannot read the file: {error}"))?;
    if bytes.len() > MAX_CONFIG_BYTES {
        return Err("the file is larger than 1 MiB; is the path right?".to_owned());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A folder of the test's own, which is removed at the end.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("lb-threads-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn write(&self, bytes: &[u8]) -> PathBuf {
            let path = self.0.join("config.json");
            fs::write(&path, bytes).unwrap();
            path
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn problem(path: &Path) -> String {
        let problem = read(path).unwrap_err()[0].to_string();
        assert!(problem.starts_with(&path.display().to_string()) && !problem.contains('\n'));
        problem
    }

    #[test]
    fn a_file_is_read_whole_up_to_its_limit() {
        let folder = Folder::new("limit");
        let text = " ".repeat(MAX_CONFIG_BYTES);
        assert_eq!(read(&folder.write(text.as_bytes())).unwrap().text(), text);
        let larger = folder.write(&vec![b' '; MAX_CONFIG_BYTES + 1]);
        assert!(problem(&larger).contains("larger than 1 MiB"));
    }

    #[test]
    fn what_is_no_readable_file_is_one_problem_and_no_wait() {
        let folder = Folder::new("kinds");
        assert!(problem(&folder.0.join("missing")).contains("there is no such file"));
        assert!(problem(&folder.0).contains("it is a directory"));
        assert!(problem(Path::new("/dev/zero")).contains("it is a device"));
        let fifo = folder.0.join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, Mode::RWXU).unwrap();
        assert!(problem(&fifo).contains("it is a FIFO"));
        assert!(problem(&folder.write(b"{}").join("x")).contains("cannot read the file"));
    }

    #[test]
    fn bytes_that_are_not_utf_8_are_named_with_their_position() {
        let folder = Folder::new("utf8");
        let problem = problem(&folder.write(b"{\n \"host\": \"\xff\"}"));
        assert!(problem.contains(":2:11: the file is not UTF-8"), "{problem}");
    }
}
