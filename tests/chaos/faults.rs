//! Faults: at which backend, and which were active during a request.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

macro_rules! faults {
    ($($name:ident, $label:literal, $what:literal;)*) => {
        /// A kind of fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Fault { $(#[doc = $what] $name,)* }

        impl Fault {
            /// Every fault, in the order of the report.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// Its name in the report.
            pub fn label(self) -> &'static str { match self { $(Self::$name => $label),* } }
        }
    };
}

faults! {
    Term, "TERM", "the balancer is stopped under load, and another one started";
    Rolling, "rolling restart", "one backend after another is killed and comes back";
    Kill, "kill", "the listener is closed and all connections are reset; it comes back later";
    Pause, "pause", "nothing is accepted, read or sent for a while; connections stay open";
    ResetInRequest, "reset in request", "reset when the request's head, or a part of its body, was read";
    CloseBeforeResponse, "close before response", "the request is executed and the connection closed without a byte";
    PartialHead, "partial head", "a part of the response's head, then an orderly close";
    ResetInHead, "reset in head", "a part of the response's head, then a reset";
    ResetInBody, "reset in body", "a part of the response's body, then a reset";
    Truncate, "truncation", "a part of the response's body, then an orderly close";
    Garbage, "garbage", "something that is not HTTP instead of a response";
    CloseIdle, "close when idle", "each connection is closed 0 to 6 ms after its response";
    Trickle, "trickle", "the response comes late and in small pieces";
    Early, "early response", "the response comes before the request's body was read";
    Error, "error status", "404 or 500";
}

impl Fault {
    /// The faults that a backend draws for single requests.
    pub const OF_REQUESTS: [Self; 11] = [
        Self::ResetInRequest,
        Self::CloseBeforeResponse,
        Self::PartialHead,
        Self::ResetInHead,
        Self::ResetInBody,
        Self::Truncate,
        Self::Garbage,
        Self::CloseIdle,
        Self::Trickle,
        Self::Early,
        Self::Error,
    ];

    /// Its bit in a mask of faults.
    pub fn bit(self) -> u32 {
        1 << self as u32
    }

    /// Whether it truncates responses.
    pub fn truncates(self) -> bool {
        // A backend that responds early, and closes with the request unread, resets its own
        // response.
        matches!(
            self,
            Self::Rolling | Self::Kill | Self::ResetInBody | Self::Truncate | Self::Early
        )
    }

    /// The faults of a mask, in the order of the report.
    pub fn of(mask: u32) -> impl Iterator<Item = Self> {
        Self::ALL.iter().copied().filter(move |fault| mask & fault.bit() != 0)
    }

    /// The faults of a mask that can fail, in this way, a request that no backend has read; if
    /// there are none, all of the mask.
    pub fn suspects(mask: u32, cause: &str) -> u32 {
        let has_recent_failures = |fault: &Self| match cause {
            CONNECT_FAILED => matches!(fault, Self::Rolling | Self::Kill),
            CLOSED | RESET => matches!(fault, Self::Term),
            // It ends connections, or serves none, between two requests.
            _ => {
                matches!(fault, Self::Pause | Self::CloseIdle)
                    || fault.truncates() && *fault != Self::Early
            }
        };
        let suspects =
            Self::of(mask).filter(has_recent_failures).fold(0, |mask, fault| mask | fault.bit());
        if suspects == 0 { mask } else { suspects }
    }
}

/// The balancer's code for a backend that refuses connections.
const CONNECT_FAILED: &str = "connect_failed";
/// The client's connection was closed instead of a response.
pub const CLOSED: &str = "closed without a response";
/// The client's connection was reset instead of a response.
pub const RESET: &str = "reset without a response";

/// The share of requests that a backend fails: read for each request, written by the scenario.
#[derive(Default)]
pub struct FaultRate {
    /// Zero, or the fault's number plus one, the share of requests in percent, and whether health
    /// checks fail as well.
    packed: AtomicU32,
}

impl FaultRate {
    /// From now on so many percent of the requests meet this fault.
    pub fn set(&self, fault: Fault, percent: u32, fails_checks: bool) {
        self.packed
            .store((fault as u32 + 1) | percent << 8 | u32::from(fails_checks) << 16, Relaxed);
    }

    /// From now on there is no fault.
    pub fn clear(&self) {
        self.packed.store(0, Relaxed);
    }

    /// The fault for the next request, if any.
    pub fn draw(&self, rng: &mut fastrand::Rng) -> Option<Fault> {
        let packed = self.packed.load(Relaxed);
        let fault = *Fault::ALL.get((packed & 0xFF).checked_sub(1)? as usize)?;
        (rng.u32(..100) < packed >> 8 & 0xFF).then_some(fault)
    }

    /// Whether health checks fail.
    pub fn fails_checks(&self) -> bool {
        self.packed.load(Relaxed) >> 16 == 1
    }
}

/// The faults that are active anywhere, as a mask: a client blames them when no backend has entered
/// the request.
#[derive(Default)]
pub struct Weather {
    mask: AtomicU32,
}

impl Weather {
    /// The active faults.
    pub fn mask(&self) -> u32 {
        self.mask.load(Relaxed)
    }

    /// Sets the active faults.
    pub fn set(&self, mask: u32) {
        self.mask.store(mask, Relaxed);
    }
}

#[test]
fn a_faulty_backend_draws_its_fault_for_its_share_of_requests() {
    let (fault_rate, mut rng) = (FaultRate::default(), fastrand::Rng::with_seed(1));
    assert_eq!(fault_rate.draw(&mut rng), None);
    fault_rate.set(Fault::Error, 30, true);
    let sick = (0..1000).filter(|_| fault_rate.draw(&mut rng) == Some(Fault::Error)).count();
    assert!((200..400).contains(&sick) && fault_rate.fails_checks());
    fault_rate.clear();
    assert!(fault_rate.draw(&mut rng).is_none() && !fault_rate.fails_checks());
}
