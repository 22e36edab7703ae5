//! The bytes for the backend: the request's head and a bounded part of its body, so that the
//! request is replayable.
//!
//! The bytes to send *are* the replay buffer: a retry starts again at its first byte. After more
//! than 64 KiB of body, sent bytes are dropped, and the request is no longer replayable. A request
//! that must not be sent twice is dropped from the start.

use crate::config;
use crate::net::{Buffer, Buffers};
use crate::wire::body::{BodyWriter, Transferred};

/// The approximate size of the fields added to a request's head, in bytes.
const ADDED_FIELDS: usize = 256;

/// The request as it goes to a backend.
#[derive(Debug)]
pub(super) struct ReplayBuffer {
    bytes: Buffer,
    writer: BodyWriter,
    /// Where the part of the head that is the same for all backends ends.
    head: usize,
    /// Where the body starts.
    body: usize,
    sent: usize,
    /// How much of the body that is kept are the lines around chunks.
    chunk_lines: usize,
    /// Whether the start was dropped.
    cut: bool,
    /// Not retried once a byte of it was sent.
    goes_once: bool,
}

impl Default for ReplayBuffer {
    fn default() -> Self {
        Self {
            bytes: Buffer::default(),
            writer: BodyWriter::Raw,
            head: 0,
            body: 0,
            sent: 0,
            chunk_lines: 0,
            cut: false,
            goes_once: false,
        }
    }
}

impl ReplayBuffer {
    /// Room for a head that was this long when it came, and a body framed like this. It is held
    /// while the backend works, so it is no larger than need be.
    pub(super) fn new(received_head: usize, writer: BodyWriter, goes_once: bool) -> Self {
        let mut replay = Self { writer, goes_once, ..Self::default() };
        replay.bytes.grow_to(received_head + ADDED_FIELDS);
        replay
    }

    /// Where to write the head, and later the body.
    pub(super) fn as_vec_mut(&mut self) -> &mut Vec<u8> {
        self.bytes.as_vec_mut()
    }

    /// The head is written, except for what depends on the backend.
    pub(super) fn mark_common_end(&mut self) {
        self.head = self.bytes.len();
        self.body = self.head;
    }

    /// Starts an attempt: the head gets the end for this backend, and everything is to be sent from
    /// the start.
    pub(super) fn start_attempt(&mut self, end: &[u8]) {
        debug_assert!(!self.cut);
        let earlier_end = self.head..self.body;
        self.as_vec_mut().splice(earlier_end, end.iter().copied()).for_each(drop);
        self.body = self.head + end.len();
        self.sent = 0;
    }

    /// Everything from the first byte that is still kept.
    pub(super) fn kept(&self) -> &[u8] {
        self.bytes.unread()
    }

    pub(super) fn unsent(&self) -> &[u8] {
        &self.bytes.unread()[self.sent..]
    }

    /// Notes that bytes were sent.
    pub(super) fn advance(&mut self, count: usize) {
        self.sent += count;
        if self.goes_once && self.unsent().is_empty() {
            self.bytes.clear();
            self.cut();
        }
    }

    /// Sent bytes are dropped.
    fn cut(&mut self) {
        self.cut = true;
        (self.sent, self.body, self.chunk_lines) = (0, 0, 0);
    }

    /// Gives the memory back if there is nothing in it.
    pub(super) fn recycle(&mut self, buffers: &mut Buffers) {
        buffers.recycle(&mut self.bytes);
    }

    /// Whether any of the body came, or its end.
    pub(super) fn has_body(&self) -> bool {
        self.cut || self.bytes.len() > self.body
    }

    /// Whether any byte went out in this attempt.
    pub(super) fn was_written(&self) -> bool {
        self.sent > 0 || self.cut
    }

    /// Whether the request is replayable from its first byte.
    pub(super) fn is_replayable(&self) -> bool {
        !self.cut
    }

    /// Appends a piece of the body, which `write` frames by the head.
    pub(super) fn append_body<E>(
        &mut self,
        write: impl FnOnce(BodyWriter, &mut Vec<u8>) -> Result<Transferred, E>,
    ) -> Result<Transferred, E> {
        let (before, writer) = (self.bytes.len(), self.writer);
        let moved = write(writer, self.as_vec_mut())?;
        self.chunk_lines += self.bytes.len() - before - moved.body;
        Ok(moved)
    }

    /// How many bytes of body may be added when what was sent is dropped, if the replay buffer is
    /// full.
    pub(super) fn make_room(&mut self) -> usize {
        if (self.replay_room() == 0 || self.cut) && self.sent > 0 {
            let sent = self.sent;
            self.as_vec_mut().drain(..sent);
            self.cut();
        }
        self.replay_room()
    }

    /// The remaining capacity for the body. Chunk framing comes on top, unless the chunks are tiny.
    pub(super) fn replay_room(&self) -> usize {
        let kept = self.bytes.len() - self.body.min(self.bytes.len());
        (config::MAX_REPLAY_BYTES + self.chunk_lines.min(config::MAX_REPLAY_BYTES))
            .saturating_sub(kept)
    }

    /// The request will not be retried.
    pub(super) fn release(&mut self) {
        *self = Self { cut: true, ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::body::BodyReader;

    fn replay(head: &[u8]) -> ReplayBuffer {
        replay_that_goes(false, head)
    }

    fn replay_that_goes(once: bool, head: &[u8]) -> ReplayBuffer {
        let mut replay = ReplayBuffer::new(head.len(), BodyWriter::Chunked, once);
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
        replay.start_attempt(b"one ");
        replay.as_vec_mut().extend_from_slice(b"body");
        replay.advance(7);
        assert!(replay.was_written());
        replay.start_attempt(b"second ");
        assert!(!replay.was_written());
        assert_eq!(replay.unsent(), b"head second body");
    }

    #[test]
    fn the_lines_around_chunks_take_no_room_from_the_body() {
        let mut replay = replay(b"head");
        replay.start_attempt(b"");
        for _ in 0..16 {
            append_chunk(&mut replay, &[b'x'; config::MAX_REPLAY_BYTES / 16]);
            replay.advance(1000);
        }
        assert!(replay.replay_room() == 0 && replay.is_replayable(), "full of body, and whole");
        assert!(replay.make_room() > 0 && !replay.is_replayable());
        let mut tiny = self::replay(b"head");
        tiny.start_attempt(b"");
        while tiny.replay_room() > 0 {
            append_chunk(&mut tiny, b"x");
        }
        assert!(tiny.bytes.len() < 2 * config::MAX_REPLAY_BYTES + 100, "but they are limited");
    }

    #[test]
    fn a_body_beyond_the_replay_buffer_is_dropped_as_it_is_sent() {
        let mut replay = replay(b"head");
        replay.start_attempt(b"");
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
    fn a_request_that_is_sent_once_is_dropped_when_it_is_sent() {
        let mut replay = replay_that_goes(true, b"head ");
        replay.start_attempt(b"end ");
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
