//! The tasks that serve previews, and how they end with the server.

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Where tasks of previews are tracked, and the tokens that end them.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    /// Every task is spawned on it, so that the server can wait for all of them.
    pub tracker: TaskTracker,
    /// Once cancelled, nothing new is begun, and what would never end by itself ends.
    pub shutdown: CancellationToken,
    /// Once cancelled, all connections are cut.
    pub cut: CancellationToken,
}
