//! Many streams over one connection, with credit per stream and channel.
//!
//! This module owns the life of streams on both ends; it knows no message's meaning. The connecting
//! side opens streams, the accepting side ends them: its `Finish` on channel 0 is the end of a
//! stream for both, a `Finish` on another channel closes that direction of that channel only, and
//! `Reset` from either side ends the whole stream at once. Received data holds its credit until the
//! receiver calls `release`, so a slow consumer slows the sender and no queue grows without bound.
//!
//! A caller writes on its own thread as far as the socket takes the bytes; only the rest waits for
//! the driver. That saves a task switch on every request.

mod connection;
mod driver;
mod event;
mod outbox;
mod state;
mod stream;
mod stream_state;

pub use driver::{Driver, Ended};
pub use event::{End, Event, MAX_STREAMS, MuxError, Side};
pub use stream::{Receiver, Sender, Stream};

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};

use crate::frame::MAX_PAYLOAD;
use connection::{CloseGuard, Connection};
use state::State;

/// A handle of the connection; cheap to clone. The connection closes when the last handle and the
/// last stream are gone.
#[derive(Clone, Debug)]
pub struct Mux {
    connection: Arc<Connection>,
    guard: Arc<CloseGuard>,
}

/// A handle that does not keep the connection open.
#[derive(Clone, Debug)]
pub struct WeakMux {
    connection: Arc<Connection>,
    guard: Weak<CloseGuard>,
}

impl WeakMux {
    /// A full handle; none when the connection has no other handle left.
    pub fn upgrade(&self) -> Option<Mux> {
        Some(Mux {
            connection: self.connection.clone(),
            guard: self.guard.upgrade()?,
        })
    }
}

/// A stream that the other side has opened, and its request.
#[derive(Debug)]
pub struct Accepted {
    /// The encoded request.
    pub request: Bytes,
    /// The stream.
    pub stream: Stream,
}

/// The streams that the other side opens; for the accepting side.
#[derive(Debug)]
pub struct Incoming {
    queue: mpsc::UnboundedReceiver<(u32, Bytes)>,
    connection: Arc<Connection>,
    guard: Arc<CloseGuard>,
}

impl Incoming {
    /// The next stream; none when the connection is over. The queue is bounded by `MAX_STREAMS`.
    pub async fn accept(&mut self) -> Option<Accepted> {
        let (id, request) = self.queue.recv().await?;
        Some(Accepted {
            request,
            stream: Stream::new(self.connection.clone(), self.guard.clone(), id),
        })
    }
}

/// Runs the multiplexer on a connection after the hello. Nothing arrives unless the driver is polled
/// (spawned); it ends with the connection.
pub fn start<R, W>(read: R, write: W, side: Side) -> (Mux, Incoming, Driver<R>)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Send + Unpin + 'static,
{
    let (opened, queue) = mpsc::unbounded_channel();
    let state = State::new(Box::new(write), side, opened);
    let connection = Arc::new(Connection::new(state));
    let guard = Arc::new(CloseGuard(connection.clone()));
    let driver = Driver::new(read, connection.clone());
    let incoming = Incoming {
        queue,
        connection: connection.clone(),
        guard: guard.clone(),
    };
    (Mux { connection, guard }, incoming, driver)
}

impl Mux {
    /// A handle that does not keep the connection open.
    pub fn downgrade(&self) -> WeakMux {
        WeakMux {
            connection: self.connection.clone(),
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
        let request = Bytes::from(request.encode_to_vec());
        let id = self.connection.state().open(request)?;
        Ok(Stream::new(self.connection.clone(), self.guard.clone(), id))
    }

    /// Sends a ping and waits for its answer.
    ///
    /// # Errors
    /// When the connection is lost before the answer comes.
    pub async fn ping(&self) -> Result<Duration, MuxError> {
        let begin = Instant::now();
        let (answered, answer) = oneshot::channel();
        self.connection.state().ping(answered)?;
        answer.await.map_err(|_| MuxError::Lost)?;
        Ok(begin.elapsed())
    }

    /// How many frames have arrived so far. A growing number shows that the other side is alive.
    pub fn frames_received(&self) -> u64 {
        self.connection.state().frames_received()
    }

    /// How many streams are open.
    pub fn open_streams(&self) -> usize {
        self.connection.state().open_streams()
    }

    /// Whether the connection is lost.
    pub fn is_closed(&self) -> bool {
        self.connection.state().is_lost()
    }

    /// Resolves when the connection is lost.
    pub async fn closed(&self) {
        self.connection.closed().await;
    }

    /// Closes the connection now.
    pub fn close(&self) {
        self.connection.lose();
        self.connection.state().wake_driver();
    }
}

#[cfg(test)]
mod tests;
