//! Kernel pipes, through which a body moves from one socket to another without a copy in our
//! memory.
//!
//! Each worker owns a pool of them; a pipe belongs to one session while it is in use.

use std::io;
use std::os::fd::OwnedFd;

/// The requested capacity of a pipe; the kernel may grant less.
const CAPACITY: usize = 256 * 1024;
/// The maximum number of unused pipes that a worker keeps.
const POOL_SIZE: usize = 16;

/// A pipe and the number of bytes in it.
#[derive(Debug)]
pub struct Pipe {
    exit: OwnedFd,
    entry: OwnedFd,
    len: usize,
}

impl Pipe {
    fn open() -> io::Result<Self> {
        let flags = rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK;
        let (exit, entry) = rustix::pipe::pipe_with(flags)?;
        // On failure the kernel's default of 64 KiB stays, which costs more system calls.
        let _ = rustix::pipe::fcntl_setpipe_size(&entry, CAPACITY);
        Ok(Self { exit, entry, len: 0 })
    }

    /// The number of bytes in the pipe.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the pipe is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn entry(&self) -> &OwnedFd {
        &self.entry
    }

    pub(super) fn exit(&self) -> &OwnedFd {
        &self.exit
    }

    pub(super) fn filled(&mut self, count: usize) {
        self.len += count;
    }

    pub(super) fn drained(&mut self, count: usize) {
        self.len -= count;
    }
}

/// A worker's unused pipes, and the number that may still be taken into use.
#[derive(Debug)]
pub struct Pipes {
    free: Vec<Pipe>,
    available: usize,
}

impl Pipes {
    /// An empty pool. At most `limit` pipes are in use at once, because each has two descriptors.
    pub fn new(limit: usize) -> Self {
        Self { free: Vec::new(), available: limit }
    }

    /// An empty pipe; none if the limit is reached or no descriptors are left: the body is then
    /// copied.
    pub fn get(&mut self) -> Option<Pipe> {
        self.available = self.available.checked_sub(1)?;
        let pipe = self.free.pop().or_else(|| Pipe::open().ok());
        self.available += usize::from(pipe.is_none());
        pipe
    }

    /// Returns a pipe to the pool. A pipe with bytes is closed: no other session may get them.
    pub fn put(&mut self, pipe: Pipe) {
        self.available += 1;
        if pipe.is_empty() && self.free.len() < POOL_SIZE {
            self.free.push(pipe);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_pipes_are_in_use_than_the_limit() {
        let mut pipes = Pipes::new(1);
        let pipe = pipes.get().unwrap();
        assert!(pipes.get().is_none());
        pipes.put(pipe);
        assert!(pipes.get().is_some());
    }
}
