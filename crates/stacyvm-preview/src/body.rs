//! Bodies that pass, and those of our own pages.
//!
//! Owns the rule that a body which stands still ends: each wait for its next piece is timed. What
//! passes is never collected.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use stacyvm_stream::StallTimer;
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::room::Lease;

/// Whatever made a body break off.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A body of a preview's answer.
pub struct PreviewBody(Form);

enum Form {
    Whole(Option<Bytes>),
    Inside(Box<Inside>),
}

struct Inside {
    body: Incoming,
    stall: StallTimer,
    /// Given back when the body has ended well; dropped, which ends its connection, otherwise.
    lease: Option<Lease>,
    /// Ends an answer that would never end by itself.
    closing: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl PreviewBody {
    /// All of it.
    pub fn whole(bytes: impl Into<Bytes>) -> Self {
        Self(Form::Whole(Some(bytes.into())))
    }

    /// Nothing.
    pub fn empty() -> Self {
        Self(Form::Whole(None))
    }

    /// What comes from inside, over the leased connection.
    pub(crate) fn inside(
        body: Incoming,
        lease: Lease,
        idle: Duration,
        closing: Option<WaitForCancellationFutureOwned>,
    ) -> Self {
        if body.is_end_stream() {
            lease.give_back();
            return Self::empty();
        }
        Self(Form::Inside(Box::new(Inside {
            body,
            stall: StallTimer::new(idle),
            lease: Some(lease),
            closing: closing.map(Box::pin),
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
            Form::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Form::Inside(inside) => inside.poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Form::Whole(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            // The frame that says so must be asked for, for the connection to be given back.
            Form::Inside(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Form::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Form::Inside(inside) => inside.body.size_hint(),
        }
    }
}

impl Inside {
    fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                self.stall.reset();
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
            Poll::Pending => {
                if let Some(closing) = &mut self.closing
                    && closing.as_mut().poll(context).is_ready()
                {
                    self.lease = None;
                    return Poll::Ready(None);
                }
                match self.stall.poll_stalled(context) {
                    Poll::Ready(()) => {
                        self.lease = None;
                        Poll::Ready(Some(Err(stopped())))
                    }
                    Poll::Pending => Poll::Pending,
                }
            }
        }
    }

    fn give_back(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }
}

/// A body on its way inside.
pub(crate) struct Outgoing {
    body: Option<Incoming>,
    stall: StallTimer,
    /// Told when all of it has been taken.
    sent: Arc<AtomicBool>,
}

impl Outgoing {
    /// The client's body, and what says that all of it has gone in.
    pub(crate) fn new(body: Incoming, idle: Duration) -> (Self, Arc<AtomicBool>) {
        let ended = body.is_end_stream();
        let sent = Arc::new(AtomicBool::new(ended));
        let outgoing = Self {
            body: (!ended).then_some(body),
            stall: StallTimer::new(idle),
            sent: Arc::clone(&sent),
        };
        (outgoing, sent)
    }

    /// None at all.
    pub(crate) fn empty() -> Self {
        Self {
            body: None,
            stall: StallTimer::new(Duration::ZERO),
            sent: Arc::new(AtomicBool::new(true)),
        }
    }
}

impl Body for Outgoing {
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
                this.stall.reset();
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
            Poll::Pending => this
                .stall
                .poll_stalled(context)
                .map(|()| Some(Err(stopped()))),
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

fn stopped() -> BoxError {
    "the body stopped coming".into()
}
