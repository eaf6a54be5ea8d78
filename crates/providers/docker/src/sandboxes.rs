//! Sandboxes as containers: creating one, from a warm container where one fits, opening one that
//! exists, and removing one.

use std::sync::Arc;

use bollard::models::ContainerStateStatusEnum as Status;
use stacyvm_provider::{AgentSandbox, BoxSpec, ProviderError};
use stacyvm_types::SandboxId;

use crate::connections::{Connections, SandboxConnection};
use crate::containers::Containers;
use crate::limits::ContainerLimits;
use crate::plan::{Planner, REDUCED_OPEN_FILES};
use crate::probe::EngineProbe;
use crate::start::{ContainerPlan, ContainerStarter};
use crate::warm::WarmContainers;

/// The sandboxes of one server.
#[derive(Debug)]
pub(crate) struct Sandboxes {
    pub(crate) containers: Containers,
    pub(crate) probe: Arc<EngineProbe>,
    pub(crate) planner: Arc<Planner>,
    pub(crate) starter: ContainerStarter,
    pub(crate) warm: WarmContainers,
    pub(crate) connections: Connections,
}

impl Sandboxes {
    /// Creates a sandbox; on an error nothing of it is left.
    pub(crate) async fn create(&self, spec: &BoxSpec) -> Result<Arc<AgentSandbox>, ProviderError> {
        let plan = self.planner.plan(spec).await?;
        let limits = plan.body.host_config.as_ref().map(ContainerLimits::from);
        let sandbox = match self.warm.claim(&plan, spec).await {
            Some(sandbox) => sandbox,
            None => self.start(plan, spec).await?,
        };
        let limits = limits.unwrap_or_default();
        self.connections.insert(&spec.id, sandbox.clone(), limits);
        Ok(sandbox)
    }

    async fn start(
        &self,
        mut plan: ContainerPlan,
        spec: &BoxSpec,
    ) -> Result<Arc<AgentSandbox>, ProviderError> {
        let sandbox = match self.starter.start(&plan).await {
            Err(error) if exceeds_open_files(&error, spec) && self.planner.reduce_open_files() => {
                tracing::warn!(
                    most = REDUCED_OPEN_FILES,
                    "The engine gives fewer open files than a sandbox is to have"
                );
                plan = self.planner.plan(spec).await?;
                self.starter.start(&plan).await?
            }
            started => started?,
        };
        let starter = &self.starter;
        starter.check_working_directory(&plan, spec, sandbox).await
    }

    /// Connects to a sandbox that exists.
    pub(crate) async fn open(&self, id: &SandboxId) -> Result<Arc<AgentSandbox>, ProviderError> {
        let name = self.containers.names.container(id);
        let found = self.containers.inspect(&name).await?;
        let found = found.ok_or_else(|| not_found(id))?;
        let failed = |message: &str| ProviderError::Backend {
            step: "open the sandbox",
            message: message.to_owned(),
            source: None,
        };
        match found.state.and_then(|state| state.status) {
            Some(Status::RUNNING) => {}
            Some(Status::PAUSED) => return Err(failed("its container is paused")),
            _ => return Err(failed("its container does not run")),
        }
        let host = found.host_config.unwrap_or_default();
        let machine = self.probe.current().await?;
        let runtime = machine.kind_of(host.runtime.as_deref().unwrap_or_default());
        let sandbox = match self.connections.get(id) {
            Some(connection) => connection.sandbox.clone(),
            None => {
                let connector = self.starter.connector(name, runtime);
                Arc::new(AgentSandbox::new(connector, None))
            }
        };
        sandbox.connect().await.map_err(|error| {
            ProviderError::backend("open the sandbox", error.to_string(), error)
        })?;
        let limits = ContainerLimits::from(&host);
        self.connections.insert(id, sandbox.clone(), limits);
        Ok(sandbox)
    }

    /// The connection to a sandbox, which is opened where there is none yet.
    pub(crate) async fn connection(
        &self,
        id: &SandboxId,
    ) -> Result<Arc<SandboxConnection>, ProviderError> {
        if self.connections.get(id).is_none() {
            self.open(id).await?;
        }
        self.connections.get(id).ok_or_else(|| not_found(id))
    }

    /// Ends a sandbox and removes all that it has in the engine; success when there is none.
    pub(crate) async fn remove(&self, id: &SandboxId) -> Result<(), ProviderError> {
        let names = &self.containers.names;
        self.containers.remove(&names.container(id)).await?;
        self.containers.remove_volume(&names.workspace(id)).await?;
        self.connections.remove(id);
        Ok(())
    }

    /// The engine's word for the network of a sandbox's container.
    pub(crate) async fn network(&self, id: &SandboxId) -> Result<String, ProviderError> {
        let name = self.containers.names.container(id);
        let found = self.containers.inspect(&name).await?;
        let host = found.ok_or_else(|| not_found(id))?.host_config;
        Ok(host.unwrap_or_default().network_mode.unwrap_or_default())
    }
}

/// Whether a start failed because the engine could not give so many open files, which only the
/// message of its error says.
fn exceeds_open_files(error: &ProviderError, spec: &BoxSpec) -> bool {
    spec.open_files > REDUCED_OPEN_FILES && error.to_string().contains("rlimit")
}

fn not_found(id: &SandboxId) -> ProviderError {
    ProviderError::NotFound(format!("sandbox {id} not found"))
}
