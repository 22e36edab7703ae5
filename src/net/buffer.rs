//! Byte buffers and the pool that a worker lends them from.
//!
//! A buffer exists only during an exchange. The pool is last in, first out, so that a small load
//! runs in warm memory; what lies in it unused is freed with time.

use crate::config;

/// What a buffer holds before it has to grow, in bytes.
const CAPACITY: usize = 32 * 1024;
/// How many unused buffers a pool keeps.
const KEPT: usize = 64;
/// What a buffer that a pool keeps may have grown to: a full one with the lines of a chunk around
/// it.
const LARGEST_KEPT: usize = 2 * CAPACITY;

/// Bytes that were received or are to be sent: appended at the end, consumed at the start. Without
/// memory it is one pointer: an idle connection has two of these.
#[derive(Debug, Default)]
pub struct Buffer(Option<Box<Memory>>);

#[derive(Debug, Default)]
struct Memory {
    bytes: Vec<u8>,
    /// Everything before this was consumed.
    start: usize,
}

impl Buffer {
    /// A buffer with the pool's usual capacity, which is not touched before it is used.
    fn pooled() -> Self {
        Self(Some(Box::new(Memory { bytes: Vec::with_capacity(CAPACITY), start: 0 })))
    }

    /// The bytes that were not consumed yet.
    pub fn unread(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], |memory| &memory.bytes[memory.start..])
    }

    /// The same, to be changed in place.
    pub fn unread_mut(&mut self) -> &mut [u8] {
        self.0.as_mut().map_or(&mut [], |memory| &mut memory.bytes[memory.start..])
    }

    /// How many bytes were not consumed yet.
    pub fn len(&self) -> usize {
        self.unread().len()
    }

    /// Whether everything was consumed.
    pub fn is_empty(&self) -> bool {
        self.unread().is_empty()
    }

    /// Drops bytes from the start.
    pub fn consume(&mut self, count: usize) {
        debug_assert!(count <= self.len());
        if let Some(memory) = &mut self.0 {
            memory.start += count;
            if memory.start == memory.bytes.len() {
                memory.clear();
            }
        }
    }

    /// Drops bytes from the end.
    pub fn truncate_by(&mut self, count: usize) {
        debug_assert!(count <= self.len());
        if let Some(memory) = &mut self.0 {
            memory.bytes.truncate(memory.bytes.len() - count);
        }
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        if let Some(memory) = &mut self.0 {
            memory.clear();
        }
    }

    /// Adds bytes at the end, growing if need be.
    pub fn append(&mut self, bytes: &[u8]) {
        self.tail().extend_from_slice(bytes);
    }

    /// The end of the buffer as a vector to append to; what stands in it must stay.
    pub fn tail(&mut self) -> &mut Vec<u8> {
        &mut self.0.get_or_insert_default().bytes
    }

    /// How many bytes fit without growing.
    pub fn room(&self) -> usize {
        self.0.as_ref().map_or(0, |memory| memory.room())
    }

    /// Moves the unread bytes to the front if little room is left behind them.
    pub fn make_room(&mut self) {
        if let Some(memory) = &mut self.0
            && memory.start > 0
            && memory.room() < CAPACITY / 2
        {
            memory.compact();
        }
    }

    /// Makes sure that at least `limit` unread bytes can stand in the buffer at once: for a large
    /// head.
    pub fn grow_to(&mut self, limit: usize) {
        let memory = self.0.get_or_insert_default();
        memory.compact();
        memory.bytes.reserve(limit.saturating_sub(memory.bytes.len()));
    }
}

impl Memory {
    fn clear(&mut self) {
        self.bytes.clear();
        self.start = 0;
    }

    fn room(&self) -> usize {
        self.bytes.capacity() - self.bytes.len()
    }

    fn compact(&mut self) {
        self.bytes.drain(..self.start);
        self.start = 0;
    }
}

/// A worker's unused buffers.
#[derive(Debug, Default)]
pub struct Buffers {
    free: Vec<Buffer>,
    /// The fewest that were free since the last sweep: so many were not needed.
    fewest: usize,
}

impl Buffers {
    /// An empty buffer.
    pub fn take(&mut self) -> Buffer {
        let buffer = self.free.pop().unwrap_or_else(Buffer::pooled);
        self.fewest = self.fewest.min(self.free.len());
        buffer
    }

    /// Whether there is nothing to sweep.
    pub fn is_empty(&self) -> bool {
        self.free.is_empty()
    }

    /// Frees half of what was not needed since the last sweep, the coldest first.
    pub fn sweep(&mut self) {
        self.free.drain(..self.fewest.div_ceil(2));
        self.fewest = self.free.len();
    }

    /// Lends memory to a buffer that has none.
    pub fn lend(&mut self, buffer: &mut Buffer) {
        if buffer.0.is_none() {
            *buffer = self.take();
        }
    }

    /// Takes the memory of an empty buffer back until it is needed: what waits should hold as
    /// little as it can.
    pub fn reclaim(&mut self, buffer: &mut Buffer) {
        if buffer.is_empty() {
            self.give(std::mem::take(buffer));
        }
    }

    /// Takes a buffer back, whatever is in it. One that grew too large, or that is too much, is
    /// freed.
    pub fn give(&mut self, mut buffer: Buffer) {
        let capacity = buffer.0.as_ref().map_or(0, |memory| memory.bytes.capacity());
        if (CAPACITY..=LARGEST_KEPT).contains(&capacity) && self.free.len() < KEPT {
            buffer.clear();
            self.free.push(buffer);
        }
    }
}

const _: () = assert!(CAPACITY >= 2 * config::REQUEST_HEAD_BYTES);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_leave_in_the_order_they_came() {
        let mut buffer = Buffer::pooled();
        buffer.append(b"hello ");
        buffer.append(b"world");
        buffer.consume(6);
        assert_eq!(buffer.unread(), b"world");
        buffer.consume(5);
        assert!(buffer.is_empty());
        assert_eq!(buffer.room(), CAPACITY);
    }

    #[test]
    fn room_is_made_by_moving_what_is_unread() {
        let mut buffer = Buffer::pooled();
        buffer.append(&vec![b'x'; CAPACITY]);
        buffer.consume(CAPACITY - 3);
        buffer.make_room();
        assert_eq!(buffer.unread(), b"xxx");
        assert_eq!(buffer.room(), CAPACITY - 3);
    }

    #[test]
    fn growing_counts_what_is_unread_alone() {
        let mut buffer = Buffer::pooled();
        buffer.append(&vec![b'x'; CAPACITY]);
        buffer.consume(CAPACITY - 3);
        buffer.grow_to(2 * CAPACITY);
        assert_eq!(buffer.unread(), b"xxx");
        assert!(buffer.room() >= 2 * CAPACITY - 3);
    }

    #[test]
    fn a_pool_lends_the_newest_buffer_again_and_frees_a_grown_one() {
        let mut pool = Buffers::default();
        let mut buffer = pool.take();
        buffer.append(b"left over");
        pool.give(buffer);
        assert!(pool.take().is_empty());
        let mut grown = pool.take();
        grown.grow_to(LARGEST_KEPT + 1);
        pool.give(grown);
        assert!(pool.free.is_empty());
    }

    #[test]
    fn what_was_not_needed_for_a_while_is_freed() {
        let mut pool = Buffers::default();
        let lent: Vec<Buffer> = (0..10).map(|_| pool.take()).collect();
        lent.into_iter().for_each(|buffer| pool.give(buffer));
        pool.sweep();
        assert_eq!(pool.free.len(), 10, "all were needed");
        let lent = [pool.take(), pool.take()];
        lent.into_iter().for_each(|buffer| pool.give(buffer));
        pool.sweep();
        assert_eq!(pool.free.len(), 6, "eight were not: half of them go");
        for _ in 0..4 {
            pool.sweep();
        }
        assert!(pool.is_empty());
    }
}
