//! Writes to a peer that takes nothing: one that waits too long is an error.
//!
//! Without it a client that stops reading would hold its connection, and what is being sent over
//! it, for as long as it likes.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::StallTimer;

/// A stream whose writes fail with [`io::ErrorKind::TimedOut`] when the peer takes nothing for too
/// long. Reads are not timed.
#[derive(Debug)]
pub struct WriteTimeoutStream<S> {
    stream: S,
    stall: StallTimer,
}

impl<S> WriteTimeoutStream<S> {
    /// No write to `stream` may wait longer than `timeout`.
    pub const fn new(stream: S, timeout: Duration) -> Self {
        Self {
            stream,
            stall: StallTimer::new(timeout),
        }
    }

    fn timed<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stall.reset();
            return written;
        }
        ready!(self.stall.poll_stalled(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WriteTimeoutStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WriteTimeoutStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.timed(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.timed(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::time::Instant;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_write_that_the_peer_never_takes_ends_after_the_timeout() {
        for vectored in [false, true] {
            let (near, _far) = tokio::io::duplex(4);
            let mut timed = WriteTimeoutStream::new(near, TIMEOUT);
            let begin = Instant::now();
            let error = if vectored {
                timed.write_all(b"full").await.unwrap();
                let slices = [IoSlice::new(b"one"), IoSlice::new(b"two")];
                timed.write_vectored(&slices).await.unwrap_err()
            } else {
                timed.write_all(b"longer than the pipe").await.unwrap_err()
            };
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            assert!(begin.elapsed() >= TIMEOUT);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_may_take_longer_than_the_timeout_in_all() {
        let (near, mut far) = tokio::io::duplex(4);
        let mut timed = WriteTimeoutStream::new(near, TIMEOUT);
        let reading = async {
            let mut piece = [0; 4];
            for _ in 0..5 {
                tokio::time::sleep(TIMEOUT * 3 / 4).await;
                far.read_exact(&mut piece).await.unwrap();
            }
        };
        let (written, ()) = tokio::join!(timed.write_all(&[7; 20]), reading);
        written.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn reads_wait_for_ever_and_one_direction_may_end() {
        let (near, mut far) = tokio::io::duplex(16);
        let mut timed = WriteTimeoutStream::new(near, TIMEOUT);
        timed.write_all(b"question").await.unwrap();
        timed.shutdown().await.unwrap();
        let answering = async {
            let mut question = String::new();
            far.read_to_string(&mut question).await.unwrap();
            tokio::time::sleep(TIMEOUT * 3).await;
            far.write_all(question.as_bytes()).await.unwrap();
            drop(far);
        };
        let mut answer = String::new();
        let (read, ()) = tokio::join!(timed.read_to_string(&mut answer), answering);
        assert_eq!((read.unwrap(), answer.as_str()), (8, "question"));
    }
}
