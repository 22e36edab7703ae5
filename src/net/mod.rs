//! Sockets, readiness and buffers: everything that touches a file descriptor on the data path.
//!
//! A stream is used by the worker that owns it, and by no other thread. Sockets stay in blocking
//! mode and every call that could block is made with `MSG_DONTWAIT`; the two exceptions are a
//! connect in progress and splicing. A worker must wait nowhere but in [`Poller::wait`]. The parts
//! for start and stop (listening, limits of the machine) run on the main thread.

mod buffer;
mod inherited;
mod listen;
#[cfg(test)]
pub(crate) mod masked;
mod pipe;
mod poller;
mod resolve;
mod slab;
mod socket;
mod stream;
mod timers;
mod transport;

pub use buffer::{Buffer, Buffers};
pub use inherited::take_inherited;
pub use listen::{
    WorkerSockets, is_own_listener, listen_on_all, listen_per_worker, shutdown_listener,
};
pub use pipe::{Pipe, Pipes};
pub use poller::{Event, Poller, Source, Waker};
pub use resolve::{resolve, resolve_backend};
pub use slab::{Slab, Token};
pub use stream::{Read, Stream};
pub use timers::Timers;

use rustix::io::Errno;
use std::io;

/// Raises the limit of open files to the hard limit and returns it.
pub fn raise_file_limit() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let current =
        if setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current };
    current.unwrap_or(u64::MAX)
}

/// Whether listening failed because this machine does not have the address, or does not support
/// its family.
pub fn is_unavailable_address(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::ADDRNOTAVAIL | Errno::AFNOSUPPORT))
}

/// Whether this machine has no descriptors, memory or local ports left. Such an error is local: it
/// is no evidence about the health of the peer.
pub fn is_resource_exhaustion(error: &io::Error) -> bool {
    const EXHAUSTED: [Errno; 6] = [
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOBUFS,
        Errno::NOMEM,
        Errno::ADDRNOTAVAIL,
        Errno::NOSPC,
    ];
    Errno::from_io_error(error).is_some_and(|errno| EXHAUSTED.contains(&errno))
}
