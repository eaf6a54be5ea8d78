//! The directory of images, layers and names.
//!
//! `store/layout.rs` says which files there are and which locks protect them. Owns the store's parts
//! and what all of them need; the operations on images stand in `image_store.rs`.

mod files;
mod former_format;
pub(crate) mod images;
pub(crate) mod layer;
mod layout;
mod locks;
pub(crate) mod lookup;
mod name_cache;
pub(crate) mod records;
pub(crate) mod removal;
mod work_directory;

use std::path::PathBuf;

use crate::ImageError;
use crate::unpack::{ArchiveKind, Limits, UnpackOptions};
pub(crate) use layer::Layer;
pub(crate) use layout::Layout;
use name_cache::NameCache;
pub(crate) use records::ImageRecord;
pub(crate) use work_directory::WorkDirectory;

/// An open store: its files, its limits and its cache.
#[derive(Debug)]
pub(crate) struct ContentStore {
    layout: Layout,
    limits: Limits,
    names: NameCache,
}

impl ContentStore {
    pub(crate) fn open(directory: PathBuf) -> Result<Self, ImageError> {
        Ok(Self {
            layout: Layout::open(directory)?,
            limits: Limits::default(),
            names: NameCache::default(),
        })
    }

    pub(crate) fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    /// How an archive is unpacked in this store.
    pub(crate) fn unpack_options(&self, kind: ArchiveKind) -> UnpackOptions {
        UnpackOptions {
            limits: self.limits,
            overlay: self.layout.overlay(),
            kind,
        }
    }
}
