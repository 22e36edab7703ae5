//! Kernel pipes for moving a body from one socket to another without copying it through our memory.

use std::io;
use std::os::fd::OwnedFd;

/// The requested capacity of a pipe; the kernel may grant less.
const CAPACITY: usize = 256 * 1024;
/// How many unused pipes a worker keeps.
const POOL_SIZE: usize = 16;

/// A pipe and how much is in it.
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
        // On failure the kernel's default of 64 KiB stays, which works as well, with more calls.
        let _ = rustix::pipe::fcntl_setpipe_size(&entry, CAPACITY);
        Ok(Self { exit, entry, len: 0 })
    }

    /// How many bytes are in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds nothing.
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

/// A worker's unused pipes, and how many it may have in use.
#[derive(Debug)]
pub struct Pipes {
    free: Vec<Pipe>,
    available: usize,
}

impl Pipes {
    /// No pipes yet; at most `most` will be in use at once, because each takes two descriptors.
    pub fn new(most: usize) -> Self {
        Self { free: Vec::new(), available: most }
    }

    /// An empty pipe, or none if enough are in use or the machine has no descriptors left: the body
    /// is then copied.
    pub fn take(&mut self) -> Option<Pipe> {
        self.available = self.available.checked_sub(1)?;
        let pipe = self.free.pop().or_else(|| Pipe::open().ok());
        self.available += usize::from(pipe.is_none());
        pipe
    }

    /// Returns a pipe to the pool. A pipe with bytes is closed: they belong to no other session.
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
    fn no_more_are_lent_than_there_are_descriptors_for() {
        let mut pipes = Pipes::new(1);
        let pipe = pipes.take().unwrap();
        assert!(pipes.take().is_none());
        pipes.put(pipe);
        assert!(pipes.take().is_some());
    }
}
