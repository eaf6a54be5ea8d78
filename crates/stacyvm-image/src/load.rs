//! Taking images out of archives of `docker save` and out of OCI layouts.

mod archive_files;

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::image_config::{ConfigFile, MAX_CONFIG};
use crate::manifest::{Descriptor, Document, MAX_LAYERS, MAX_MANIFEST, Manifest};
use crate::store::{ContentStore, Layer, WorkDirectory, images, layer};
use crate::unpack::ArchiveKind;
use crate::{Digest, Image, ImageError, Platform, Progress, Reference};
use archive_files::ArchiveFiles;

/// How many images one archive may have.
const MAX_IMAGES: usize = 100;
/// How deep indexes may be nested.
const MAX_INDEX_DEPTH: usize = 4;

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
struct ArchivedImage {
    names: Vec<Reference>,
    /// The digest of its manifest, if it has one.
    digest: Option<Digest>,
    config: Vec<u8>,
    layers: Vec<PathBuf>,
}

pub(crate) fn load(
    store: &ContentStore,
    archive: &Path,
    name: Option<&str>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<Image>, ImageError> {
    let name = name.map(Reference::parse).transpose()?;
    // Its lock keeps other processes from removing what is made here as leftovers.
    let work = WorkDirectory::create(store.layout())?;
    let files = ArchiveFiles::open(archive, &work, store.limits(), progress)?;
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
    let mut loaded = Vec::new();
    for image in found {
        loaded.extend(store_image(store, &files, image, &mut made, progress)?);
    }
    Ok(loaded)
}

/// Puts one image into the store. Answers its summary for each of its names.
fn store_image(
    store: &ContentStore,
    files: &ArchiveFiles,
    image: ArchivedImage,
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
        layers.push(load_layer(store, files, path, *diff_id, progress)?);
        made.insert(path.clone(), *diff_id);
    }
    let digest = match image.digest {
        Some(digest) => digest.to_string(),
        // An image without a manifest is known by its id.
        None => Digest::of(&image.config).to_string(),
    };
    let mut summaries = Vec::new();
    for name in &image.names {
        summaries.push(images::publish(
            store,
            &image.config,
            &digest,
            &layers,
            Some((name, true)),
        )?);
    }
    if summaries.is_empty() {
        summaries.push(images::publish(
            store,
            &image.config,
            &digest,
            &layers,
            None,
        )?);
    }
    Ok(summaries)
}

fn load_layer(
    store: &ContentStore,
    files: &ArchiveFiles,
    path: &Path,
    diff_id: Digest,
    progress: &mut dyn FnMut(Progress),
) -> Result<Layer, ImageError> {
    let layout = store.layout();
    let _lock = layout.lock_layer(diff_id, &mut || {}, &|| Ok(()))?;
    if let Some(layer) = layer::find(layout, diff_id)? {
        return Ok(layer);
    }
    let file = files.open_file(path)?;
    layer::unpack_layer(
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

fn docker_images(files: &ArchiveFiles) -> Result<Vec<ArchivedImage>, ImageError> {
    let text = read_bounded(files, Path::new("manifest.json"), MAX_MANIFEST)?;
    let images: Vec<DockerImage> = serde_json::from_slice(&text).map_err(|error| {
        ImageError::Archive(format!(
            "manifest.json of the archive is not readable: {error}"
        ))
    })?;
    check_count(images.len())?;
    let mut found = Vec::new();
    for image in images {
        let tags = image.repo_tags.unwrap_or_default();
        found.push(ArchivedImage {
            names: tags
                .iter()
                .map(|tag| Reference::parse(tag))
                .collect::<Result<_, _>>()?,
            digest: None,
            config: read_bounded(files, &image.config, MAX_CONFIG)?,
            layers: image.layers,
        });
    }
    Ok(found)
}

fn layout_images(files: &ArchiveFiles, archive: &Path) -> Result<Vec<ArchivedImage>, ImageError> {
    if !files.has("index.json") {
        return Ok(Vec::new());
    }
    let text = read_bounded(files, Path::new("index.json"), MAX_MANIFEST)?;
    let Document::Index(index) = Document::parse(&text)? else {
        return Err(ImageError::Archive(
            "index.json of the archive is no index".to_owned(),
        ));
    };
    check_count(index.manifests.len())?;
    let file_name = archive.file_name().unwrap_or_default().to_string_lossy();
    let mut found: Vec<ArchivedImage> = Vec::new();
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
        let config = read_blob(files, &manifest.config, MAX_CONFIG, "the configuration")?;
        found.push(ArchivedImage {
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
    files: &ArchiveFiles,
    descriptor: &Descriptor,
    depth: usize,
) -> Result<Option<(Manifest, Digest)>, ImageError> {
    let attestation = |platform: &Platform| platform.os == "unknown";
    if descriptor.platform.as_ref().is_some_and(attestation) {
        return Ok(None);
    }
    let bytes = read_blob(files, descriptor, MAX_MANIFEST, "the manifest")?;
    match Document::parse(&bytes)? {
        Document::Manifest(manifest) => Ok(Some((manifest, descriptor.digest))),
        Document::Index(_) if depth >= MAX_INDEX_DEPTH => Err(ImageError::Archive(
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

fn read_blob(
    files: &ArchiveFiles,
    descriptor: &Descriptor,
    limit: u64,
    what: &'static str,
) -> Result<Vec<u8>, ImageError> {
    let bytes = read_bounded(files, &blob_path(descriptor.digest), limit)?;
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

fn read_bounded(files: &ArchiveFiles, path: &Path, limit: u64) -> Result<Vec<u8>, ImageError> {
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
