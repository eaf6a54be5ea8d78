//! Answers that are read while they come.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_core::Stream;
use hyper::body::{Body, Incoming};
use stacyvm_types::StreamLine;

use crate::ClientError;
use crate::connection::{Connection, Pool};
use crate::lines::Lines;
use crate::request::Answer;

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
    lines: Lines,
    exited: bool,
}

impl LineStream {
    pub(crate) fn new(answer: Answer) -> Self {
        Self {
            lines: Lines::new(answer),
            exited: false,
        }
    }
}

impl Stream for LineStream {
    type Item = Result<StreamLine, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match ready!(Pin::new(&mut self.lines).poll_next(cx)) {
                Some(Ok(line)) if line.is_empty() => {}
                Some(Ok(line)) => {
                    let line: Result<StreamLine, _> = serde_json::from_slice(&line);
                    self.exited = line.as_ref().is_ok_and(|line| line.exit_code.is_some());
                    return Poll::Ready(Some(line.map_err(|error| self.lines.bad(error))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None if self.exited => return Poll::Ready(None),
                None => {
                    // Reported once; the next poll is the end.
                    self.exited = true;
                    let error = self.lines.bad("the stream ended before the command");
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }
}
