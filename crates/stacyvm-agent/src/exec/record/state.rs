//! The contents of a record and the positions of its readers.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use stacyvm_proto::MAX_CHUNK;
use stacyvm_proto::message::Exit;
use tokio::time::Instant;

/// How much memory one record may take, bytes, bookkeeping included. It grows as output comes.
pub(super) const MAX_RECORD: usize = 4 * 1024 * 1024;
/// How much of what a reader has been given is retained for it, bytes. Those bytes may be in flight,
/// in buffers of the server, of both kernels and of the client, and are asked for again when the
/// connection breaks.
pub(super) const MAX_IN_FLIGHT: u64 = 2 * 1024 * 1024;
/// What a chunk costs beside its bytes, so that a flood of tiny ones is bounded too.
const CHUNK_OVERHEAD: usize = 64;
/// Chunks of one channel are merged up to this size, bytes.
const MAX_MERGED: usize = 16 * 1024;
/// How long a command waits for a reader that takes nothing.
pub(super) const STALL_TIMEOUT: Duration = Duration::from_secs(10);

/// The retained output of one command, its readers, and its exit.
#[derive(Debug, Default)]
pub(super) struct RecordState {
    chunks: VecDeque<Chunk>,
    /// Offset of the first retained byte.
    pub(super) start: u64,
    /// Offset after the last byte.
    pub(super) end: u64,
    pub(super) cost: usize,
    pub(super) readers: Vec<ReaderState>,
    next_reader: u64,
    pub(super) exit: Option<Exit>,
}

#[derive(Debug)]
struct Chunk {
    channel: u8,
    offset: u64,
    bytes: Vec<u8>,
}

/// One reader.
#[derive(Debug)]
pub(super) struct ReaderState {
    pub(super) id: u64,
    /// Offset at which it began, or continued after a gap.
    pub(super) begin: u64,
    /// Offset of its next byte.
    pub(super) position: u64,
    /// When it last took something.
    pub(super) moved: Instant,
}

impl ReaderState {
    /// Offset of the first byte that it may still ask for.
    fn needs(&self) -> u64 {
        self.begin.max(self.position.saturating_sub(MAX_IN_FLIGHT))
    }
}

impl RecordState {
    /// Adds a reader at `offset`, or at the end if that is smaller, and returns its id.
    pub(super) fn add_reader(&mut self, offset: u64) -> u64 {
        let id = self.next_reader;
        self.next_reader += 1;
        let position = offset.min(self.end);
        self.readers.push(ReaderState {
            id,
            begin: position,
            position,
            moved: Instant::now(),
        });
        id
    }

    /// Until when the writer waits for readers that still need what one more chunk would push out;
    /// none when it need not wait.
    pub(super) fn wait_until(&self) -> Option<Instant> {
        if self.readers.is_empty() {
            return None;
        }
        let mut over = (self.cost + MAX_CHUNK + CHUNK_OVERHEAD).saturating_sub(MAX_RECORD);
        let mut start = self.start;
        for chunk in &self.chunks {
            if over == 0 {
                break;
            }
            over = over.saturating_sub(chunk.bytes.len() + CHUNK_OVERHEAD);
            start = chunk.offset + chunk.bytes.len() as u64;
        }
        let now = Instant::now();
        self.readers
            .iter()
            // A reader at the end cannot move, and one before the start hears of its gap anyway.
            .filter(|reader| (self.start..self.end).contains(&reader.position))
            .filter(|reader| reader.needs().max(self.start) < start)
            .map(|reader| reader.moved + STALL_TIMEOUT)
            .filter(|deadline| *deadline > now)
            .min()
    }

    /// Appends output, and removes the oldest chunks when the record is too large.
    pub(super) fn append(&mut self, channel: u8, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let length = bytes.len();
        // A reader that had read everything can be late only from now on.
        for reader in &mut self.readers {
            if reader.position == self.end {
                reader.moved = Instant::now();
            }
        }
        match self.chunks.back_mut() {
            Some(last) if last.channel == channel && last.bytes.len() + length <= MAX_MERGED => {
                last.bytes.extend_from_slice(bytes);
                self.cost += length;
            }
            _ => {
                self.chunks.push_back(Chunk {
                    channel,
                    offset: self.end,
                    bytes: bytes.to_vec(),
                });
                self.cost += length + CHUNK_OVERHEAD;
            }
        }
        self.end += length as u64;
        while self.cost > MAX_RECORD
            && let Some(oldest) = self.chunks.pop_front()
        {
            self.cost -= oldest.bytes.len() + CHUNK_OVERHEAD;
            self.start = oldest.offset + oldest.bytes.len() as u64;
        }
    }

    /// At most `most` bytes at `position`, which must be retained.
    pub(super) fn at(&self, position: u64, most: usize) -> (u8, Bytes) {
        let after = self
            .chunks
            .partition_point(|chunk| chunk.offset <= position);
        let chunk = &self.chunks[after - 1];
        let from = usize::try_from(position - chunk.offset).unwrap_or(usize::MAX);
        let rest = &chunk.bytes[from..];
        (
            chunk.channel,
            Bytes::copy_from_slice(&rest[..rest.len().min(most)]),
        )
    }
}
