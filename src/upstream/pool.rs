//! The members of a pool and their state: plain data behind the registry's mutex.
//!
//! Every change also updates the atomics of the backends; [`Pool::snapshot`] makes the snapshot for
//! the workers. Must never lock, log or wait.

use super::backend::{AdminState, Backend, BackendId};
use super::balance;
use super::cluster::Snapshot;
use super::health::{Change, Health, NameState, Observation, Rules, State};
use super::health_counts::HealthCounts;
use super::queue::PendingQueue;
use crate::config::{Algorithm, BackendSpec, HostPort};
use crate::error::Cause;
use std::collections::{BTreeSet, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

/// The outage of a pool without members.
const NO_MEMBERS: &str = "no backends yet: POST /_control/add";

/// The most removed members whose counts are kept.
const MAX_FORMER: usize = 32;

/// The changes of membership that a list of backends has made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    /// New backends.
    pub added: Vec<BackendId>,
    /// Backends that are not in the list.
    pub removed: Vec<BackendId>,
    /// Backends that were members before; they keep their state and counters.
    pub kept: Vec<BackendId>,
}

/// The result of an addition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// A new backend.
    New(BackendId),
    /// A member with the same identity, which keeps its state and counters and is in service again.
    Kept(BackendId),
}

/// A backend and its health.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) backend: Arc<Backend>,
    pub(super) health: Health,
    /// The time of the last change of its state.
    pub(super) since: Instant,
    /// The reason for its state, for the log and error responses.
    pub(super) detail: String,
    /// The time of the last change of its administrative state.
    pub(super) admin_since: Instant,
    pub(super) counts: HealthCounts,
}

impl Member {
    fn is_active(&self) -> bool {
        self.backend.is_active()
    }

    fn matches(&self, spec: &BackendSpec) -> bool {
        self.backend.authority == spec.authority
    }

    fn set_admin_state(&mut self, state: AdminState, now: Instant) {
        if self.backend.admin_state() != state {
            self.backend.set_admin_state(state);
            self.admin_since = now;
        }
    }

    /// Updates what depends on the state of its health.
    pub(super) fn note(&mut self, change: Change, detail: &str, now: Instant) {
        self.backend.set_recent_failures(self.health.has_recent_failures());
        if let State::Ejected { until } = change.to
            && change.from != change.to
        {
            self.backend.set_probe_at(until);
        }
        if change.from.code() != change.to.code() {
            self.since = now;
            detail.clone_into(&mut self.detail);
            self.counts.count_transition(change.to);
        }
    }
}

/// The members of a pool.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) members: Vec<Member>,
    pub(super) algorithm: Algorithm,
    rules: Rules,
    /// The most requests at each backend.
    limit: usize,
    queue: Arc<PendingQueue>,
    next_id: u32,
    /// Pairs of members with a common address that were warned of.
    pub(super) twins: BTreeSet<(BackendId, BackendId)>,
    /// The number of members that were removed so far.
    removals: u64,
    /// The counts of the members that were removed last, which go on if one is added again.
    former: VecDeque<(HostPort, HealthCounts)>,
}

impl Pool {
    /// A pool without members.
    pub(super) fn new(
        algorithm: Algorithm,
        rules: Rules,
        limit: usize,
        queue: Arc<PendingQueue>,
    ) -> Self {
        Self {
            members: Vec::new(),
            algorithm,
            rules,
            limit,
            queue,
            next_id: 0,
            removals: 0,
            twins: BTreeSet::new(),
            former: VecDeque::new(),
        }
    }

    /// Whether health checks decide.
    pub(super) fn has_checks(&self) -> bool {
        self.rules.checks
    }

    /// The members as an operator would specify them.
    pub(super) fn specs(&self) -> Vec<BackendSpec> {
        let backends = self.members.iter().map(|member| &member.backend);
        backends.map(|one| BackendSpec::new(one.authority.clone(), one.weight())).collect()
    }

    /// Whether some of these backends are up, and no other one is.
    pub(super) fn depends_on(&self, leaving: &HashSet<&HostPort>) -> bool {
        let is_up = |member: &&Member| member.is_active() && member.health.state().is_up();
        let mut up = self.members.iter().filter(is_up).peekable();
        up.peek().is_some() && up.all(|member| leaving.contains(&member.backend.authority))
    }

    pub(super) fn member_mut(&mut self, id: BackendId) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| member.backend.id == id)
    }

    /// Makes the members exactly these. A backend that is listed twice is one member.
    pub(super) fn apply(&mut self, specs: &[BackendSpec], now: Instant) -> Diff {
        let (mut diff, mut listed) = (Diff::default(), Vec::new());
        for spec in specs {
            let (id, ids) = match self.place(spec, now) {
                Added::New(id) => (id, &mut diff.added),
                Added::Kept(id) => (id, &mut diff.kept),
            };
            if !listed.contains(&id) {
                listed.push(id);
                ids.push(id);
            }
        }
        let position = |member: &Member| listed.iter().position(|id| *id == member.backend.id);
        self.members.sort_by_key(|member| position(member).unwrap_or(usize::MAX));
        let removed = self.members.split_off(listed.len());
        diff.removed = removed.iter().map(|member| member.backend.id).collect();
        removed.into_iter().for_each(|member| self.note_removal(member, now));
        diff.removed.sort_unstable();
        diff
    }

    pub(super) fn add(&mut self, spec: &BackendSpec, now: Instant) -> Added {
        let added = self.place(spec, now);
        if let Added::Kept(id) = added {
            self.set_admin_state(id, AdminState::Active, now);
        }
        added
    }

    /// Adds a backend that is no member yet; none if there is one with the same identity.
    pub(super) fn add_new(&mut self, spec: &BackendSpec, now: Instant) -> Option<BackendId> {
        if self.members.iter().any(|member| member.matches(spec)) {
            return None;
        }
        let (Added::New(id) | Added::Kept(id)) = self.place(spec, now);
        Some(id)
    }

    /// The member of this identity, with this weight: a new one if there is none. The only place
    /// that makes members, so that no two have the same identity.
    fn place(&mut self, spec: &BackendSpec, now: Instant) -> Added {
        if let Some(member) = self.members.iter().find(|member| member.matches(spec)) {
            member.backend.set_weight(spec.weight);
            return Added::Kept(member.backend.id);
        }
        let member = self.new_member(spec, now);
        let id = member.backend.id;
        self.members.push(member);
        Added::New(id)
    }

    fn new_member(&mut self, spec: &BackendSpec, now: Instant) -> Member {
        let id = BackendId(self.next_id);
        self.next_id += 1;
        let backend = Backend::new(id, spec, Arc::clone(&self.queue) as _);
        backend.set_limit(self.limit);
        let mut health = Health::new(self.rules);
        let mut detail = "not checked yet".to_owned();
        if backend.addresses.is_empty() {
            health.set_name(NameState::Pending);
            detail = format!("\"{}\" is not resolved yet", spec.authority.host());
        }
        let former = self.former.iter().position(|(authority, _)| *authority == spec.authority);
        let counts = former.and_then(|index| self.former.remove(index));
        let (backend, counts) =
            (Arc::new(backend), counts.map_or_else(HealthCounts::default, |of| of.1));
        Member { backend, health, since: now, detail, admin_since: now, counts }
    }

    /// Removes a member and returns its backend.
    pub(super) fn remove(&mut self, id: BackendId, now: Instant) -> Option<Arc<Backend>> {
        let index = self.members.iter().position(|member| member.backend.id == id)?;
        let member = self.members.remove(index);
        let backend = Arc::clone(&member.backend);
        self.note_removal(member, now);
        Some(backend)
    }

    fn note_removal(&mut self, member: Member, now: Instant) {
        member.backend.set_removed(now);
        self.removals += 1;
        self.former.truncate(MAX_FORMER - 1);
        self.former.push_front((member.backend.authority.clone(), member.counts));
    }

    pub(super) fn set_admin_state(
        &mut self,
        id: BackendId,
        state: AdminState,
        now: Instant,
    ) -> Option<Arc<Backend>> {
        let member = self.member_mut(id)?;
        member.set_admin_state(state, now);
        Some(Arc::clone(&member.backend))
    }

    /// Applies new rules; `detail` describes the cause of the changes that they make, which are
    /// returned.
    pub(super) fn set_rules(
        &mut self,
        rules: Rules,
        detail: &str,
        now: Instant,
    ) -> Vec<(Arc<Backend>, Change)> {
        self.rules = rules;
        let apply = |member: &mut Member| {
            let change = member.health.set_rules(rules);
            member.note(change, detail, now);
            (Arc::clone(&member.backend), change)
        };
        let changes = self.members.iter_mut().map(apply);
        changes.filter(|(_, change)| change.is_transition()).collect()
    }

    pub(super) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
        self.members.iter().for_each(|member| member.backend.set_limit(limit));
    }

    /// Applies an observation; none if there is no such member.
    pub(super) fn observe(
        &mut self,
        id: BackendId,
        observation: Observation,
        detail: &str,
        now: Instant,
    ) -> Option<Change> {
        // Ejected backends count: the snapshot falls back to them if no backend is up.
        let is_last = !self.members.iter().any(|member| {
            member.backend.id != id && member.is_active() && member.health.state().passes_checks()
        });
        let member = self.member_mut(id)?;
        let change = member.health.observe(observation, is_last, now);
        member.note(change, detail, now);
        Some(change)
    }

    /// The snapshot for the workers. Also updates [`Backend::is_serving`] of all members.
    pub(super) fn snapshot(&self) -> Snapshot {
        let mut up = self.select(State::is_up);
        let mut probing = Vec::new();
        if up.is_empty() {
            // Failed attempts never take the last backend out of service.
            up = self.select(State::passes_checks);
        } else if !self.rules.checks {
            probing = self.select(|state| !state.is_up());
        }
        let is_chosen = |backend: &Arc<Backend>| up.iter().any(|one| Arc::ptr_eq(one, backend));
        for Member { backend, health, .. } in &self.members {
            // A drain does not end requests in flight, so only the health of the backend counts.
            let is_serving = if backend.is_active() {
                is_chosen(backend)
            } else {
                health.state().passes_checks()
            };
            backend.set_serving(is_serving);
        }
        let mut last_resort = self.select(State::is_last_resort);
        last_resort.retain(|backend| !is_chosen(backend));
        let algorithm = balance::functions(self.algorithm);
        let cycle = (algorithm.cycle)(&up);
        let (outage, removals) = (self.outage(), self.removals);
        Snapshot { up, probing, last_resort, algorithm, cycle, outage, removals }
    }

    /// The active backends in a state that satisfies the condition.
    fn select(&self, is_wanted: impl Fn(State) -> bool) -> Vec<Arc<Backend>> {
        let members = self.members.iter();
        let chosen =
            members.filter(|member| member.is_active() && is_wanted(member.health.state()));
        chosen.map(|member| Arc::clone(&member.backend)).collect()
    }

    /// Why no backend is up, with each reason once; none if a backend is up.
    fn outage(&self) -> Option<Box<str>> {
        if self.members.is_empty() {
            return Some(NO_MEMBERS.into());
        }
        let is_up = |member: &Member| member.is_active() && member.health.state().is_up();
        if self.members.iter().any(is_up) {
            return None;
        }
        let reason =
            |member| if Member::is_active(member) { member.detail.as_str() } else { "draining" };
        let mut reasons: Vec<&str> = self.members.iter().map(reason).collect();
        reasons.sort_unstable();
        reasons.dedup();
        Some(format!("{}: {}", Cause::NoBackend.description(), reasons.join("; ")).into())
    }
}
