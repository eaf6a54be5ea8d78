//! The way to the ports of a running sandbox.
//!
//! Owns nothing but the handle; its caller decides who may use it.

use std::sync::Arc;

use stacyvm_provider::PortConnection;
use stacyvm_types::{PreviewAccess, SandboxId};
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::error::Error;
use crate::orchestrator::Orchestrator;
use crate::registry::Entry;
use crate::settings::Caller;
use crate::state::OrchestratorState;

/// One running sandbox's ports. Holding it holds nothing of the sandbox up.
#[derive(Clone, Debug)]
pub struct Ports {
    state: Arc<OrchestratorState>,
    entry: Arc<Entry>,
}

impl Orchestrator {
    /// Who may open the previews of a sandbox of any owner, in whatever state it is, as its spawn said;
    /// none when there is no such sandbox.
    #[allow(clippy::option_option)]
    pub fn preview_access(&self, id: &SandboxId) -> Option<Option<PreviewAccess>> {
        let entry = self.state.find(&Caller::default(), id).ok()?;
        Some(entry.facts.preview)
    }

    /// The ports of a sandbox of any owner: a preview is opened without a key.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` when not running, `Unavailable` when shutting down.
    pub fn ports(&self, id: &SandboxId) -> Result<Ports, Error> {
        let _token = self.state.lifetime.enter()?;
        let operator = Caller::default();
        let entry = self.state.find_running(&operator, id)?;
        Ok(Ports {
            state: Arc::clone(&self.state),
            entry,
        })
    }
}

impl Ports {
    /// Connects to a TCP port on the sandbox's loopback.
    ///
    /// # Errors
    /// `NothingListens`; otherwise as for [`Orchestrator::sandbox`].
    pub async fn connect(&self, port: u16) -> Result<PortConnection, Error> {
        self.state.open(&self.entry).await?.connect_port(port).await
    }

    /// Who may open its previews; none when its spawn left that to the configuration.
    pub fn preview(&self) -> Option<PreviewAccess> {
        self.entry.facts.preview
    }

    /// Resolves when the sandbox's destruction begins.
    pub fn ended(&self) -> WaitForCancellationFutureOwned {
        self.entry.ended.clone().cancelled_owned()
    }

    /// Whether its destruction has begun.
    pub fn is_ended(&self) -> bool {
        self.entry.ended.is_cancelled()
    }
}
