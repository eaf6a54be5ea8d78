//! Bytes that were read before it was known what the connection is, given back to its reader.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream that is read from after a prefix. Writes go to the stream at once.
#[derive(Debug)]
pub struct PrefixedStream<S> {
    prefix: Bytes,
    stream: S,
}

impl<S> PrefixedStream<S> {
    /// `prefix` is read before what `stream` has.
    pub fn new(prefix: impl Into<Bytes>, stream: S) -> Self {
        Self {
            prefix: prefix.into(),
            stream,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for PrefixedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let length = self.prefix.len().min(buffer.remaining());
        buffer.put_slice(&self.prefix.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PrefixedStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
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
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
    use tokio::time::{Instant, sleep};

    use super::*;
    use crate::{Activity, ActivityStream};

    #[tokio::test]
    async fn the_prefix_is_read_first_in_pieces_of_any_size() {
        for size in 1..12 {
            let (near, mut far) = duplex(64);
            let mut stream = PrefixedStream::new(&b"begin "[..], near);
            far.write_all(b"end").await.unwrap();
            drop(far);
            let (mut text, mut piece) = (Vec::new(), vec![0; size]);
            loop {
                match stream.read(&mut piece).await.unwrap() {
                    0 => break,
                    length => text.extend_from_slice(&piece[..length]),
                }
            }
            assert_eq!(text, b"begin end", "{size}");
        }
    }

    #[tokio::test]
    async fn what_is_written_does_not_wait_for_the_prefix() {
        let (near, mut far) = duplex(64);
        let mut stream = PrefixedStream::new(&b"begin"[..], near);
        stream.write_all(b"answer").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        far.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "answer");
    }

    #[tokio::test(start_paused = true)]
    async fn what_moves_behind_a_prefix_is_activity() {
        let (near, mut far) = duplex(64);
        let activity = Activity::new();
        let stream = ActivityStream::new(near, &activity);
        let mut stream = PrefixedStream::new(&b"begin "[..], stream);
        let start = Instant::now();
        let writing = async {
            sleep(Duration::from_secs(40)).await;
            far.write_all(b"end").await.unwrap();
            far
        };
        let reading = async {
            let mut text = [0; 9];
            stream.read_exact(&mut text).await.unwrap();
            text
        };
        let idle = activity.idle(Duration::from_secs(60));
        let ((), _far, text) = tokio::join!(idle, writing, reading);
        assert_eq!(&text, b"begin end");
        assert_eq!(start.elapsed(), Duration::from_secs(100));
    }
}
