//! One backend, shared by all threads: identity, state and counts.
//!
//! Atomics only, and a time that is set once. The registry writes the state; workers count requests and connects, as guards
//! ([`Slot`], [`Connecting`]) that count down when they are dropped.

use super::addresses::Addresses;
use super::hash;
use super::response_time::ResponseTime;
use super::reuse::ReuseLimit;
use crate::config::{self, BackendSpec, HostPort};
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering, Ordering::Relaxed,
};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// The number of a backend; never reused while the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendId(pub u32);

impl BackendId {
    /// The control threads. Pools count from 0, and no pool has had so many members.
    pub const CONTROL: Self = Self(u32::MAX);
}

/// The queued requests, as a released slot sees them.
pub(super) trait Waiters: fmt::Debug + Send + Sync {
    /// Whether any request waits for a slot.
    fn has_waiters(&self) -> bool;

    /// Gives the slot to the first request that may use it; frees it if there is none.
    fn hand_over(&self, slot: Slot);
}

/// No queue: for a backend in no pool.
impl Waiters for () {
    fn has_waiters(&self) -> bool {
        false
    }

    fn hand_over(&self, slot: Slot) {
        slot.free();
    }
}

/// The administrative state of a backend, independent of its health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum AdminState {
    /// In service: it gets requests while it is healthy.
    Active,
    /// It gets no new request; those in flight finish, and health checks go on.
    Draining,
    /// It has left the pool; requests in flight finish.
    Removed,
}

/// A backend.
#[derive(Debug)]
pub struct Backend {
    /// Its number.
    pub id: BackendId,
    /// Its identity.
    pub authority: HostPort,
    /// `host:port`, for logs and the Host field; `control` for the control threads.
    pub name: String,
    /// A hash of its name, the same in every process.
    pub(super) name_hash: u64,
    /// The addresses of its name.
    pub addresses: Addresses,
    /// The limit for the reuse of its idle connections.
    pub reuse: ReuseLimit,
    /// Its average response time.
    pub response_time: ResponseTime,
    weight: AtomicU32,
    /// The most requests at once; `usize::MAX` if unlimited.
    limit: AtomicUsize,
    /// The queue of its pool.
    queue: Arc<dyn Waiters>,
    in_flight: AtomicUsize,
    connecting: AtomicUsize,
    /// It has responded with HTTP/1.0.
    has_used_http10: AtomicBool,
    /// It has responded with HTTP/1.1, whatever the status: it supports chunks.
    has_used_http11: AtomicBool,
    /// The next response must be reported to the registry: attempts have failed since the last one.
    has_recent_failures: AtomicBool,
    /// Its health allows requests.
    is_serving: AtomicBool,
    admin_state: AtomicU8,
    /// The time of its removal.
    removed: OnceLock<Instant>,
    epoch: Instant,
    /// The time when the next probe request is due, in milliseconds since `epoch`.
    probe_at: AtomicU64,
}

impl Backend {
    /// A backend of unknown health and without a limit.
    pub(super) fn new(id: BackendId, spec: &BackendSpec, queue: Arc<dyn Waiters>) -> Self {
        let (epoch, name) = (Instant::now(), spec.authority.to_string());
        Self {
            id,
            authority: spec.authority.clone(),
            name_hash: hash::of_bytes(name.as_bytes()),
            name,
            addresses: Addresses::new(&spec.addresses),
            reuse: ReuseLimit::new(epoch),
            response_time: ResponseTime::default(),
            weight: AtomicU32::new(spec.weight.max(1)),
            limit: AtomicUsize::new(usize::MAX),
            queue,
            in_flight: AtomicUsize::new(0),
            connecting: AtomicUsize::new(0),
            has_used_http10: AtomicBool::new(false),
            has_used_http11: AtomicBool::new(false),
            has_recent_failures: AtomicBool::new(false),
            is_serving: AtomicBool::new(false),
            admin_state: AtomicU8::new(AdminState::Active as u8),
            removed: OnceLock::new(),
            epoch,
            probe_at: AtomicU64::new(u64::MAX),
        }
    }

    /// The share of requests relative to other backends.
    pub fn weight(&self) -> u32 {
        self.weight.load(Relaxed)
    }

    pub(super) fn set_weight(&self, weight: u32) {
        self.weight.store(weight.max(1), Relaxed);
    }

    pub(super) fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::SeqCst);
    }

    /// Whether it has a free slot.
    pub fn has_capacity(&self) -> bool {
        self.in_flight.load(Ordering::SeqCst) < self.limit.load(Ordering::SeqCst)
    }

    /// Whether it has more requests than its limit, which was lowered meanwhile.
    pub(super) fn is_over_limit(&self) -> bool {
        self.in_flight.load(Ordering::SeqCst) > self.limit.load(Ordering::SeqCst)
    }

    /// Requests in flight, over all workers.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Relaxed)
    }

    /// Connects in progress, over all workers.
    pub(super) fn connecting(&self) -> usize {
        self.connecting.load(Relaxed)
    }

    /// Whether so many connects are in progress that it may be dropping SYNs.
    pub(super) fn has_stalled_connects(&self) -> bool {
        self.connecting() >= config::MAX_PENDING_CONNECTS
    }

    /// Whether all its responses so far were HTTP/1.0, so that chunks must not be sent to it.
    pub fn is_http10_only(&self) -> bool {
        self.has_used_http10.load(Relaxed) && !self.has_used_http11.load(Relaxed)
    }

    /// Records the version of a response.
    pub fn record_version(&self, is_http10: bool) {
        let has_used = if is_http10 { &self.has_used_http10 } else { &self.has_used_http11 };
        if !has_used.load(Relaxed) {
            has_used.store(true, Relaxed);
        }
    }

    /// Whether the next response must be reported to the registry: attempts have failed since the
    /// last one, or the backend is ejected.
    pub(super) fn has_recent_failures(&self) -> bool {
        self.has_recent_failures.load(Relaxed)
    }

    pub(super) fn set_recent_failures(&self, has_any: bool) {
        self.has_recent_failures.store(has_any, Relaxed);
    }

    /// Whether its health allows requests: it is up, or ejected while no backend is up. For a
    /// draining backend, whether its checks pass.
    pub fn is_serving(&self) -> bool {
        self.is_serving.load(Relaxed)
    }

    pub(super) fn set_serving(&self, is_serving: bool) {
        self.is_serving.store(is_serving, Relaxed);
    }

    /// Its administrative state.
    pub fn admin_state(&self) -> AdminState {
        match self.admin_state.load(Relaxed) {
            0 => AdminState::Active,
            1 => AdminState::Draining,
            _ => AdminState::Removed,
        }
    }

    /// Whether it is in service.
    pub fn is_active(&self) -> bool {
        self.admin_state() == AdminState::Active
    }

    /// Whether it gets new requests: health and administrative state allow it.
    pub fn accepts_work(&self) -> bool {
        self.is_serving() && self.is_active()
    }

    pub(super) fn set_admin_state(&self, state: AdminState) {
        self.admin_state.store(state as u8, Relaxed);
    }

    /// The time of its removal; none while it is a member.
    pub fn removed(&self) -> Option<Instant> {
        self.removed.get().copied()
    }

    /// Marks it as removed, for ever.
    pub(super) fn set_removed(&self, now: Instant) {
        // A second removal would be a bug of the registry, and the first one counts.
        let _ = self.removed.set(now);
        self.set_admin_state(AdminState::Removed);
    }

    /// Sets the time when the next probe request is due. Rounded up to the next millisecond: a probe
    /// that starts before the ejection ends would not count.
    pub(super) fn set_probe_at(&self, at: Instant) {
        self.probe_at.store(self.millis(at) + 1, Relaxed);
    }

    /// Claims the probe request if it is due, with a slot; the next one is due at `next`. Of several
    /// workers, one succeeds.
    pub(super) fn claim_probe(self: &Arc<Self>, now: Instant, next: Instant) -> Option<Slot> {
        let (due, next) = (self.probe_at.load(Relaxed), self.millis(next));
        let replace = |from, to| self.probe_at.compare_exchange(from, to, Relaxed, Relaxed);
        if due > self.millis(now) || replace(due, next).is_err() {
            return None;
        }
        // The claim first: a slot without a claim would have to go to a queued request, and its
        // worker be woken, while the snapshot is locked.
        let slot = Slot::take(self);
        if slot.is_none() {
            // Other requests have all slots: the probe stays due. Fails only after a new ejection.
            let _ = replace(next, due);
        }
        slot
    }

    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.epoch).as_millis()).unwrap_or(u64::MAX)
    }

    /// The control threads as a backend, at the address on which they accept requests of workers: in
    /// no pool, always in service, without a limit.
    pub fn control(address: SocketAddr) -> Self {
        let backend = Self::new(BackendId::CONTROL, &address.into(), Arc::new(()));
        backend.set_serving(true);
        Self { name: "control".to_owned(), ..backend }
    }

    /// A backend for a test.
    #[cfg(test)]
    pub(crate) fn at(id: u32, address: SocketAddr) -> Self {
        let authority = HostPort::new(&format!("b{id}"), address.port()).unwrap();
        let spec = BackendSpec { authority, ..address.into() };
        Self::new(BackendId(id), &spec, Arc::new(()))
    }
}

impl fmt::Display for BackendId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The right to one request at a backend. When it is released or dropped, it goes to the first
/// queued request that may use it; without one, the backend's count goes down.
#[derive(Debug)]
pub struct Slot {
    backend: Arc<Backend>,
    is_released: bool,
}

impl Slot {
    /// Takes a slot, if one is free.
    pub(super) fn take(backend: &Arc<Backend>) -> Option<Self> {
        let limit = backend.limit.load(Ordering::SeqCst);
        if limit == usize::MAX {
            backend.in_flight.fetch_add(1, Ordering::SeqCst);
        } else {
            let increment = |count: usize| (count < limit).then_some(count + 1);
            backend.in_flight.fetch_update(Ordering::SeqCst, Ordering::SeqCst, increment).ok()?;
        }
        Some(Self { backend: Arc::clone(backend), is_released: false })
    }

    /// Its backend, also after the release.
    pub fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// Releases the slot, because the backend is done with the request.
    pub fn release(&mut self) {
        if std::mem::replace(&mut self.is_released, true) {
            return;
        }
        let Backend { queue, in_flight, .. } = &*self.backend;
        if queue.has_waiters() {
            // The count stays up, so that no new request can overtake.
            queue.hand_over(Self { backend: Arc::clone(&self.backend), is_released: false });
            return;
        }
        in_flight.fetch_sub(1, Ordering::SeqCst);
        // Another worker queues a request and then looks for a free slot; this worker frees the slot
        // and then looks for a queued request. The four operations are sequentially consistent, so
        // at least one of the two workers sees the other's write.
        if queue.has_waiters()
            && let Some(slot) = Self::take(&self.backend)
        {
            queue.hand_over(slot);
        }
    }

    /// Counts down without a look at the queue: no queued request may use the slot.
    pub(super) fn free(mut self) {
        self.is_released = true;
        self.backend.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.release();
    }
}

/// A connect in progress, counted until this is dropped.
#[derive(Debug)]
pub struct Connecting {
    backend: Arc<Backend>,
}

impl Connecting {
    /// Counts a connect.
    pub fn new(backend: &Arc<Backend>) -> Self {
        backend.connecting.fetch_add(1, Relaxed);
        Self { backend: Arc::clone(backend) }
    }
}

impl Drop for Connecting {
    fn drop(&mut self) {
        self.backend.connecting.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn backend() -> Arc<Backend> {
        Arc::new(Backend::at(0, ([127, 0, 0, 1], 1).into()))
    }

    #[test]
    fn a_request_counts_until_its_slot_is_released_or_dropped() {
        let backend = backend();
        let mut slot = Slot::take(&backend).unwrap();
        let other = Slot::take(&backend).unwrap();
        assert_eq!(backend.in_flight(), 2);
        slot.release();
        assert_eq!(backend.in_flight(), 1);
        drop((slot, other));
        assert_eq!(backend.in_flight(), 0, "each was counted once");
    }

    #[test]
    fn a_full_backend_has_no_slot() {
        let backend = backend();
        backend.set_limit(2);
        let (first, _second) = (Slot::take(&backend).unwrap(), Slot::take(&backend).unwrap());
        assert!(Slot::take(&backend).is_none() && !backend.has_capacity());
        drop(first);
        assert!(Slot::take(&backend).is_some());
    }

    #[test]
    fn a_probe_is_claimed_once_and_not_before_it_is_due() {
        let backend = backend();
        let (due, later) = (backend.epoch, backend.epoch + Duration::from_secs(1));
        let millisecond = Duration::from_millis(1);
        backend.set_probe_at(due);
        assert!(backend.claim_probe(due, later).is_none());
        assert!(backend.claim_probe(due + millisecond, later).is_some());
        assert!(backend.claim_probe(due + millisecond, later).is_none());
    }

    #[test]
    fn a_probe_stays_due_when_another_request_takes_the_last_slot() {
        let backend = backend();
        backend.set_limit(1);
        backend.set_probe_at(backend.epoch);
        let (now, later) = (backend.epoch + Duration::from_millis(1), Duration::from_secs(5));
        let slot = Slot::take(&backend);
        assert!(backend.claim_probe(now, now + later).is_none());
        drop(slot);
        assert!(backend.claim_probe(now, now + later).is_some());
    }

    /// A queue in which a request appears between the two looks of a release.
    #[derive(Debug, Default)]
    struct LateWaiter {
        looks: AtomicUsize,
        handed_over: AtomicUsize,
    }

    impl Waiters for LateWaiter {
        fn has_waiters(&self) -> bool {
            self.looks.fetch_add(1, Relaxed) > 0
        }

        fn hand_over(&self, slot: Slot) {
            assert_eq!(slot.backend().in_flight(), 1, "the slot is taken again");
            self.handed_over.fetch_add(1, Relaxed);
            slot.free();
        }
    }

    #[test]
    fn a_request_that_is_queued_during_a_release_gets_the_slot() {
        let queue = Arc::<LateWaiter>::default();
        let spec = BackendSpec::from(SocketAddr::from(([127, 0, 0, 1], 1)));
        let backend = Arc::new(Backend::new(BackendId(0), &spec, Arc::clone(&queue) as _));
        drop(Slot::take(&backend));
        assert_eq!((queue.handed_over.load(Relaxed), backend.in_flight()), (1, 0));
    }
}
