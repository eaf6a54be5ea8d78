//! Connections to one container's agent: through the agent's own socket where this server can reach
//! it, else over the engine's attachment.
//!
//! The way is chosen anew for each connection, because a restarted server may have other rights and
//! a restarted container another process.

use std::sync::Arc;

use async_trait::async_trait;
use bollard::models::ContainerStateStatusEnum as Status;
use bollard::query_parameters::InspectContainerOptions;
use stacyvm_provider::ops::OpError;
use stacyvm_provider::{AgentConnector, ByteStream};

use crate::attach::AttachConnector;
use crate::engine::{Engine, QUERY_TIMEOUT};
use crate::runtimes::RuntimeKind;

/// Makes connections to the agent of one container.
#[derive(Debug)]
pub(crate) struct ContainerConnector {
    engine: Arc<Engine>,
    name: String,
    /// Whether the agent's socket may be reached without the engine: whether it is in the root of
    /// the process that the engine names.
    has_local_socket: bool,
}

impl ContainerConnector {
    /// `kind` is the kind of the container's runtime; with `attach_only` the socket is never tried.
    pub(crate) fn new(
        engine: Arc<Engine>,
        name: String,
        kind: RuntimeKind,
        attach_only: bool,
    ) -> Self {
        Self {
            engine,
            name,
            has_local_socket: kind == RuntimeKind::Plain && !attach_only,
        }
    }

    /// The id of the running container and its first process.
    async fn running(&self) -> Result<(String, i32), OpError> {
        let name = self.name.clone();
        let inspected = self
            .engine
            .request(
                "look at the container",
                QUERY_TIMEOUT,
                |docker| async move {
                    let options = None::<InspectContainerOptions>;
                    docker.inspect_container(&name, options).await
                },
            )
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
        if self.has_local_socket {
            use crate::local_socket::{self, LocalSocketError};
            match local_socket::connect(pid, &id).await {
                Ok(stream) => return Ok(stream),
                Err(LocalSocketError::Failed(error)) => {
                    return Err(OpError::Gone(format!(
                        "the sandbox's agent cannot be reached: {}",
                        error.kind()
                    )));
                }
                Err(LocalSocketError::Elsewhere) => {}
            }
        }
        #[cfg(not(target_os = "linux"))]
        let _ = pid;
        AttachConnector::new(self.engine.clone(), id)
            .connect()
            .await
    }
}
