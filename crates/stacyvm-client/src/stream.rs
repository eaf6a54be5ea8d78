//! Answers that come piece by piece.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use futures_core::Stream;
use hyper::body::{Body, Incoming};
use stacyvm_types::StreamLine;

use crate::ClientError;
use crate::connection::{Connection, Pool};
use crate::request::Answer;

/// The longest line of a streamed exec, in bytes.
const MAX_LINE: usize = 4 << 20;

/// The bytes of an answer. Dropping it half way closes the connection.
pub struct ByteStream {
    body: Incoming,
    pool: Arc<Pool>,
    connection: Option<Connection>,
}

impl std::fmt::Debug for ByteStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ByteStream").finish_non_exhaustive()
    }
}

impl ByteStream {
    pub(crate) fn new(answer: Answer) -> Self {
        Self {
            body: answer.response.into_body(),
            pool: answer.pool,
            connection: Some(answer.connection),
        }
    }
}

impl Stream for ByteStream {
    type Item = Result<Bytes, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Poll::Ready(Some(Ok(data)));
                    }
                }
                Some(Err(source)) => {
                    self.connection = None;
                    let server = self.pool.base().to_owned();
                    return Poll::Ready(Some(Err(ClientError::Transport { server, source })));
                }
                None => {
                    if let Some(connection) = self.connection.take() {
                        self.pool.give_back(connection);
                    }
                    return Poll::Ready(None);
                }
            }
        }
    }
}

/// The lines of a streamed exec, as they come. Without an exit line its end is an error: a lost
/// connection must not look like a command that ended.
#[derive(Debug)]
pub struct LineStream {
    bytes: ByteStream,
    buffer: BytesMut,
    searched: usize,
    exited: bool,
}

impl LineStream {
    pub(crate) fn new(answer: Answer) -> Self {
        Self {
            bytes: ByteStream::new(answer),
            buffer: BytesMut::new(),
            searched: 0,
            exited: false,
        }
    }

    fn bad(&self, reason: impl ToString) -> ClientError {
        ClientError::Answer {
            server: self.bytes.pool.base().to_owned(),
            reason: reason.to_string(),
        }
    }
}

impl Stream for LineStream {
    type Item = Result<StreamLine, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let searched = self.searched;
            if let Some(end) = self.buffer[searched..]
                .iter()
                .position(|byte| *byte == b'\n')
            {
                let line = self.buffer.split_to(searched + end);
                self.buffer.advance(1);
                self.searched = 0;
                if line.is_empty() {
                    continue;
                }
                let line: Result<StreamLine, _> = serde_json::from_slice(&line);
                self.exited = line.as_ref().is_ok_and(|line| line.exit_code.is_some());
                return Poll::Ready(Some(line.map_err(|error| self.bad(error))));
            }
            self.searched = self.buffer.len();
            if self.searched > MAX_LINE {
                return Poll::Ready(Some(Err(self.bad("a line is too long"))));
            }
            match ready!(Pin::new(&mut self.bytes).poll_next(cx)) {
                Some(Ok(data)) => self.buffer.extend_from_slice(&data),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None if self.exited => return Poll::Ready(None),
                None => {
                    self.buffer.clear();
                    self.searched = 0;
                    // Said once: who asks again hears the end.
                    self.exited = true;
                    return Poll::Ready(Some(Err(self.bad("the stream ended before the command"))));
                }
            }
        }
    }
}
