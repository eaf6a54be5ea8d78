//! The two halves of one stream.

use std::future::poll_fn;
use std::sync::Arc;

use bytes::Bytes;

use super::{CloseGuard, Event, MuxError, Shared};
use crate::frame::{Kind, MAX_MESSAGE};

/// Tells the connection when the last half is gone.
#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    id: u32,
    _guard: Arc<CloseGuard>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.lock().forget(self.id);
    }
}

/// One stream. Dropping both halves before its end resets it.
#[derive(Debug)]
pub struct Stream {
    /// The half that sends.
    pub sender: Sender,
    /// The half that receives.
    pub receiver: Receiver,
}

impl Stream {
    pub(super) fn new(shared: Arc<Shared>, guard: Arc<CloseGuard>, id: u32) -> Self {
        let handle = Arc::new(Handle {
            shared,
            id,
            _guard: guard,
        });
        Self {
            sender: Sender {
                handle: handle.clone(),
            },
            receiver: Receiver { handle },
        }
    }
}

/// The sending half. Clones are for different channels: two tasks that wait for the same
/// channel's credit would take each other's turn.
#[derive(Clone, Debug)]
pub struct Sender {
    handle: Arc<Handle>,
}

impl Sender {
    /// Waits until something may be sent on a channel and says how much, 1 byte to one chunk.
    ///
    /// # Errors
    /// When the stream or that channel has ended.
    pub async fn reserve(&self, channel: u8) -> Result<usize, MuxError> {
        poll_fn(|context| {
            self.handle
                .shared
                .lock()
                .poll_reserve(self.handle.id, channel, context)
        })
        .await
    }

    /// Sends at most as much as `reserve` has just allowed, without waiting.
    ///
    /// # Errors
    /// When the stream has ended, or there is no credit for so much.
    pub fn send_reserved(&self, channel: u8, data: &[u8]) -> Result<(), MuxError> {
        if data.is_empty() {
            return Ok(());
        }
        let mut state = self.handle.shared.lock();
        state.send_slice(self.handle.id, channel, data)
    }

    /// Sends bytes of any length, waiting for credit.
    ///
    /// # Errors
    /// When the stream has ended.
    pub async fn send(&self, channel: u8, mut data: Bytes) -> Result<(), MuxError> {
        while !data.is_empty() {
            let room = self.reserve(channel).await?;
            let piece = data.split_to(room.min(data.len()));
            let mut state = self.handle.shared.lock();
            state.send(self.handle.id, Kind::Data, channel, piece)?;
        }
        Ok(())
    }

    /// Sends a message of at most 64 KiB, waiting for credit.
    ///
    /// # Errors
    /// When the stream has ended, or the message is too large.
    pub async fn message(&self, message: &impl prost::Message) -> Result<(), MuxError> {
        let encoded = self.room_for(message).await?;
        let mut state = self.handle.shared.lock();
        state.send(self.handle.id, Kind::Message, 0, encoded)
    }

    /// Sends a message and ends the stream, both in one write.
    ///
    /// # Errors
    /// When the stream has ended, or the message is too large.
    pub async fn last_message(&self, message: &impl prost::Message) -> Result<(), MuxError> {
        let encoded = self.room_for(message).await?;
        let mut state = self.handle.shared.lock();
        state.send_last(self.handle.id, encoded)
    }

    async fn room_for(&self, message: &impl prost::Message) -> Result<Bytes, MuxError> {
        let length = message.encoded_len();
        if length > MAX_MESSAGE {
            return Err(MuxError::TooLarge);
        }
        poll_fn(|context| {
            let mut state = self.handle.shared.lock();
            state.poll_room(self.handle.id, length, context)
        })
        .await?;
        Ok(Bytes::from(message.encode_to_vec()))
    }

    /// Says that nothing more comes on a channel.
    ///
    /// # Errors
    /// When the stream has ended, or the channel was finished before.
    pub fn finish(&self, channel: u8) -> Result<(), MuxError> {
        self.handle.shared.lock().finish(self.handle.id, channel)
    }
}

/// The receiving half.
#[derive(Debug)]
pub struct Receiver {
    handle: Arc<Handle>,
}

impl Receiver {
    /// The next event. A message's credit is given back at once, data's by `release`. May be
    /// dropped while it waits without losing anything.
    pub async fn receive(&mut self) -> Event {
        poll_fn(|context| {
            let mut state = self.handle.shared.lock();
            state.poll_receive(self.handle.id, context)
        })
        .await
    }

    /// Gives back the credit of one `Data` event of `length` bytes.
    pub fn release(&self, channel: u8, length: usize) {
        self.handle
            .shared
            .lock()
            .release(self.handle.id, channel, length);
    }
}
