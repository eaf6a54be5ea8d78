//! Connections to one container's agent, by the shortest way there is.
//!
//! Which way that is may change between two connections: a server that starts again may have other
//! rights, a container another process. So it is found out anew for each.

use std::sync::Arc;

use async_trait::async_trait;
use bollard::models::ContainerStateStatusEnum as Status;
use bollard::query_parameters::InspectContainerOptions;
use stacyvm_provider::ops::OpError;
use stacyvm_provider::{AgentConnector, ByteStream};

use crate::attach::AttachConnector;
use crate::engine::{Engine, QUICK};
use crate::runtimes::Kind;

/// Makes connections to the agent of the container with a name.
#[derive(Debug)]
pub(crate) struct ContainerConnector {
    engine: Arc<Engine>,
    name: String,
    /// Whether the process that the engine names is the one that has the agent's socket.
    near: bool,
}

impl ContainerConnector {
    /// `kind` is the kind of its runtime; `attach_only` leaves the shorter way out.
    pub(crate) fn new(engine: Arc<Engine>, name: String, kind: Kind, attach_only: bool) -> Self {
        Self {
            engine,
            name,
            near: kind == Kind::Plain && !attach_only,
        }
    }

    /// The id of the running container and its first process.
    async fn running(&self) -> Result<(String, i32), OpError> {
        let name = self.name.clone();
        let inspected = self
            .engine
            .ask("look at the container", QUICK, |docker| async move {
                let options = None::<InspectContainerOptions>;
                docker.inspect_container(&name, options).await
            })
            .await
            .map_err(|error| OpError::Gone(error.to_string()))?;
        let state = inspected.state.unwrap_or_default();
        match (inspected.id, state.status, state.pid) {
            (_, Some(Status::PAUSED), _) => Err(OpError::Gone("the sandbox is paused".to_owned())),
            (Some(id), Some(Status::RUNNING), Some(pid)) if pid > 0 => {
                let pid = i32::try_from(pid).map_err(|_| stopped())?;
                Ok((id, pid))
            }
            _ => Err(stopped()),
        }
    }
}

fn stopped() -> OpError {
    OpError::Gone("the sandbox's container does not run".to_owned())
}

#[async_trait]
impl AgentConnector for ContainerConnector {
    async fn connect(&self) -> Result<ByteStream, OpError> {
        let (id, pid) = self.running().await?;
        #[cfg(target_os = "linux")]
        if self.near {
            use crate::nearby::{self, Unreached};
            match nearby::connect(pid, &id).await {
                Ok(stream) => return Ok(stream),
                Err(Unreached::Silent(error)) => {
                    return Err(OpError::Gone(format!(
                        "the sandbox's agent cannot be reached: {}",
                        error.kind()
                    )));
                }
                Err(Unreached::Elsewhere) => {}
            }
        }
        #[cfg(not(target_os = "linux"))]
        let _ = pid;
        AttachConnector::new(self.engine.clone(), id)
            .connect()
            .await
    }
}
