//! The service manager that has started this program, systemd or one with its protocol, if any.
//!
//! Used by the thread that starts, reloads and stops the balancer. Without a service manager every
//! call does nothing. Must never be used by a worker, because a message may wait.

use super::Balancer;
use crate::notifier::Notifier;
use crate::threads::supervision::Supervision;
use std::sync::Arc;

/// The service manager.
#[derive(Clone, Debug)]
pub struct ServiceManager(Option<Arc<Notifier>>);

impl ServiceManager {
    /// The service manager that the environment names. The balancer also serves without one, so a
    /// bad name is a warning.
    pub fn from_environment() -> Self {
        let variable = |name: &str| std::env::var_os(name);
        let notifier = Notifier::from_environment(variable, std::process::id());
        Self(
            notifier
                .unwrap_or_else(|problem| {
                    log::warn!(event = "start"; "{problem}; serving without a service manager");
                    None
                })
                .map(Arc::new),
        )
    }

    /// The start is over. From now on the manager is sent each change of the number of backends that
    /// are up, and signs of life if it wants them, until the result is dropped.
    pub fn ready(&self, balancer: &Balancer) -> Option<Supervision> {
        let notifier = self.0.as_ref()?;
        notifier.ready(&balancer.status());
        balancer
            .supervise(notifier)
            .inspect_err(|error| {
                log::warn!(
                    event = "start";
                    "cannot keep the service manager informed: {error}"
                );
            })
            .ok()
    }

    /// Runs a reload. The manager considers it over when this returns.
    pub fn around_reload<Reloaded>(
        &self,
        balancer: &Balancer,
        reload: impl FnOnce() -> Reloaded,
    ) -> Reloaded {
        if let Some(notifier) = &self.0 {
            notifier.reloading();
        }
        let reloaded = reload();
        if let Some(notifier) = &self.0 {
            notifier.ready(&balancer.status());
        }
        reloaded
    }

    /// The stop begins.
    pub fn stopping(&self, balancer: &Balancer) {
        if let Some(notifier) = &self.0 {
            notifier
                .stopping(&format!("stopping, {} connection(s) open", balancer.open_connections()));
        }
    }
}
