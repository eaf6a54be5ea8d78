//! What a connection holds for as long as it lives, also after it was upgraded.

use tokio::sync::OwnedSemaphorePermit;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// A place among the connections, and the right to be waited for at a shutdown.
#[derive(Debug)]
pub(crate) struct ConnectionPermit {
    _permit: OwnedSemaphorePermit,
    _token: TaskTrackerToken,
}

impl ConnectionPermit {
    /// A permit of the connections' semaphore, with a token of the server's tasks.
    pub(crate) fn new(permit: OwnedSemaphorePermit, token: TaskTrackerToken) -> Self {
        Self {
            _permit: permit,
            _token: token,
        }
    }
}
