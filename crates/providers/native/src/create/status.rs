//! The status pipe, on which the first process reports a failed step of its setup.

use std::os::fd::OwnedFd;
use std::time::Duration;

use stacyvm_launcher::control::LaunchFailure;
use stacyvm_provider::ProviderError;
use tokio::io::AsyncReadExt as _;

use crate::launcher::LaunchError;
use crate::process::Process;

/// How long to read on after the sandbox's death.
pub(super) const REPORT_TIMEOUT: Duration = Duration::from_secs(1);
/// The longest text of a failure, bytes; the child that writes it is not trusted.
const MAX_FAILURE: u64 = 16 * 1024;

/// The read end of the pipe.
pub(super) struct StatusPipe(OwnedFd);

impl StatusPipe {
    pub(super) fn new(pipe: OwnedFd) -> Self {
        Self(pipe)
    }

    /// The failure that the first process reports; none when the pipe ends without one.
    pub(super) async fn failure(self) -> Option<LaunchFailure> {
        let pipe = tokio::net::unix::pipe::Receiver::from_owned_fd(self.0).ok()?;
        let mut text = Vec::new();
        pipe.take(MAX_FAILURE).read_to_end(&mut text).await.ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Resolves when the sandbox has failed: by its own report, or by its death. A pipe that ends
    /// without a report means that the setup is done, and then only the death counts.
    pub(super) async fn first_failure(self, process: &Process) -> ProviderError {
        let mut reported = std::pin::pin!(self.failure());
        let failure = tokio::select! {
            biased;
            failure = &mut reported => {
                if failure.is_none() {
                    process.wait().await;
                }
                failure
            }
            // The report may still be on its way.
            () = process.wait() => {
                tokio::time::timeout(REPORT_TIMEOUT, reported).await.ok().flatten()
            }
        };
        match failure {
            Some(failure) => launch_failed(LaunchError::Failed(failure)),
            None => ProviderError::Backend {
                step: "start the agent",
                message: "the sandbox's first process ended before its agent answered".to_owned(),
                source: None,
            },
        }
    }
}

/// The provider's error for a launch that failed.
pub(super) fn launch_failed(error: LaunchError) -> ProviderError {
    let message = error.to_string();
    match error {
        LaunchError::NotRunning => ProviderError::Unavailable(message),
        other => ProviderError::backend("launch the sandbox", message, other),
    }
}
