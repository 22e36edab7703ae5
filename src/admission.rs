//! Admission: the counts of open client connections, and their limits.
//!
//! A worker calls [`Permits::admit`] for each connection that it has accepted. The [`Permit`]
//! travels with the socket to the session of a worker, and its drop counts the connection down:
//! every end of a connection drops it, also a full inbox or a panic.
//!
//! Runs on workers, and on the thread that stops the balancer. Owns counts and no socket; must never make a system call.

use crate::error::Cause;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The value of a limit per client address that is not set.
const UNLIMITED: usize = usize::MAX;

/// The limits. A change applies to new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Concurrent connections that are served; above it 503.
    pub max_connections: usize,
    /// Concurrent connections of one client address that are served; above it 429.
    pub max_connections_per_client: Option<usize>,
    /// Connections over one of these limits that workers hold until their requests have arrived;
    /// above it a connection is shed at once.
    pub max_graceful_rejections: usize,
}

/// The counts of open connections and their limits.
#[derive(Debug)]
pub struct Admission {
    admitted: Quota,
    rejected: Quota,
    max_per_client: AtomicUsize,
    /// Protects the counts by client address; taken by listeners at accept and by workers at close,
    /// and not at all without a limit per client address.
    per_client: Mutex<HashMap<IpAddr, usize>>,
}

impl Admission {
    /// No connection is open yet.
    pub fn new(limits: Limits) -> Self {
        let admission = Self {
            admitted: Quota::default(),
            rejected: Quota::default(),
            max_per_client: AtomicUsize::default(),
            per_client: Mutex::default(),
        };
        admission.set_limits(limits);
        admission
    }

    /// Changes the limits for new connections. Open ones stay, also above the new limits. Connections
    /// that were admitted without a limit per client address never count for their address.
    pub fn set_limits(&self, limits: Limits) {
        self.admitted.max.store(limits.max_connections, Ordering::Relaxed);
        self.rejected.max.store(limits.max_graceful_rejections, Ordering::Relaxed);
        let max_per_client = limits.max_connections_per_client.unwrap_or(UNLIMITED);
        self.max_per_client.store(max_per_client, Ordering::Relaxed);
    }

    /// The number of permits. A thread that sees it fall also sees all writes before the drop of the
    /// permit.
    pub fn open(&self) -> usize {
        self.admitted.count() + self.rejected.count()
    }

    /// Counts a connection within the limits. Returns whether it is counted in `per_client` too.
    fn reserve(&self, client: IpAddr) -> Result<bool, Cause> {
        let max_per_client = self.max_per_client.load(Ordering::Relaxed);
        if max_per_client == UNLIMITED {
            return if self.admitted.reserve() { Ok(false) } else { Err(Cause::Overload) };
        }
        // Both counts change under the lock, so that a connection is in both or in none.
        let mut per_client = self.per_client.lock();
        let entry = per_client.entry(client);
        let count = if let Entry::Occupied(entry) = &entry { *entry.get() } else { 0 };
        if count >= max_per_client {
            let is_full = self.admitted.is_full();
            return Err(if is_full { Cause::Overload } else { Cause::ClientLimit });
        }
        if !self.admitted.reserve() {
            return Err(Cause::Overload);
        }
        entry.insert_entry(count + 1);
        Ok(true)
    }

    fn release_client(&self, client: IpAddr) {
        if let Entry::Occupied(mut entry) = self.per_client.lock().entry(client) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

/// The permits of one worker's connections, those in its inbox included.
///
/// Their number is the worker's load. It is the reference count of the issuer that they share, so no
/// second count can differ from it.
#[derive(Debug)]
pub struct Permits(Arc<Issuer>);

/// The value that all permits of a worker share.
#[derive(Debug)]
struct Issuer {
    admission: Arc<Admission>,
}

impl Permits {
    /// The permits of a worker without connections.
    pub fn new(admission: Arc<Admission>) -> Self {
        Self(Arc::new(Issuer { admission }))
    }

    /// Admits a new connection. With a permit, the connection goes to a worker, which serves or
    /// rejects it ([`Permit::rejection`]); an error is the cause for which the connection is shed.
    pub fn admit(&self, peer: SocketAddr) -> Result<Permit, Cause> {
        let admission = &self.0.admission;
        let (rejection, is_in_per_client) = match admission.reserve(peer.ip()) {
            Ok(is_in_per_client) => (None, is_in_per_client),
            Err(cause) if admission.rejected.reserve() => (Some(cause), false),
            Err(cause) => return Err(cause),
        };
        Ok(Permit {
            issuer: Arc::clone(&self.0),
            address: peer.ip(),
            port: peer.port(),
            rejection,
            is_in_per_client,
        })
    }

    /// The connections of all workers.
    pub fn count_of_all(&self) -> usize {
        self.0.admission.open()
    }

    /// The worker's load.
    pub fn count(&self) -> usize {
        Arc::strong_count(&self.0) - 1
    }
}

/// A count with a limit.
#[derive(Debug, Default)]
struct Quota {
    count: AtomicUsize,
    max: AtomicUsize,
}

impl Quota {
    fn reserve(&self) -> bool {
        let max = self.max.load(Ordering::Relaxed);
        let increment = |count| (count < max).then_some(count + 1);
        self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, increment).is_ok()
    }

    fn release(&self) {
        self.count.fetch_sub(1, Ordering::Release);
    }

    fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    fn is_full(&self) -> bool {
        self.count() >= self.max.load(Ordering::Relaxed)
    }
}

/// The right of one connection to be open; its drop counts the connection down.
#[derive(Debug)]
pub struct Permit {
    issuer: Arc<Issuer>,
    // Two fields: a `SocketAddr` takes 32 bytes, and an idle session must be small.
    address: IpAddr,
    port: u16,
    rejection: Option<Cause>,
    is_in_per_client: bool,
}

impl Permit {
    /// Moves the connection to the load of this worker.
    pub fn move_to(&mut self, worker: &Permits) {
        if !Arc::ptr_eq(&self.issuer, &worker.0) {
            self.issuer = Arc::clone(&worker.0);
        }
    }

    /// The client's address and port.
    pub fn peer(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }

    /// The cause of the rejection, if the connection is over a limit. Such a connection counts only
    /// towards the limit of rejections.
    pub fn rejection(&self) -> Option<Cause> {
        self.rejection
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let admission = &self.issuer.admission;
        if self.is_in_per_client {
            admission.release_client(self.address);
        }
        match self.rejection {
            Some(_) => admission.rejected.release(),
            None => admission.admitted.release(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
    use std::thread;

    const LIMITS: Limits = Limits {
        max_connections: 3,
        max_connections_per_client: Some(2),
        max_graceful_rejections: 1,
    };

    fn worker(limits: Limits) -> Permits {
        Permits::new(Arc::new(Admission::new(limits)))
    }

    /// One of several client addresses.
    fn client(number: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, number], 40_000))
    }

    #[track_caller]
    fn assert_is_empty(worker: &Permits) {
        let admission = &worker.0.admission;
        assert_eq!((admission.admitted.count(), admission.rejected.count()), (0, 0));
        assert!(admission.per_client.lock().is_empty(), "no address is left");
        assert_eq!((worker.count(), admission.open()), (0, 0));
    }

    /// The result for a connection.
    #[derive(Debug, PartialEq)]
    enum Admitted {
        Served,
        Held(Cause),
        Shed(Cause),
    }
    use Admitted::{Held, Served, Shed};

    /// Connects from these clients in this order; a negative number ends the connection of that
    /// step, counted from 1.
    #[track_caller]
    fn assert_sequence(limits: Limits, steps: &[(i8, Option<Admitted>)]) {
        let worker = worker(limits);
        let mut permits = Vec::new();
        for (number, (step, expected)) in steps.iter().enumerate() {
            let Ok(from) = u8::try_from(*step) else {
                permits[usize::from(step.unsigned_abs()) - 1] = None;
                continue;
            };
            let permit = worker.admit(client(from));
            let result = match &permit {
                Ok(permit) => permit.rejection().map_or(Served, Held),
                Err(cause) => Shed(*cause),
            };
            assert_eq!(Some(&result), expected.as_ref(), "step {number} of {steps:?}");
            permits.push(permit.ok());
        }
        drop(permits);
        assert_is_empty(&worker);
    }

    #[test]
    fn connections_over_a_limit_are_held_up_to_the_limit_of_rejections_and_then_shed() {
        let (overload, too_many) = (Cause::Overload, Cause::ClientLimit);
        let unlimited = Limits { max_connections_per_client: None, ..LIMITS };
        let all_of_one_client = [
            (1, Some(Served)),
            (1, Some(Served)),
            (1, Some(Served)),
            (1, Some(Held(overload))),
            (1, Some(Shed(overload))),
        ];
        assert_sequence(unlimited, &all_of_one_client);
        let client_limit = [
            (1, Some(Served)),
            (1, Some(Served)),
            (1, Some(Held(too_many))),
            (1, Some(Shed(too_many))),
            (2, Some(Served)),
            (2, Some(Shed(overload))),
            (1, Some(Shed(overload))),
        ];
        assert_sequence(LIMITS, &client_limit);
    }

    #[test]
    fn the_end_of_a_connection_frees_its_own_counts_and_no_other() {
        let (overload, too_many) = (Cause::Overload, Cause::ClientLimit);
        let of_a_client = [(1, Some(Served)), (1, Some(Served)), (-1, None), (1, Some(Served))];
        assert_sequence(LIMITS, &of_a_client);
        let of_a_rejection = [
            (1, Some(Served)),
            (1, Some(Served)),
            (1, Some(Held(too_many))),
            (-3, None),
            (1, Some(Held(too_many))),
            (2, Some(Served)),
            (3, Some(Shed(overload))),
            (-1, None),
            (3, Some(Served)),
            (1, Some(Shed(overload))),
        ];
        assert_sequence(LIMITS, &of_a_rejection);
    }

    #[test]
    fn new_limits_apply_to_new_connections() {
        let worker = worker(Limits { max_connections_per_client: None, ..LIMITS });
        let before = [1, 1, 1].map(|number| worker.admit(client(number)).unwrap());
        assert_eq!(worker.admit(client(1)).unwrap().rejection(), Some(Cause::Overload));
        worker.0.admission.set_limits(Limits { max_connections: 5, ..LIMITS });
        let after = [1, 1].map(|number| worker.admit(client(number)).unwrap());
        assert!(
            after.iter().all(|permit| permit.rejection().is_none()),
            "earlier connections do not count for their address"
        );
        worker.0.admission.set_limits(Limits { max_connections: 1, ..LIMITS });
        assert_eq!(worker.0.admission.open(), 5, "open connections stay");
        assert_eq!(worker.admit(client(2)).unwrap().rejection(), Some(Cause::Overload));
        worker.0.admission.set_limits(Limits { max_connections_per_client: None, ..LIMITS });
        drop((before, after));
        assert_is_empty(&worker);
    }

    #[test]
    fn a_permit_has_the_address_of_its_peer() {
        let peer = SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 7], 443));
        assert_eq!(worker(LIMITS).admit(peer).unwrap().peer(), peer);
    }

    #[test]
    fn any_sequence_keeps_the_counts_within_the_limits_and_ends_at_zero() {
        let mut rng = fastrand::Rng::with_seed(8);
        let (worker, mut permits) = (worker(LIMITS), Vec::new());
        for _ in 0..20_000 {
            match rng.u8(..4) {
                0 | 1 => permits.extend(worker.admit(client(rng.u8(..4))).ok()),
                2 if !permits.is_empty() => drop(permits.swap_remove(rng.usize(..permits.len()))),
                _ => {
                    // A session that panics while it owns its permit.
                    let permit = permits.pop();
                    let panicking = AssertUnwindSafe(|| {
                        let _held = permit;
                        resume_unwind(Box::new("a bug"));
                    });
                    assert!(catch_unwind(panicking).is_err());
                }
            }
            let count = |is_counted: &dyn Fn(&Permit) -> bool| {
                permits.iter().filter(|permit| is_counted(permit)).count()
            };
            let admitted = count(&|permit| permit.rejection().is_none());
            assert_eq!(worker.0.admission.admitted.count(), admitted);
            assert_eq!(worker.0.admission.rejected.count(), permits.len() - admitted);
            assert_eq!(worker.count(), permits.len());
            assert!(admitted <= 3 && permits.len() - admitted <= 1);
            for (address, held) in worker.0.admission.per_client.lock().iter() {
                let is_theirs =
                    |permit: &Permit| permit.address == *address && permit.rejection().is_none();
                assert_eq!(*held, count(&is_theirs));
                assert!((1..=2).contains(held));
            }
        }
        drop(permits);
        assert_is_empty(&worker);
    }

    #[test]
    fn two_concurrent_threads_never_exceed_a_limit_and_lose_no_count() {
        for (max_connections_per_client, rounds) in [(None, 1_000_000), (Some(1), 100_000)] {
            // The lowest limit, so that both threads compete for it all the time.
            let limits = Limits { max_connections: 1, max_connections_per_client, ..LIMITS };
            let worker = worker(Limits { max_graceful_rejections: 0, ..limits });
            let served = AtomicUsize::default();
            let connect_and_end = || {
                for _ in 0..rounds {
                    if let Ok(permit) = worker.admit(client(1)) {
                        assert_eq!(served.fetch_add(1, Ordering::SeqCst), 0, "one at a time");
                        served.fetch_sub(1, Ordering::SeqCst);
                        drop(permit);
                    }
                }
            };
            thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(connect_and_end);
                }
            });
            assert_is_empty(&worker);
        }
    }

    #[test]
    fn the_load_of_a_worker_is_the_number_of_its_permits() {
        let first = worker(LIMITS);
        let second = Permits::new(Arc::clone(&first.0.admission));
        let mut permits = vec![first.admit(client(1)).unwrap(), first.admit(client(2)).unwrap()];
        assert_eq!((first.count(), second.count()), (2, 0));
        permits[0].move_to(&second);
        assert_eq!((first.count(), second.count(), first.0.admission.open()), (1, 1, 2));
        drop(permits);
        assert_eq!(second.count(), 0);
        assert_is_empty(&first);
    }
}
