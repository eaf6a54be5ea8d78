//! The one task of a connection: it reads frames, and writes what the callers could not.

use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::connection::Connection;
use crate::frame::{FrameError, HEADER_LEN, Header};

/// Size of the read buffer of an idle connection, bytes.
const SMALL_READ: usize = 4 * 1024;
/// Size of the read buffer of a busy connection, bytes.
const LARGE_READ: usize = 128 * 1024;
/// How long a busy connection keeps the large buffer without receiving anything.
const IDLE_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// The other side closed it, or it broke.
    #[error("the connection ended")]
    Io(#[from] io::Error),
    /// The other side broke the protocol.
    #[error("the peer broke the protocol")]
    Frame(#[from] FrameError),
}

/// Runs a connection until it ends; spawn it.
#[derive(Debug)]
#[must_use = "nothing arrives on a connection whose driver is not polled"]
pub struct Driver<R> {
    read: R,
    buffer: BytesMut,
    busy: bool,
    connection: Arc<Connection>,
}

impl<R: AsyncRead + Unpin> Driver<R> {
    pub(super) fn new(read: R, connection: Arc<Connection>) -> Self {
        Self {
            read,
            buffer: BytesMut::new(),
            busy: false,
            connection,
        }
    }

    /// Processes every whole frame in the buffer, and answers how many bytes the next one needs.
    fn take_frames(&mut self) -> Result<usize, FrameError> {
        let mut state = self.connection.state();
        let wanted = loop {
            let Some(header) = self.buffer.first_chunk::<HEADER_LEN>() else {
                break HEADER_LEN;
            };
            let header = Header::decode(header)?;
            let whole = HEADER_LEN + header.length as usize;
            if self.buffer.len() < whole {
                break whole;
            }
            self.buffer.advance(HEADER_LEN);
            let payload = match header.length as usize {
                0 => Bytes::new(),
                // A small payload must not keep a large buffer alive for as long as it waits.
                length @ 1..=512 => {
                    let copy = Bytes::copy_from_slice(&self.buffer[..length]);
                    self.buffer.advance(length);
                    copy
                }
                length => self.buffer.split_to(length).freeze(),
            };
            state.receive(header, payload)?;
        };
        // Answers to pings, and credit.
        state.flush();
        Ok(wanted)
    }

    /// Waits for bytes, and writes meanwhile what the socket takes.
    async fn read_more(&mut self, wanted: usize) -> io::Result<usize> {
        loop {
            let missing = wanted.saturating_sub(self.buffer.len());
            let room = if self.busy { LARGE_READ } else { SMALL_READ };
            self.buffer.reserve(missing.max(room));
            let idle_timeout = self.busy.then_some(IDLE_TIMEOUT);
            let connection = &self.connection;
            let mut reading = pin!(self.read.read_buf(&mut self.buffer));
            let reading = poll_fn(|context| {
                let mut state = connection.state();
                state.set_driver(context.waker());
                state.flush();
                if state.is_lost() {
                    return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
                }
                if state.must_not_read() {
                    return Poll::Pending;
                }
                drop(state);
                reading.as_mut().poll(context)
            });
            let count = match idle_timeout {
                None => reading.await?,
                Some(timeout) => match tokio::time::timeout(timeout, reading).await {
                    Ok(count) => count?,
                    Err(_) => {
                        self.busy = false;
                        let rest = std::mem::take(&mut self.buffer);
                        self.buffer.extend_from_slice(&rest);
                        continue;
                    }
                },
            };
            self.busy = count >= SMALL_READ || (self.busy && count > SMALL_READ / 4);
            return Ok(count);
        }
    }

    /// Runs the connection to its end.
    pub async fn run(mut self) -> Ended {
        let ended = self.read_all().await;
        self.connection.lose();
        ended
    }

    async fn read_all(&mut self) -> Ended {
        let mut wanted = HEADER_LEN;
        loop {
            match self.read_more(wanted).await {
                Ok(0) => return io::Error::from(io::ErrorKind::UnexpectedEof).into(),
                Ok(_) => {}
                Err(error) => return error.into(),
            }
            match self.take_frames() {
                Ok(next) => wanted = next,
                Err(error) => return error.into(),
            }
        }
    }
}
