//! The bytes of a request for the backend: its head and a bounded part of its body, which make it
//! replayable.
//!
//! The bytes to send *are* the replay buffer: a retry starts again at its first byte. Once the body
//! exceeds 64 KiB, sent bytes are dropped, and the request is no longer replayable. A request that
//! must not be sent twice is dropped as soon as it is sent.

use crate::config;
use crate::wire::body::{BodyWriter, Transferred};

/// The approximate size of the fields added to a request's head, in bytes.
const ADDED_FIELDS: usize = 256;

/// A request, as it is sent to a backend.
#[derive(Debug)]
pub(super) struct ReplayBuffer {
    bytes: Vec<u8>,
    writer: BodyWriter,
    /// The end of the part of the head that is the same for all backends.
    common_end: usize,
    /// The start of the body.
    body_start: usize,
    /// The number of kept bytes that were sent in this attempt.
    sent: usize,
    /// The size of the chunk framing in the kept part of the body.
    chunk_framing: usize,
    /// Whether the start was dropped.
    is_partial: bool,
    /// Whether the request is never retried after a byte of it was sent.
    is_sent_once: bool,
}

impl Default for ReplayBuffer {
    fn default() -> Self {
        Self {
            bytes: Vec::new(),
            writer: BodyWriter::Raw,
            common_end: 0,
            body_start: 0,
            sent: 0,
            chunk_framing: 0,
            is_partial: false,
            is_sent_once: false,
        }
    }
}

impl ReplayBuffer {
    /// A buffer for a head that was received with this length, and a body written like this. Its
    /// memory is in use while the backend works, and so is no larger than necessary.
    pub(super) fn new(head_length: usize, writer: BodyWriter, is_sent_once: bool) -> Self {
        let bytes = Vec::with_capacity(head_length + ADDED_FIELDS);
        Self { bytes, writer, is_sent_once, ..Self::default() }
    }

    /// The buffer to append the head to, and later the body.
    pub(super) fn as_vec_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Marks the end of the part of the head that is the same for all backends.
    pub(super) fn mark_common_end(&mut self) {
        self.common_end = self.bytes.len();
        self.body_start = self.common_end;
    }

    /// Starts an attempt: replaces the end of the head by that for this backend, which `write_end`
    /// appends, and starts again at the first byte.
    pub(super) fn start_attempt(&mut self, write_end: impl FnOnce(&mut Vec<u8>)) {
        debug_assert!(!self.is_partial);
        self.bytes.drain(self.common_end..self.body_start);
        let body_end = self.bytes.len();
        write_end(&mut self.bytes);
        let length = self.bytes.len() - body_end;
        self.bytes[self.common_end..].rotate_right(length);
        self.body_start = self.common_end + length;
        self.sent = 0;
    }

    /// All kept bytes.
    pub(super) fn kept(&self) -> &[u8] {
        &self.bytes
    }

    /// The kept bytes that were not sent in this attempt.
    pub(super) fn unsent(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// Counts bytes that were sent.
    pub(super) fn advance(&mut self, count: usize) {
        self.sent += count;
        if self.is_sent_once && self.unsent().is_empty() {
            self.bytes.clear();
            self.drop_sent();
        }
    }

    /// Resets the offsets after the sent bytes were dropped.
    fn drop_sent(&mut self) {
        self.is_partial = true;
        (self.sent, self.body_start, self.chunk_framing) = (0, 0, 0);
    }

    /// Frees the memory if no byte is kept.
    pub(super) fn shrink(&mut self) {
        if self.bytes.is_empty() {
            self.bytes = Vec::new();
        }
    }

    /// Whether a part of the body, or its end, was appended.
    pub(super) fn has_body(&self) -> bool {
        self.is_partial || self.bytes.len() > self.body_start
    }

    /// Whether a byte was sent in this attempt.
    pub(super) fn was_written(&self) -> bool {
        self.sent > 0 || self.is_partial
    }

    /// Whether the request can be sent again from its first byte.
    pub(super) fn is_replayable(&self) -> bool {
        !self.is_partial
    }

    /// Appends a piece of the body, which `write` frames.
    pub(super) fn append_body<E>(
        &mut self,
        write: impl FnOnce(BodyWriter, &mut Vec<u8>) -> Result<Transferred, E>,
    ) -> Result<Transferred, E> {
        let (before, writer) = (self.bytes.len(), self.writer);
        let moved = write(writer, &mut self.bytes)?;
        self.chunk_framing += self.bytes.len() - before - moved.body;
        Ok(moved)
    }

    /// The remaining capacity for the body, after the sent bytes were dropped if the buffer was
    /// full.
    pub(super) fn make_room(&mut self) -> usize {
        if (self.replay_room() == 0 || self.is_partial) && self.sent > 0 {
            let sent = self.sent;
            self.bytes.drain(..sent);
            self.drop_sent();
        }
        self.replay_room()
    }

    /// The remaining capacity for the body. Chunk framing does not count, up to a limit for tiny
    /// chunks.
    pub(super) fn replay_room(&self) -> usize {
        let kept = self.bytes.len() - self.body_start.min(self.bytes.len());
        (config::MAX_REPLAY_BYTES + self.chunk_framing.min(config::MAX_REPLAY_BYTES))
            .saturating_sub(kept)
    }

    /// Drops the kept bytes: the request will not be retried.
    pub(super) fn release(&mut self) {
        *self = Self { is_partial: true, ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::body::BodyReader;

    fn replay(head: &[u8]) -> ReplayBuffer {
        replay_with(false, head)
    }

    fn replay_with(is_sent_once: bool, head: &[u8]) -> ReplayBuffer {
        let mut replay = ReplayBuffer::new(head.len(), BodyWriter::Chunked, is_sent_once);
        replay.as_vec_mut().extend_from_slice(head);
        replay.mark_common_end();
        replay
    }

    fn append_chunk(replay: &mut ReplayBuffer, data: &[u8]) {
        let mut reader = BodyReader::Length(data.len() as u64);
        replay.append_body(|writer, out| reader.transfer(writer, data, data.len(), out)).unwrap();
    }

    #[test]
    fn a_retry_starts_again_with_the_new_end_and_the_same_body() {
        let mut replay = replay(b"head ");
        replay.start_attempt(|out| out.extend_from_slice(b"one "));
        replay.as_vec_mut().extend_from_slice(b"body");
        replay.advance(7);
        assert!(replay.was_written());
        replay.start_attempt(|out| out.extend_from_slice(b"second "));
        assert!(!replay.was_written());
        assert_eq!(replay.unsent(), b"head second body");
    }

    #[test]
    fn chunk_framing_does_not_reduce_the_capacity_for_the_body() {
        let mut replay = replay(b"head");
        replay.start_attempt(|_| {});
        for _ in 0..16 {
            append_chunk(&mut replay, &[b'x'; config::MAX_REPLAY_BYTES / 16]);
            replay.advance(1000);
        }
        assert!(replay.replay_room() == 0 && replay.is_replayable(), "full of body, and whole");
        assert!(replay.make_room() > 0 && !replay.is_replayable());
        let mut tiny = self::replay(b"head");
        tiny.start_attempt(|_| {});
        while tiny.replay_room() > 0 {
            append_chunk(&mut tiny, b"x");
        }
        assert!(tiny.bytes.len() < 2 * config::MAX_REPLAY_BYTES + 100, "but they are limited");
    }

    #[test]
    fn a_body_beyond_the_replay_buffer_is_dropped_as_it_is_sent() {
        let mut replay = replay(b"head");
        replay.start_attempt(|_| {});
        assert_eq!(replay.make_room(), config::MAX_REPLAY_BYTES);
        replay.as_vec_mut().extend_from_slice(&vec![b'x'; config::MAX_REPLAY_BYTES]);
        assert_eq!(replay.make_room(), 0);
        assert!(replay.is_replayable(), "nothing was sent yet");
        replay.advance(1000);
        assert_eq!(replay.make_room(), 1000 - 4);
        assert!(!replay.is_replayable() && replay.was_written());
        assert_eq!(replay.unsent().len(), config::MAX_REPLAY_BYTES + 4 - 1000);
    }

    #[test]
    fn a_request_that_is_never_retried_is_dropped_when_it_is_sent() {
        let mut replay = replay_with(true, b"head ");
        replay.start_attempt(|out| out.extend_from_slice(b"end "));
        replay.as_vec_mut().extend_from_slice(b"part");
        replay.advance(8);
        assert_eq!(replay.unsent(), b" part");
        replay.advance(5);
        assert!(
            replay.kept().is_empty()
                && replay.was_written()
                && replay.has_body()
                && !replay.is_replayable()
        );
        append_chunk(&mut replay, b"more");
        assert_eq!(replay.unsent(), b"4\r\nmore\r\n");
    }
}
