//! The reading half of either end: from the bytes of the pipe to chunks.

use std::future::Future as _;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt as _, ReadBuf};

use super::chunk::{Chunk, Damaged, Decoder, MAX_CHUNK_LEN};

#[derive(Debug)]
pub(super) struct Input<R> {
    read: R,
    pub(super) decoder: Decoder,
}

impl<R: AsyncRead + Unpin> Input<R> {
    pub(super) fn new(read: R) -> Self {
        Self {
            read,
            decoder: Decoder::default(),
        }
    }

    /// The next chunk, or that it was damaged.
    ///
    /// # Errors
    /// When the pipe is broken or closed.
    pub(super) fn poll_chunk(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<Result<Chunk, Damaged>>> {
        loop {
            if let Some(found) = self.decoder.next_chunk().transpose() {
                return Poll::Ready(Ok(found));
            }
            ready!(self.poll_more(context))?;
        }
    }

    /// Waits for more bytes.
    ///
    /// # Errors
    /// When the pipe is broken or closed.
    pub(super) fn poll_more(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.decoder.buffer.reserve(MAX_CHUNK_LEN);
        let reading = pin!(self.read.read_buf(&mut self.decoder.buffer));
        match ready!(reading.poll(context))? {
            0 => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            _ => Poll::Ready(Ok(())),
        }
    }
}

/// Moves as much of `left` as fits into `buffer`.
pub(super) fn fill_buffer(left: &mut Bytes, buffer: &mut ReadBuf<'_>) {
    let count = left.len().min(buffer.remaining());
    buffer.put_slice(&left[..count]);
    left.advance(count);
}
