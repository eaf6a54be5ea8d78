//! The body of a preview's answer: one that comes from the sandbox, or a page of the server.
//!
//! Owns the rule that a body which stalls fails: each wait for bytes is timed. What comes from the
//! sandbox is passed on as it comes and never collected.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use stacyvm_stream::StallTimer;
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::connections::Lease;
use crate::request_body::{BoxError, is_progress, stall_error};

/// The body of a preview's answer.
pub struct PreviewBody(Content);

enum Content {
    /// All of it, until it is taken.
    Whole(Option<Bytes>),
    /// What comes from the sandbox.
    Upstream(Box<UpstreamBody>),
}

struct UpstreamBody {
    body: Incoming,
    stall: StallTimer,
    /// The connection that the body comes over. It is given back when the body has ended well;
    /// dropping it otherwise closes the connection.
    lease: Option<Lease>,
    /// Ends an answer that would never end by itself.
    shutdown: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl PreviewBody {
    /// A body that is known whole.
    pub fn whole(bytes: impl Into<Bytes>) -> Self {
        Self(Content::Whole(Some(bytes.into())))
    }

    /// No body.
    pub fn empty() -> Self {
        Self(Content::Whole(None))
    }

    /// A body that comes from the sandbox, over the leased connection. It ends at `shutdown`, if
    /// there is one.
    pub(crate) fn upstream(
        body: Incoming,
        lease: Lease,
        idle_timeout: Duration,
        shutdown: Option<WaitForCancellationFutureOwned>,
    ) -> Self {
        if body.is_end_stream() {
            lease.give_back();
            return Self::empty();
        }
        Self(Content::Upstream(Box::new(UpstreamBody {
            body,
            stall: StallTimer::new(idle_timeout),
            lease: Some(lease),
            shutdown: shutdown.map(Box::pin),
        })))
    }
}

impl fmt::Debug for PreviewBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PreviewBody")
    }
}

impl Body for PreviewBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.0 {
            Content::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Content::Upstream(upstream) => upstream.poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Content::Whole(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            // The connection is given back only when the end of the body is polled.
            Content::Upstream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Content::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64)
            }
            Content::Upstream(upstream) => upstream.body.size_hint(),
        }
    }
}

impl UpstreamBody {
    fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                if is_progress(&frame) {
                    self.stall.reset();
                }
                if self.body.is_end_stream() {
                    self.give_back();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                self.give_back();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                self.lease = None;
                Poll::Ready(Some(Err(error.into())))
            }
            Poll::Pending => self.poll_ended(context),
        }
    }

    /// Ends the body at the shutdown, and fails it when it has stalled.
    fn poll_ended(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(shutdown) = &mut self.shutdown
            && shutdown.as_mut().poll(context).is_ready()
        {
            self.lease = None;
            return Poll::Ready(None);
        }
        match self.stall.poll_stalled(context) {
            Poll::Ready(()) => {
                self.lease = None;
                Poll::Ready(Some(Err(stall_error())))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn give_back(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }
}
