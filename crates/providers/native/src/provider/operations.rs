//! Operations on boxes and images that take more than one step.
//!
//! What makes, changes or removes a box runs as a task of its own, so that a caller who goes away
//! does not leave it half done.

use std::sync::Arc;

use stacyvm_image::Reference;
use stacyvm_provider::{
    AgentSandbox, BoxSpec, BoxState, Egress, ImageHold, ProviderError, Unclaimed,
};
use stacyvm_types::SandboxId;
use tokio::sync::OwnedRwLockReadGuard;
use tracing::Instrument as _;

use super::{NativeProvider, no_such};
use crate::blocking::run_blocking;
use crate::images::HOST;
use crate::{agent, egress, limit_watch};

impl NativeProvider {
    /// Keeps the provider open for as long as the guard lives; an error once it is closed.
    async fn enter(&self) -> Result<OwnedRwLockReadGuard<bool>, ProviderError> {
        let guard = self.closed.clone().read_owned().await;
        if *guard {
            return Err(ProviderError::Unavailable(
                "provider native is shutting down".to_owned(),
            ));
        }
        Ok(guard)
    }

    /// Makes a box. When the caller goes away before it is ready, it is removed.
    pub(super) async fn create_box(
        &self,
        spec: BoxSpec,
        probe: bool,
    ) -> Result<Arc<AgentSandbox>, ProviderError> {
        let guard = self.enter().await?;
        let (answer, caller) = tokio::sync::oneshot::channel();
        let (creator, remover) = (self.creator.clone(), self.remover.clone());
        let making = async move {
            let made = creator.create(&spec, probe).await;
            // Dropped when the caller has gone, and then it removes the sandbox.
            let _ = answer.send(made.map(|(entry, sandbox)| {
                let removing = async move {
                    let _open = guard;
                    remover.remove_unclaimed(&entry).await;
                };
                Unclaimed::new(sandbox, removing.in_current_span())
            }));
        };
        tokio::spawn(making.in_current_span());
        let made = caller.await.map_err(|error| {
            ProviderError::backend("make the sandbox", "the server's task ended", error)
        })?;
        Ok(made?.claim())
    }

    /// The agent of a box that runs, connected to at the first call.
    pub(super) async fn open_box(
        &self,
        id: &SandboxId,
    ) -> Result<Arc<AgentSandbox>, ProviderError> {
        let entry = self.boxes.get(id).ok_or_else(|| no_such(id))?;
        let _lock = entry.lock.lock().await;
        if !self.boxes.is_current(&entry) {
            return Err(no_such(id));
        }
        if entry.state() != BoxState::Running {
            return Err(ProviderError::Backend {
                step: "open the sandbox",
                message: "its first process has ended".to_owned(),
                source: None,
            });
        }
        let known = entry.resources().agent.clone();
        if let Some(agent) = known {
            return Ok(agent);
        }
        let agent = agent::connect(&entry, self.creator.sockets.as_ref(), None)
            .await
            .map_err(|error| {
                ProviderError::backend("open the sandbox", error.to_string(), error)
            })?;
        entry.resources().agent = Some(agent.clone());
        Ok(agent)
    }

    pub(super) async fn destroy_box(&self, id: &SandboxId) -> Result<(), ProviderError> {
        let guard = self.enter().await?;
        let (remover, id) = (self.remover.clone(), id.clone());
        let removing = async move {
            let _open = guard;
            remover.remove_id(&id).await
        };
        tokio::spawn(removing.in_current_span())
            .await
            .map_err(|error| ProviderError::backend("remove the sandbox", "", error))?
    }

    /// Changes what a box reaches: its record, the program that resolves names and the interface group
    /// in one task, so that they do not come to differ.
    pub(super) async fn change_egress(
        &self,
        id: &SandboxId,
        wanted: &Egress,
    ) -> Result<(), ProviderError> {
        let guard = self.enter().await?;
        let entry = self.boxes.get(id).ok_or_else(|| no_such(id))?;
        let (boxes, network) = (self.boxes.clone(), self.network.clone());
        let wanted = wanted.clone();
        let changing = async move {
            let _open = guard;
            let _lock = entry.lock.lock().await;
            if !boxes.is_current(&entry) {
                return Err(no_such(&entry.id));
            }
            egress::change(&network, &entry, &wanted).await
        };
        tokio::spawn(changing.in_current_span())
            .await
            .map_err(|error| ProviderError::backend("change what a sandbox reaches", "", error))?
    }

    /// The limit of which a box has just ended, if it was one.
    pub(super) async fn limit_that_ended(&self, id: &SandboxId) -> Option<&'static str> {
        let (notices, entry) = (self.notices.clone(), self.boxes.get(id)?);
        let checking = move || {
            limit_watch::check(&entry, &notices);
            entry.resources().reported_limits.just_out_of_memory()
        };
        let memory = tokio::task::spawn_blocking(checking).await.ok()?;
        memory.then_some("memory")
    }

    /// The reference that must be pulled before `image` can be used, if any.
    pub(super) async fn missing_image(
        &self,
        image: &str,
    ) -> Result<Option<Reference>, ProviderError> {
        if image == HOST {
            return Ok(None);
        }
        let (images, image) = (self.images.clone(), image.to_owned());
        run_blocking("look the image up", move || images.missing(&image)).await
    }

    /// Pulls an image that is missing, and keeps it in the store while the answer lives.
    pub(super) async fn hold_image(&self, image: &str) -> Result<ImageHold, ProviderError> {
        if image == HOST {
            return Ok(ImageHold::default());
        }
        if let Some(reference) = self.missing_image(image).await? {
            // The pull is cancelled when its last caller goes away.
            let pulls = &self.image_state.pulls;
            pulls.pull(reference, false, None).await?;
        }
        let (images, image) = (self.images.clone(), image.to_owned());
        let base = run_blocking("look the image up", move || images.find(&image)).await?;
        Ok(ImageHold::new(base))
    }
}
