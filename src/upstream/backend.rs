//! One backend as all workers share it: who it is, and what is counted about it.

use super::queue::Queue;
use super::reuse::Reuse;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, Ordering::Relaxed};
use std::time::Instant;

/// A backend. Its identity is its `id`, which is never given again while the program runs.
#[derive(Debug)]
pub struct Backend {
    /// Its identity, and its index in tables by backend.
    pub id: usize,
    /// `host:port` as the user wrote it.
    pub name: String,
    /// Where it is.
    pub address: SocketAddr,
    /// How long its idle connections live.
    pub reuse: Reuse,
    /// The most requests at once, if limited.
    limit: AtomicUsize,
    /// Who waits for a place here or at another backend.
    queue: Arc<Queue>,
    in_flight: AtomicUsize,
    connecting: AtomicUsize,
    /// It has answered HTTP/1.0, and nothing else yet: it must not be sent chunks.
    speaks_http10: AtomicBool,
    /// It has answered HTTP/1.1: whatever else it says, an error page for example, it knows chunks.
    speaks_http11: AtomicBool,
    /// Attempts failed since the last answer, or it is ejected: the next answer is worth telling
    /// the cluster.
    suspect: AtomicBool,
    /// It is in the healthy set.
    serves: AtomicBool,
    /// When it may be tried again though it is ejected, in milliseconds on the cluster's clock.
    trial_at: AtomicU64,
}

impl Backend {
    /// A backend that nothing is known about.
    pub fn new(id: usize, name: String, address: SocketAddr) -> Self {
        Self {
            id,
            name,
            address,
            reuse: Reuse::new(Instant::now()),
            limit: AtomicUsize::new(usize::MAX),
            queue: Arc::default(),
            connecting: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            speaks_http10: AtomicBool::new(false),
            speaks_http11: AtomicBool::new(false),
            suspect: AtomicBool::new(false),
            serves: AtomicBool::new(false),
            trial_at: AtomicU64::new(u64::MAX),
        }
    }

    /// Takes at most so many requests at once; whoever finds no place waits in `queue`.
    pub(super) fn limited(self, limit: usize, queue: &Arc<Queue>) -> Self {
        Self { limit: AtomicUsize::new(limit), queue: Arc::clone(queue), ..self }
    }

    /// Changes the limit for new requests; those in flight stay.
    pub(super) fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::SeqCst);
    }

    /// Whether it takes another request now.
    pub fn has_place(&self) -> bool {
        self.in_flight.load(Ordering::SeqCst) < self.limit.load(Ordering::SeqCst)
    }

    /// Connects that are in progress, over all workers.
    pub(super) fn connecting(&self) -> usize {
        self.connecting.load(Relaxed)
    }

    /// Requests that are at the backend now.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Relaxed)
    }

    /// Whether all its answers so far were HTTP/1.0.
    pub fn speaks_http10(&self) -> bool {
        self.speaks_http10.load(Relaxed) && !self.speaks_http11.load(Relaxed)
    }

    /// Notes the version of an answer.
    pub fn note_version(&self, is_http10: bool) {
        let speaks = if is_http10 { &self.speaks_http10 } else { &self.speaks_http11 };
        if !speaks.load(Relaxed) {
            speaks.store(true, Relaxed);
        }
    }

    pub(super) fn is_suspect(&self) -> bool {
        self.suspect.load(Relaxed)
    }

    pub(super) fn set_suspect(&self, suspect: bool) {
        self.suspect.store(suspect, Relaxed);
    }

    /// Whether it is in the healthy set now.
    pub fn serves(&self) -> bool {
        self.serves.load(Relaxed)
    }

    pub(super) fn set_serves(&self, serves: bool) {
        self.serves.store(serves, Relaxed);
    }

    pub(super) fn set_trial_at(&self, milliseconds: u64) {
        self.trial_at.store(milliseconds, Relaxed);
    }

    /// Takes the one trial request that is due, if it is; the next is due at `next`.
    pub(super) fn claim_trial(&self, now: u64, next: u64) -> bool {
        let due = self.trial_at.load(Relaxed);
        due <= now && self.trial_at.compare_exchange(due, next, Relaxed, Relaxed).is_ok()
    }
}

/// One request that is at a backend; the count goes down when this is released or dropped, however
/// the request ended.
#[derive(Debug)]
pub struct InFlight {
    backend: Arc<Backend>,
    is_released: bool,
}

impl InFlight {
    /// Takes a place, if there is one.
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

    /// Whose request it is, or was.
    pub fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// The backend is done with it: the place is free from now on.
    pub fn release(&mut self) {
        if std::mem::replace(&mut self.is_released, true) {
            return;
        }
        // Pairs with `Queue::join`: either the one who joins sees the free place, or we see that
        // somebody waits.
        self.backend.in_flight.fetch_sub(1, Ordering::SeqCst);
        self.backend.queue.call_first(|tried| !tried.contains(&self.backend.id));
    }
}

impl Drop for InFlight {
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

    #[test]
    fn a_request_counts_while_its_guard_lives() {
        let backend = Arc::new(Backend::new(0, "b".to_owned(), "127.0.0.1:1".parse().unwrap()));
        let mut guard = InFlight::take(&backend).unwrap();
        let other = InFlight::take(&backend).unwrap();
        assert_eq!(backend.in_flight(), 2);
        guard.release();
        assert_eq!(backend.in_flight(), 1);
        drop((guard, other));
        assert_eq!(backend.in_flight(), 0, "each was counted once");
    }

    #[test]
    fn a_full_backend_takes_no_more() {
        let backend = Backend::new(0, "b".to_owned(), "127.0.0.1:1".parse().unwrap())
            .limited(2, &Arc::default());
        let backend = Arc::new(backend);
        let (first, _second) =
            (InFlight::take(&backend).unwrap(), InFlight::take(&backend).unwrap());
        assert!(InFlight::take(&backend).is_none());
        drop(first);
        assert!(InFlight::take(&backend).is_some());
    }

    #[test]
    fn one_trial_is_claimed_once() {
        let backend = Backend::new(0, "b".to_owned(), "127.0.0.1:1".parse().unwrap());
        backend.set_trial_at(100);
        assert!(!backend.claim_trial(99, 200));
        assert!(backend.claim_trial(100, 200));
        assert!(!backend.claim_trial(100, 200));
    }
}
