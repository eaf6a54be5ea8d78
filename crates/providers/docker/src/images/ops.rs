//! The engine's images, as the API manages them.
//!
//! What sandboxes stand on is the engine's to know: it refuses to remove that. Everything that is
//! not an image of the operator's, such as the one that trials are made from, is left out.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bollard::models::{ImageDeleteResponseItem, ImageInspect, ImageSummary};
use bollard::query_parameters::{
    ListImagesOptions, PruneImagesOptions, RemoveImageOptions, TagImageOptions,
};
use stacyvm_image::Reference;
use stacyvm_provider::ops::ByteReceiver;
use stacyvm_provider::{ArchiveKind, ImageOps, ProviderError};
use stacyvm_types::{
    ImageDetails, ImageInfo, ImageLayer, ImageSettings, ImagesRemoved, PullLine, PulledImage,
    Timestamp,
};
use tokio::sync::mpsc;

use super::{archives, missing, pull, reference};
use crate::engine::{EngineError, QUICK, WORK};
use crate::inner::Inner;
use crate::trial;

/// The images of one engine.
#[derive(Debug)]
pub(crate) struct EngineImages {
    inner: Arc<Inner>,
}

impl EngineImages {
    pub(crate) fn new(inner: Arc<Inner>) -> Self {
        Self { inner }
    }

    async fn inspected(&self, name: &str) -> Result<ImageInspect, ProviderError> {
        reference(name)?;
        let wanted = name.to_owned();
        let asking = self
            .inner
            .engine
            .ask("look the image up", QUICK, |docker| async move {
                docker.inspect_image(&wanted).await
            });
        asking.await.map_err(|error| about(name, error))
    }
}

/// What the engine says no to, about one image.
pub(super) fn about(name: &str, error: EngineError) -> ProviderError {
    if error.is_not_found() {
        return missing(name);
    }
    if let (true, Some(words)) = (error.is_conflict(), error.refusal()) {
        return ProviderError::Conflict(format!("image {name:?} is in use: {words}"));
    }
    error.into()
}

#[async_trait]
impl ImageOps for EngineImages {
    async fn list(&self) -> Result<Vec<ImageInfo>, ProviderError> {
        let asking = self
            .inner
            .engine
            .ask("list the images", QUICK, |docker| async move {
                docker.list_images(None::<ListImagesOptions>).await
            });
        let mut lines: Vec<ImageInfo> = asking.await?.iter().flat_map(lines_of).collect();
        lines.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(lines)
    }

    async fn inspect(&self, name: &str) -> Result<ImageDetails, ProviderError> {
        self.inspected(name).await.map(|found| details(name, found))
    }

    async fn pull(
        &self,
        name: &str,
        always: bool,
        progress: Option<mpsc::Sender<PullLine>>,
    ) -> Result<PulledImage, ProviderError> {
        let wanted = reference(name)?;
        if !always && super::find(&self.inner, name).await?.is_some() {
            return Ok(PulledImage {
                image: details(name, self.inspected(name).await?).image,
                cached: true,
                downloaded: 0,
            });
        }
        let downloaded = pull::pull(&self.inner, &wanted, progress).await?;
        Ok(PulledImage {
            image: details(name, self.inspected(name).await?).image,
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
            ArchiveKind::Images => archives::load(&self.inner, archive, name).await?,
            ArchiveKind::Rootfs => vec![archives::import(&self.inner, archive, name).await?],
        };
        let mut loaded = Vec::new();
        for name in names {
            loaded.push(details(&name, self.inspected(&name).await?).image);
        }
        Ok(loaded)
    }

    async fn save(&self, names: &[String]) -> Result<ByteReceiver, ProviderError> {
        for name in names {
            self.inspected(name).await?;
        }
        archives::save(&self.inner, names.to_vec()).await
    }

    async fn tag(&self, name: &str, new: &str) -> Result<(), ProviderError> {
        reference(name)?;
        let new = reference(new)?;
        if new.digest().is_some() {
            return Err(ProviderError::Invalid(
                "a digest is no name that can be given".to_owned(),
            ));
        }
        tag(&self.inner, name, &new).await
    }

    async fn remove(&self, name: &str) -> Result<ImagesRemoved, ProviderError> {
        let size = self.inspected(name).await?.size;
        let wanted = name.to_owned();
        let asking = self
            .inner
            .engine
            .ask("remove the image", WORK, |docker| async move {
                docker
                    .remove_image(&wanted, None::<RemoveImageOptions>, None)
                    .await
            });
        let items = asking.await.map_err(|error| about(name, error))?;
        let mut removed = removed(&items);
        if !removed.images.is_empty() {
            removed.freed = bytes(size);
        }
        Ok(removed)
    }

    async fn prune(&self, all: bool, dry_run: bool) -> Result<ImagesRemoved, ProviderError> {
        if dry_run {
            return unused(&self.inner, all).await;
        }
        let dangling = ("dangling".to_owned(), vec![(!all).to_string()]);
        let options = PruneImagesOptions {
            filters: Some([dangling].into()),
        };
        let asking = self.inner.engine.ask(
            "remove images that nobody uses",
            WORK,
            |docker| async move { docker.prune_images(Some(options)).await },
        );
        let pruned = asking.await?;
        let mut removed = removed(&pruned.images_deleted.unwrap_or_default());
        removed.freed = bytes(pruned.space_reclaimed);
        Ok(removed)
    }
}

/// Gives an image a further name.
pub(super) async fn tag(inner: &Inner, name: &str, new: &Reference) -> Result<(), ProviderError> {
    let options = TagImageOptions {
        repo: Some(new.name()),
        tag: new.tag().map(str::to_owned),
    };
    let wanted = name.to_owned();
    let asking = inner
        .engine
        .ask("name the image", QUICK, |docker| async move {
            docker.tag_image(&wanted, Some(options)).await
        });
    asking.await.map_err(|error| about(name, error))
}

/// What a pruning would remove: the engine has no such question, so containers are counted.
async fn unused(inner: &Inner, all: bool) -> Result<ImagesRemoved, ProviderError> {
    let asking = inner
        .engine
        .ask("list the images", QUICK, |docker| async move {
            let options = bollard::query_parameters::ListContainersOptions {
                all: true,
                ..Default::default()
            };
            let containers = docker.list_containers(Some(options)).await?;
            let images = docker.list_images(None::<ListImagesOptions>).await?;
            Ok((containers, images))
        });
    let (containers, images) = asking.await?;
    let used: Vec<String> = containers
        .into_iter()
        .filter_map(|container| container.image_id)
        .collect();
    let mut removed = ImagesRemoved::default();
    for image in images {
        let named = image.repo_tags.iter().any(|name| name != NAMELESS);
        if used.contains(&image.id) || (named && !all) {
            continue;
        }
        removed.freed += bytes(Some(image.size));
        let names = image.repo_tags.into_iter();
        removed.names.extend(names.filter(|name| name != NAMELESS));
        removed.images.push(image.id);
    }
    Ok(removed)
}

/// How the engine writes that an image has no name.
const NAMELESS: &str = "<none>:<none>";

/// A line for each name of an image, or one for an image without.
fn lines_of(image: &ImageSummary) -> Vec<ImageInfo> {
    let ours = format!("{}:", trial::REPOSITORY);
    let mut names: Vec<&str> = image.repo_tags.iter().map(String::as_str).collect();
    names.retain(|name| *name != NAMELESS);
    if names.iter().any(|name| name.starts_with(&ours)) {
        return Vec::new();
    }
    if names.is_empty() {
        names.push(&image.id);
    }
    let line = |name: &&str| ImageInfo {
        name: (*name).to_owned(),
        id: image.id.clone(),
        digest: digest(&image.repo_digests, &image.id),
        size: bytes(Some(image.size)),
        entries: 0,
        layers: 0,
        platform: String::new(),
        created: since_epoch(image.created),
    };
    names.iter().map(line).collect()
}

/// The digest by which an image is known where it came from, else its own id.
fn digest(digests: &[String], id: &str) -> String {
    let known = digests.iter().find_map(|name| name.split_once('@'));
    known.map_or(id, |(_, digest)| digest).to_owned()
}

fn details(name: &str, found: ImageInspect) -> ImageDetails {
    let id = found.id.unwrap_or_default();
    let layers = found
        .root_fs
        .and_then(|root| root.layers)
        .unwrap_or_default();
    let digests = found.repo_digests.unwrap_or_default();
    let config = found.config.unwrap_or_default();
    let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
    let made = found.created.map(|created| created.to_string());
    let created = made.as_deref().and_then(written);
    let parts = [found.os, found.architecture, found.variant];
    let platform: Vec<String> = parts.into_iter().filter_map(filled).collect();
    ImageDetails {
        image: ImageInfo {
            name: name.to_owned(),
            digest: digest(&digests, &id),
            id,
            size: bytes(found.size),
            entries: 0,
            layers: layers.len() as u64,
            platform: platform.join("/"),
            created: created.unwrap_or_else(|| since_epoch(0)),
        },
        names: found.repo_tags.unwrap_or_default(),
        made,
        config: ImageSettings {
            env: config.env.unwrap_or_default(),
            working_dir: filled(config.working_dir),
            user: filled(config.user),
            entrypoint: config.entrypoint.unwrap_or_default(),
            cmd: config.cmd.unwrap_or_default(),
            exposed_ports: config.exposed_ports.unwrap_or_default(),
            volumes: config.volumes.unwrap_or_default(),
            labels: config.labels.unwrap_or_default().into_iter().collect(),
            stop_signal: filled(config.stop_signal),
        },
        layer_list: layers
            .into_iter()
            .map(|diff_id| ImageLayer {
                diff_id,
                size: 0,
                entries: 0,
            })
            .collect(),
    }
}

fn removed(items: &[ImageDeleteResponseItem]) -> ImagesRemoved {
    ImagesRemoved {
        names: items
            .iter()
            .filter_map(|item| item.untagged.clone())
            .collect(),
        images: items
            .iter()
            .filter_map(|item| item.deleted.clone())
            .collect(),
        ..ImagesRemoved::default()
    }
}

fn bytes(number: Option<i64>) -> u64 {
    number
        .and_then(|number| u64::try_from(number).ok())
        .unwrap_or(0)
}

/// A point in time as the engine writes it.
fn written(text: &str) -> Option<Timestamp> {
    serde_json::from_value(text.into()).ok()
}

fn since_epoch(seconds: i64) -> Timestamp {
    let seconds = u64::try_from(seconds).unwrap_or(0);
    Timestamp::from(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(names: &[&str], digests: &[&str]) -> ImageSummary {
        let own = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        ImageSummary {
            id: "sha256:1".to_owned(),
            repo_tags: own(names),
            repo_digests: own(digests),
            size: 10,
            created: 1,
            ..ImageSummary::default()
        }
    }

    #[test]
    fn an_image_has_a_line_for_each_name() {
        let lines = lines_of(&image(&["a:1", "b:2"], &["a@sha256:9"]));
        let names: Vec<&str> = lines.iter().map(|line| line.name.as_str()).collect();
        assert_eq!(names, ["a:1", "b:2"]);
        assert_eq!((lines[0].digest.as_str(), lines[0].size), ("sha256:9", 10));
        let nameless = lines_of(&image(&[NAMELESS], &[]));
        assert_eq!(nameless[0].name, "sha256:1");
        assert_eq!(nameless[0].digest, "sha256:1");
        assert!(lines_of(&image(&["stacyvm/trial:1"], &[])).is_empty());
    }
}
