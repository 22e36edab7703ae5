//! The shares of descriptors for connections, pipes, rejections and health checks. Pure.

use crate::config::{self, Config};

/// Descriptors for standard streams and signals, with some in reserve.
const OTHER_FILES: usize = 32;
/// The descriptors of a worker: an epoll and its waker.
const FILES_PER_WORKER: usize = 2;
/// The descriptors of a pipe: both ends.
const FILES_PER_PIPE: usize = 2;
/// The descriptors of a client connection: its own, and one to a backend.
const FILES_PER_CONNECTION: usize = 2;
/// Pipes get at most the descriptors divided by this, and connections over a limit as well.
const SHARE_DIVISOR: usize = 16;
/// Health checks get at most the descriptors divided by this.
const CHECKS_DIVISOR: usize = 4;

/// The counts that the limit of open files allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// The limit of open files.
    pub files: usize,
    /// Client connections.
    pub connections: usize,
    /// Pipes in use by one worker.
    pub pipes_per_worker: usize,
    /// Connections over a limit that workers hold: a share of its own, so that a flood of rejections
    /// never takes descriptors from connections within the limits.
    pub rejections: usize,
    /// Connections that one worker keeps for a moment after it has shed them.
    pub shed_per_worker: usize,
    /// Health checks at once.
    pub checkers: usize,
}

impl Capacity {
    /// Shares `files` descriptors. `listening` is the number of addresses listened on.
    pub fn new(files: usize, listening: usize, config: &Config) -> Self {
        let (boot, share) = (&config.boot, files / SHARE_DIVISOR);
        let pipes = share / FILES_PER_PIPE / boot.workers.max(1);
        let pipes_per_worker = pipes.min(config::MAX_PIPES_PER_WORKER);
        let rejections = boot.max_graceful_rejections.min(share.max(1));
        let checkers = config::MAX_CHECKERS.min((files / CHECKS_DIVISOR).max(1));
        let shed_per_worker = (config::MAX_SHED.min(rejections) / boot.workers.max(1)).max(1);
        let per_worker = FILES_PER_WORKER + FILES_PER_PIPE * pipes_per_worker;
        // Each worker has a socket per address.
        let for_workers = (per_worker + listening + shed_per_worker) * boot.workers;
        let for_checks = config.backends.len().min(checkers);
        let for_others = OTHER_FILES + for_workers + rejections + for_checks;
        let connections = (files.saturating_sub(for_others) / FILES_PER_CONNECTION).max(1);
        Self { files, connections, pipes_per_worker, rejections, shed_per_worker, checkers }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Boot;
    use std::net::SocketAddr;

    fn capacity(files: usize, workers: usize, backends: u16) -> Capacity {
        let backend = |port: u16| SocketAddr::from(([127, 0, 0, 1], port + 1)).into();
        let boot = Boot { workers, ..Boot::default() };
        let backends = (0..backends).map(backend).collect();
        Capacity::new(files, 1, &Config { boot, backends, ..Config::default() })
    }

    #[test]
    fn many_descriptors_leave_every_fixed_limit_in_place() {
        let capacity = capacity(1 << 20, 4, 3);
        assert_eq!(capacity.pipes_per_worker, config::MAX_PIPES_PER_WORKER);
        assert_eq!(capacity.rejections, config::MAX_GRACEFUL_REJECTIONS);
        assert_eq!(capacity.checkers, config::MAX_CHECKERS);
        assert!(capacity.connections > 500_000);
    }

    #[test]
    fn everything_together_stays_within_the_limit_of_open_files() {
        for files in [64, 128, 256, 1024, 4096, 65_536] {
            for (workers, backends) in [(1, 1), (2, 3), (4, 300)] {
                let capacity = capacity(files, workers, backends);
                let pipes = FILES_PER_PIPE * capacity.pipes_per_worker * workers;
                let shed = capacity.shed_per_worker * workers;
                let listening = workers;
                let checks = capacity.checkers.min(usize::from(backends));
                let others =
                    OTHER_FILES + FILES_PER_WORKER * workers + pipes + shed + listening + checks;
                let connections = FILES_PER_CONNECTION * capacity.connections;
                let is_tiny = capacity.connections == 1;
                assert!(
                    others + capacity.rejections + connections <= files || is_tiny,
                    "{files} {workers} {backends}: {capacity:?}"
                );
                assert!(pipes <= files / SHARE_DIVISOR);
            }
        }
    }

    #[test]
    fn few_descriptors_still_allow_one_of_each_but_pipes() {
        let smallest = Capacity {
            files: 0,
            connections: 1,
            pipes_per_worker: 0,
            rejections: 1,
            shed_per_worker: 1,
            checkers: 1,
        };
        assert_eq!(capacity(0, 2, 3), smallest);
    }
}
