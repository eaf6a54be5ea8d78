//! The runtime of commands that only talk to a server.

use anyhow::{Context, Result};

/// Runs a command on the calling thread, which is enough for one that only talks to a server.
pub(super) fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(future);
    // A read of standard input cannot be interrupted and must not hold the exit up.
    runtime.shutdown_background();
    result
}
