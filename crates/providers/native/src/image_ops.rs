//! The provider's images, as the API manages them.
//!
//! Every call of the store blocks and runs on a thread for that. Which images sandboxes use is read
//! from the disk at the moment when something is to be removed.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use stacyvm_image::{
    Image, ImageDetails as Details, ImageError, ImageStore, PruneOptions, PullOptions,
};
use stacyvm_image::{Reference, Removed};
use stacyvm_provider::ops::ByteReceiver;
use stacyvm_provider::{ArchiveKind, ImageOps, ProviderError};
use stacyvm_types::{
    ImageDetails, ImageInfo, ImageLayer, ImageSettings, ImagesRemoved, PullLine, PulledImage,
    Timestamp,
};
use tokio::sync::mpsc;

use crate::blocking::run_blocking;
use crate::image_archives;
use crate::image_errors::store_failed;
use crate::image_users::ImageUsers;
use crate::pulls::Pulls;

/// The image store of a provider, with what is needed to change it.
#[derive(Debug)]
pub(crate) struct ImageState {
    pub(crate) store: Arc<ImageStore>,
    pub(crate) users: ImageUsers,
    /// The directory of archives that are being loaded.
    pub(crate) incoming: PathBuf,
    pub(crate) pulls: Arc<Pulls>,
}

impl ImageState {
    pub(crate) fn new(
        store: Arc<ImageStore>,
        users: ImageUsers,
        incoming: PathBuf,
        pull: PullOptions,
    ) -> Self {
        let pulls = Arc::new(Pulls::new(Arc::clone(&store), pull));
        Self {
            store,
            users,
            incoming,
            pulls,
        }
    }
}

/// The images of one native provider.
#[derive(Debug)]
pub(crate) struct NativeImages {
    images: Arc<ImageState>,
}

impl NativeImages {
    pub(crate) fn new(images: Arc<ImageState>) -> Self {
        Self { images }
    }

    /// Works with the store on a thread that may block.
    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&ImageState) -> Result<T, ImageError> + Send + 'static,
    ) -> Result<T, ProviderError> {
        let images = self.images.clone();
        run_blocking("use the image store", move || {
            work(&images).map_err(store_failed)
        })
        .await
    }
}

#[async_trait]
impl ImageOps for NativeImages {
    async fn list(&self) -> Result<Vec<ImageInfo>, ProviderError> {
        self.work(|images| Ok(images.store.list()?.into_iter().map(line_of).collect()))
            .await
    }

    async fn inspect(&self, name: &str) -> Result<ImageDetails, ProviderError> {
        let name = name.to_owned();
        self.work(move |images| images.store.inspect(&name).map(details_of))
            .await
    }

    async fn pull(
        &self,
        name: &str,
        always: bool,
        progress: Option<mpsc::Sender<PullLine>>,
    ) -> Result<PulledImage, ProviderError> {
        let reference = Reference::parse(name).map_err(store_failed)?;
        let pulls = &self.images.pulls;
        let pulled = pulls.pull(reference, always, progress).await?;
        Ok(PulledImage {
            image: line_of(pulled.image.clone()),
            cached: pulled.cached,
            downloaded: pulled.downloaded,
        })
    }

    async fn load(
        &self,
        archive: ByteReceiver,
        kind: ArchiveKind,
        name: Option<&str>,
    ) -> Result<Vec<ImageInfo>, ProviderError> {
        let spooled = image_archives::spool(self.images.incoming.clone(), archive).await?;
        let name = name.map(str::to_owned);
        let loaded = self.work(move |images| {
            let (store, file) = (&images.store, spooled.path());
            match kind {
                ArchiveKind::Images => store.load(file, name.as_deref(), &mut |_| {}),
                ArchiveKind::Rootfs => store
                    .import(file, name.as_deref(), &mut |_| {})
                    .map(|image| vec![image]),
            }
        });
        Ok(loaded.await?.into_iter().map(line_of).collect())
    }

    async fn save(&self, names: &[String]) -> Result<ByteReceiver, ProviderError> {
        let wanted = names.to_vec();
        // Held for as long as the archive is written.
        let held = self.work(move |images| {
            let held: Result<Vec<_>, _> =
                wanted.iter().map(|name| images.store.find(name)).collect();
            held
        });
        let (held, store) = (held.await?, Arc::clone(&self.images.store));
        Ok(image_archives::stream(store, names.to_vec(), held))
    }

    async fn tag(&self, name: &str, new: &str) -> Result<(), ProviderError> {
        let (name, new) = (name.to_owned(), new.to_owned());
        self.work(move |images| images.store.tag(&name, &new)).await
    }

    async fn remove(&self, name: &str) -> Result<ImagesRemoved, ProviderError> {
        let name = name.to_owned();
        let removed = self.work(move |images| {
            let users = &images.users;
            images.store.remove(&name, &|image| users.uses(image))
        });
        removed.await.map(removed_of)
    }

    async fn prune(&self, all: bool, dry_run: bool) -> Result<ImagesRemoved, ProviderError> {
        let removed = self.work(move |images| {
            let users = &images.users;
            let options = PruneOptions { all, dry_run };
            images.store.prune(&options, &|image| users.uses(image))
        });
        removed.await.map(removed_of)
    }
}

/// An image of the store as the API shows it.
pub fn line_of(image: Image) -> ImageInfo {
    ImageInfo {
        name: image.name,
        id: image.id,
        digest: image.digest,
        size: image.size,
        entries: image.entries,
        layers: image.layers as u64,
        platform: image.platform.to_string(),
        created: Timestamp::from(SystemTime::UNIX_EPOCH + Duration::from_secs(image.created)),
    }
}

/// The details of an image as the API shows them.
pub fn details_of(details: Details) -> ImageDetails {
    let config = details.config;
    let layers = details.layer_list.into_iter();
    ImageDetails {
        image: line_of(details.image),
        names: details.names,
        made: details.made,
        config: ImageSettings {
            env: config.env,
            working_dir: config.working_dir,
            user: config.user,
            entrypoint: config.entrypoint,
            cmd: config.cmd,
            exposed_ports: config.exposed_ports,
            volumes: config.volumes,
            labels: config.labels,
            stop_signal: config.stop_signal,
        },
        layer_list: layers
            .map(|layer| ImageLayer {
                diff_id: layer.diff_id.to_string(),
                size: layer.size,
                entries: layer.entries,
            })
            .collect(),
    }
}

/// What was removed, as the API shows it.
pub fn removed_of(removed: Removed) -> ImagesRemoved {
    ImagesRemoved {
        names: removed.names,
        images: removed.images,
        layers: removed.layers,
        freed: removed.freed,
    }
}
