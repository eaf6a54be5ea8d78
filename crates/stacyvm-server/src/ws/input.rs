//! Standard input on its way from a client to a command that may not read it.
//!
//! Two bounds. So much may wait here; when it is full the reader of frames waits, and with it the
//! client. And only so many pieces are on their way to the sandbox at once: the way is shared with
//! signals and sizes, and must never be full of input that is not taken. A piece is on its way
//! until the last of its bytes has been dropped at the other end, so it carries its own permit.

use std::sync::Arc;

use bytes::Bytes;
use stacyvm_orchestrator::ExecControl;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

/// The most input that may wait, bytes.
const BUFFER_SIZE: usize = 1024 * 1024;
/// What a chunk takes of it at least: many small ones weigh more than their bytes.
const MIN_CHUNK_WEIGHT: usize = 1024;
/// The largest chunk, bytes.
const CHUNK_SIZE: usize = 64 * 1024;
/// Chunks in flight at once. The agent's end holds two without making anything else wait.
const MAX_IN_FLIGHT: usize = 2;

/// The end where a client's input comes in.
#[derive(Debug)]
pub(crate) struct Input {
    room: Arc<Semaphore>,
    /// None after the end of input.
    queue: Option<mpsc::Sender<QueuedChunk>>,
}

/// The end that hands it to the command.
#[derive(Debug)]
pub(crate) struct Feeder {
    queue: mpsc::Receiver<QueuedChunk>,
    taken: watch::Sender<u64>,
}

#[derive(Debug)]
struct QueuedChunk {
    bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

/// A chunk of input in flight.
struct InFlightChunk {
    bytes: Bytes,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for InFlightChunk {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Both ends, and how many bytes have been handed on so far.
pub(crate) fn input() -> (Input, Feeder, watch::Receiver<u64>) {
    let (sender, receiver) = mpsc::channel(BUFFER_SIZE / MIN_CHUNK_WEIGHT);
    let (taken, told) = watch::channel(0);
    let input = Input {
        room: Arc::new(Semaphore::new(BUFFER_SIZE)),
        queue: Some(sender),
    };
    let feeder = Feeder {
        queue: receiver,
        taken,
    };
    (input, feeder, told)
}

impl Input {
    /// Takes input; waits while there is no room for it. Input after its end is dropped.
    pub(crate) async fn push(&self, mut bytes: Bytes) {
        let Some(queue) = &self.queue else {
            return;
        };
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(CHUNK_SIZE));
            let weight = u32::try_from(piece.len().max(MIN_CHUNK_WEIGHT)).unwrap_or(u32::MAX);
            let room = Arc::clone(&self.room).acquire_many_owned(weight).await;
            let piece = QueuedChunk {
                bytes: piece,
                _room: room.expect("the semaphore is never closed"),
            };
            if queue.send(piece).await.is_err() {
                // The command has ended, which its events report.
                return;
            }
        }
    }

    /// Ends the input.
    pub(crate) fn close(&mut self) {
        self.queue = None;
    }
}

impl Feeder {
    /// Hands on `first` and then what comes in, until the end of input or of the command.
    pub(crate) async fn run(mut self, first: Bytes, control: mpsc::Sender<ExecControl>) {
        let permits = Arc::new(Semaphore::new(MAX_IN_FLIGHT));
        let hand_on = async |bytes: Bytes| {
            let permit = Arc::clone(&permits).acquire_owned().await;
            let chunk = InFlightChunk {
                bytes,
                _permit: permit.expect("the semaphore is never closed"),
            };
            let word = ExecControl::Stdin(Bytes::from_owner(chunk));
            control.send(word).await.is_ok()
        };
        let mut first = first;
        while !first.is_empty() {
            let piece = first.split_to(first.len().min(CHUNK_SIZE));
            if !hand_on(piece).await {
                return;
            }
        }
        while let Some(piece) = self.queue.recv().await {
            let length = piece.bytes.len() as u64;
            if !hand_on(piece.bytes).await {
                return;
            }
            self.taken.send_modify(|taken| *taken += length);
        }
        // A command that has ended needs no end of input.
        let _ = control.send(ExecControl::CloseStdin).await;
    }
}
