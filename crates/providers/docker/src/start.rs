//! Starting one container, from its creation to the first answer of its agent.
//!
//! The one rule: a failed start leaves nothing behind. What a killed server leaves has a name that
//! `list` reports.

use std::sync::Arc;
use std::time::Duration;

use bollard::models::{ContainerCreateBody, ContainerStateStatusEnum as Status};
use stacyvm_provider::ops::{Configure, OpError};
use stacyvm_provider::{AgentSandbox, BoxSpec, ProviderError, directory_stands};
use tokio::time::Instant;

use crate::agent;
use crate::connector::ContainerConnector;
use crate::containers::Containers;
use crate::runtimes::RuntimeKind;

/// How long a container may take from its start to its agent's first answer.
const AGENT_START_TIMEOUT: Duration = Duration::from_secs(60);
/// The pauses between two attempts to reach the agent, doubled each time. The first is about as long
/// as an agent takes to start.
const MIN_CONNECT_DELAY: Duration = Duration::from_millis(1);
const MAX_CONNECT_DELAY: Duration = Duration::from_millis(100);
/// How often the container's state is inspected while an attempt is under way.
const STATE_POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Everything needed to start one container.
#[derive(Clone, Debug)]
pub(crate) struct ContainerPlan {
    pub(crate) name: String,
    pub(crate) body: ContainerCreateBody,
    pub(crate) runtime: RuntimeKind,
    /// The defaults of the sandbox's commands.
    pub(crate) configure: Configure,
    /// The error message for an image that lacks the user; empty where no user was named.
    pub(crate) no_such_user: String,
}

/// Starts containers and connects to their agents.
#[derive(Clone, Debug)]
pub(crate) struct ContainerStarter {
    pub(crate) containers: Containers,
    /// Whether agents are reached over the engine's attachment alone.
    pub(crate) attach_only: bool,
}

impl ContainerStarter {
    /// Creates and starts a container and returns when its agent answers; on an error nothing of it
    /// is left.
    pub(crate) async fn start(
        &self,
        plan: &ContainerPlan,
    ) -> Result<Arc<AgentSandbox>, ProviderError> {
        let created = self
            .containers
            .create("create the container", &plan.name, plan.body.clone());
        match created.await {
            Ok(()) => {}
            // The container of that name is another one, so nothing is removed.
            Err(error) if error.is_conflict() => {
                return Err(ProviderError::Invalid(format!(
                    "container {} exists already",
                    plan.name
                )));
            }
            Err(error) => return Err(self.undo(plan, error.into()).await),
        }
        match self.run(plan).await {
            Ok(sandbox) => Ok(sandbox),
            Err(error) => Err(self.undo(plan, error).await),
        }
    }

    /// Connects to a running container whose name and limits now are those of the plan.
    pub(crate) async fn take_over(
        &self,
        plan: &ContainerPlan,
    ) -> Result<Arc<AgentSandbox>, ProviderError> {
        let sandbox = Arc::new(self.sandbox(plan, plan.configure.clone()));
        sandbox.connect().await.map_err(agent_failed)?;
        Ok(sandbox)
    }

    /// Replaces the image's working directory by the default where the image lacks that directory;
    /// on an error nothing of the container is left.
    pub(crate) async fn check_working_directory(
        &self,
        plan: &ContainerPlan,
        spec: &BoxSpec,
        sandbox: Arc<AgentSandbox>,
    ) -> Result<Arc<AgentSandbox>, ProviderError> {
        let directory = plan.configure.workdir.as_deref();
        let Some(directory) = directory.filter(|_| spec.workdir.is_none()) else {
            return Ok(sandbox);
        };
        if directory_stands(&sandbox, directory).await {
            return Ok(sandbox);
        }
        let configure = Configure {
            workdir: None,
            ..plan.configure.clone()
        };
        let configured = Arc::new(self.sandbox(plan, configure));
        match configured.connect().await {
            Ok(()) => Ok(configured),
            Err(error) => Err(self.undo(plan, agent_failed(error)).await),
        }
    }

    /// A connector to the agent of a container that exists.
    pub(crate) fn connector(&self, container: String, runtime: RuntimeKind) -> ContainerConnector {
        let engine = self.containers.engine.clone();
        ContainerConnector::new(engine, container, runtime, self.attach_only)
    }

    fn sandbox(&self, plan: &ContainerPlan, configure: Configure) -> AgentSandbox {
        let connector = self.connector(plan.name.clone(), plan.runtime);
        AgentSandbox::new(connector, Some(configure))
    }

    /// Removes what a failed start left, and returns its error.
    async fn undo(&self, plan: &ContainerPlan, error: ProviderError) -> ProviderError {
        let Self { containers, .. } = self;
        if let Err(left) = containers.remove(&plan.name).await {
            tracing::error!(container = plan.name, error = %left, "A failed container cannot be removed");
        } else if let Some(id) = containers.names.sandbox_of(&plan.name)
            && let Err(left) = containers
                .remove_volume(&containers.names.workspace(&id))
                .await
        {
            tracing::error!(container = plan.name, error = %left, "A failed container's volume cannot be removed");
        }
        error
    }

    async fn run(&self, plan: &ContainerPlan) -> Result<Arc<AgentSandbox>, ProviderError> {
        self.containers.start(&plan.name).await?;
        let sandbox = Arc::new(self.sandbox(plan, plan.configure.clone()));
        let deadline = Instant::now() + AGENT_START_TIMEOUT;
        let mut delay = MIN_CONNECT_DELAY;
        loop {
            // The attachment of a container that ends just now may never answer.
            let connected = tokio::select! {
                connected = tokio::time::timeout_at(deadline, sandbox.connect()) => connected,
                reason = self.wait_for_end(plan) => return Err(reason),
            };
            let error = match connected {
                Ok(Ok(())) => return Ok(sandbox),
                Ok(Err(error @ OpError::Gone(_))) => error,
                Ok(Err(error)) => return Err(agent_failed(error)),
                Err(_) => OpError::Gone("it did not answer in time".to_owned()),
            };
            if let Some(reason) = self.reason_of_end(plan).await? {
                return Err(reason);
            }
            if Instant::now() >= deadline {
                return Err(agent_failed(error));
            }
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(MAX_CONNECT_DELAY);
        }
    }

    /// Waits until the container has ended, and returns why.
    async fn wait_for_end(&self, plan: &ContainerPlan) -> ProviderError {
        loop {
            tokio::time::sleep(STATE_POLL_INTERVAL).await;
            match self.reason_of_end(plan).await {
                Ok(None) => {}
                Ok(Some(reason)) | Err(reason) => return reason,
            }
        }
    }

    /// Why the container has ended; none while it runs.
    async fn reason_of_end(
        &self,
        plan: &ContainerPlan,
    ) -> Result<Option<ProviderError>, ProviderError> {
        let failed = |message: String| ProviderError::Backend {
            step: "start the agent",
            message,
            source: None,
        };
        let Some(found) = self.containers.inspect(&plan.name).await? else {
            return Ok(Some(failed("its container was removed".to_owned())));
        };
        let state = found.state.unwrap_or_default();
        if !matches!(state.status, Some(Status::EXITED | Status::DEAD)) {
            return Ok(None);
        }
        let code = state.exit_code.unwrap_or(0);
        Ok(Some(
            if code == agent::NO_SUCH_USER && !plan.no_such_user.is_empty() {
                ProviderError::Invalid(plan.no_such_user.clone())
            } else if state.oom_killed == Some(true) {
                ProviderError::Invalid(
                    "the agent needs more memory than the sandbox may have; hint: ask for more"
                        .to_owned(),
                )
            } else {
                failed(format!("it ended with code {code} before it answered"))
            },
        ))
    }
}

fn agent_failed(error: OpError) -> ProviderError {
    match error {
        OpError::Invalid(message) => ProviderError::Invalid(message),
        OpError::Unsupported(message) => ProviderError::Unsupported(message),
        other => ProviderError::backend("say hello to the agent", other.to_string(), other),
    }
}
