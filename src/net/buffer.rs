//! Byte buffers and a worker's pool of them.
//!
//! A buffer has memory only while bytes are in it or expected. The pool belongs to one worker and
//! is last in, first out, so that a small load stays in the CPU's caches; unused buffers are freed
//! with time.

use crate::config;

/// The initial capacity of a buffer, in bytes.
const CAPACITY: usize = 32 * 1024;
/// The maximum number of unused buffers in a pool.
const POOL_SIZE: usize = 64;
/// The maximum capacity of a pooled buffer: a full buffer and the framing of a chunk.
const MAX_POOLED_CAPACITY: usize = 2 * CAPACITY;

/// Bytes that were received or are to be sent: appended at the end, consumed at the start. One
/// pointer without memory, because an idle connection has two buffers.
#[derive(Debug, Default)]
pub struct Buffer(Option<Box<Memory>>);

#[derive(Debug, Default)]
struct Memory {
    bytes: Vec<u8>,
    /// The offset of the first byte that was not consumed.
    start: usize,
}

impl Buffer {
    /// A buffer with the pool's usual capacity.
    fn pooled() -> Self {
        Self(Some(Box::new(Memory { bytes: Vec::with_capacity(CAPACITY), start: 0 })))
    }

    /// The bytes that were not consumed yet.
    pub fn unread(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], |memory| &memory.bytes[memory.start..])
    }

    /// The bytes that were not consumed yet, to be changed in place.
    pub fn unread_mut(&mut self) -> &mut [u8] {
        self.0.as_mut().map_or(&mut [], |memory| &mut memory.bytes[memory.start..])
    }

    /// The number of bytes that were not consumed yet.
    pub fn len(&self) -> usize {
        self.unread().len()
    }

    /// Whether all bytes were consumed.
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

    /// Drops all bytes.
    pub fn clear(&mut self) {
        if let Some(memory) = &mut self.0 {
            memory.clear();
        }
    }

    /// Appends bytes and grows if necessary.
    pub fn append(&mut self, bytes: &[u8]) {
        self.as_vec_mut().extend_from_slice(bytes);
    }

    /// The buffer as a vector to append to; its present content must stay.
    pub fn as_vec_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0.get_or_insert_default().bytes
    }

    /// The number of bytes that fit without growing.
    pub fn room(&self) -> usize {
        self.0.as_ref().map_or(0, |memory| memory.room())
    }

    /// Moves the unread bytes to the front if little room is left after them.
    pub fn make_room(&mut self) {
        if let Some(memory) = &mut self.0
            && memory.start > 0
            && memory.room() < CAPACITY / 2
        {
            memory.compact();
        }
    }

    /// Grows to a capacity of at least `limit` unread bytes, for a large head.
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
    /// The minimum number of free buffers since the last sweep: these were not needed.
    min_free: usize,
}

impl Buffers {
    /// An empty buffer, from the pool or new.
    pub fn get(&mut self) -> Buffer {
        let buffer = self.free.pop().unwrap_or_else(Buffer::pooled);
        self.min_free = self.min_free.min(self.free.len());
        buffer
    }

    /// Whether the pool has no buffer to free.
    pub fn is_empty(&self) -> bool {
        self.free.is_empty()
    }

    /// Frees half of the buffers that were not needed since the last sweep, the least recently used
    /// first.
    pub fn sweep(&mut self) {
        self.free.drain(..self.min_free.div_ceil(2));
        self.min_free = self.free.len();
    }

    /// Gives memory to a buffer that has none.
    pub fn ensure(&mut self, buffer: &mut Buffer) {
        if buffer.0.is_none() {
            *buffer = self.get();
        }
    }

    /// Returns the memory of an empty buffer to the pool: a waiting session holds as little as
    /// possible.
    pub fn recycle(&mut self, buffer: &mut Buffer) {
        if buffer.is_empty() {
            self.put(std::mem::take(buffer));
        }
    }

    /// Returns a buffer to the pool and drops its content. The buffer is freed instead if it grew
    /// too large or the pool is full.
    pub fn put(&mut self, mut buffer: Buffer) {
        let capacity = buffer.0.as_ref().map_or(0, |memory| memory.bytes.capacity());
        if (CAPACITY..=MAX_POOLED_CAPACITY).contains(&capacity) && self.free.len() < POOL_SIZE {
            buffer.clear();
            self.free.push(buffer);
        }
    }
}

const _: () = assert!(CAPACITY >= 2 * config::MAX_REQUEST_HEAD_BYTES);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_consumed_in_the_order_in_which_they_were_appended() {
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
    fn room_is_made_by_moving_unread_bytes() {
        let mut buffer = Buffer::pooled();
        buffer.append(&vec![b'x'; CAPACITY]);
        buffer.consume(CAPACITY - 3);
        buffer.make_room();
        assert_eq!(buffer.unread(), b"xxx");
        assert_eq!(buffer.room(), CAPACITY - 3);
    }

    #[test]
    fn growing_counts_only_unread_bytes() {
        let mut buffer = Buffer::pooled();
        buffer.append(&vec![b'x'; CAPACITY]);
        buffer.consume(CAPACITY - 3);
        buffer.grow_to(2 * CAPACITY);
        assert_eq!(buffer.unread(), b"xxx");
        assert!(buffer.room() >= 2 * CAPACITY - 3);
    }

    #[test]
    fn a_pool_reuses_the_newest_buffer_and_frees_a_grown_one() {
        let mut pool = Buffers::default();
        let mut buffer = pool.get();
        buffer.append(b"left over");
        pool.put(buffer);
        assert!(pool.get().is_empty());
        let mut grown = pool.get();
        grown.grow_to(MAX_POOLED_CAPACITY + 1);
        pool.put(grown);
        assert!(pool.free.is_empty());
    }

    #[test]
    fn unused_buffers_are_freed_after_a_while() {
        let mut pool = Buffers::default();
        let taken: Vec<Buffer> = (0..10).map(|_| pool.get()).collect();
        taken.into_iter().for_each(|buffer| pool.put(buffer));
        pool.sweep();
        assert_eq!(pool.free.len(), 10, "all were needed");
        let taken = [pool.get(), pool.get()];
        taken.into_iter().for_each(|buffer| pool.put(buffer));
        pool.sweep();
        assert_eq!(pool.free.len(), 6, "eight were not: half of them are freed");
        for _ in 0..4 {
            pool.sweep();
        }
        assert!(pool.is_empty());
    }
}
