//! The thread that reloads the configuration file: when it has changed, or when asked to.
//!
//! Runs on the thread `config`, the only one that reads the file after the start, so that a disk
//! that hangs holds up no other and reloads come one after the other. It owns the [`Reloader`] and
//! what it saw last. It compares bytes, not times or sizes, so it notices every kind of edit; a file
//! that has just changed is applied once it has stayed the same for a moment. Must never end because
//! of a file.

use super::balancer::Balancer;
use super::reload::{ReloadSource, Reloader};
use super::reloads::{ReloadError, ReloadOutcome, Reloading};
use crate::config_file::{self, Contents};
use crossbeam_channel::{Receiver, Sender};
use std::io;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

/// The time for which a changed file has to stay the same: its writer may not be done.
const SETTLE_TIME: Duration = Duration::from_millis(400);

/// The running thread; it ends soon after this is dropped.
#[derive(Debug)]
pub(super) struct ConfigWatch {
    _stop: Sender<()>,
}

/// A thread that does not run yet; requests for reloads wait for it.
pub(super) struct NewConfigWatch(Loop);

impl NewConfigWatch {
    /// Lets the balancer take requests for reloads.
    pub(super) fn new(source: ReloadSource, balancer: &Arc<Balancer>) -> Self {
        let (reloading, requested) = Reloading::new();
        // A balancer is started once, so this is the first value.
        let _ = balancer.reloading.set(reloading);
        let reloader = Reloader::new(source);
        let looks = Looks::new(Ok(reloader.text().as_bytes().to_vec()), reloader.look_interval());
        Self(Loop { balancer: Arc::downgrade(balancer), reloader, looks, requested })
    }

    /// Starts the thread.
    pub(super) fn start(self) -> io::Result<ConfigWatch> {
        let (stop, stopped) = crossbeam_channel::bounded(0);
        thread::Builder::new().name("config".to_owned()).spawn(move || self.0.run(&stopped))?;
        Ok(ConfigWatch { _stop: stop })
    }
}

/// The cause of a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trigger {
    /// The file has changed.
    Change,
    /// A signal or the control API.
    Request,
}

/// The state of the thread.
struct Loop {
    balancer: Weak<Balancer>,
    reloader: Reloader,
    looks: Looks,
    requested: Receiver<Sender<ReloadOutcome>>,
}

impl Loop {
    fn run(mut self, stopped: &Receiver<()>) {
        let mut due = Instant::now() + self.looks.wait();
        loop {
            let wait = due.saturating_duration_since(Instant::now());
            crossbeam_channel::select! {
                recv(stopped) -> _ => return,
                recv(self.requested) -> request => {
                    let Ok(reply) = request else { return };
                    let contents = self.read();
                    self.looks.take(contents.clone());
                    let Some(outcome) = self.reload(contents, Trigger::Request) else { return };
                    // Fails if the thread that has asked waits no longer.
                    let _ = reply.send(outcome);
                }
                default(wait) => {
                    if let Some(contents) = self.looks.see(self.read())
                        && self.reload(contents, Trigger::Change).is_none()
                    {
                        return;
                    }
                    due = Instant::now() + self.looks.wait();
                }
            }
        }
    }

    fn read(&self) -> Contents {
        match &self.reloader.sources().path {
            Some(path) => config_file::read_bytes(path),
            None => Err("there is no file".to_owned()),
        }
    }

    /// Reloads and reports; none if the balancer has ended.
    fn reload(&mut self, contents: Contents, trigger: Trigger) -> Option<ReloadOutcome> {
        let balancer = self.balancer.upgrade()?;
        let reloading = balancer.reloading.get()?;
        let outcome = self.reloader.reload(&balancer, contents);
        let has_recovered = reloading.record(&outcome);
        let is_expected = trigger == Trigger::Request || has_recovered;
        self.log(&outcome, is_expected);
        Some(outcome)
    }

    fn log(&self, outcome: &ReloadOutcome, is_expected: bool) {
        let path = self.reloader.sources().path.as_deref();
        let name = path.map(|path| path.display().to_string()).unwrap_or_default();
        match outcome {
            Ok(effects) if effects.is_empty() && !is_expected => {
                log::debug!("{name} reloaded: {effects}");
            }
            Ok(effects) => log::info!(event = "reload"; "{name} reloaded: {effects}"),
            Err(ReloadError::Problems(problems)) => {
                for problem in problems {
                    log::error!(event = "reload"; "not reloaded, the settings in use stay: {problem}");
                }
            }
            Err(error) => {
                log::error!(event = "reload"; "not reloaded, the settings in use stay: {error}");
            }
        }
    }
}

/// The successive looks at a file.
#[derive(Debug)]
struct Looks {
    /// The contents that were applied or rejected last.
    handled: Contents,
    /// Other contents that the last look has found.
    changed: Option<Contents>,
    /// The time between two looks at a file that does not change.
    interval: Duration,
}

impl Looks {
    fn new(handled: Contents, interval: Duration) -> Self {
        Self { handled, changed: None, interval }
    }

    /// A look at the file. The contents to apply, if they have changed and then stayed the same.
    fn see(&mut self, contents: Contents) -> Option<Contents> {
        if contents == self.handled {
            self.changed = None;
            return None;
        }
        if self.changed.as_ref() != Some(&contents) {
            self.changed = Some(contents);
            return None;
        }
        self.take(contents.clone());
        Some(contents)
    }

    /// These contents are applied, whatever earlier looks have found.
    fn take(&mut self, contents: Contents) {
        (self.handled, self.changed) = (contents, None);
    }

    /// The time until the next look.
    fn wait(&self) -> Duration {
        if self.changed.is_some() { SETTLE_TIME.min(self.interval) } else { self.interval }
    }
}

#[cfg(test)]
mod tests {
    use super::super::reload::LOOK_INTERVAL;
    use super::*;

    fn text(text: &str) -> Contents {
        Ok(text.into())
    }

    #[test]
    fn a_change_is_applied_once_it_has_stayed_the_same_for_one_look() {
        let mut looks = Looks::new(text("a"), LOOK_INTERVAL);
        assert_eq!(looks.see(text("a")), None);
        assert_eq!(looks.wait(), LOOK_INTERVAL);
        for half_written in ["", "b", "bc"] {
            assert_eq!(looks.see(text(half_written)), None);
            assert_eq!(looks.wait(), SETTLE_TIME);
        }
        assert_eq!(looks.see(text("bc")), Some(text("bc")));
        assert!(LOOK_INTERVAL + SETTLE_TIME < Duration::from_secs(2), "an edit is applied by then");
        assert_eq!((looks.see(text("bc")), looks.wait()), (None, LOOK_INTERVAL));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_handled_once() {
        let mut looks = Looks::new(text("a"), LOOK_INTERVAL);
        let missing = || Contents::Err("missing".to_owned());
        assert_eq!(looks.see(missing()), None);
        assert_eq!(looks.see(missing()), Some(missing()));
        assert_eq!(looks.see(missing()), None);
        assert_eq!((looks.see(text("a")), looks.see(text("a"))), (None, Some(text("a"))));
    }

    #[test]
    fn a_change_that_is_taken_back_at_once_is_none() {
        let mut looks = Looks::new(text("a"), LOOK_INTERVAL);
        for contents in ["b", "a", "b", "a", "a"] {
            assert_eq!(looks.see(text(contents)), None);
        }
    }

    #[test]
    fn contents_that_were_applied_on_request_are_not_applied_again() {
        let mut looks = Looks::new(text("a"), LOOK_INTERVAL);
        assert_eq!(looks.see(text("b")), None);
        looks.take(text("b"));
        assert_eq!((looks.see(text("b")), looks.see(text("b"))), (None, None));
    }
}
