//! Taking images out of archives of `docker save` and out of OCI layouts.

mod files;

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::image_config::{ConfigFile, MAX_CONFIG};
use crate::import::digest_of;
use crate::manifest::{Descriptor, Document, MAX_LAYERS, MAX_MANIFEST, Manifest};
use crate::store::{Layer, Work, layer};
use crate::unpack::ArchiveKind;
use crate::{Digest, Image, ImageError, ImageStore, Platform, Progress, Reference};
use files::Files;

/// How many images one archive may have.
const MAX_IMAGES: usize = 100;
/// How many indexes may stand in each other.
const MAX_NESTED: usize = 4;

/// The names of an image in the annotations of an index.
const FULL_NAME: &str = "io.containerd.image.name";
const SHORT_NAME: &str = "org.opencontainers.image.ref.name";

/// One image of the `manifest.json` that `docker save` writes.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: PathBuf,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<PathBuf>,
}

/// An image of the archive.
struct Found {
    names: Vec<Reference>,
    /// What it is known by: the digest of its manifest.
    digest: Option<Digest>,
    config: Vec<u8>,
    layers: Vec<PathBuf>,
}

pub(crate) fn load(
    store: &ImageStore,
    archive: &Path,
    name: Option<&str>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<Image>, ImageError> {
    let name = name.map(Reference::parse).transpose()?;
    // Keeps what is made here from being swept.
    let work = Work::begin(store.layout())?;
    let files = Files::open(archive, &work, store.limits(), progress)?;
    let mut found = match files.has("manifest.json") {
        true => docker_images(&files)?,
        false => layout_images(&files, archive)?,
    };
    match (name, found.as_mut_slice()) {
        (_, []) => {
            return Err(ImageError::Archive(
                "the archive has no image in it: a root file system is taken with \"stacyvm image import\"".to_owned(),
            ));
        }
        (Some(name), [only]) => only.names = vec![name],
        (Some(_), _) => {
            return Err(ImageError::Archive(format!(
                "the archive has {} images, so that they cannot have one name: leave it out",
                found.len()
            )));
        }
        (None, [only]) if only.names.is_empty() => {
            let file_name = archive.file_name().unwrap_or_default().to_string_lossy();
            only.names = vec![Reference::from_file_name(&file_name)?];
        }
        (None, _) => {}
    }
    let mut made: HashMap<PathBuf, Digest> = HashMap::new();
    let mut images = Vec::new();
    for image in found {
        images.extend(take(store, &files, image, &mut made, progress)?);
    }
    Ok(images)
}

/// Puts one image into the store.
fn take(
    store: &ImageStore,
    files: &Files,
    image: Found,
    made: &mut HashMap<PathBuf, Digest>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<Image>, ImageError> {
    let config = ConfigFile::parse(&image.config)?;
    let diff_ids = &config.rootfs.diff_ids;
    if diff_ids.len() != image.layers.len() || diff_ids.len() > MAX_LAYERS {
        return Err(ImageError::Archive(format!(
            "the image has {} layers, its configuration {}",
            image.layers.len(),
            diff_ids.len()
        )));
    }
    let mut layers = Vec::new();
    for (path, diff_id) in image.layers.iter().zip(diff_ids) {
        layers.push(layer_of(store, files, path, *diff_id, progress)?);
        made.insert(path.clone(), *diff_id);
    }
    let digest = match image.digest {
        Some(digest) => digest.to_string(),
        None => digest_of(&image.config),
    };
    let mut lines = Vec::new();
    for name in &image.names {
        lines.push(store.publish(&image.config, &digest, &layers, Some((name, true)))?);
    }
    if lines.is_empty() {
        lines.push(store.publish(&image.config, &digest, &layers, None)?);
    }
    Ok(lines)
}

fn layer_of(
    store: &ImageStore,
    files: &Files,
    path: &Path,
    diff_id: Digest,
    progress: &mut dyn FnMut(Progress),
) -> Result<Layer, ImageError> {
    let layout = store.layout();
    let _claim = layout.claim(diff_id, &mut || {}, &|| Ok(()))?;
    if let Some(layer) = layer::find(layout, diff_id)? {
        return Ok(layer);
    }
    let file = files.open_file(path)?;
    layer::make(
        layout,
        file,
        Some(diff_id),
        store.unpack_options(ArchiveKind::Layer),
        &mut |now| {
            progress(now);
            Ok(())
        },
    )
}

fn docker_images(files: &Files) -> Result<Vec<Found>, ImageError> {
    let text = small(files, Path::new("manifest.json"), MAX_MANIFEST)?;
    let images: Vec<DockerImage> = serde_json::from_slice(&text).map_err(|error| {
        ImageError::Archive(format!(
            "manifest.json of the archive is not readable: {error}"
        ))
    })?;
    check_count(images.len())?;
    let mut found = Vec::new();
    for image in images {
        let tags = image.repo_tags.unwrap_or_default();
        found.push(Found {
            names: tags
                .iter()
                .map(|tag| Reference::parse(tag))
                .collect::<Result<_, _>>()?,
            digest: None,
            config: small(files, &image.config, MAX_CONFIG)?,
            layers: image.layers,
        });
    }
    Ok(found)
}

fn layout_images(files: &Files, archive: &Path) -> Result<Vec<Found>, ImageError> {
    if !files.has("index.json") {
        return Ok(Vec::new());
    }
    let text = small(files, Path::new("index.json"), MAX_MANIFEST)?;
    let Document::Index(index) = Document::parse(&text)? else {
        return Err(ImageError::Archive(
            "index.json of the archive is no index".to_owned(),
        ));
    };
    check_count(index.manifests.len())?;
    let file_name = archive.file_name().unwrap_or_default().to_string_lossy();
    let mut found: Vec<Found> = Vec::new();
    for descriptor in &index.manifests {
        let name = name_of(descriptor, &file_name)?;
        let Some((manifest, digest)) = manifest_of(files, descriptor, 0)? else {
            continue;
        };
        // Several names of one image stand as several images in the index.
        if let Some(known) = found.iter_mut().find(|known| known.digest == Some(digest)) {
            known.names.extend(name);
            continue;
        }
        let config = blob(files, &manifest.config, MAX_CONFIG, "the configuration")?;
        found.push(Found {
            names: name.into_iter().collect(),
            digest: Some(digest),
            config,
            layers: manifest
                .layers
                .iter()
                .map(|layer| blob_path(layer.digest))
                .collect(),
        });
    }
    Ok(found)
}

/// The image that a descriptor means, of several the one for this machine. Nothing for what is no
/// image for a platform, such as an attestation.
fn manifest_of(
    files: &Files,
    descriptor: &Descriptor,
    depth: usize,
) -> Result<Option<(Manifest, Digest)>, ImageError> {
    let attestation = |platform: &Platform| platform.os == "unknown";
    if descriptor.platform.as_ref().is_some_and(attestation) {
        return Ok(None);
    }
    let bytes = blob(files, descriptor, MAX_MANIFEST, "the manifest")?;
    match Document::parse(&bytes)? {
        Document::Manifest(manifest) => Ok(Some((manifest, descriptor.digest))),
        Document::Index(_) if depth >= MAX_NESTED => Err(ImageError::Archive(
            "the archive has indexes within indexes".to_owned(),
        )),
        Document::Index(index) => {
            let chosen = index.choose("of the archive", &Platform::of_this_machine())?;
            manifest_of(files, chosen, depth + 1)
        }
    }
}

/// The name that an index gives: in full, in short, or only a tag.
fn name_of(descriptor: &Descriptor, file_name: &str) -> Result<Option<Reference>, ImageError> {
    let annotations = descriptor.annotations.clone().unwrap_or_default();
    if let Some(full) = annotations.get(FULL_NAME) {
        return Reference::parse(full).map(Some);
    }
    let Some(short) = annotations.get(SHORT_NAME) else {
        return Ok(None);
    };
    if short.contains(['/', ':']) {
        return Reference::parse(short).map(Some);
    }
    let named = Reference::from_file_name(file_name)?.familiar_name();
    Reference::parse(&format!("{named}:{short}")).map(Some)
}

fn blob(
    files: &Files,
    descriptor: &Descriptor,
    limit: u64,
    what: &'static str,
) -> Result<Vec<u8>, ImageError> {
    let bytes = small(files, &blob_path(descriptor.digest), limit)?;
    let got = Digest::of(&bytes);
    match got == descriptor.digest {
        true => Ok(bytes),
        false => Err(ImageError::Digest {
            what,
            expected: descriptor.digest.to_string(),
            got: got.to_string(),
        }),
    }
}

fn small(files: &Files, path: &Path, limit: u64) -> Result<Vec<u8>, ImageError> {
    let mut bytes = Vec::new();
    files
        .open_file(path)?
        .take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(ImageError::io("read the archive"))?;
    match bytes.len() as u64 > limit {
        true => Err(ImageError::Limit(format!(
            "{} has more than {limit} bytes",
            path.display()
        ))),
        false => Ok(bytes),
    }
}

fn blob_path(digest: Digest) -> PathBuf {
    PathBuf::from(format!("blobs/sha256/{}", digest.hex()))
}

fn check_count(images: usize) -> Result<(), ImageError> {
    match images > MAX_IMAGES {
        true => Err(ImageError::Limit(format!(
            "it has {images} images, more than {MAX_IMAGES}"
        ))),
        false => Ok(()),
    }
}
