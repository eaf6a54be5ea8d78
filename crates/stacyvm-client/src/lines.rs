//! A streamed answer, cut into lines.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use futures_core::Stream;

use crate::request::Answer;
use crate::{ByteStream, ClientError};

/// The longest line, bytes.
const MAX_LINE: usize = 4 << 20;

/// The lines, without their ends.
#[derive(Debug)]
pub(crate) struct Lines {
    server: String,
    bytes: ByteStream,
    buffer: BytesMut,
    searched: usize,
}

impl Lines {
    pub(crate) fn new(answer: Answer) -> Self {
        Self {
            server: answer.pool.base().to_owned(),
            bytes: ByteStream::new(answer),
            buffer: BytesMut::new(),
            searched: 0,
        }
    }

    /// An answer that is not understood.
    pub(crate) fn bad(&self, reason: impl ToString) -> ClientError {
        ClientError::Answer {
            server: self.server.clone(),
            reason: reason.to_string(),
        }
    }
}

impl Stream for Lines {
    type Item = Result<Bytes, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let searched = self.searched;
            let end = self.buffer[searched..]
                .iter()
                .position(|byte| *byte == b'\n');
            if let Some(end) = end {
                let line = self.buffer.split_to(searched + end).freeze();
                self.buffer.advance(1);
                self.searched = 0;
                return Poll::Ready(Some(Ok(line)));
            }
            self.searched = self.buffer.len();
            if self.searched > MAX_LINE {
                return Poll::Ready(Some(Err(self.bad("a line is too long"))));
            }
            match ready!(Pin::new(&mut self.bytes).poll_next(cx)) {
                Some(Ok(data)) => self.buffer.extend_from_slice(&data),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                // What is left has no end and is no line.
                None => return Poll::Ready(None),
            }
        }
    }
}
