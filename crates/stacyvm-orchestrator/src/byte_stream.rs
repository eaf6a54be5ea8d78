//! Bytes that come out of a sandbox or a provider, with the orchestrator's error where they break
//! off.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::Stream;
use stacyvm_provider::ops::ByteReceiver;
use stacyvm_types::FileInfo;

use crate::error::Error;
use crate::operation_error::public_error;
use crate::registry::Entry;

/// A stream of bytes in pieces of at most 64 KiB; an error is its last item. Dropping it ends the
/// operation that feeds it.
#[derive(Debug)]
pub struct ByteStream {
    source: ByteReceiver,
    origin: Origin,
}

/// What the bytes come from, which says what a failure means.
#[derive(Debug)]
enum Origin {
    Sandbox(Arc<Entry>),
    Provider(String),
}

impl ByteStream {
    pub(crate) fn of_sandbox(entry: Arc<Entry>, source: ByteReceiver) -> Self {
        let origin = Origin::Sandbox(entry);
        Self { source, origin }
    }

    pub(crate) fn of_provider(provider: String, source: ByteReceiver) -> Self {
        let origin = Origin::Provider(provider);
        Self { source, origin }
    }

    /// The next piece; none at the end.
    pub async fn next(&mut self) -> Option<Result<Bytes, Error>> {
        std::future::poll_fn(|context| self.poll(context)).await
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        let next = ready!(self.source.poll_recv(context));
        Poll::Ready(next.map(|piece| {
            piece.map_err(|error| match &self.origin {
                Origin::Sandbox(entry) => public_error(entry, error),
                Origin::Provider(name) => Error::from_op(name, error),
            })
        }))
    }
}

impl Stream for ByteStream {
    type Item = Result<Bytes, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll(context)
    }
}

/// An opened file.
#[derive(Debug)]
pub struct FileRead {
    /// What the file was when it was opened.
    pub info: FileInfo,
    /// Its bytes from the asked offset.
    pub data: ByteStream,
}
