//! A stream that remembers when something last moved on it, and gives back what was read too early.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// When something last moved on one connection, on whichever side.
#[derive(Clone, Debug)]
pub(super) struct Activity(Arc<Mutex<Instant>>);

impl Activity {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    fn note(&self) {
        *self.0.lock().expect("no holder of this lock panics") = Instant::now();
    }

    /// Resolves once nothing has moved for so long.
    pub(super) async fn until_idle(&self, limit: Duration) {
        loop {
            let last = *self.0.lock().expect("no holder of this lock panics");
            let end = last + limit;
            if Instant::now() >= end {
                return;
            }
            tokio::time::sleep_until(end).await;
        }
    }
}

/// A watched stream.
#[derive(Debug)]
pub(super) struct Watched<S> {
    begin: Bytes,
    stream: S,
    activity: Activity,
}

impl<S> Watched<S> {
    /// `begin` is read before what the stream has.
    pub(super) fn new(begin: Bytes, stream: S, activity: &Activity) -> Self {
        Self {
            begin,
            stream,
            activity: activity.clone(),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.begin.has_remaining() {
            let length = self.begin.len().min(buffer.remaining());
            buffer.put_slice(&self.begin.split_to(length));
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.activity.note();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        if matches!(polled, Poll::Ready(Ok(1..))) {
            self.activity.note();
        }
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        if matches!(polled, Poll::Ready(Ok(1..))) {
            self.activity.note();
        }
        polled
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
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_moves_is_not_idle() {
        let (mut far, near) = tokio::io::duplex(64);
        let activity = Activity::new();
        let mut watched = Watched::new(Bytes::from_static(b"begin "), near, &activity);
        let started = Instant::now();
        let limit = Duration::from_secs(60);
        let writing = async {
            tokio::time::sleep(Duration::from_secs(40)).await;
            far.write_all(b"end").await.unwrap();
            far
        };
        let reading = async {
            let mut text = [0; 9];
            watched.read_exact(&mut text).await.unwrap();
            text
        };
        let ((), far, text) = tokio::join!(activity.until_idle(limit), writing, reading);
        assert_eq!(&text, b"begin end");
        assert_eq!(started.elapsed(), Duration::from_secs(100));
        drop(far);
    }
}
