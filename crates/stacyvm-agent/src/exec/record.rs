//! The recorded output of one detached command, and its exit.
//!
//! A record holds the newest output, up to a bound, and any reader can read it again from every
//! offset that is still retained. Offsets count the bytes of both streams together, in the order in
//! which they were read. While there are readers, the command waits for the slowest one before
//! unread output is removed; it does not wait for a reader that has taken nothing for a while, which
//! is told the offset at which its output continues. Without readers the command never waits.

mod state;

use bytes::Bytes;
use parking_lot::Mutex;
use stacyvm_proto::MAX_CHUNK;
use stacyvm_proto::message::Exit;
use tokio::sync::Notify;
use tokio::time::Instant;

use state::RecordState;

/// The record of one command.
#[derive(Debug, Default)]
pub(crate) struct Record {
    state: Mutex<RecordState>,
    /// Notified when output or the exit is added.
    more: Notify,
    /// Notified when a reader has taken something or is dropped.
    room: Notify,
}

/// One thing that a reader gets.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RecordEvent {
    /// Output of a channel, up to the reader's new position.
    Data(u8, Bytes),
    /// The next output begins at this offset; what came before is not sent.
    Resumed(u64),
    /// The command's end, after all of its output.
    Exit(Exit),
}

impl Record {
    /// Offsets of the first retained byte and after the last one.
    pub(crate) fn bounds(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.start, state.end)
    }

    /// How the command ended, if it has.
    pub(crate) fn exit(&self) -> Option<Exit> {
        self.state.lock().exit
    }

    /// About how much memory the record takes, bytes.
    pub(crate) fn cost(&self) -> usize {
        self.state.lock().cost
    }

    /// Resolves when the command has ended.
    pub(crate) async fn ended(&self) -> Exit {
        loop {
            let more = self.more.notified();
            tokio::pin!(more);
            more.as_mut().enable();
            if let Some(exit) = self.exit() {
                return exit;
            }
            more.await;
        }
    }

    /// Waits until one more chunk can be appended without removing what an active reader needs.
    pub(super) async fn reserve(&self) {
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            let Some(deadline) = self.state.lock().wait_until() else {
                return;
            };
            // After the deadline the next round ignores the stalled reader.
            let _ = tokio::time::timeout_at(deadline, room).await;
        }
    }

    /// Appends output of a channel.
    pub(super) fn append(&self, channel: u8, bytes: &[u8]) {
        self.state.lock().append(channel, bytes);
        self.more.notify_waiters();
    }

    /// Adds the exit, after which nothing is added.
    pub(super) fn finish(&self, exit: Exit) {
        self.state.lock().exit = Some(exit);
        self.more.notify_waiters();
    }

    /// A reader that begins at `offset`, or at the end if that is smaller.
    pub(crate) fn read_from(&self, offset: u64) -> RecordReader<'_> {
        let id = self.state.lock().add_reader(offset);
        RecordReader {
            record: self,
            id,
            begun: false,
        }
    }
}

/// One reader. The command no longer waits for a reader that has been dropped.
#[derive(Debug)]
pub(crate) struct RecordReader<'a> {
    record: &'a Record,
    id: u64,
    begun: bool,
}

impl RecordReader<'_> {
    /// The next event that is available without waiting.
    pub(crate) fn now(&mut self) -> Option<RecordEvent> {
        let mut state = self.record.state.lock();
        let at = state.readers.iter().position(|one| one.id == self.id)?;
        let position = state.readers[at].position;
        let begun = std::mem::replace(&mut self.begun, true);
        let next = if position < state.start || !begun {
            let offset = position.max(state.start);
            state.readers[at].begin = offset;
            state.readers[at].position = offset;
            RecordEvent::Resumed(offset)
        } else if position < state.end {
            let (channel, bytes) = state.at(position, MAX_CHUNK);
            state.readers[at].position += bytes.len() as u64;
            RecordEvent::Data(channel, bytes)
        } else {
            return state.exit.map(RecordEvent::Exit);
        };
        state.readers[at].moved = Instant::now();
        drop(state);
        self.record.room.notify_waiters();
        Some(next)
    }

    /// Waits for the next event. The future may be dropped; nothing is lost.
    pub(crate) async fn next(&mut self) -> RecordEvent {
        let record = self.record;
        loop {
            let more = record.more.notified();
            tokio::pin!(more);
            more.as_mut().enable();
            if let Some(next) = self.now() {
                return next;
            }
            more.await;
        }
    }
}

impl Drop for RecordReader<'_> {
    fn drop(&mut self) {
        self.record
            .state
            .lock()
            .readers
            .retain(|reader| reader.id != self.id);
        self.record.room.notify_waiters();
    }
}

#[cfg(test)]
mod tests;
