//! One backend as all workers share it: its identity, and what is counted about it.
//!
//! Atomics only. The registry writes its state, workers count their requests and connects.

use super::reuse::Reuse;
use crate::config::{self, BackendAddress};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering, Ordering::Relaxed,
};
use std::time::Instant;

/// Names one backend for as long as the program runs; it is never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendId(pub u32);

/// What an operator says about a backend. Address and name together are its identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendSpec {
    /// `host:port` as it was given.
    pub name: String,
    /// What the name resolved to.
    pub address: SocketAddr,
    /// Its share of requests relative to others; at least 1.
    pub weight: u32,
}

impl From<&BackendAddress> for BackendSpec {
    fn from(configured: &BackendAddress) -> Self {
        Self { name: configured.name.clone(), address: configured.address, weight: 1 }
    }
}

/// The requests that wait for a slot.
pub(super) trait Waiters: fmt::Debug + Send + Sync {
    /// Whether there is any.
    fn has_waiters(&self) -> bool;

    /// Gives the slot to the first one that may use it; frees it if there is none.
    fn hand_over(&self, slot: Slot);
}

#[cfg(test)]
impl Waiters for () {
    fn has_waiters(&self) -> bool {
        false
    }

    fn hand_over(&self, slot: Slot) {
        slot.free();
    }
}

/// What the operator wants of a backend, beside its health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum AdminState {
    /// It gets requests while it is healthy.
    Active,
    /// It gets no new request; those in flight finish, and health checks go on.
    Draining,
    /// It has left the pool; requests in flight finish.
    Removed,
}

/// A backend.
#[derive(Debug)]
pub struct Backend {
    /// Its identity.
    pub id: BackendId,
    /// `host:port` as it was given.
    pub name: String,
    /// Where it is.
    pub address: SocketAddr,
    /// How long its idle connections live.
    pub reuse: Reuse,
    weight: AtomicU32,
    /// The most requests at once; `usize::MAX` if unlimited.
    limit: AtomicUsize,
    /// The requests that wait for a slot here or at another backend.
    queue: Arc<dyn Waiters>,
    in_flight: AtomicUsize,
    connecting: AtomicUsize,
    /// It has responded with HTTP/1.0.
    has_used_http10: AtomicBool,
    /// It has responded with HTTP/1.1, whatever the status: it supports chunks.
    has_used_http11: AtomicBool,
    /// The registry wants to see the next response: attempts have failed since the last one.
    has_recent_failures: AtomicBool,
    /// Its health allows requests.
    is_serving: AtomicBool,
    admin_state: AtomicU8,
    /// What `probe_at` counts from.
    epoch: Instant,
    /// When the next probe request is due, in milliseconds.
    probe_at: AtomicU64,
}

impl Backend {
    /// A backend of unknown health and without a limit.
    pub(super) fn new(id: BackendId, spec: &BackendSpec, queue: Arc<dyn Waiters>) -> Self {
        let epoch = Instant::now();
        Self {
            id,
            name: spec.name.clone(),
            address: spec.address,
            reuse: Reuse::new(epoch),
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
            epoch,
            probe_at: AtomicU64::new(u64::MAX),
        }
    }

    /// Its share of requests relative to others.
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

    /// Whether it has more requests than it may, since the limit was lowered.
    pub(super) fn is_over_limit(&self) -> bool {
        self.in_flight.load(Ordering::SeqCst) > self.limit.load(Ordering::SeqCst)
    }

    /// Requests that are at the backend now.
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

    /// Whether all its responses so far were HTTP/1.0: it must not be sent chunks.
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

    /// Whether the registry wants to see the next response: attempts have failed since the last
    /// one, or it is ejected.
    pub(super) fn has_recent_failures(&self) -> bool {
        self.has_recent_failures.load(Relaxed)
    }

    pub(super) fn set_recent_failures(&self, has_any: bool) {
        self.has_recent_failures.store(has_any, Relaxed);
    }

    /// Whether its health allows requests: it is up, or a last resort while none is.
    pub fn is_serving(&self) -> bool {
        self.is_serving.load(Relaxed)
    }

    pub(super) fn set_serving(&self, is_serving: bool) {
        self.is_serving.store(is_serving, Relaxed);
    }

    /// What the operator wants of it.
    pub fn admin_state(&self) -> AdminState {
        match self.admin_state.load(Relaxed) {
            0 => AdminState::Active,
            1 => AdminState::Draining,
            _ => AdminState::Removed,
        }
    }

    /// Whether the operator wants it to get requests.
    pub fn is_active(&self) -> bool {
        self.admin_state() == AdminState::Active
    }

    /// Whether it gets new requests.
    pub fn accepts_work(&self) -> bool {
        self.is_serving() && self.is_active()
    }

    pub(super) fn set_admin_state(&self, state: AdminState) {
        self.admin_state.store(state as u8, Relaxed);
    }

    /// The next probe request is due at this moment, and not a millisecond earlier: its failure is
    /// compared with the exact time.
    pub(super) fn set_probe_at(&self, at: Instant) {
        self.probe_at.store(self.millis(at) + 1, Relaxed);
    }

    /// Takes the one probe request that is due, if it is; the next is due at `next`.
    pub(super) fn claim_probe(&self, now: Instant, next: Instant) -> bool {
        let due = self.probe_at.load(Relaxed);
        due <= self.millis(now)
            && self.probe_at.compare_exchange(due, self.millis(next), Relaxed, Relaxed).is_ok()
    }

    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.epoch).as_millis()).unwrap_or(u64::MAX)
    }

    /// A backend at this address.
    #[cfg(test)]
    pub(crate) fn at(id: u32, address: SocketAddr) -> Self {
        let spec = BackendSpec { name: format!("b{id}"), address, weight: 1 };
        Self::new(BackendId(id), &spec, Arc::new(()))
    }
}

impl fmt::Display for BackendId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The right to one request at a backend. Released or dropped, however the request ended, it goes
/// to the first request that waits for it; if there is none, the backend's count goes down.
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
            let one_more = |count: usize| (count < limit).then_some(count + 1);
            backend.in_flight.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more).ok()?;
        }
        Some(Self { backend: Arc::clone(backend), is_released: false })
    }

    /// The backend, also after the release.
    pub fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// The backend is done with the request: the slot is for another one.
    pub fn release(&mut self) {
        if std::mem::replace(&mut self.is_released, true) {
            return;
        }
        let Backend { queue, in_flight, .. } = &*self.backend;
        if queue.has_waiters() {
            // The count does not go down in between: no newcomer can get ahead.
            queue.hand_over(Self { backend: Arc::clone(&self.backend), is_released: false });
            return;
        }
        in_flight.fetch_sub(1, Ordering::SeqCst);
        // A request is queued, and then looks for a free slot; this frees the slot, and then looks
        // for a queued request. All four are sequentially consistent, so one of the two sees the
        // other.
        if queue.has_waiters()
            && let Some(slot) = Self::take(&self.backend)
        {
            queue.hand_over(slot);
        }
    }

    /// Lets the count go down. No queued request may use the slot.
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

/// One connect in progress; the count goes down when this is dropped.
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
    fn a_request_counts_while_its_slot_lives() {
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
    fn one_probe_is_claimed_once() {
        let backend = backend();
        let (due, later) = (backend.epoch, backend.epoch + Duration::from_secs(1));
        let millisecond = Duration::from_millis(1);
        backend.set_probe_at(due);
        assert!(!backend.claim_probe(due, later));
        assert!(backend.claim_probe(due + millisecond, later));
        assert!(!backend.claim_probe(due + millisecond, later));
    }

    /// A request is queued between the two looks of a release.
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
        let (queue, at) = (Arc::<LateWaiter>::default(), ([127, 0, 0, 1], 1).into());
        let spec = BackendSpec { name: "b".to_owned(), address: at, weight: 1 };
        let backend = Arc::new(Backend::new(BackendId(0), &spec, Arc::clone(&queue) as _));
        drop(Slot::take(&backend));
        assert_eq!((queue.handed_over.load(Relaxed), backend.in_flight()), (1, 0));
    }
}
