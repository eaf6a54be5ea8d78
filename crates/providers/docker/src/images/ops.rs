//! The operations on the engine's images.
//!
//! The engine knows which images are in use, and refuses to remove those. The image of trials is not
//! the operator's and is left out of lists.

use std::sync::Arc;

use async_trait::async_trait;
use bollard::query_parameters::{
    ListContainersOptions, ListImagesOptions, PruneImagesOptions, RemoveImageOptions,
};
use stacyvm_provider::ops::ByteReceiver;
use stacyvm_provider::{ArchiveKind, ImageOps, ProviderError};
use stacyvm_types::{ImageDetails, ImageInfo, ImagesRemoved, PullLine, PulledImage};
use tokio::sync::mpsc;

use super::describe::{bytes, details, list_entries, removed, unused};
use super::lookup::{self, LocalImage};
use super::pull::Puller;
use super::{archives, reference};
use crate::engine::{Engine, QUERY_TIMEOUT, WORK_TIMEOUT};

/// The images of one engine.
#[derive(Debug)]
pub(crate) struct EngineImages {
    engine: Arc<Engine>,
    puller: Puller,
    /// Whether an image that a spawn names and that is missing is pulled.
    pull_missing: bool,
}

impl EngineImages {
    pub(crate) fn new(engine: Arc<Engine>, puller: Puller, pull_missing: bool) -> Self {
        Self {
            engine,
            puller,
            pull_missing,
        }
    }

    /// The image of a name; none when the engine lacks it.
    pub(crate) async fn find(&self, name: &str) -> Result<Option<LocalImage>, ProviderError> {
        lookup::find(&self.engine, name).await
    }

    /// The image of a name.
    ///
    /// # Errors
    /// `NotFound` when the engine lacks it.
    pub(crate) async fn require(&self, name: &str) -> Result<LocalImage, ProviderError> {
        let found = self.find(name).await?;
        found.ok_or_else(|| reference::not_found(name))
    }

    /// Whether a spawn may name an image: the engine has it, or it may be pulled.
    pub(crate) async fn check(&self, name: &str) -> Result<(), ProviderError> {
        match self.find(name).await? {
            None if !self.pull_missing => Err(reference::not_found(name)),
            _ => Ok(()),
        }
    }

    /// Pulls an image that the engine lacks, if it may be pulled.
    pub(crate) async fn prepare(&self, name: &str) -> Result<(), ProviderError> {
        if self.find(name).await?.is_some() {
            return Ok(());
        }
        if !self.pull_missing {
            return Err(reference::not_found(name));
        }
        let wanted = reference::parse(name)?;
        self.puller.pull(&wanted, None).await.map(drop)
    }

    async fn info(&self, name: &str) -> Result<ImageInfo, ProviderError> {
        self.inspect(name).await.map(|found| found.image)
    }
}

impl EngineImages {
    /// The images that a pruning would remove. The engine cannot be asked for them, so this finds
    /// those that no container uses.
    async fn unused(&self, all: bool) -> Result<ImagesRemoved, ProviderError> {
        let listing = self
            .engine
            .request("list the images", QUERY_TIMEOUT, |docker| async move {
                let options = ListContainersOptions {
                    all: true,
                    ..ListContainersOptions::default()
                };
                let containers = docker.list_containers(Some(options)).await?;
                let images = docker.list_images(None::<ListImagesOptions>).await?;
                Ok((containers, images))
            });
        let (containers, images) = listing.await?;
        let used: Vec<String> = containers
            .into_iter()
            .filter_map(|container| container.image_id)
            .collect();
        Ok(unused(images, &used, all))
    }
}

#[async_trait]
impl ImageOps for EngineImages {
    async fn list(&self) -> Result<Vec<ImageInfo>, ProviderError> {
        let listing = self
            .engine
            .request("list the images", QUERY_TIMEOUT, |docker| async move {
                docker.list_images(None::<ListImagesOptions>).await
            });
        let mut entries: Vec<ImageInfo> = listing.await?.iter().flat_map(list_entries).collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    async fn inspect(&self, name: &str) -> Result<ImageDetails, ProviderError> {
        let found = lookup::describe(&self.engine, name).await?;
        Ok(details(name, found))
    }

    async fn pull(
        &self,
        name: &str,
        always: bool,
        progress: Option<mpsc::Sender<PullLine>>,
    ) -> Result<PulledImage, ProviderError> {
        let wanted = reference::parse(name)?;
        if !always && self.find(name).await?.is_some() {
            return Ok(PulledImage {
                image: self.info(name).await?,
                cached: true,
                downloaded: 0,
            });
        }
        let downloaded = self.puller.pull(&wanted, progress).await?;
        Ok(PulledImage {
            image: self.info(name).await?,
            cached: false,
            downloaded,
        })
    }

    async fn load(
        &self,
        archive: ByteReceiver,
        kind: ArchiveKind,
        name: Option<&str>,
    ) -> Result<Vec<ImageInfo>, ProviderError> {
        let names = match kind {
            ArchiveKind::Images => archives::load(&self.engine, archive, name).await?,
            ArchiveKind::Rootfs => vec![archives::import(&self.engine, archive, name).await?],
        };
        let mut loaded = Vec::new();
        for name in names {
            loaded.push(self.info(&name).await?);
        }
        Ok(loaded)
    }

    async fn save(&self, names: &[String]) -> Result<ByteReceiver, ProviderError> {
        for name in names {
            lookup::describe(&self.engine, name).await?;
        }
        archives::save(&self.engine, names.to_vec()).await
    }

    async fn tag(&self, name: &str, new: &str) -> Result<(), ProviderError> {
        reference::parse(name)?;
        let new = reference::parse_new(new)?;
        reference::tag(&self.engine, name, &new).await
    }

    async fn remove(&self, name: &str) -> Result<ImagesRemoved, ProviderError> {
        let size = lookup::describe(&self.engine, name).await?.size;
        let removing = self
            .engine
            .request("remove the image", WORK_TIMEOUT, |docker| async move {
                docker
                    .remove_image(name, None::<RemoveImageOptions>, None)
                    .await
            });
        let items = removing
            .await
            .map_err(|error| reference::refused(name, error))?;
        let mut removed = removed(&items);
        if !removed.images.is_empty() {
            removed.freed = bytes(size);
        }
        Ok(removed)
    }

    async fn prune(&self, all: bool, dry_run: bool) -> Result<ImagesRemoved, ProviderError> {
        if dry_run {
            return self.unused(all).await;
        }
        let dangling = ("dangling".to_owned(), vec![(!all).to_string()]);
        let options = PruneImagesOptions {
            filters: Some([dangling].into()),
        };
        let pruning = self.engine.request(
            "remove images that nobody uses",
            WORK_TIMEOUT,
            |docker| async move { docker.prune_images(Some(options)).await },
        );
        let pruned = pruning.await?;
        let mut removed = removed(&pruned.images_deleted.unwrap_or_default());
        removed.freed = bytes(pruned.space_reclaimed);
        Ok(removed)
    }
}
