//! What a provider may do with images, beside making boxes from them.

use std::any::Any;
use std::fmt;

use async_trait::async_trait;
use stacyvm_agent_client::ByteReceiver;
use stacyvm_types::{ImageDetails, ImageInfo, ImagesRemoved, PullLine, PulledImage};
use tokio::sync::mpsc;

use crate::ProviderError;

/// An image that cannot go away while this lives.
#[derive(Default)]
pub struct ImageHold(Option<Box<dyn Any + Send + Sync>>);

impl ImageHold {
    /// Holds it by whatever the provider's means are.
    pub fn new(means: impl Any + Send + Sync) -> Self {
        Self(Some(Box::new(means)))
    }
}

impl fmt::Debug for ImageHold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ImageHold").field(&self.0.is_some()).finish()
    }
}

/// What a stream of bytes is that becomes an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ArchiveKind {
    /// What `docker save` or another tool of images wrote.
    #[default]
    Images,
    /// A tar of one root file system.
    Rootfs,
}

/// The images of one provider.
///
/// None of these may block the thread. What is dropped half way leaves nothing half-made.
#[async_trait]
pub trait ImageOps: Send + Sync + fmt::Debug {
    /// Every image, sorted by name.
    ///
    /// # Errors
    /// When they cannot be looked at.
    async fn list(&self) -> Result<Vec<ImageInfo>, ProviderError>;

    /// All that is known about one.
    ///
    /// # Errors
    /// `NotFound`, `Invalid` for a name that makes no sense.
    async fn inspect(&self, name: &str) -> Result<ImageDetails, ProviderError>;

    /// Makes the image be there. With `always` its registry is asked even when it is. Says on
    /// `progress` how far it is, and leaves lines out that are not read in time. When the
    /// future is dropped and no other caller waits for the same image, the pull ends.
    ///
    /// # Errors
    /// `NotFound` when the registry has no such image, `Backend` when the registry or the disk
    /// fails or a login is needed, `Invalid` for a name that makes no sense.
    async fn pull(
        &self,
        name: &str,
        always: bool,
        progress: Option<mpsc::Sender<PullLine>>,
    ) -> Result<PulledImage, ProviderError>;

    /// Makes images from an archive. Unless it is whole and ends without an error, nothing of it
    /// is there.
    ///
    /// # Errors
    /// `Invalid` when the archive is broken, hostile or too large, `Conflict` when the name is taken.
    async fn load(
        &self,
        archive: ByteReceiver,
        kind: ArchiveKind,
        name: Option<&str>,
    ) -> Result<Vec<ImageInfo>, ProviderError>;

    /// Gives images as one archive, which breaks off with an error when that fails half way.
    ///
    /// # Errors
    /// `NotFound`, before the first byte.
    async fn save(&self, names: &[String]) -> Result<ByteReceiver, ProviderError>;

    /// Gives an image a further name.
    ///
    /// # Errors
    /// `NotFound`, `Invalid`.
    async fn tag(&self, name: &str, new: &str) -> Result<(), ProviderError>;

    /// Removes a name, and its image with the last one.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` when a sandbox stands on it.
    async fn remove(&self, name: &str) -> Result<ImagesRemoved, ProviderError>;

    /// Removes unused images: with `all` also those that have a name. With `dry_run`
    /// only says which.
    ///
    /// # Errors
    /// When they cannot be looked at.
    async fn prune(&self, all: bool, dry_run: bool) -> Result<ImagesRemoved, ProviderError>;
}
