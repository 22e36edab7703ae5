//! The real program as a process of its own: started, read, signalled, ended.
//!
//! For exit codes, signals, the log and descriptors, which only a process has. A [`Program`] owns
//! its process and ends it, by its own id, when it is dropped.

use crate::support::{until, until_some};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::Read;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

const BINARY: &str = env!("CARGO_BIN_EXE_lb-threads");

/// A running program and its output so far.
pub struct Program {
    child: Child,
    stdout: Output,
    stderr: Output,
}

/// How a program has ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// All that it wrote to standard output.
    pub stdout: String,
    /// All that it wrote to standard error.
    pub stderr: String,
}

/// The program with these arguments, and with no environment but `PATH`.
pub fn command<Word: AsRef<OsStr>>(words: impl IntoIterator<Item = Word>) -> Command {
    let mut command = clean(BINARY);
    command.args(words);
    command
}

/// The same, allowed to have so many descriptors open and no more.
pub fn command_with_descriptors<Word: AsRef<OsStr>>(
    descriptors: usize,
    words: impl IntoIterator<Item = Word>,
) -> Command {
    let mut command = clean("sh");
    command
        .arg("-c")
        .arg(format!("ulimit -n {descriptors}; exec \"$0\" \"$@\""))
        .arg(BINARY)
        .args(words);
    command
}

/// A program without the test's own environment and standard input.
pub fn clean(name: &str) -> Command {
    let mut command = Command::new(name);
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .stdin(Stdio::null());
    command
}

/// Runs the program to its end.
#[track_caller]
pub fn run<Word: AsRef<OsStr>>(words: impl IntoIterator<Item = Word>) -> Ended {
    Program::start(command(words)).wait_for_end()
}

impl Program {
    /// Starts a command and reads its output.
    #[track_caller]
    pub fn start(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let stdout = Output::by(child.stdout.take());
        let stderr = Output::by(child.stderr.take());
        Self { child, stdout, stderr }
    }

    /// Starts a command whose standard error is not read: the pipe is open, and full after 64 KiB.
    #[track_caller]
    pub fn start_unread(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let stdout = Output::by(child.stdout.take());
        Self { child, stdout, stderr: Output::default() }
    }

    /// Starts a command whose outputs are closed at the other end, as those of a terminal that is
    /// gone.
    #[track_caller]
    pub fn start_unheard(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        drop((child.stdout.take(), child.stderr.take()));
        Self { child, stdout: Output::default(), stderr: Output::default() }
    }

    /// Starts the balancer on a free port, in front of these backends.
    #[track_caller]
    pub fn balancer(backends: &[SocketAddr], words: &[&str]) -> Self {
        Self::start(command(balancer_words(backends, words)))
    }

    /// The address in the balancer's log line about listening.
    #[track_caller]
    pub fn address(&self) -> SocketAddr {
        self.until_logged("listening on http://");
        let log = self.log();
        let address = log
            .split("listening on http://")
            .nth(1)
            .and_then(|rest| rest.split([',', '\n']).next());
        address
            .and_then(|address| address.parse().ok())
            .unwrap_or_else(|| panic!("no address in its log: {log}"))
    }

    /// Its standard error so far.
    pub fn log(&self) -> String {
        self.stderr.text()
    }

    /// All that it wrote to standard error, once it has ended.
    #[track_caller]
    pub fn whole_log(&self) -> String {
        self.stderr.whole()
    }

    /// Its standard output so far.
    pub fn output(&self) -> String {
        self.stdout.text()
    }

    /// Waits until its log contains this.
    #[track_caller]
    pub fn until_logged(&self, text: &str) {
        if !crate::support::comes_true(|| self.log().contains(text)) {
            panic!("its log never contained `{text}`: {}", self.log());
        }
    }

    /// The targets of its descriptors: each socket has a number of its own, which is not given
    /// again.
    pub fn descriptors(&self) -> BTreeSet<(u32, PathBuf)> {
        let entries = std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("it runs");
        let open = entries.filter_map(|entry| {
            let path = entry.ok()?.path();
            Some((path.file_name()?.to_str()?.parse().ok()?, std::fs::read_link(&path).ok()?))
        });
        open.collect()
    }

    /// How many of its threads have a name that begins like this.
    pub fn threads(&self, name: &str) -> usize {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("it runs");
        // A thread may end while it is looked at.
        let names =
            tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
        names.filter(|found| found.starts_with(name)).count()
    }

    /// How much memory it has resident, in KiB.
    pub fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))
            .unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
    }

    /// Leaves it so many descriptors beyond those that are open now; gives it all back if there is
    /// no number.
    #[track_caller]
    pub fn spare_descriptors(&self, spare: Option<usize>) {
        let open: BTreeSet<u32> =
            self.descriptors().into_iter().map(|(number, _)| number).collect();
        // New descriptors get the lowest free numbers, below the limit.
        let free = |spare: usize| (0..).filter(|number| !open.contains(number)).nth(spare);
        let pid = Some(Pid::from_child(&self.child));
        let maximum = getrlimit(Resource::Nofile).maximum;
        let current = spare.and_then(free).map(u64::from).or(maximum);
        prlimit(pid, Resource::Nofile, Rlimit { current, maximum })
            .expect("a limit within the hard one can be set");
    }

    /// Its process number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
    }

    /// Whether it has not ended yet.
    #[track_caller]
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_none()
    }

    /// Its exit code once it has ended, even if its outputs are still open elsewhere.
    #[track_caller]
    pub fn exit_code(&mut self) -> Option<i32> {
        until_some("the program ends", || self.child.try_wait().expect("a child can be waited for"))
            .code()
    }

    /// Waits until it has ended and its outputs are read to their ends.
    #[track_caller]
    pub fn wait_for_end(mut self) -> Ended {
        let code = self.exit_code();
        Ended { code, stdout: self.stdout.whole(), stderr: self.stderr.whole() }
    }
}

/// The arguments of a balancer on a free port, in front of these backends.
pub fn balancer_words(backends: &[SocketAddr], words: &[&str]) -> Vec<String> {
    let backends = backends.iter().flat_map(|address| ["-b".to_owned(), address.to_string()]);
    let free_port = ["--port".to_owned(), "0".to_owned()];
    free_port
        .into_iter()
        .chain(backends)
        .chain(words.iter().map(|word| (*word).to_owned()))
        .collect()
}

impl Drop for Program {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The output of a pipe, read by a thread until its end.
#[derive(Default)]
struct Output {
    text: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Output {
    fn by(pipe: Option<impl Read + Send + 'static>) -> Self {
        let text = Arc::new(Mutex::new(Vec::new()));
        let (sink, mut pipe) = (Arc::clone(&text), pipe.expect("the output is a pipe"));
        let reader = thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(count @ 1..) = pipe.read(&mut piece) {
                sink.lock()
                    .expect("no holder of this lock panics")
                    .extend_from_slice(&piece[..count]);
            }
        });
        Self { text, reader: Some(reader) }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().expect("no holder of this lock panics"))
            .into_owned()
    }

    #[track_caller]
    fn whole(&self) -> String {
        until("all writers of the output have ended", || {
            self.reader.as_ref().is_none_or(JoinHandle::is_finished)
        });
        self.text()
    }
}
