//! The tokens and trackers that end an orchestrator in order.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::error::Error;

/// The life of an orchestrator, from the first request to the end of the last task.
#[derive(Debug, Default)]
pub(crate) struct Lifetime {
    pub(crate) closed: AtomicBool,
    /// Nothing new is begun, and what may take long is given up.
    pub(crate) closing: CancellationToken,
    /// Schedules and idle owners end.
    pub(crate) stop: CancellationToken,
    /// Everything ends where it stands.
    pub(crate) abort: CancellationToken,
    /// Requests and commands in flight.
    pub(crate) work: TaskTracker,
    /// Owners and schedules.
    pub(crate) tasks: TaskTracker,
}

impl Lifetime {
    /// Lets a request in; shutdown waits for the token.
    pub(crate) fn enter(&self) -> Result<TaskTrackerToken, Error> {
        // The token first: a shutdown that does not see it has set the flag already.
        let token = self.work.token();
        if self.closed.load(Ordering::SeqCst) {
            return Err(Error::shutting_down());
        }
        Ok(token)
    }
}
