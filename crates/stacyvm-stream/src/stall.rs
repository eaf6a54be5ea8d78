//! How long one operation has waited without getting on.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// A timeout for each wait of an operation, not for the operation as a whole: it runs only between
/// [`StallTimer::poll_stalled`] and the next [`StallTimer::reset`].
///
/// The timer itself is made when something is first waited for, because most operations never
/// wait, and it is put off only when it fires, because most waits are short.
#[derive(Debug)]
pub struct StallTimer {
    timeout: Duration,
    /// Since when the operation waits; none while it gets on.
    since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl StallTimer {
    /// A wait may take `timeout`.
    #[must_use]
    pub const fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            since: None,
            timer: None,
        }
    }

    /// Notes that the operation got on: the next wait starts anew.
    pub const fn reset(&mut self) {
        self.since = None;
    }

    /// Is ready once this wait has taken longer than the timeout. Called whenever the operation
    /// is pending; the first call after [`StallTimer::reset`] begins the wait. A timeout beyond
    /// what the clock can hold never ends.
    pub fn poll_stalled(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let since = *self.since.get_or_insert_with(Instant::now);
        let Some(end) = since.checked_add(self.timeout) else {
            return Poll::Pending;
        };
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(end)));
        while timer.as_mut().poll(context).is_ready() {
            if timer.deadline() >= end {
                return Poll::Ready(());
            }
            timer.as_mut().reset(end);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);

    async fn stalled(timer: &mut StallTimer) {
        std::future::poll_fn(|context| timer.poll_stalled(context)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_begins_when_it_is_first_polled() {
        let mut timer = StallTimer::new(TIMEOUT);
        sleep(TIMEOUT * 2).await;
        let start = Instant::now();
        stalled(&mut timer).await;
        assert_eq!(start.elapsed(), TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn each_wait_has_the_whole_timeout() {
        let mut timer = StallTimer::new(TIMEOUT);
        for _ in 0..5 {
            let waiting = tokio::time::timeout(TIMEOUT * 3 / 4, stalled(&mut timer));
            assert!(waiting.await.is_err());
            timer.reset();
        }
        let start = Instant::now();
        stalled(&mut timer).await;
        assert_eq!(start.elapsed(), TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_is_polled_again_is_not_a_new_one() {
        let mut timer = StallTimer::new(TIMEOUT);
        let start = Instant::now();
        let waiting = tokio::time::timeout(TIMEOUT / 2, stalled(&mut timer));
        assert!(waiting.await.is_err());
        stalled(&mut timer).await;
        assert_eq!(start.elapsed(), TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_timeout_beyond_the_clock_never_ends() {
        let mut timer = StallTimer::new(Duration::MAX);
        let waiting = tokio::time::timeout(Duration::from_secs(1 << 20), stalled(&mut timer));
        assert!(waiting.await.is_err());
    }
}
