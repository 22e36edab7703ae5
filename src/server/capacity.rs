//! The shares of descriptors for connections, pipes, rejections and health checks. Pure.

use crate::config::{self, Boot, Config};
use crate::net;

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
    /// Connections of each port of the control API.
    pub control_connections: usize,
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
        let control_connections = config::MAX_CONTROL_CONNECTIONS.min(share.max(1));
        let for_control = files_for_control(boot, control_connections);
        let for_others = OTHER_FILES + for_workers + rejections + for_checks + for_control;
        let connections = (files.saturating_sub(for_others) / FILES_PER_CONNECTION).max(1);
        Self {
            files,
            connections,
            pipes_per_worker,
            rejections,
            shed_per_worker,
            checkers,
            control_connections,
        }
    }
}

/// The descriptors of the control API, whose ports have this many connections each.
fn files_for_control(boot: &Boot, connections: usize) -> usize {
    let admin = boot.control.admin.as_ref().map(|admin| admin.addresses.len());
    let data_port = boot.control.on_data_port.map(|_| 1);
    let sockets = admin.into_iter().chain(data_port);
    let beyond = config::MAX_CONTROL_SHED + config::MAX_CONTROL_ENDING;
    sockets.map(|sockets| sockets + connections + beyond).sum()
}

/// The limit of open files of this machine, and the client connections that it allows.
pub fn allowed_connections(config: &Config) -> (usize, usize) {
    let files = usize::try_from(net::raise_file_limit()).unwrap_or(usize::MAX);
    let listening = config.boot.listen.len().max(1);
    (files, Capacity::new(files, listening, config).connections)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{AdminPort, ControlBoot, DEFAULT_ADMIN, DataPortControl};
    use std::net::SocketAddr;

    fn capacity(files: usize, workers: usize, backends: u16) -> Capacity {
        let backend = |port: u16| SocketAddr::from(([127, 0, 0, 1], port + 1)).into();
        let control = ControlBoot {
            admin: Some(AdminPort::at(DEFAULT_ADMIN)),
            on_data_port: Some(DataPortControl::All),
            token: None,
        };
        let boot = Boot { workers, control, ..Boot::default() };
        let backends = (0..backends).map(backend).collect();
        Capacity::new(files, 1, &Config { boot, backends, ..Config::default() })
    }

    #[test]
    fn many_descriptors_leave_every_fixed_limit_in_place() {
        let capacity = capacity(1 << 20, 4, 3);
        assert_eq!(capacity.pipes_per_worker, config::MAX_PIPES_PER_WORKER);
        assert_eq!(capacity.rejections, config::MAX_GRACEFUL_REJECTIONS);
        assert_eq!(capacity.checkers, config::MAX_CHECKERS);
        assert_eq!(capacity.control_connections, config::MAX_CONTROL_CONNECTIONS);
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
                let beyond = config::MAX_CONTROL_SHED + config::MAX_CONTROL_ENDING;
                let control = 2 * (1 + capacity.control_connections + beyond);
                let connections = FILES_PER_CONNECTION * capacity.connections;
                let is_tiny = capacity.connections == 1;
                assert!(
                    others + control + capacity.rejections + connections <= files || is_tiny,
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
            control_connections: 1,
        };
        assert_eq!(capacity(0, 2, 3), smallest);
    }
}
