//! Wall-clock time, injected, so that expiry can be tested on a clock that stands still.

use std::fmt;

use stacyvm_types::Timestamp;

/// What tells the time of day.
pub(crate) trait Clock: Send + Sync + fmt::Debug {
    /// Now.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}
