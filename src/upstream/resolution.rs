//! The resolution of a backend's name, as it changes the pool.
//!
//! Runs on the resolver thread under the registry's mutex; the log lines follow after its release.

use super::backend::{Backend, BackendId};
use super::health::{NameState, State};
use super::pool::{Member, Pool};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

/// The result of resolving a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// Its addresses, at least one, in the order in which they are tried.
    Addresses(Vec<SocketAddr>),
    /// There is none, for this reason; the last ones stay in use.
    Failed(String),
    /// Each of them is a listener of our own, as this reason describes: none is used.
    Own(String),
}

/// The change that a resolution has made.
#[derive(Debug)]
pub(super) struct Resolved {
    /// The backend.
    pub(super) name: String,
    before: Vec<SocketAddr>,
    after: Vec<SocketAddr>,
    /// The state and the reason of a backend that has changed its state.
    transition: Option<(State, String)>,
    is_own: bool,
}

impl Pool {
    /// Applies a resolution; none if there is no such member, or no change.
    pub(super) fn resolve(
        &mut self,
        id: BackendId,
        resolution: &Resolution,
        now: Instant,
    ) -> Option<Resolved> {
        let up_detail = if self.has_checks() { "not checked yet" } else { "its name is resolved" };
        let member = self.member_mut(id)?;
        let addresses = &member.backend.addresses;
        let before = addresses.all();
        let (list, name, detail) = match resolution {
            Resolution::Addresses(list) => (&list[..], NameState::Resolved, up_detail),
            Resolution::Failed(_) if !before.is_empty() => return None,
            Resolution::Failed(detail) => (&[][..], NameState::Unresolved, detail.as_str()),
            Resolution::Own(detail) => (&[][..], NameState::Own, detail.as_str()),
        };
        let has_changed = addresses.set(list);
        let after = addresses.all();
        let was = member.health.name();
        if !has_changed && was == name && (name == NameState::Resolved || member.detail == detail) {
            return None;
        }
        let change = member.health.set_name(name);
        member.note(change, detail, now);
        if was != name || name.is_unusable() {
            detail.clone_into(&mut member.detail);
        }
        Some(Resolved {
            name: member.backend.name.clone(),
            before,
            after,
            transition: (was != name).then(|| (change.to, detail.to_owned())),
            is_own: matches!(resolution, Resolution::Own(_)),
        })
    }

    /// Pairs of members that have an address in common, of which no warning was logged yet.
    pub(super) fn take_twins(&mut self) -> Vec<(String, String, SocketAddr)> {
        let Self { members, twins: known, .. } = self;
        let mut twins = Vec::new();
        let mut first_with: BTreeMap<SocketAddr, &Backend> = BTreeMap::new();
        for Member { backend, .. } in members.iter() {
            for address in backend.addresses.walk() {
                let first = *first_with.entry(address).or_insert(backend);
                if first.id != backend.id && known.insert((first.id, backend.id)) {
                    twins.push((first.name.clone(), backend.name.clone(), address));
                }
            }
        }
        let is_member = |id: BackendId| members.iter().any(|member| member.backend.id == id);
        known.retain(|(one, other)| is_member(*one) && is_member(*other));
        twins
    }
}

impl Resolved {
    pub(super) fn log(&self) {
        let Self { name, before, after, .. } = self;
        if !after.is_empty() && before.is_empty() {
            log::info!(
                event = "state", backend = name.as_str();
                "backend {name}: addresses {}", ips(after)
            );
        } else if !after.is_empty() && before != after {
            log::info!(
                event = "state", backend = name.as_str();
                "backend {name}: addresses {} → {}", ips(before), ips(after)
            );
        }
        match &self.transition {
            Some((State::Up, detail)) => {
                log::info!(event = "state", backend = name.as_str(); "backend {name} up: {detail}");
            }
            Some((State::Down, detail)) if self.is_own => {
                log::error!(
                    event = "state", backend = name.as_str();
                    "backend {name} down: {detail}"
                );
            }
            Some((State::Down, detail)) => {
                log::info!(
                    event = "state", backend = name.as_str();
                    "backend {name} down: {detail}"
                );
            }
            _ => {}
        }
    }
}

fn ips(addresses: &[SocketAddr]) -> String {
    let ips: Vec<String> =
        addresses.iter().map(SocketAddr::ip).map(|ip: IpAddr| ip.to_string()).collect();
    ips.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{BackendSpec, Config, HostPort};
    use crate::upstream::health::{CheckResult, Observation, Outcome};
    use crate::upstream::registry::{BackendStatus, Registry};

    /// A pool of one backend with a name.
    fn named(checks: bool) -> (Registry, BackendId) {
        let mut config = Config::default();
        config.settings.health.checks = checks;
        let registry = Registry::new(&config);
        registry.add(&spec("app:80"));
        let id = status(&registry).backend.id;
        (registry, id)
    }

    fn spec(text: &str) -> BackendSpec {
        BackendSpec::new(HostPort::parse(text).unwrap(), 1)
    }

    fn status(registry: &Registry) -> BackendStatus {
        registry.statuses().remove(0)
    }

    fn list(last_bytes: &[u8]) -> Vec<SocketAddr> {
        last_bytes.iter().map(|last| ([10, 0, 0, *last], 80).into()).collect()
    }

    fn found(registry: &Registry, id: BackendId, last_bytes: &[u8]) {
        registry.resolve(id, &Resolution::Addresses(list(last_bytes)), Instant::now());
    }

    fn failed(registry: &Registry, id: BackendId, reason: &str) {
        registry.resolve(id, &Resolution::Failed(reason.to_owned()), Instant::now());
    }

    #[test]
    fn a_backend_without_an_address_is_down_with_the_reason_until_it_has_one() {
        for checks in [false, true] {
            let (registry, id) = named(checks);
            let outage = || {
                let outage = registry.cluster().outage().unwrap_or_default().into_string();
                outage.replace("no backend is healthy: ", "")
            };
            assert_eq!((status(&registry).state, outage()), {
                (State::Unknown, "\"app\" is not resolved yet".to_owned())
            });
            failed(&registry, id, "no such name");
            assert_eq!((status(&registry).state, outage()), (State::Down, "no such name".into()));
            failed(&registry, id, "no response");
            assert_eq!(outage(), "no response", "the reason is the last one");
            found(&registry, id, &[1]);
            if checks {
                assert_eq!((status(&registry).state, outage()), {
                    (State::Unknown, "not checked yet".to_owned())
                });
                let passed = Observation::Check(CheckResult::Passed);
                registry.observe(id, passed, "passed", Instant::now());
            }
            assert_eq!((registry.cluster().up(), outage()), (1, String::new()));
        }
    }

    #[test]
    fn the_last_addresses_stay_when_a_name_does_not_resolve_any_more() {
        let (registry, id) = named(false);
        found(&registry, id, &[1, 2]);
        let generation = registry.cluster().generation();
        failed(&registry, id, "no response");
        found(&registry, id, &[2, 1]);
        let status = status(&registry);
        assert_eq!((status.state, status.backend.addresses.all()), (State::Up, list(&[1, 2])));
        assert_eq!(registry.cluster().generation(), generation, "nothing has changed");
        found(&registry, id, &[3]);
        assert_eq!(status.backend.addresses.all(), list(&[3]));
        assert_eq!(registry.cluster().generation(), generation + 1, "workers close connections");
    }

    #[test]
    fn a_name_that_leads_to_the_balancer_itself_has_no_address_and_starts_afresh_later() {
        let (registry, id) = named(true);
        found(&registry, id, &[1]);
        let check = |result| {
            registry.observe(id, Observation::Check(result), "checked", Instant::now());
        };
        check(CheckResult::Passed);
        registry.resolve(id, &Resolution::Own("a loop".to_owned()), Instant::now());
        check(CheckResult::Passed);
        let own = status(&registry);
        assert_eq!((own.state, own.detail.as_str()), (State::Down, "a loop"));
        assert!(own.backend.addresses.is_empty() && !own.backend.is_serving());
        found(&registry, id, &[2]);
        assert_eq!(status(&registry).state, State::Unknown, "other addresses, other health");
    }

    #[test]
    fn the_resolver_is_notified_of_names_and_failures_and_the_health_daemon_of_addresses() {
        let (registry, id) = named(true);
        let (names, checks) = (registry.names_due(), registry.checks_due());
        let observe = |observation| registry.observe(id, observation, "seen", Instant::now());
        found(&registry, id, &[1]);
        assert!(checks.try_recv().is_ok() && names.try_recv().is_err());
        observe(Observation::Check(CheckResult::Passed));
        assert!(names.try_recv().is_err());
        let started = Instant::now();
        for failure in [
            Observation::Check(CheckResult::Failed),
            Observation::Check(CheckResult::Unreachable),
            Observation::Attempt { outcome: Outcome::ConnectFailed, started },
        ] {
            observe(failure);
            observe(failure);
            assert!(names.try_recv().is_ok() && names.try_recv().is_err(), "{failure:?}");
            assert!(status(&registry).backend.addresses.take_suspicion());
        }
        registry.add(&spec("other:80"));
        assert!(names.try_recv().is_ok());
    }

    #[test]
    fn backends_with_a_common_address_are_found_once() {
        let (registry, id) = named(false);
        registry.add(&spec("10.0.0.2:80"));
        let mut pool = Pool::new(
            crate::config::Algorithm::default(),
            crate::upstream::health::Rules { checks: false, rise: 1, fall: 2 },
            usize::MAX,
            std::sync::Arc::default(),
        );
        pool.apply(&[spec("app:80"), spec("10.0.0.2:80")], Instant::now());
        assert_eq!(pool.take_twins(), []);
        let addresses = Resolution::Addresses(list(&[1, 2]));
        assert!(pool.resolve(id, &addresses, Instant::now()).is_some());
        let twins = ("app:80".to_owned(), "10.0.0.2:80".to_owned(), list(&[2])[0]);
        assert_eq!((pool.take_twins(), pool.take_twins()), (vec![twins], vec![]));
    }
}
