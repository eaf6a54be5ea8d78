//! The state that all handles of one connection share, and its end.

use std::fmt;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use super::state::State;

/// One connection; its handles, its streams and its driver share it.
pub(crate) struct Connection {
    state: Mutex<State>,
    closed: Notify,
}

impl Connection {
    pub(super) fn new(state: State) -> Self {
        Self {
            state: Mutex::new(state),
            closed: Notify::new(),
        }
    }

    /// Locks the state. The guard must not be held across an `await`.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Marks the connection as lost, and tells every stream.
    pub(super) fn lose(&self) {
        self.state().lose();
        self.closed.notify_waiters();
    }

    /// Resolves when the connection is lost.
    pub(super) async fn closed(&self) {
        let closed = self.closed.notified();
        tokio::pin!(closed);
        closed.as_mut().enable();
        if !self.state().is_lost() {
            closed.await;
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connection")
    }
}

/// Closes the connection when the last handle and the last stream are dropped.
#[derive(Debug)]
pub(super) struct CloseGuard(pub(super) Arc<Connection>);

impl Drop for CloseGuard {
    fn drop(&mut self) {
        self.0.lose();
        self.0.state().wake_driver();
    }
}
