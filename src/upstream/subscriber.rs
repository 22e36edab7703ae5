//! The channel through which the registry wakes a thread that reads its statuses.
//!
//! Runs on the threads that change the registry. Must never wait, nor hold its lock while a message
//! wakes the reader.

use crossbeam_channel::{Receiver, Sender};
use parking_lot::Mutex;

/// The way to one thread.
#[derive(Debug)]
pub(super) struct Subscriber {
    /// Protects the channel to the thread; taken for each notification, and when a thread starts.
    sender: Mutex<Sender<()>>,
}

impl Subscriber {
    /// A subscriber that no thread listens to yet.
    pub(super) fn new() -> Self {
        let (sender, _) = crossbeam_channel::bounded(1);
        Self { sender: Mutex::new(sender) }
    }

    /// A channel that holds a message after a notification. It ends the channel of an earlier thread,
    /// which would else take messages of this one.
    pub(super) fn subscribe(&self) -> Receiver<()> {
        let (sender, receiver) = crossbeam_channel::bounded(1);
        // The end of the earlier channel wakes its thread, after the lock is released.
        let _earlier = std::mem::replace(&mut *self.sender.lock(), sender);
        receiver
    }

    /// Wakes the thread.
    pub(super) fn notify(&self) {
        // A clone, because the message wakes the thread: the lock is released before.
        let sender = self.sender.lock().clone();
        // Fails only if the thread has not read the last message yet, or there is none.
        let _ = sender.try_send(());
    }
}
