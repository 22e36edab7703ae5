//! Messages to a service manager while the balancer serves: how many backends are up, and a sign of
//! life while every worker's loop turns.
//!
//! Runs on the thread `notifier`, which exists only if there is a service manager. It looks once a
//! second, so a transition costs nothing where it happens, and there is at most one message a second
//! about them. Owns the last status and the workers' last turns; must never wait for a worker.

use super::handle::Handle;
use crate::notifier::Notifier;
use crate::upstream::registry::Registry;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// The time between two looks at the backends.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// The running thread; it ends soon after this is dropped.
#[derive(Debug)]
pub struct Supervision {
    _stop: Sender<()>,
}

impl Supervision {
    /// Starts the thread, which sends what changes from now on.
    pub fn start(
        notifier: Arc<Notifier>,
        registry: Arc<Registry>,
        workers: Vec<Arc<Handle>>,
    ) -> io::Result<Self> {
        let (stop, stopped) = crossbeam_channel::bounded(0);
        let status = status(&registry);
        // Twice as often as necessary, as the protocol recommends.
        let feeding = notifier.watchdog().map(|limit| Feeding::new(workers, limit / 2));
        let loops = Loop { notifier, registry, status, feeding };
        thread::Builder::new().name("notifier".to_owned()).spawn(move || loops.run(&stopped))?;
        Ok(Self { _stop: stop })
    }
}

/// The line about the backends.
pub fn status(registry: &Registry) -> String {
    format!("{}/{} backends up", registry.cluster().up(), registry.statuses().len())
}

/// The state of the thread.
struct Loop {
    notifier: Arc<Notifier>,
    registry: Arc<Registry>,
    /// The last line about the backends.
    status: String,
    feeding: Option<Feeding>,
}

impl Loop {
    fn run(mut self, stopped: &Receiver<()>) {
        loop {
            let now = Instant::now();
            let until_fed = self.feeding.as_ref().map(|feeding| feeding.due_in(now));
            let wait = until_fed.map_or(STATUS_INTERVAL, |wait| wait.min(STATUS_INTERVAL));
            if stopped.recv_timeout(wait) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            self.report_status();
            if let Some(feeding) = &mut self.feeding
                && feeding.is_due(Instant::now())
            {
                self.notifier.feed_watchdog();
            }
        }
    }

    fn report_status(&mut self) {
        let status = status(&self.registry);
        if status != self.status {
            self.notifier.status(&status);
            self.status = status;
        }
    }
}

/// When to feed the watchdog: at each interval in which every worker's loop has turned. A worker has
/// a message to take in each interval, so one that does not turn is stuck in a step, or has ended by
/// a panic.
struct Feeding {
    workers: Vec<Arc<Handle>>,
    /// The turns of each worker at the last look.
    seen: Vec<u64>,
    interval: Duration,
    due_at: Instant,
    is_starving: bool,
}

impl Feeding {
    fn new(workers: Vec<Arc<Handle>>, interval: Duration) -> Self {
        let seen = workers.iter().map(|worker| worker.turns()).collect();
        workers.iter().for_each(|worker| worker.request_turn());
        Self { workers, seen, interval, due_at: Instant::now() + interval, is_starving: false }
    }

    fn due_in(&self, now: Instant) -> Duration {
        self.due_at.saturating_duration_since(now)
    }

    /// Whether the watchdog is to be fed now. Logs the first time that it is not because of a worker.
    fn is_due(&mut self, now: Instant) -> bool {
        if now < self.due_at {
            return false;
        }
        self.due_at = now + self.interval;
        let turns: Vec<u64> = self.workers.iter().map(|worker| worker.turns()).collect();
        let stuck = turns.iter().zip(&self.seen).position(|(turns, seen)| turns == seen);
        self.seen = turns;
        self.workers.iter().for_each(|worker| worker.request_turn());
        match stuck {
            Some(number) if !self.is_starving => log::error!(
                event = "state";
                "worker-{number} has been stuck for {:?}: the watchdog is not fed any more",
                self.interval
            ),
            None if self.is_starving => {
                log::info!(event = "state"; "every worker turns again: feeding the watchdog");
            }
            _ => {}
        }
        self.is_starving = stuck.is_some();
        stuck.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::super::handle::{Inbox, Message};
    use super::*;
    use crate::admission::{Admission, Limits, Permits};
    use crate::metrics::Counters;
    use crate::net::Poller;

    const INTERVAL: Duration = Duration::from_secs(5);

    /// A worker that turns when the test lets it.
    struct Worker {
        handle: Arc<Handle>,
        inbox: Inbox,
        counters: Arc<Counters>,
    }

    impl Worker {
        fn new() -> Self {
            let limits = Limits {
                max_connections: 1,
                max_connections_per_client: None,
                max_graceful_rejections: 0,
            };
            let (permits, counters) =
                (Permits::new(Arc::new(Admission::new(limits))), Arc::<Counters>::default());
            let waker = Poller::new().unwrap().waker();
            let (handle, inbox) = Handle::new(1, permits, waker, Arc::clone(&counters));
            Self { handle: Arc::new(handle), inbox, counters }
        }

        /// One turn, for the message that an idle worker got.
        fn turn(&self) {
            assert!(matches!(self.inbox.next(), Some(Message::Turn)));
            self.counters.turns.add(1);
        }
    }

    #[test]
    fn the_watchdog_is_fed_at_each_interval_in_which_every_worker_has_turned() {
        let workers = [Worker::new(), Worker::new()];
        let handles = workers.iter().map(|worker| Arc::clone(&worker.handle)).collect();
        let mut feeding = Feeding::new(handles, INTERVAL);
        let at = |intervals: u32| Instant::now() + intervals * INTERVAL;
        assert!(!feeding.is_due(Instant::now()), "not before half of the watchdog's time");
        workers.iter().for_each(Worker::turn);
        assert!(feeding.is_due(at(1)));
        workers[0].turn();
        assert!(!feeding.is_due(at(3)), "the second one is stuck");
        workers[0].turn();
        assert!(!feeding.is_due(at(5)), "and still is");
        workers.iter().for_each(Worker::turn);
        assert!(feeding.is_due(at(7)));
        assert!(!feeding.is_due(at(9)), "none has turned since");
    }
}
