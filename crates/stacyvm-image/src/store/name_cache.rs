//! What names were found to stand for, so that finding an image again costs a few system calls.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::image::ImageDescription;

/// How many names are remembered.
const MAX_NAMES: usize = 10_000;

/// The cache of one store.
#[derive(Debug, Default)]
pub(super) struct NameCache {
    names: Mutex<HashMap<String, CachedName>>,
}

/// What a name stood for when its file had this stamp.
#[derive(Clone, Debug)]
pub(super) struct CachedName {
    pub(super) stamp: FileStamp,
    /// The image's record, which is locked by its users.
    pub(super) record: PathBuf,
    pub(super) description: Arc<ImageDescription>,
}

/// What changes when a file is replaced: device, inode, seconds and nanoseconds of its change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileStamp(u64, u64, i64, i64);

impl FileStamp {
    /// The stamp of the file at `path`, when there is one.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let metadata: Metadata = fs::metadata(path).ok()?;
        Some(Self(
            metadata.dev(),
            metadata.ino(),
            metadata.ctime(),
            metadata.ctime_nsec(),
        ))
    }
}

impl NameCache {
    pub(super) fn get(&self, name: &str) -> Option<CachedName> {
        self.names.lock().get(name).cloned()
    }

    pub(super) fn insert(&self, name: &str, found: CachedName) {
        let mut names = self.names.lock();
        if names.len() >= MAX_NAMES {
            names.clear();
        }
        names.insert(name.to_owned(), found);
    }
}
