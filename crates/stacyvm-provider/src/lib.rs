//! What a backend must do to be a provider, and the suite that checks that it does.
//!
//! A provider only makes boxes: create one with the agent in it, hand out its operations, list
//! the boxes it has, destroy one, say what it can do. It knows nothing of time to live, owners'
//! rights, HTTP or the store.
#![forbid(unsafe_code)]

#[cfg(feature = "conformance")]
pub mod conformance;
mod error;
mod image_defaults;
mod images;
mod notices;
mod sandbox;
mod spec;
mod unclaimed;

pub use error::ProviderError;
pub use image_defaults::{ImageDefaults, directory_stands};
pub use images::{ArchiveKind, ImageHold, ImageOps};
pub use notices::Notices;
pub use sandbox::{
    AgentConnector, AgentSandbox, ByteStream, PortConnection, SandboxOps, UnixConnector, bind_unix,
};
pub use spec::{BoxInfo, BoxSpec, BoxState, Capability, Egress, Health, NetworkMode, Notice};
pub use stacyvm_agent_client as ops;
pub use unclaimed::Unclaimed;

use std::sync::Arc;

use async_trait::async_trait;
use stacyvm_types::{Isolation, SandboxId, SandboxStats};

/// A backend that makes sandboxes.
///
/// Every method may be called at any time, also many at once; none may block the thread.
#[async_trait]
pub trait Provider: Send + Sync + std::fmt::Debug {
    /// Its name in the configuration and the API.
    fn name(&self) -> &'static str;

    /// What a sandbox here is really separated by when its spawn asks for nothing more.
    fn isolation(&self) -> Isolation;

    /// Every level that a spawn may ask for now, the usual one first; the others are stronger.
    fn isolations(&self) -> Vec<Isolation> {
        vec![self.isolation()]
    }

    /// What it can do.
    fn capabilities(&self) -> Vec<Capability>;

    /// The image of a spawn that names none.
    fn default_image(&self) -> &str;

    /// How a box of a spawn that says nothing about it is connected.
    fn default_network(&self) -> NetworkMode {
        NetworkMode::None
    }

    /// Finds out, by doing it, whether it works now.
    async fn health(&self) -> Health;

    /// Whether `image` could be spawned, as far as this machine knows: nothing is made, nothing is
    /// fetched, no other machine is asked.
    ///
    /// # Errors
    /// `NotFound` when there is no such image and none can be fetched, `Invalid` when the name
    /// makes no sense.
    async fn check_image(&self, image: &str) -> Result<(), ProviderError>;

    /// Makes `image` be ready for a `create`, and keeps it so while the hold lives. Where that
    /// needs a download, this may take as long as that does; many may wait for one image, and
    /// it is fetched once. Dropping the future of the last who waits ends the download.
    ///
    /// # Errors
    /// As for `check_image`; `Backend` when it cannot be fetched.
    async fn prepare_image(&self, image: &str) -> Result<ImageHold, ProviderError> {
        let _ = image;
        Ok(ImageHold::default())
    }

    /// The provider's images; none when it has no way to manage them.
    fn images(&self) -> Option<Arc<dyn ImageOps>> {
        None
    }

    /// Makes a box with a running agent in it and returns when the agent answers.
    ///
    /// On an error nothing of the box is left. When the future is dropped half way, what it had
    /// made is either removed or shows in `list` under its id, so that the reconciler finds it.
    ///
    /// # Errors
    /// Names the step that failed.
    async fn create(&self, spec: &BoxSpec) -> Result<Arc<dyn SandboxOps>, ProviderError>;

    /// Opens a box that exists already, after a restart of the server.
    ///
    /// # Errors
    /// `NotFound` when there is none, `Backend` when it does not answer.
    async fn open(&self, id: &SandboxId) -> Result<Arc<dyn SandboxOps>, ProviderError>;

    /// Every box of ours that the backend has, half-made ones included.
    ///
    /// # Errors
    /// When the backend cannot be asked.
    async fn list(&self) -> Result<Vec<BoxInfo>, ProviderError>;

    /// Ends the box and everything in it; when it returns nothing of it runs, and its storage is
    /// gone or handed to a background removal that survives a crash. Unknown ids are success.
    ///
    /// # Errors
    /// When something of the box may still be there; calling again tries again.
    async fn destroy(&self, id: &SandboxId) -> Result<(), ProviderError>;

    /// What a box uses now. `supported: false` when the backend cannot tell.
    ///
    /// # Errors
    /// `NotFound` when there is no such box.
    async fn stats(&self, id: &SandboxId) -> Result<SandboxStats, ProviderError>;

    /// Resolves when the box's workload has ended, for whatever reason, and at once for an
    /// unknown id. It must not poll faster than once a second.
    async fn wait_exit(&self, id: &SandboxId);

    /// Which limit a box's workload ended of, when it has ended of one: `memory`. Asked after
    /// `wait_exit`.
    async fn cause_of_end(&self, id: &SandboxId) -> Option<&'static str> {
        let _ = id;
        None
    }

    /// How a box is connected now.
    ///
    /// # Errors
    /// `NotFound` when there is no such box, `Unsupported` when the backend cannot tell.
    async fn network(&self, id: &SandboxId) -> Result<NetworkMode, ProviderError> {
        let _ = id;
        Err(ProviderError::Unsupported(format!(
            "provider {} has no networks",
            self.name()
        )))
    }

    /// Changes what a box with a network may reach, at once: connections that are no longer
    /// allowed end. It outlives a restart of the server.
    ///
    /// # Errors
    /// `NotFound` when there is no such box, `Unsupported` when it has no network or the backend
    /// cannot do this.
    async fn set_egress(&self, id: &SandboxId, egress: &Egress) -> Result<(), ProviderError> {
        let _ = (id, egress);
        Err(ProviderError::Unsupported(format!(
            "provider {} lacks the capability {}",
            self.name(),
            Capability::EgressDomains.as_str()
        )))
    }

    /// What happens to its boxes, as it happens; whoever reads too slowly misses some. None when
    /// there is nothing to tell, or somebody listens already.
    fn notices(&self) -> Option<tokio::sync::mpsc::Receiver<Notice>> {
        None
    }

    /// What could not be had on this machine, one sentence each, with the remedy.
    fn degradations(&self) -> Vec<String> {
        Vec::new()
    }

    /// Stops helper processes and background work of the provider itself; sandboxes live on.
    async fn close(&self) {}
}
