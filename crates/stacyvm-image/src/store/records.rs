//! The records that the store keeps of layers, images and names. COMPATIBILITY.md maps these files.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::files::is_missing;
use crate::unpack::{Skipped, Unpacked};
use crate::{Digest, ImageConfig, ImageError, Platform, Reference};

/// `layer.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    pub(crate) diff_id: Digest,
    /// Bytes of its files.
    pub(crate) size: u64,
    pub(crate) entries: u64,
    pub(crate) skipped: Skipped,
    /// Directories that it uses without describing them.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) implied: BTreeSet<PathBuf>,
    /// Whether nothing below it shows.
    #[serde(default)]
    pub(crate) opaque: bool,
    /// The boot of the machine in which it was written: after a crash, files that were not flushed may
    /// be damaged.
    pub(crate) boot: String,
}

impl LayerRecord {
    pub(crate) fn new(diff_id: Digest, unpacked: Unpacked) -> Self {
        Self {
            diff_id,
            size: unpacked.bytes,
            entries: unpacked.entries,
            skipped: unpacked.skipped,
            // A record is JSON: a path that is not UTF-8 cannot be in it, and keeps the mode it has.
            implied: unpacked
                .implied
                .into_iter()
                .filter(|path| path.to_str().is_some())
                .collect(),
            opaque: unpacked.opaque,
            boot: boot_id(),
        }
    }
}

/// `image.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    /// Digest of `config.json`.
    pub(crate) id: Digest,
    /// Digest of the manifest or of the imported tar.
    pub(crate) digest: String,
    /// Its layers, the lowest first, as the configuration lists them.
    pub(crate) layers: Vec<Digest>,
    /// The layers that show, the topmost first, each once.
    pub(crate) stack: Vec<Digest>,
    pub(crate) size: u64,
    pub(crate) entries: u64,
    pub(crate) skipped: Skipped,
    /// Seconds since 1970.
    pub(crate) created: u64,
    pub(crate) platform: Platform,
    pub(crate) made: Option<String>,
    pub(crate) config: ImageConfig,
}

/// A file in `names`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NameRecord {
    pub(crate) name: Reference,
    pub(crate) image: Digest,
    /// The digest by which the image is known where this name comes from.
    pub(crate) digest: String,
}

/// Reads a record, when it is there.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, ImageError> {
    let step = "read what is known about an image";
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if is_missing(&error) => return Ok(None),
        Err(error) => return Err(ImageError::io(step)(error)),
    };
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|error| ImageError::io(step)(std::io::Error::from(error)))
}

/// The text of a record.
pub(crate) fn to_text<T: Serialize>(record: &T) -> Result<Vec<u8>, ImageError> {
    serde_json::to_vec_pretty(record)
        .map_err(|error| ImageError::io("describe the image")(std::io::Error::from(error)))
}

/// The kernel's id of this boot of the machine; empty where there is none.
pub(crate) fn boot_id() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
