//! The last stage of a create: the agent's first answer, which sets the defaults of its execs.
//!
//! The agent's socket listens before the launch, so the connection begins then and waits in the
//! socket until the agent comes up.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use stacyvm_provider::ops::{Configure, OpError};
use stacyvm_provider::{AgentSandbox, BoxSpec, ProviderError, directory_stands};

use super::status::{REPORT_TIMEOUT, StatusPipe};
use crate::agent;
use crate::boxes::BoxEntry;
use crate::process::Process;
use crate::sockets::SocketFactory;

/// How long a sandbox may take from its launch to its agent's first answer.
const HELLO_TIMEOUT: Duration = Duration::from_secs(30);

type Connected = Result<Arc<AgentSandbox>, OpError>;

/// The first connection to the agent of a box.
pub(super) struct Hello<'a> {
    entry: &'a Arc<BoxEntry>,
    sockets: Option<&'a SocketFactory>,
    configure: Configure,
    connecting: Pin<Box<dyn Future<Output = Connected> + Send + 'a>>,
    connected: Option<Connected>,
}

impl<'a> Hello<'a> {
    /// Prepares the connection; it is made while `connect` is awaited.
    pub(super) fn begin(
        entry: &'a Arc<BoxEntry>,
        sockets: Option<&'a SocketFactory>,
        configure: Configure,
    ) -> Self {
        let connecting = Box::pin(agent::connect(entry, sockets, Some(configure.clone())));
        Self {
            entry,
            sockets,
            configure,
            connecting,
            connected: None,
        }
    }

    /// Whether the connection has been made, or has failed.
    pub(super) fn is_connected(&self) -> bool {
        self.connected.is_some()
    }

    /// Makes the connection. May be dropped and called again.
    pub(super) async fn connect(&mut self) {
        if self.connected.is_none() {
            self.connected = Some(self.connecting.as_mut().await);
        }
    }

    /// Waits for the agent's answer, or for the sandbox's failure.
    pub(super) async fn finish(
        mut self,
        spec: &BoxSpec,
        process: &Process,
        status: StatusPipe,
    ) -> Result<Arc<AgentSandbox>, ProviderError> {
        let mut failing = Box::pin(status.first_failure(process));
        let answered = tokio::select! {
            answered = self.answer() => answered,
            failure = &mut failing => return Err(failure),
            () = tokio::time::sleep(HELLO_TIMEOUT) => {
                return Err(ProviderError::Backend {
                    step: "wait for the agent",
                    message: "it did not answer in time".to_owned(),
                    source: None,
                });
            }
        };
        match answered {
            Ok(sandbox) => self.check_workdir(spec, sandbox).await,
            // An agent that hangs up has mostly died, and the status pipe says of what.
            Err(error) => Err(tokio::time::timeout(REPORT_TIMEOUT, failing)
                .await
                .unwrap_or_else(|_| agent_failed(error))),
        }
    }

    async fn answer(&mut self) -> Connected {
        self.connect().await;
        match self.connected.take() {
            // The time of the first attempt may have run out while the launch waited for its turn.
            None | Some(Err(OpError::Gone(_))) => self.configure(self.configure.clone()).await,
            Some(other) => other,
        }
    }

    /// Drops the image's working directory when the sandbox does not have it.
    async fn check_workdir(
        &mut self,
        spec: &BoxSpec,
        sandbox: Arc<AgentSandbox>,
    ) -> Result<Arc<AgentSandbox>, ProviderError> {
        match self.configure.workdir.as_deref() {
            Some(path) if spec.workdir.is_none() && !directory_stands(&sandbox, path).await => {
                let configure = Configure {
                    workdir: None,
                    ..self.configure.clone()
                };
                self.configure(configure).await.map_err(agent_failed)
            }
            _ => Ok(sandbox),
        }
    }

    async fn configure(&mut self, configure: Configure) -> Connected {
        agent::connect(self.entry, self.sockets, Some(configure)).await
    }
}

fn agent_failed(error: OpError) -> ProviderError {
    match error {
        OpError::Invalid(message) => ProviderError::Invalid(message),
        OpError::Unsupported(message) => ProviderError::Unsupported(message),
        other => ProviderError::backend("say hello to the agent", other.to_string(), other),
    }
}
