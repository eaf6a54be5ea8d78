//! The third stage of a create: a launcher makes the sandbox and starts its first process.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use stacyvm_launcher::control::LaunchRequest;
use stacyvm_provider::ProviderError;

use super::hello::Hello;
use super::status::{REPORT_TIMEOUT, StatusPipe, launch_failed};
use crate::cgroups::Cgroups;
use crate::launcher::{LaunchError, Launchers};
use crate::process::Process;

/// A sandbox whose first process runs.
pub(super) struct LaunchedBox {
    pub(super) process: Arc<Process>,
    pub(super) cgroups: Cgroups,
    /// What the sandbox goes without, one sentence each.
    pub(super) degraded: Vec<String>,
    pub(super) status: StatusPipe,
}

/// Launches the sandbox, while `hello` connects to its agent already.
pub(super) async fn launch(
    launchers: &Launchers,
    request: Box<LaunchRequest>,
    descriptors: Vec<OwnedFd>,
    status: StatusPipe,
    hello: &mut Hello<'_>,
) -> Result<LaunchedBox, ProviderError> {
    let mut launching = Box::pin(launchers.launch(request, descriptors));
    let answer = loop {
        tokio::select! {
            biased;
            answer = &mut launching => break answer,
            () = hello.connect(), if !hello.is_connected() => {}
        }
    };
    let (launched, pidfd) = match answer {
        Ok(answer) => answer,
        Err(error) => return Err(explain(error, status).await),
    };
    let process = Process::from_pidfd(launched.pid, pidfd)
        .map_err(|error| ProviderError::backend("watch the sandbox's process", "", error))?;
    Ok(LaunchedBox {
        process: Arc::new(process),
        cgroups: launched.cgroups,
        degraded: launched.degraded,
        status,
    })
}

/// Why a launch failed: the child's own report, which the launcher may not have seen, or else the
/// launcher's error.
async fn explain(error: LaunchError, status: StatusPipe) -> ProviderError {
    let reported = tokio::time::timeout(REPORT_TIMEOUT, status.failure()).await;
    launch_failed(match reported {
        Ok(Some(failure)) => LaunchError::Failed(failure),
        Ok(None) | Err(_) => error,
    })
}
