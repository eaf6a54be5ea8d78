//! Logs that are followed: until their reader goes, the sandbox ends, or the server stops.

use std::sync::Arc;
use std::time::Duration;

use stacyvm_provider::ops::{LogBatch, LogReceiver, OpError};
use stacyvm_types::SandboxId;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::operation_error::{public_error, silent};
use crate::orchestrator::Orchestrator;
use crate::registry::Entry;
use crate::settings::Caller;

/// How long an agent may take to hand out log lines.
pub(crate) const LOGS_TIMEOUT: Duration = Duration::from_secs(10);

/// A followed log. Dropping it ends the following.
#[derive(Debug)]
pub struct FollowedLogs {
    entry: Arc<Entry>,
    batches: LogReceiver,
    stop: CancellationToken,
    over: bool,
}

impl Orchestrator {
    /// The last `lines` lines of what ran in a sandbox, newest last, then every line as it is
    /// printed.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` when not running, `Unsupported` when its agent is too old,
    /// `Provider` when its agent does not answer.
    pub async fn follow_logs(
        &self,
        caller: &Caller,
        id: &SandboxId,
        lines: usize,
    ) -> Result<FollowedLogs, Error> {
        let _token = self.state.lifetime.enter()?;
        let entry = self.state.find_running(caller, id)?;
        let sandbox = self.state.open(&entry).await?;
        let batches = timeout(LOGS_TIMEOUT, sandbox.follow_logs(lines))
            .await
            .unwrap_or_else(|_| Err(public_error(&entry, silent())))?;
        Ok(FollowedLogs {
            entry,
            batches,
            stop: self.state.lifetime.stop.clone(),
            over: false,
        })
    }
}

impl FollowedLogs {
    /// The next lines; none when the sandbox is destroyed. Nothing is lost when the future is
    /// dropped.
    ///
    /// # Errors
    /// Once, when the log ends before its sandbox: the agent is lost or the server stops.
    pub async fn next(&mut self) -> Option<Result<LogBatch, Error>> {
        if self.over {
            return None;
        }
        let batch = tokio::select! {
            biased;
            batch = self.batches.recv() => batch,
            () = self.entry.ended.cancelled() => None,
            () = self.stop.cancelled() => {
                self.over = true;
                return Some(Err(Error::shutting_down()));
            }
        };
        if let Some(Ok(batch)) = batch {
            return Some(Ok(batch));
        }
        self.over = true;
        if self.entry.ended.is_cancelled() {
            return None;
        }
        let lost = || OpError::Gone("the agent ended the log".to_owned());
        let error = batch.and_then(Result::err).unwrap_or_else(lost);
        Some(Err(public_error(&self.entry, error)))
    }
}
