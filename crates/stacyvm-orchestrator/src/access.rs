//! What a preview's door needs to know of a sandbox: whether it is there, and who may come in.

use stacyvm_types::{PreviewAccess, SandboxId};

use crate::{Error, Orchestrator};

impl Orchestrator {
    /// Who may open the previews of a sandbox, whoever it belongs to; none when its spawn left
    /// that to the configuration.
    ///
    /// # Errors
    /// `NotFound` when it is unknown or destroyed, also while it is being destroyed.
    pub fn preview_access(&self, id: &SandboxId) -> Result<Option<PreviewAccess>, Error> {
        let entry = self.shared.registry.get(id);
        match entry.filter(|entry| entry.state().is_some()) {
            Some(entry) if !entry.ended.is_cancelled() => Ok(entry.facts.preview),
            _ => Err(Error::no_sandbox(id.as_str())),
        }
    }
}
