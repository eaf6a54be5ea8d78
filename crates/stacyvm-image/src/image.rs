//! Images as the store hands them out.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::unpack::Skipped;
use crate::{Digest, ImageConfig, Platform};

/// A summary of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Its familiar name, such as `python:3.12`; the id of an image whose name went to another.
    pub name: String,
    /// The digest by which the image is known where it came from: of its manifest in the registry,
    /// of the uncompressed tar for an imported archive, else the id.
    pub digest: String,
    /// Bytes of all its files. Layers that several images share count in each.
    pub size: u64,
    /// Files, directories and links unpacked.
    pub entries: u64,
    /// When it came into the store, seconds since 1970.
    pub created: u64,
    /// What was left out.
    #[serde(default)]
    pub skipped: Skipped,
    /// The digest of its configuration: the same for the same content. Empty for an image of the
    /// store's former format.
    #[serde(default)]
    pub id: String,
    /// The system and processor that it is for.
    #[serde(default)]
    pub platform: Platform,
    /// How many layers it has.
    #[serde(default)]
    pub layers: usize,
}

/// Everything that is known about an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ImageDetails {
    /// Its summary.
    #[serde(flatten)]
    pub image: Image,
    /// Every name that stands for it, in its canonical form.
    pub names: Vec<String>,
    /// When it was made, as its maker wrote it.
    pub made: Option<String>,
    /// How it wants to be run.
    pub config: ImageConfig,
    /// Its layers, the lowest first.
    pub layer_list: Vec<LayerDetails>,
}

/// A layer of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LayerDetails {
    /// The digest of its uncompressed tar.
    pub diff_id: Digest,
    /// Bytes of its files.
    pub size: u64,
    /// Its files, directories and links.
    pub entries: u64,
}

/// An image that is held: as long as this, or a clone of it, lives, no process can remove the
/// image or its layers. Drop it when the sandbox made from it is known to the caller's `in_use`.
#[derive(Clone, Debug)]
pub struct StoredImage {
    pub(crate) description: Arc<ImageDescription>,
    /// Shares the lock of the image's record.
    pub(crate) lease: Arc<File>,
}

/// What does not change about an image in the store.
#[derive(Debug)]
pub(crate) struct ImageDescription {
    pub(crate) id: String,
    pub(crate) digest: String,
    pub(crate) layers: Vec<PathBuf>,
    pub(crate) config: ImageConfig,
    pub(crate) platform: Platform,
    pub(crate) size: u64,
}

impl StoredImage {
    /// The digest of its configuration; empty for an image of the store's former format.
    pub fn id(&self) -> &str {
        &self.description.id
    }

    /// The digest of its manifest, or of the tar it was imported from.
    pub fn digest(&self) -> &str {
        &self.description.digest
    }

    /// The directories that make its file system, the topmost first, for overlayfs: whiteouts are
    /// character devices 0/0, opaque directories have `trusted.overlay.opaque`. The first belongs
    /// to this image alone; the others may be shared with other images.
    pub fn layers(&self) -> &[PathBuf] {
        &self.description.layers
    }

    /// The topmost directory. It has `etc/passwd` and `etc/group` as the whole image shows them,
    /// when they are plain files there, and is a name for the image that no other image has.
    pub fn top(&self) -> &Path {
        &self.description.layers[0]
    }

    /// How it wants to be run.
    pub fn config(&self) -> &ImageConfig {
        &self.description.config
    }

    /// The system and processor that it is for.
    pub fn platform(&self) -> &Platform {
        &self.description.platform
    }

    /// Bytes of all its files.
    pub fn size(&self) -> u64 {
        self.description.size
    }
}

/// Says whether a sandbox uses an image.
pub type InUse<'a> = &'a dyn Fn(&StoredImage) -> bool;

/// Which images `prune` takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PruneOptions {
    /// Also images that have a name; else only those whose name went to another image.
    pub all: bool,
    /// Report what would be removed, and remove nothing.
    pub dry_run: bool,
}

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Removed {
    /// Names that stand for nothing now.
    pub names: Vec<String>,
    /// Images, by id.
    pub images: Vec<String>,
    /// Layers, by the digest of their uncompressed tar.
    pub layers: Vec<String>,
    /// Bytes of the files that are gone.
    pub freed: u64,
}
