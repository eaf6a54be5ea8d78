//! What is inside a running sandbox: its use, its logs, its commands, and a handle to the rest.

use std::sync::Arc;
use std::time::{Duration, Instant};

use stacyvm_provider::ProviderError;
use stacyvm_provider::ops::OpError;
use stacyvm_types::{ExecRequest, ExecResponse, SandboxId, SandboxStats};
use tokio::time::timeout;

use crate::error::Error;
use crate::exec::RunningExec;
use crate::follow::LOGS_TIMEOUT;
use crate::handle::SandboxHandle;
use crate::interactive::Interactive;
use crate::metrics::Operation;
use crate::operation_error::{public_error, silent};
use crate::orchestrator::Orchestrator;
use crate::settings::Caller;
use crate::{command, exec};

/// How long a backend may take to measure one box.
const STATS_TIMEOUT: Duration = Duration::from_secs(10);

impl Orchestrator {
    /// What a running sandbox uses now.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` when not running, `Provider` when it cannot be measured.
    pub async fn stats(&self, caller: &Caller, id: &SandboxId) -> Result<SandboxStats, Error> {
        let _token = self.state.lifetime.enter()?;
        let entry = self.state.find_running(caller, id)?;
        let name = &entry.facts.provider;
        let slot = entry
            .slot
            .as_ref()
            .ok_or_else(|| Error::Unavailable(format!("provider {name:?} is not configured")))?;
        let began = Instant::now();
        let measured = timeout(STATS_TIMEOUT, slot.provider.stats(&entry.facts.id)).await;
        let result = match measured {
            Ok(Ok(stats)) => Ok(stats),
            Ok(Err(ProviderError::NotFound(message))) => {
                Err(public_error(&entry, OpError::Gone(message)))
            }
            Ok(Err(error)) => Err(Error::from_provider(name, error)),
            Err(_) => Err(Error::Provider {
                provider: name.clone(),
                message: format!("it could not measure the sandbox within {STATS_TIMEOUT:?}"),
                source: None,
            }),
        };
        slot.metrics
            .record(Operation::Stats, began.elapsed(), result.is_err());
        result
    }

    /// The last `lines` lines of what ran in a sandbox, newest last.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` when not running, `Provider` when its agent does not answer.
    pub async fn logs(
        &self,
        caller: &Caller,
        id: &SandboxId,
        lines: usize,
    ) -> Result<Vec<String>, Error> {
        let _token = self.state.lifetime.enter()?;
        let entry = self.state.find_running(caller, id)?;
        let sandbox = self.state.open(&entry).await?;
        let result = timeout(LOGS_TIMEOUT, sandbox.logs(lines)).await;
        result.unwrap_or_else(|_| Err(public_error(&entry, silent())))
    }

    /// Starts a command and streams what it says. Dropping the result's `events` kills its tree.
    ///
    /// # Errors
    /// Whatever is wrong before the command runs.
    pub async fn exec(
        &self,
        caller: &Caller,
        id: &SandboxId,
        request: ExecRequest,
    ) -> Result<RunningExec, Error> {
        let plain = Interactive::default();
        self.exec_interactive(caller, id, request, plain).await
    }

    /// As [`Self::exec`], with a terminal or an input that stays open, as `interactive` says.
    ///
    /// # Errors
    /// Whatever is wrong before the command runs.
    pub async fn exec_interactive(
        &self,
        caller: &Caller,
        id: &SandboxId,
        request: ExecRequest,
        interactive: Interactive,
    ) -> Result<RunningExec, Error> {
        let pump = self.start_exec(caller, id, request, interactive).await?;
        Ok(exec::stream(&self.state, pump))
    }

    /// Runs a command to its end and returns what it wrote, under the output cap.
    ///
    /// # Errors
    /// Whatever is wrong before the command runs; `Timeout` when it hit its deadline.
    pub async fn exec_captured(
        &self,
        caller: &Caller,
        id: &SandboxId,
        request: ExecRequest,
    ) -> Result<ExecResponse, Error> {
        let plain = Interactive::default();
        let pump = self.start_exec(caller, id, request, plain).await?;
        exec::capture(pump, self.state.settings.max_output_bytes).await
    }

    async fn start_exec(
        &self,
        caller: &Caller,
        id: &SandboxId,
        request: ExecRequest,
        interactive: Interactive,
    ) -> Result<exec::Pump, Error> {
        let token = self.state.lifetime.enter()?;
        let entry = self.state.find_running(caller, id)?;
        let owner = entry.facts.owner.as_ref().or(caller.owner.as_ref());
        let started = match command::Plan::new(&self.state.settings_for(owner), request) {
            Ok(plan) => {
                let plan = plan.connected(interactive);
                exec::start(&self.state, Arc::clone(&entry), plan, token).await
            }
            Err(error) => Err(error),
        };
        self.state
            .report_limits("exec", Some(&entry.facts.id), owner, started)
    }

    /// A handle to a running sandbox: its files, ports and commands.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` when not running, `Provider` when its agent does not answer.
    pub async fn sandbox(&self, caller: &Caller, id: &SandboxId) -> Result<SandboxHandle, Error> {
        let _token = self.state.lifetime.enter()?;
        let entry = self.state.find_running(caller, id)?;
        self.state.open(&entry).await
    }
}
