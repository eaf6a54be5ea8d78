//! Writing images into an archive: an OCI layout that `docker load` reads as well.
//!
//! Layers are packed again from their unpacked files, always to the same bytes, because their
//! compressed form is not kept. So the archive lacks what was left out when they were unpacked, and
//! its digests differ from those of the registry (docs/adr/0016 says why).

mod layer_tar;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;
use serde::Serialize;
use serde_json::{Value, json};

use crate::digest::HashingStream;
use crate::manifest::{
    Descriptor, Index, Manifest, OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST,
};
use crate::store::{ContentStore, ImageRecord, lookup, records};
use crate::tar_writer::{EntryHeader, TarWriter};
use crate::{Digest, ImageError, Reference, StoredImage};
use layer_tar::LayerTar;

const STEP: &str = "write the archive";

/// Writes images into a file that appears when it is whole.
pub(crate) fn save(store: &ContentStore, names: &[&str], archive: &Path) -> Result<(), ImageError> {
    let exists = || ImageError::Exists(archive.display().to_string());
    if archive.symlink_metadata().is_ok() {
        return Err(exists());
    }
    let mut hidden = OsString::from(".");
    hidden.push(archive.file_name().unwrap_or_default());
    hidden.push(format!(".{}", std::process::id()));
    let temporary = TemporaryFile(archive.with_file_name(hidden));
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&temporary.0)
        .map_err(ImageError::io(STEP))?;
    let mut to = BufWriter::with_capacity(256 * 1024, file);
    save_to(store, names, &mut to)?;
    let file = to
        .into_inner()
        .map_err(|error| ImageError::io(STEP)(error.into_error()))?;
    file.sync_all().map_err(ImageError::io(STEP))?;
    match rustix::fs::renameat_with(CWD, &temporary.0, CWD, archive, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        Err(Errno::EXIST) => Err(exists()),
        Err(errno) => Err(ImageError::io(STEP)(errno)),
    }
}

/// A file that is removed on drop, unless it was renamed.
struct TemporaryFile(PathBuf);

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Writes images into a stream.
pub(crate) fn save_to(
    store: &ContentStore,
    names: &[&str],
    to: &mut dyn Write,
) -> Result<(), ImageError> {
    let images = select_images(store, names)?;
    let mut archive = ArchiveWriter {
        store,
        tar: TarWriter::new(to),
        written: HashSet::new(),
        layers: HashMap::new(),
    };
    let layout = json!({"imageLayoutVersion": "1.0.0"});
    archive.write_document("oci-layout", &layout)?;
    let (mut index, mut docker) = (Vec::new(), Vec::new());
    for image in &images {
        let saved = archive.write_image(image)?;
        docker.push(json!({
            "Config": blob_path(saved.config),
            "RepoTags": image.names.iter().filter_map(repository_tag).collect::<Vec<_>>(),
            "Layers": saved.layers.iter().map(|layer| blob_path(*layer)).collect::<Vec<_>>(),
        }));
        for name in &image.names {
            let mut annotations = BTreeMap::new();
            annotations.insert("io.containerd.image.name".to_owned(), name.canonical());
            if let Some(tag) = name.tag() {
                annotations.insert(
                    "org.opencontainers.image.ref.name".to_owned(),
                    tag.to_owned(),
                );
            }
            index.push(Descriptor {
                annotations: Some(annotations),
                ..saved.manifest.clone()
            });
        }
        if image.names.is_empty() {
            index.push(saved.manifest.clone());
        }
    }
    let index = Index {
        schema_version: 2,
        media_type: OCI_INDEX.to_owned(),
        manifests: index,
    };
    archive.write_document("index.json", &index)?;
    archive.write_document("manifest.json", &docker)?;
    archive
        .tar
        .finish()
        .and_then(|to| to.flush())
        .map_err(ImageError::io(STEP))
}

/// An image to be saved, and the names that were asked for.
struct SelectedImage {
    record: ImageRecord,
    names: Vec<Reference>,
    /// Keeps the image in the store.
    _held: StoredImage,
}

fn select_images(store: &ContentStore, names: &[&str]) -> Result<Vec<SelectedImage>, ImageError> {
    let mut images: Vec<SelectedImage> = Vec::new();
    for name in names {
        let held = lookup::find(store, name)?;
        let record = lookup::by_id(store, held.id())?.ok_or_else(|| {
            ImageError::Archive(format!(
                "the image {name:?} is of a former format: import it again to save it"
            ))
        })?;
        let by_id = name.starts_with("sha256:") && Digest::parse(held.id()).is_some();
        let reference = match Reference::parse(name) {
            Ok(reference) if lookup::name_record(store.layout(), &reference)?.is_some() => {
                Some(reference)
            }
            Ok(_) | Err(_) if by_id => None,
            Ok(reference) => Some(reference),
            Err(error) => return Err(error),
        };
        match images.iter_mut().find(|known| known.record.id == record.id) {
            Some(known) => {
                let new = reference.filter(|reference| !known.names.contains(reference));
                known.names.extend(new);
            }
            None => images.push(SelectedImage {
                record,
                names: reference.into_iter().collect(),
                _held: held,
            }),
        }
    }
    Ok(images)
}

/// `NAME:TAG`, as Docker wants it. A digest is no tag.
fn repository_tag(name: &Reference) -> Option<String> {
    match (name.digest(), name.tag()) {
        (None, Some(tag)) => Some(format!("{}:{tag}", name.familiar_name())),
        _ => None,
    }
}

fn blob_path(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

struct ArchiveWriter<'a> {
    store: &'a ContentStore,
    tar: TarWriter<&'a mut dyn Write>,
    written: HashSet<Digest>,
    /// Digest and size of the tar of each layer that was written, by its diff id.
    layers: HashMap<Digest, (Digest, u64)>,
}

/// The digests of an image that was written.
struct SavedImage {
    config: Digest,
    manifest: Descriptor,
    layers: Vec<Digest>,
}

impl ArchiveWriter<'_> {
    fn write_image(&mut self, image: &SelectedImage) -> Result<SavedImage, ImageError> {
        let mut layers = Vec::new();
        for diff_id in &image.record.layers {
            layers.push(self.write_layer(*diff_id)?);
        }
        let step = "read the image's configuration";
        let place = self.store.layout().image(image.record.id);
        let text = fs::read(place.join("config.json")).map_err(ImageError::io(step))?;
        let mut config: Value = serde_json::from_slice(&text)
            .map_err(|error| ImageError::io(step)(io::Error::from(error)))?;
        let diff_ids: Vec<Digest> = layers.iter().map(|(digest, _)| *digest).collect();
        config["rootfs"] = json!({"type": "layers", "diff_ids": diff_ids});
        let config = self.write_blob(&config, OCI_CONFIG)?;
        let digest = config.digest;
        let manifest = Manifest {
            schema_version: 2,
            media_type: OCI_MANIFEST.to_owned(),
            config,
            layers: layers
                .iter()
                .map(|(digest, size)| descriptor(OCI_LAYER, *digest, *size))
                .collect(),
        };
        let mut manifest = self.write_blob(&manifest, OCI_MANIFEST)?;
        manifest.platform = Some(image.record.platform.clone());
        Ok(SavedImage {
            config: digest,
            manifest,
            layers: diff_ids,
        })
    }

    /// Writes a layer, once; answers digest and size of its tar.
    fn write_layer(&mut self, diff_id: Digest) -> Result<(Digest, u64), ImageError> {
        if let Some(known) = self.layers.get(&diff_id) {
            return Ok(*known);
        }
        let layer = LayerTar::open(self.store, diff_id)?;
        // The header of the archive comes before the content and has its length and its digest.
        let mut measured = HashingStream::new(io::sink());
        layer.write(&mut measured).map_err(ImageError::io(STEP))?;
        let (size, digest) = (measured.count(), measured.digest());
        self.layers.insert(diff_id, (digest, size));
        if self.written.insert(digest) {
            let mut write = || {
                let path = blob_path(digest);
                self.tar
                    .write_header(EntryHeader::file(size), path.as_bytes(), None, &[])?;
                let mut again = HashingStream::new(self.tar.content());
                layer.write(&mut again)?;
                if again.digest() != digest {
                    return Err(io::Error::other("a layer changed while it was saved"));
                }
                self.tar.pad(size)
            };
            write().map_err(ImageError::io(STEP))?;
        }
        Ok((digest, size))
    }

    /// Writes a small document as a blob.
    fn write_blob<T: Serialize>(
        &mut self,
        document: &T,
        media_type: &str,
    ) -> Result<Descriptor, ImageError> {
        let text = records::to_text(document)?;
        let digest = Digest::of(&text);
        if self.written.insert(digest) {
            self.write_file(&blob_path(digest), &text)?;
        }
        Ok(descriptor(media_type, digest, text.len() as u64))
    }

    fn write_document<T: Serialize>(&mut self, path: &str, document: &T) -> Result<(), ImageError> {
        self.write_file(path, &records::to_text(document)?)
    }

    fn write_file(&mut self, path: &str, mut content: &[u8]) -> Result<(), ImageError> {
        let header = EntryHeader::file(content.len() as u64);
        self.tar
            .write_entry(header, path.as_bytes(), None, &[], &mut content)
            .map_err(ImageError::io(STEP))
    }
}

fn descriptor(media_type: &str, digest: Digest, size: u64) -> Descriptor {
    Descriptor {
        media_type: media_type.to_owned(),
        digest,
        size,
        platform: None,
        annotations: None,
    }
}
