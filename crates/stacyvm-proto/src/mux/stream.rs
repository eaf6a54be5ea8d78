//! The two halves of one stream.

use std::future::poll_fn;
use std::sync::Arc;

use bytes::Bytes;

use super::connection::{CloseGuard, Connection};
use super::event::{Event, MuxError};
use crate::frame::{Kind, MAX_MESSAGE};

/// Removes the stream from its connection when both halves are dropped.
#[derive(Debug)]
struct Handle {
    connection: Arc<Connection>,
    id: u32,
    _guard: Arc<CloseGuard>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.connection.state().forget(self.id);
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
    pub(super) fn new(connection: Arc<Connection>, guard: Arc<CloseGuard>, id: u32) -> Self {
        let handle = Arc::new(Handle {
            connection,
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

/// The sending half. Clones are for different channels: of two tasks that wait for the same
/// channel's credit, only the last one would be woken.
#[derive(Clone, Debug)]
pub struct Sender {
    handle: Arc<Handle>,
}

impl Sender {
    /// Waits until bytes may be sent on a channel and answers how many, 1 byte to one chunk.
    ///
    /// # Errors
    /// When the stream or that channel has ended.
    pub async fn reserve(&self, channel: u8) -> Result<usize, MuxError> {
        poll_fn(|context| {
            self.handle
                .connection
                .state()
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
        let mut state = self.handle.connection.state();
        state.send_slice(self.handle.id, channel, data)
    }

    /// Sends bytes of any length, waiting for credit.
    ///
    /// # Errors
    /// When the stream has ended.
    pub async fn send(&self, channel: u8, mut data: Bytes) -> Result<(), MuxError> {
        while !data.is_empty() {
            let room = self.reserve(channel).await?;
            let chunk = data.split_to(room.min(data.len()));
            let mut state = self.handle.connection.state();
            state.send(self.handle.id, Kind::Data, channel, chunk)?;
        }
        Ok(())
    }

    /// Sends a message of at most 64 KiB, waiting for credit.
    ///
    /// # Errors
    /// When the stream has ended, or the message is too large.
    pub async fn message(&self, message: &impl prost::Message) -> Result<(), MuxError> {
        let encoded = self.room_for(message).await?;
        let mut state = self.handle.connection.state();
        state.send(self.handle.id, Kind::Message, 0, encoded)
    }

    /// Sends a message and ends the stream, both in one write.
    ///
    /// # Errors
    /// When the stream has ended, or the message is too large.
    pub async fn last_message(&self, message: &impl prost::Message) -> Result<(), MuxError> {
        let encoded = self.room_for(message).await?;
        let mut state = self.handle.connection.state();
        state.send_last(self.handle.id, encoded)
    }

    async fn room_for(&self, message: &impl prost::Message) -> Result<Bytes, MuxError> {
        let length = message.encoded_len();
        if length > MAX_MESSAGE {
            return Err(MuxError::TooLarge);
        }
        poll_fn(|context| {
            let mut state = self.handle.connection.state();
            state.poll_room(self.handle.id, length, context)
        })
        .await?;
        Ok(Bytes::from(message.encode_to_vec()))
    }

    /// Ends one channel: nothing more is sent on it.
    ///
    /// # Errors
    /// When the stream has ended, or the channel was finished before.
    pub fn finish(&self, channel: u8) -> Result<(), MuxError> {
        self.handle
            .connection
            .state()
            .finish(self.handle.id, channel)
    }
}

/// The receiving half.
#[derive(Debug)]
pub struct Receiver {
    handle: Arc<Handle>,
}

impl Receiver {
    /// The next event. The credit of a message is given back at once, that of data by `release`. The
    /// future may be dropped while it waits; nothing is lost.
    pub async fn receive(&mut self) -> Event {
        poll_fn(|context| {
            let mut state = self.handle.connection.state();
            state.poll_receive(self.handle.id, context)
        })
        .await
    }

    /// Gives back the credit of one `Data` event of `length` bytes.
    pub fn release(&self, channel: u8, length: usize) {
        self.handle
            .connection
            .state()
            .release(self.handle.id, channel, length);
    }
}
