//! The process as the kernel sees it: `/proc/self`, a clock, a limit. Each fact may be missing.

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};
use std::fs;

/// The facts.
#[derive(Debug)]
pub struct Process {
    /// The CPU time of all threads, in seconds.
    pub cpu_seconds: f64,
    /// The resident memory, in bytes.
    pub resident_bytes: Option<u64>,
    /// The threads.
    pub threads: Option<u64>,
    /// The open descriptors.
    pub open_files: Option<u64>,
    /// The limit of open descriptors; none if there is none.
    pub max_files: Option<u64>,
}

impl Process {
    /// The facts now.
    pub fn now() -> Self {
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        // The descriptor of the list itself is in it.
        let open_files = fs::read_dir("/proc/self/fd").ok().map(|files| files.count() - 1);
        Self {
            cpu_seconds: cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9,
            resident_bytes: number(&status, "VmRSS:").map(|kibibytes| kibibytes * 1024),
            threads: number(&status, "Threads:"),
            open_files: open_files.map(|count| count as u64),
            max_files: getrlimit(Resource::Nofile).current,
        }
    }
}

/// The number in the line of this name.
fn number(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_facts_of_this_process_are_plausible() {
        let now = Process::now();
        let resident = now.resident_bytes.unwrap();
        assert!((1 << 20..1 << 32).contains(&resident), "{resident}");
        assert!(now.cpu_seconds > 0.0 && now.threads.unwrap() >= 2 && now.open_files.unwrap() >= 3);
        assert!(now.max_files.is_none_or(|max| max > now.open_files.unwrap()));
    }

    #[test]
    fn a_number_is_found_by_the_name_of_its_line() {
        let status = "Name:\tVmRSS: 9\nVmRSS:\t    5120 kB\nThreads:\t7\n";
        assert_eq!((number(status, "VmRSS:"), number(status, "Threads:")), (Some(5120), Some(7)));
        assert_eq!((number(status, "VmHWM:"), number("Threads:\tx\n", "Threads:")), (None, None));
    }
}
