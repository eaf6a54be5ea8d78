//! The channel of notices from a provider's parts to the orchestrator.

use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::Notice;

/// How many notices wait for the listener; what comes then is dropped.
const CAPACITY: usize = 256;

/// One end that every part of a provider may tell, one that is handed out once.
#[derive(Debug)]
pub struct Notices {
    sender: mpsc::Sender<Notice>,
    receiver: Mutex<Option<mpsc::Receiver<Notice>>>,
}

impl Default for Notices {
    fn default() -> Self {
        let (sender, receiver) = mpsc::channel(CAPACITY);
        Self {
            sender,
            receiver: Mutex::new(Some(receiver)),
        }
    }
}

impl Notices {
    /// Tells; never waits.
    pub fn tell(&self, notice: Notice) {
        // Full or without a listener: a notice is news, not a record.
        let _ = self.sender.try_send(notice);
    }

    /// The listener's end, for the first who asks.
    pub fn listen(&self) -> Option<mpsc::Receiver<Notice>> {
        self.receiver.lock().take()
    }
}
