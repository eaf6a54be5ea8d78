//! What every check needs: the provider under test, how long things may take, and assertions that
//! are errors instead of panics.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use stacyvm_types::SandboxId;

use crate::provider::Provider;

/// Longer than anything here takes on a loaded machine.
pub const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// What a provider's tests bring.
#[async_trait]
pub trait Harness: Send {
    /// The provider under test.
    fn provider(&self) -> Arc<dyn Provider>;

    /// Ends the provider as a server's end would, and starts another one over the same state.
    async fn restart(&mut self);

    /// Kills the sandbox's workload (its agent) from outside, as a crash would.
    async fn kill_workload(&self, id: &SandboxId);

    /// Notes that the running check leaves something out, and why.
    fn skip(&self, reason: &str);

    /// What is left of a destroyed sandbox on this machine: directories, processes, cgroups, …
    async fn leftovers(&self, id: &SandboxId) -> Vec<String>;
}

/// Asks `question` again and again until its answer is yes.
///
/// # Errors
/// When it is still no after `WAIT_TIMEOUT`.
pub async fn eventually(what: &str, mut question: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let deadline = tokio::time::Instant::now() + WAIT_TIMEOUT;
    while !question().await? {
        anyhow::ensure!(
            tokio::time::Instant::now() < deadline,
            "still not after {WAIT_TIMEOUT:?}: {what}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Fails unless `result` is an error of the given variant.
macro_rules! ensure_error {
    ($result:expr, $variant:pat) => {{
        let result = $result;
        anyhow::ensure!(
            matches!(result, Err($variant)),
            "{} should be {}, is {}",
            stringify!($result),
            stringify!($variant),
            $crate::conformance::harness::shown(&result)
        );
    }};
}
pub(crate) use ensure_error;

/// A result in an error message.
pub(crate) fn shown<T, E: Debug>(result: &std::result::Result<T, E>) -> String {
    match result {
        Ok(_) => "success".to_owned(),
        Err(error) => format!("{error:?}"),
    }
}

/// Fails unless both are equal.
macro_rules! ensure_equal {
    ($left:expr, $right:expr) => {
        ensure_equal!($left, $right, "")
    };
    ($left:expr, $right:expr, $($what:tt)+) => {{
        let (left, right) = (&$left, &$right);
        anyhow::ensure!(
            left == right,
            "{} is {left:?}, should be {right:?} {}",
            stringify!($left),
            format_args!($($what)+)
        );
    }};
}
pub(crate) use ensure_equal;
