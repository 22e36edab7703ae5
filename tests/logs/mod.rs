//! The log of the program: its file, its formats, and outputs that are closed, full or removed.

mod file;
mod formats;
mod streams;

use crate::support::program::{self, Program};
use crate::support::{Folder, Origin, comes_true};
use std::net::SocketAddr;
use std::path::PathBuf;

/// A balancer whose log is a file of its own folder.
struct Logged {
    program: Program,
    path: PathBuf,
    folder: Folder,
}

impl Logged {
    /// Starts it in front of one backend, with these words besides.
    #[track_caller]
    fn start(origin: &Origin, words: &[&str]) -> Self {
        let folder = Folder::new();
        let path = folder.path().join("load_balancer.log");
        let path_text = path.display().to_string();
        let words = [&["--log-file", &path_text], words].concat();
        let program =
            Program::start(program::command(program::balancer_words(&[origin.address()], &words)));
        Self { program, path, folder }
    }

    fn text(&self) -> String {
        std::fs::read_to_string(&self.path).unwrap_or_default()
    }

    #[track_caller]
    fn until_logged(&self, text: &str) {
        assert!(comes_true(|| self.text().contains(text)), "no `{text}`: {}", self.text());
    }

    #[track_caller]
    fn address(&self) -> SocketAddr {
        self.until_logged("backend(s) up");
        let text = self.text();
        let rest = text.split("listening on http://").nth(1).expect("it listens");
        rest.split(',').next().and_then(|address| address.parse().ok()).expect("an address")
    }

    /// Renames the file as logrotate does, and returns its new path.
    #[track_caller]
    fn rotate(&self) -> PathBuf {
        let rotated = self.folder.path().join("load_balancer.log.1");
        std::fs::rename(&self.path, &rotated).expect("the file is there");
        rotated
    }
}
