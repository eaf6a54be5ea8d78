//! Pulling an image from a registry, from start to end: what the image is, its layers, the image.

mod download;
mod layer_fetcher;
mod options;
mod progress;

use std::collections::{HashSet, VecDeque};

use crate::image_config::{ConfigFile, MAX_CONFIG};
use crate::manifest::{Document, Manifest};
use crate::registry::RegistryClient;
use crate::store::{ContentStore, images, lookup};
use crate::{Digest, Image, ImageError, Reference};
use layer_fetcher::{LayerFetcher, LayerTask, ProgressListener};
pub use options::{Cancel, PullOptions, PullPolicy};
pub use progress::{LayerStage, PullProgress, Pulled};

/// Makes sure that the image is in the store, as the policy of `options` says.
pub(crate) fn pull(
    store: &ContentStore,
    reference: &Reference,
    options: &PullOptions,
    progress: ProgressListener<'_>,
) -> Result<Pulled, ImageError> {
    options.cancel.check()?;
    let local = lookup::get(store, &reference.to_string())?
        .filter(|image| options.platform.accepts(&image.platform));
    if options.policy == PullPolicy::Missing
        && let Some(image) = local
    {
        return Ok(cached(image));
    }
    // Keeps other processes from removing parts of layers from earlier attempts.
    let _lock = store.layout().lock_for_change()?;
    let client = RegistryClient::new(reference, options)?;
    let resolved = ResolvedImage::resolve(&client, reference, options)?;
    if let Some(image) = local
        && image.digest == resolved.digest.to_string()
    {
        return Ok(cached(image));
    }
    progress(PullProgress::Resolved {
        digest: resolved.digest.to_string(),
        layers: resolved.manifest.layers.len(),
        bytes: resolved
            .manifest
            .layers
            .iter()
            .map(|layer| layer.size)
            .sum(),
    });
    let config = client.small_blob(
        resolved.endpoint,
        &resolved.manifest.config,
        MAX_CONFIG,
        "the configuration",
    )?;
    let digest = resolved.digest.to_string();
    let parsed = ConfigFile::parse(&config)?;
    let platform = parsed.platform();
    if !options.platform.accepts(&platform) {
        return Err(ImageError::Platform {
            image: reference.to_string(),
            wanted: options.platform.to_string(),
            available: platform.to_string(),
        });
    }
    // Under another name, or from another registry, it may be there.
    if let Some(image) = images::name_existing(store, Digest::of(&config), &digest, reference)? {
        return Ok(cached(image));
    }
    let tasks = resolved.tasks(&parsed, store)?;
    let fetcher = LayerFetcher::new(store, options, &client, resolved.endpoint, progress, tasks);
    let (layers, downloaded) = fetcher.fetch_all()?;
    let image = images::publish(store, &config, &digest, &layers, Some((reference, true)))?;
    Ok(Pulled {
        image,
        cached: false,
        downloaded,
    })
}

fn cached(image: Image) -> Pulled {
    Pulled {
        image,
        cached: true,
        downloaded: 0,
    }
}

/// What the registry answered about the image.
struct ResolvedImage {
    manifest: Manifest,
    digest: Digest,
    endpoint: usize,
}

impl ResolvedImage {
    fn resolve(
        client: &RegistryClient<'_>,
        reference: &Reference,
        options: &PullOptions,
    ) -> Result<Self, ImageError> {
        let (bytes, digest, endpoint) = client.resolve()?;
        match Document::parse(&bytes)? {
            Document::Manifest(manifest) => Ok(Self {
                manifest,
                digest,
                endpoint,
            }),
            Document::Index(index) => {
                let image = reference.to_string();
                let chosen = index.choose(&image, &options.platform)?;
                let bytes = client.manifest_of(endpoint, chosen)?;
                match Document::parse(&bytes)? {
                    Document::Manifest(manifest) => Ok(Self {
                        manifest,
                        digest: chosen.digest,
                        endpoint,
                    }),
                    Document::Index(_) => Err(ImageError::Archive(
                        "the index names another index for this platform".to_owned(),
                    )),
                }
            }
        }
    }

    /// Each layer once, with the digest that it has when it is uncompressed.
    fn tasks(
        &self,
        config: &ConfigFile,
        store: &ContentStore,
    ) -> Result<VecDeque<LayerTask>, ImageError> {
        let layers = &self.manifest.layers;
        if layers.len() != config.rootfs.diff_ids.len() {
            return Err(ImageError::Archive(format!(
                "the manifest has {} layers, the configuration {}",
                layers.len(),
                config.rootfs.diff_ids.len()
            )));
        }
        let limit = store.limits().bytes;
        let total = layers
            .iter()
            .try_fold(0_u64, |sum, layer| sum.checked_add(layer.size));
        if total.is_none_or(|total| total > limit) {
            return Err(ImageError::Limit(format!(
                "its compressed layers have more than {limit} bytes"
            )));
        }
        let mut seen = HashSet::new();
        Ok(layers
            .iter()
            .zip(&config.rootfs.diff_ids)
            .filter(|(_, diff_id)| seen.insert(**diff_id))
            .map(|(blob, diff_id)| LayerTask {
                blob: blob.clone(),
                diff_id: *diff_id,
            })
            .collect())
    }
}
