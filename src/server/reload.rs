//! A reload: another text of the configuration file becomes the running settings and members.
//!
//! Runs on the thread `config`, which owns the [`Reloader`]. A text with a problem is rejected whole.
//! Members that go leave after one that stays is up, so that no request finds the pool empty.

use super::balancer::Balancer;
use super::reloads::{ReloadError, ReloadOutcome};
use super::start_error::StartError;
use crate::config::{self, Boot, Effects, HostPort, Loaded, Problem};
use crate::config_file::{Contents, Sources};
use crate::net;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// The usual time between two looks at the file.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// The longest wait for new members before those that go are removed.
const MAX_HANDOVER: Duration = Duration::from_secs(5);
/// The time for the result of a check to arrive after the timeout of the check itself.
const RESULT_MARGIN: Duration = Duration::from_millis(200);

/// The sources of the running configuration, and the result of their last load.
#[derive(Debug)]
pub struct ReloadSource {
    /// The sources; there is a file among them.
    pub sources: Sources,
    /// Their last load that was applied.
    pub loaded: Loaded,
    /// The time between two looks at the file; usually [`LOOK_INTERVAL`].
    pub look_interval: Duration,
}

/// Reloads.
#[derive(Debug)]
pub(super) struct Reloader {
    source: ReloadSource,
    /// The part that the start has fixed.
    started: Boot,
}

impl Reloader {
    pub(super) fn new(source: ReloadSource) -> Self {
        Self { started: source.loaded.config.boot.clone(), source }
    }

    /// The sources.
    pub(super) fn sources(&self) -> &Sources {
        &self.source.sources
    }

    /// The time between two looks at the file.
    pub(super) fn look_interval(&self) -> Duration {
        self.source.look_interval
    }

    /// The text of the last load that was applied.
    pub(super) fn text(&self) -> &str {
        self.source.loaded.file.as_ref().map_or("", |file| file.text.text())
    }

    /// Applies what was read from the file.
    pub(super) fn reload(&mut self, balancer: &Balancer, contents: Contents) -> ReloadOutcome {
        let loaded = self.source.sources.load_contents(contents).map_err(ReloadError::Problems)?;
        reject_own_listeners(balancer, &loaded)?;
        let last = &self.source.loaded;
        let mut effects = Effects::default();
        let changed = balancer.change_settings(|settings| {
            effects = config::merge_settings((last, &loaded), &self.started, settings);
        });
        changed.map_err(|error| {
            ReloadError::Failed(format!("the settings cannot be applied: {error}; try again"))
        })?;
        let servers = replace_servers(balancer, last, &loaded);
        // The list of servers is what operators look for first.
        let settings = std::mem::replace(&mut effects, servers);
        effects.extend(settings);
        loaded.warnings.iter().for_each(|warning| log::warn!(event = "reload"; "{warning}"));
        self.source.loaded = loaded;
        Ok(effects)
    }
}

fn reject_own_listeners(balancer: &Balancer, loaded: &Loaded) -> Result<(), ReloadError> {
    let ours: Vec<SocketAddr> = balancer.own_listeners().collect();
    let is_own = |address: &SocketAddr| net::is_own_listener(*address, &ours);
    let backends = loaded.config.backends.iter().enumerate();
    let looped = backends.filter(|(_, one)| one.addresses.iter().any(is_own));
    let problems: Vec<Problem> = looped
        .map(|(index, one)| {
            let error = StartError::Loop(one.authority.to_string());
            loaded.backend_problem(index, &error.to_string())
        })
        .collect();
    if problems.is_empty() { Ok(()) } else { Err(ReloadError::Problems(problems)) }
}

fn replace_servers(balancer: &Balancer, last: &Loaded, new: &Loaded) -> Effects {
    let (last, new) = (&last.config.backends, &new.config.backends);
    let registry = balancer.registry();
    let (mut leaving, mut effects) = (Vec::new(), Effects::default());
    registry.change_members(|running| {
        let (servers, words) = config::merge_servers(last, new, running);
        (leaving, effects) = (servers.leaving, words);
        [servers.members.as_slice(), &leaving].concat()
    });
    if !leaving.is_empty() {
        let check = balancer.settings().health.check_timeout() + RESULT_MARGIN;
        registry.wait_for_successors(&leaving, Instant::now() + check.min(MAX_HANDOVER));
        registry.change_members(|running| {
            let goes = |name: &HostPort| leaving.iter().any(|one| one.authority == *name);
            running.iter().filter(|one| !goes(&one.authority)).cloned().collect()
        });
    }
    effects
}
