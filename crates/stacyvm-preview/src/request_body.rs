//! The body of a request on its way into a sandbox.
//!
//! Owns the rule that a body which stalls fails: each wait for bytes is timed. It is passed on as it
//! comes and never collected.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use stacyvm_stream::StallTimer;

/// What made a body fail.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The client's body, or none.
pub(crate) struct RequestBody {
    body: Option<Incoming>,
    stall: StallTimer,
    /// Set when all of it has been taken.
    sent: Arc<AtomicBool>,
}

impl RequestBody {
    /// The client's body, and a flag that is set once all of it was sent.
    pub(crate) fn new(body: Incoming, idle_timeout: Duration) -> (Self, Arc<AtomicBool>) {
        let ended = body.is_end_stream();
        let sent = Arc::new(AtomicBool::new(ended));
        let body = Self {
            body: (!ended).then_some(body),
            stall: StallTimer::new(idle_timeout),
            sent: Arc::clone(&sent),
        };
        (body, sent)
    }

    /// No body at all.
    pub(crate) fn empty() -> Self {
        Self {
            body: None,
            stall: StallTimer::new(Duration::ZERO),
            sent: Arc::new(AtomicBool::new(true)),
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let Some(body) = &mut this.body else {
            return Poll::Ready(None);
        };
        match Pin::new(&mut *body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                if is_progress(&frame) {
                    this.stall.reset();
                }
                if body.is_end_stream() {
                    this.sent.store(true, Ordering::Release);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                this.sent.store(true, Ordering::Release);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
            Poll::Pending => {
                let stalled = this.stall.poll_stalled(context);
                stalled.map(|()| Some(Err(stall_error())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            Some(body) => body.size_hint(),
            None => SizeHint::with_exact(0),
        }
    }
}

/// Whether a frame carries anything. HTTP/2 has frames without bytes, with which a client could
/// hold a connection open.
pub(crate) fn is_progress(frame: &Frame<Bytes>) -> bool {
    frame.data_ref().is_none_or(|data| !data.is_empty())
}

/// A body that moved no bytes for too long.
pub(crate) fn stall_error() -> BoxError {
    "the body stopped coming".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_frames_that_carry_something_are_progress() {
        assert!(is_progress(&Frame::data(Bytes::from_static(b"x"))));
        assert!(is_progress(&Frame::trailers(http::HeaderMap::new())));
        assert!(!is_progress(&Frame::data(Bytes::new())));
    }
}
