//! Request bodies that must keep coming.
//!
//! Owns the least rate at which a client must send, and nothing of what is sent. Only the time in
//! which the server waits for the client counts, so a sandbox that takes its data slowly never ends
//! an upload. Bytes alone earn time: HTTP/2 has data frames without any.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep};

/// How slowly a body may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyPace {
    /// How long the server waits for a client in all, beyond what the rate allows; also the longest
    /// single pause.
    pub patience: Duration,
    /// Bytes a second that every body must reach in the long run; 0 only forbids long pauses.
    pub bytes_per_second: u32,
}

impl Default for BodyPace {
    fn default() -> Self {
        Self {
            patience: Duration::from_secs(60),
            bytes_per_second: 1024,
        }
    }
}

/// What a body fails with that comes too slowly.
#[derive(Debug)]
pub(crate) struct TooSlow;

impl std::fmt::Display for TooSlow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the request body comes too slowly")
    }
}

impl std::error::Error for TooSlow {}

/// A body that fails with [`TooSlow`] once its client has let the server wait for too long.
#[derive(Debug)]
pub(crate) struct PacedBody {
    body: Body,
    clock: WaitClock,
}

impl PacedBody {
    pub(crate) fn new(body: Body, pace: BodyPace) -> Self {
        Self {
            body,
            clock: WaitClock::new(pace),
        }
    }
}

impl HttpBody for PacedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(frame) => {
                let data = frame
                    .as_ref()
                    .and_then(|frame| frame.as_ref().ok()?.data_ref());
                self.clock.received(data.map_or(0, Bytes::len));
                Poll::Ready(frame)
            }
            Poll::Pending => {
                let late = self.clock.poll_late(context);
                late.map(|()| Some(Err(axum::Error::new(TooSlow))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// How much longer a client may be waited for.
#[derive(Debug)]
struct WaitClock {
    pace: BodyPace,
    left: Duration,
    /// Since when the client is waited for; none while it is not.
    since: Option<Instant>,
    /// Made when something is first waited for, because most bodies are there at once.
    timer: Option<Pin<Box<Sleep>>>,
}

impl WaitClock {
    fn new(pace: BodyPace) -> Self {
        Self {
            pace,
            left: pace.patience,
            since: None,
            timer: None,
        }
    }

    /// Ends a wait; so many bytes came of it.
    fn received(&mut self, length: usize) {
        if let Some(since) = self.since.take() {
            self.left = self.left.saturating_sub(since.elapsed());
        }
        if length == 0 {
            return;
        }
        let earned = match self.pace.bytes_per_second {
            0 => self.pace.patience,
            rate => Duration::from_secs_f64(length as f64 / f64::from(rate)),
        };
        self.left = self.left.saturating_add(earned).min(self.pace.patience);
    }

    /// Begins a wait or goes on with one; ready when it has taken too long.
    fn poll_late(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let since = *self.since.get_or_insert_with(Instant::now);
        let Some(end) = since.checked_add(self.left) else {
            return Poll::Pending;
        };
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(end)));
        if timer.deadline() != end {
            timer.as_mut().reset(end);
        }
        timer.as_mut().poll(context)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use futures_util::stream;
    use http_body_util::BodyExt as _;
    use tokio::time::sleep;

    const PACE: BodyPace = BodyPace {
        patience: Duration::from_secs(60),
        bytes_per_second: 1024,
    };

    /// A body of `pieces`, each of which comes `pause` after the one before.
    fn dripping(pieces: usize, length: usize, pause: Duration) -> PacedBody {
        let pieces = stream::unfold(pieces, move |left| async move {
            let left = left.checked_sub(1)?;
            sleep(pause).await;
            let piece = Ok::<_, std::io::Error>(Bytes::from(vec![b'x'; length]));
            Some((piece, left))
        });
        PacedBody::new(Body::from_stream(pieces), PACE)
    }

    /// The bytes that came until it ended or failed, and whether it failed.
    async fn read(mut body: PacedBody) -> (usize, bool) {
        let mut length = 0;
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => length += frame.data_ref().map_or(0, Bytes::len),
                Err(_) => return (length, true),
            }
        }
        (length, false)
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_drips_is_ended_and_one_that_is_merely_slow_is_not() {
        let begin = Instant::now();
        let (length, failed) = read(dripping(1000, 1, Duration::from_secs(20))).await;
        assert!(failed && length < 4, "{length}");
        assert!(begin.elapsed() < Duration::from_secs(61));
        // A gibibyte at 20 KiB a second takes half a day.
        let (length, failed) = read(dripping(1 << 14, 1 << 16, Duration::from_secs(3))).await;
        assert_eq!((length, failed), (1 << 30, false));
        // What comes fast at first earns no hours of silence.
        let (_, failed) = read(dripping(2, 1 << 30, Duration::from_secs(61))).await;
        assert!(failed);
    }

    #[tokio::test(start_paused = true)]
    async fn frames_without_bytes_earn_nothing() {
        let begin = Instant::now();
        let (length, failed) = read(dripping(100_000, 0, Duration::from_millis(100))).await;
        assert_eq!((length, failed), (0, true));
        assert!(begin.elapsed() <= Duration::from_secs(61));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_is_not_the_clients_fault() {
        let mut body = dripping(100, 1, Duration::from_millis(10));
        let mut length = 0;
        while let Some(frame) = body.frame().await {
            length += frame.unwrap().data_ref().map_or(0, Bytes::len);
            sleep(Duration::from_secs(600)).await;
        }
        assert_eq!(length, 100);
    }
}
