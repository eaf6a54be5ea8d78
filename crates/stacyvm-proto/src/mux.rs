//! Many streams over one connection, with credit per stream and channel.
//!
//! Owns the life of streams on both ends; knows no message's meaning. The connecting side opens
//! streams, the accepting side ends them: its `Finish` on channel 0 is the end of a stream for
//! both, a `Finish` on another channel closes that direction of that channel only, and `Reset`
//! from either side ends everything at once. Received data holds its credit until the owner calls
//! `release`, so a slow consumer slows the sender and nothing piles up.
//!
//! Writes happen on the caller's own thread when the socket takes them; only what it does not
//! take waits for the driver. That saves a task switch on every request.

mod driver;
mod outbox;
mod state;
mod stream;

pub use driver::{Driver, Ended};
pub use stream::{Receiver, Sender, Stream};

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::frame::MAX_PAYLOAD;
use state::State;

/// Streams that one connection may have at once.
pub const MAX_STREAMS: usize = 1024;

/// Which end of the connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Opens streams.
    Connecting,
    /// Answers them.
    Accepting,
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The accepting side finished it.
    Finished,
    /// The other side gave it up.
    Reset,
    /// The connection is lost.
    Lost,
}

/// What a stream receives, in the order in which it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A message.
    Message(Bytes),
    /// Bytes on a channel; give their credit back with `release` when they are dealt with.
    Data(u8, Bytes),
    /// Nothing more comes on this channel.
    Finished(u8),
    /// The stream is over; nothing else follows, however often one asks.
    Closed(End),
}

/// Why something could not be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MuxError {
    /// The stream is over.
    #[error("the stream has ended")]
    Ended,
    /// The connection is lost.
    #[error("the connection is lost")]
    Lost,
    /// The connection carries as many streams as it may.
    #[error("the connection has {MAX_STREAMS} operations under way, which is the most")]
    TooManyStreams,
    /// The message is over the bound.
    #[error("the request is too large")]
    TooLarge,
}

/// What all handles of one connection share.
pub(crate) struct Shared {
    state: Mutex<State>,
    closed: Notify,
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while the lock was held is a bug that has been reported; the state is a set of
        // counters and queues that stay usable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks the connection as lost; every stream hears of it.
    pub(crate) fn lose(&self) {
        self.lock().lose();
        self.closed.notify_waiters();
    }
}

/// Ends the connection when the last handle is gone.
#[derive(Debug)]
struct CloseGuard(Arc<Shared>);

impl Drop for CloseGuard {
    fn drop(&mut self) {
        self.0.lose();
        self.0.lock().wake_driver();
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shared")
    }
}

/// A handle of the connection; cheap to clone. The connection closes when the last handle and the
/// last stream are gone.
#[derive(Clone, Debug)]
pub struct Mux {
    shared: Arc<Shared>,
    guard: Arc<CloseGuard>,
}

/// A handle that does not keep the connection open.
#[derive(Clone, Debug)]
pub struct WeakMux {
    shared: Arc<Shared>,
    guard: Weak<CloseGuard>,
}

impl WeakMux {
    /// A handle again; none when the connection has no other.
    pub fn upgrade(&self) -> Option<Mux> {
        Some(Mux {
            shared: self.shared.clone(),
            guard: self.guard.upgrade()?,
        })
    }
}

/// A stream that the other side opened, and its request.
#[derive(Debug)]
pub struct Accepted {
    /// The encoded request.
    pub request: Bytes,
    /// The stream.
    pub stream: Stream,
}

/// What the other side opens; for the accepting side.
#[derive(Debug)]
pub struct Incoming {
    queue: mpsc::UnboundedReceiver<(u32, Bytes)>,
    shared: Arc<Shared>,
    guard: Arc<CloseGuard>,
}

impl Incoming {
    /// The next stream; none when the connection is over. The queue is bounded by `MAX_STREAMS`.
    pub async fn accept(&mut self) -> Option<Accepted> {
        let (id, request) = self.queue.recv().await?;
        Some(Accepted {
            request,
            stream: Stream::new(self.shared.clone(), self.guard.clone(), id),
        })
    }
}

/// Takes a connection over after the hello. The driver must be polled (spawned) for anything to
/// arrive; it ends with the connection.
pub fn start<R, W>(read: R, write: W, side: Side) -> (Mux, Incoming, Driver<R>)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Send + Unpin + 'static,
{
    let (opened, queue) = mpsc::unbounded_channel();
    let shared = Arc::new(Shared {
        state: Mutex::new(State::new(Box::new(write), side, opened)),
        closed: Notify::new(),
    });
    let guard = Arc::new(CloseGuard(shared.clone()));
    let driver = Driver::new(read, shared.clone());
    let incoming = Incoming {
        queue,
        shared: shared.clone(),
        guard: guard.clone(),
    };
    (Mux { shared, guard }, incoming, driver)
}

impl Mux {
    /// A handle that does not keep the connection open.
    pub fn downgrade(&self) -> WeakMux {
        WeakMux {
            shared: self.shared.clone(),
            guard: Arc::downgrade(&self.guard),
        }
    }

    /// Opens a stream with its request, of at most 256 KiB.
    ///
    /// # Errors
    /// When the request is too large, too many streams are open, or the connection is lost.
    pub fn open(&self, request: &impl prost::Message) -> Result<Stream, MuxError> {
        if request.encoded_len() > MAX_PAYLOAD {
            return Err(MuxError::TooLarge);
        }
        let id = self
            .shared
            .lock()
            .open(Bytes::from(request.encode_to_vec()))?;
        Ok(Stream::new(self.shared.clone(), self.guard.clone(), id))
    }

    /// Asks the other side for a sign of life.
    ///
    /// # Errors
    /// When the connection is lost before the answer comes.
    pub async fn ping(&self) -> Result<Duration, MuxError> {
        let begin = Instant::now();
        let (answered, answer) = oneshot::channel();
        self.shared.lock().ping(answered)?;
        answer.await.map_err(|_| MuxError::Lost)?;
        Ok(begin.elapsed())
    }

    /// How many frames have arrived so far: growth means that the other side lives.
    pub fn frames_received(&self) -> u64 {
        self.shared.lock().frames_received()
    }

    /// How many streams are open.
    pub fn open_streams(&self) -> usize {
        self.shared.lock().open_streams()
    }

    /// Whether the connection is lost.
    pub fn is_closed(&self) -> bool {
        self.shared.lock().is_lost()
    }

    /// Resolves when the connection is lost.
    pub async fn closed(&self) {
        let notified = self.shared.closed.notified();
        tokio::pin!(notified);
        notified.as_mut().enable();
        if !self.is_closed() {
            notified.await;
        }
    }

    /// Gives the connection up now.
    pub fn close(&self) {
        self.shared.lose();
        self.shared.lock().wake_driver();
    }
}

#[cfg(test)]
mod tests;
