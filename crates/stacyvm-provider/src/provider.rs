//! The traits of a backend, one for each kind of question that the orchestrator asks it.
//!
//! No method has a default body: an implementation that forgets one does not compile.

use std::sync::Arc;

use async_trait::async_trait;
use stacyvm_types::{Isolation, SandboxId, SandboxStats};
use tokio::sync::mpsc;

use crate::error::ProviderError;
use crate::images::{ImageHold, ImageOps};
use crate::sandbox::SandboxOps;
use crate::spec::{BoxInfo, BoxSpec, Capability, Egress, Health, NetworkMode, Notice};

/// A backend that makes sandboxes.
///
/// Every method of it and of the traits below it may be called at any time, also many at once;
/// none may block the thread.
#[async_trait]
pub trait Provider:
    ProviderInfo + Boxes + BoxMonitor + ImageSource + Send + Sync + std::fmt::Debug
{
    /// Finds out, by doing it, whether it works now.
    async fn health(&self) -> Health;

    /// The management of its images; none when it has no images to manage.
    fn images(&self) -> Option<Arc<dyn ImageOps>>;

    /// The networks of its boxes; none when its boxes have no networks of their own.
    fn networks(&self) -> Option<&dyn Networks>;

    /// Stops helper processes and background work of the provider itself; sandboxes live on.
    async fn close(&self);
}

/// What a backend is and offers, answered at once.
pub trait ProviderInfo {
    /// Its name in the configuration and the API.
    fn name(&self) -> &'static str;

    /// What a sandbox here is really separated by when its spawn asks for nothing more.
    fn isolation(&self) -> Isolation;

    /// Every level that a spawn may ask for now, the usual one first; the others are stronger.
    fn isolations(&self) -> Vec<Isolation>;

    /// What it can do.
    fn capabilities(&self) -> Vec<Capability>;

    /// The image of a spawn that names none.
    fn default_image(&self) -> &str;

    /// How a box of a spawn that says nothing about it is connected.
    fn default_network(&self) -> NetworkMode;

    /// Capabilities that this machine lacks, one sentence each, with the remedy.
    fn degradations(&self) -> Vec<String>;
}

/// The life of boxes.
#[async_trait]
pub trait Boxes {
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

    /// Every box of this server that the backend has, half-made ones included.
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
}

/// What can be observed of boxes from outside.
#[async_trait]
pub trait BoxMonitor {
    /// What a box uses now. `supported: false` when the backend cannot tell.
    ///
    /// # Errors
    /// `NotFound` when there is no such box.
    async fn stats(&self, id: &SandboxId) -> Result<SandboxStats, ProviderError>;

    /// Resolves when the box's workload has ended, for whatever reason, and at once for an
    /// unknown id. It must not poll faster than once a second.
    async fn wait_exit(&self, id: &SandboxId);

    /// The limit that ended a box's workload, `memory`, if one did. Asked after `wait_exit`.
    async fn cause_of_end(&self, id: &SandboxId) -> Option<&'static str>;

    /// What happens to boxes, as it happens; a receiver that reads too slowly misses some. None
    /// when the backend has nothing to tell, or another receiver was handed out already.
    fn notices(&self) -> Option<mpsc::Receiver<Notice>>;
}

/// What a spawn asks of images.
#[async_trait]
pub trait ImageSource {
    /// Whether `image` could be spawned, as far as this machine knows: nothing is made, nothing is
    /// fetched, no other machine is asked.
    ///
    /// # Errors
    /// `NotFound` when there is no such image and none can be fetched, `Invalid` when the name
    /// makes no sense.
    async fn check_image(&self, image: &str) -> Result<(), ProviderError>;

    /// Makes `image` be ready for a `create`, and keeps it so while the hold lives. Where that
    /// needs a download, this may take as long as that does; many may wait for one image, and
    /// it is fetched once. Dropping the future of the last caller that waits ends the download.
    ///
    /// # Errors
    /// As for `check_image`; `Backend` when it cannot be fetched.
    async fn prepare_image(&self, image: &str) -> Result<ImageHold, ProviderError>;
}

/// The networks of boxes.
#[async_trait]
pub trait Networks {
    /// How a box is connected now.
    ///
    /// # Errors
    /// `NotFound` when there is no such box.
    async fn network(&self, id: &SandboxId) -> Result<NetworkMode, ProviderError>;

    /// Changes what a box with a network may reach, at once: connections that are no longer
    /// allowed end. It outlives a restart of the server.
    ///
    /// # Errors
    /// `NotFound` when there is no such box, `Unsupported` when it has no network or the backend
    /// cannot do this.
    async fn set_egress(&self, id: &SandboxId, egress: &Egress) -> Result<(), ProviderError>;
}
