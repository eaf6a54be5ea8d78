//! Images of the store's former format: one tree with all that a sandbox needs, under the image's
//! name. They are found, listed and removed; new ones are not made.
//!
//! ```text
//! <store>/<name>/image.json
//! <store>/<name>/rootfs/
//! ```
//! In a directory's name, `/` of the image's name stands as `~` and `:` as `@`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::files::list_directory;
use super::layout::Layout;
use super::locks::{LockMode, lock_record};
use super::records;
use crate::image::ImageDescription;
use crate::{Image, ImageConfig, ImageError, Platform, StoredImage};

/// The longest name, in bytes.
const MAX_NAME: usize = 200;

/// Where the image of this name would be; none when it was no name in that format.
pub(super) fn directory(layout: &Layout, name: &str) -> Option<PathBuf> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/:".contains(&byte);
    let fits = (1..=MAX_NAME).contains(&name.len())
        && name.bytes().all(plain)
        && name
            .split('/')
            .all(|part| !part.is_empty() && !part.starts_with('.'));
    let name = name.strip_suffix(":latest").unwrap_or(name);
    fits.then(|| {
        layout
            .store()
            .join(name.replace('/', "~").replace(':', "@"))
    })
}

pub(super) fn find(layout: &Layout, name: &str) -> Result<Option<StoredImage>, ImageError> {
    let (Some(directory), Some(image)) = (directory(layout, name), get(layout, name)?) else {
        return Ok(None);
    };
    let lease = lock_record(&directory.join("image.json"), LockMode::Shared)
        .map_err(ImageError::io("look an image up"))?;
    Ok(lease.map(|lease| StoredImage {
        description: Arc::new(describe(&directory, &image)),
        lease: Arc::new(lease),
    }))
}

/// What does not change about the image in `directory`.
pub(super) fn describe(directory: &Path, image: &Image) -> ImageDescription {
    ImageDescription {
        id: String::new(),
        digest: image.digest.clone(),
        layers: vec![directory.join("rootfs")],
        config: ImageConfig::default(),
        platform: Platform::default(),
        size: image.size,
    }
}

pub(super) fn get(layout: &Layout, name: &str) -> Result<Option<Image>, ImageError> {
    match directory(layout, name) {
        Some(directory) => records::read(&directory.join("image.json")),
        None => Ok(None),
    }
}

pub(super) fn list(layout: &Layout) -> Result<Vec<Image>, ImageError> {
    let mut found = Vec::new();
    for path in list_directory(layout.store())? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // Not ours, or removed meanwhile.
        if !name.starts_with('.')
            && let Some(image) = records::read::<Image>(&path.join("image.json"))?
        {
            found.push(Image { layers: 1, ..image });
        }
    }
    Ok(found)
}
