//! Waiting for a condition that nothing announces, with a deadline.

use std::thread;
use std::time::{Duration, Instant};

/// How long a condition may take that normally holds in milliseconds. It is generous, because it only
/// decides how long a failing test takes.
pub const WAIT_TIMEOUT: Duration = Duration::from_secs(60);
/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(5);

/// Blocks until `condition` holds.
///
/// # Panics
/// With `what` when it does not hold within [`WAIT_TIMEOUT`].
#[track_caller]
pub fn wait_until(what: &str, condition: impl FnMut() -> bool) {
    wait_within(what, WAIT_TIMEOUT, condition);
}

/// Blocks until `condition` holds, with a limit of the caller's own.
///
/// # Panics
/// With `what` when it does not hold within `limit`.
#[track_caller]
pub fn wait_within(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        thread::sleep(PAUSE);
    }
}

/// Waits until `condition` holds.
///
/// # Panics
/// With `what` when it does not hold within [`WAIT_TIMEOUT`].
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    until(what, async || condition().await.then_some(())).await;
}

/// Waits until `ask` has an answer, and returns it.
///
/// # Panics
/// With `what` when it has none within [`WAIT_TIMEOUT`].
pub async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + WAIT_TIMEOUT;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "not within {WAIT_TIMEOUT:?}: {what}"
        );
        tokio::time::sleep(PAUSE).await;
    }
}
