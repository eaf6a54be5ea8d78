//! A slow reader's sign of life.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// When the client last read output of the command. A slow reader shows in this way that it is
/// alive: its pongs wait behind the output.
#[derive(Debug)]
pub(crate) struct Progress(Mutex<Instant>);

impl Default for Progress {
    fn default() -> Self {
        Self(Mutex::new(Instant::now()))
    }
}

impl Progress {
    /// The client has read output just now.
    pub(crate) fn made(&self) {
        *self.0.lock() = Instant::now();
    }

    /// The time since the client last read output.
    pub(crate) fn since(&self) -> Duration {
        let last = *self.0.lock();
        last.elapsed()
    }
}
