//! Entry points of the fuzz targets: the readers of hostile input, without a store around them.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use crate::archive_stream::ArchiveStream;
use crate::image_config::ConfigFile;
use crate::manifest::Document;
use crate::merged_layers::MergedLayers;
use crate::overlay::OverlayAttributes;
use crate::top_layer::make_top_layer;
use crate::unpack::{ArchiveKind, Limits, UnpackOptions, unpack};
use crate::{ImageError, Platform};

/// Unpacks a layer into `place/tree` and makes an image's topmost layer for it in `place/top`; both
/// are there and empty.
///
/// # Errors
/// Those of unpacking.
pub fn unpack_layer(layer: File, place: &Path, as_rootfs: bool) -> Result<(), ImageError> {
    let open = |name: &str| -> Result<OwnedFd, ImageError> {
        let file = File::open(place.join(name)).map_err(ImageError::io("open a directory"))?;
        Ok(file.into())
    };
    let overlay = OverlayAttributes::of(place).map_err(ImageError::io("open a directory"))?;
    let options = UnpackOptions {
        limits: Limits {
            bytes: 1 << 20,
            entries: 1000,
        },
        overlay,
        kind: match as_rootfs {
            true => ArchiveKind::RootFileSystem,
            false => ArchiveKind::Layer,
        },
    };
    let mut stream = ArchiveStream::open(layer)?;
    let done = unpack(&mut stream, open("tree")?, options, &mut |_| Ok(()))?;
    let merged = MergedLayers::open(&[place.join("tree")], overlay)
        .map_err(ImageError::io("open a directory"))?;
    make_top_layer(&open("top")?, &merged, &[done.implied])
}

/// Reads a manifest or an index, and chooses of it.
///
/// # Errors
/// When it is none.
pub fn read_manifest(text: &[u8]) -> Result<(), ImageError> {
    match Document::parse(text)? {
        Document::Manifest(_) => Ok(()),
        Document::Index(index) => index.choose("x", &Platform::of_this_machine()).map(|_| ()),
    }
}

/// Reads a configuration.
///
/// # Errors
/// When it is none.
pub fn read_config(text: &[u8]) -> Result<(), ImageError> {
    let config = ConfigFile::parse(text)?;
    let _ = (config.platform(), config.settings());
    Ok(())
}

/// Reads the header `WWW-Authenticate`.
pub fn read_challenge(text: &str) {
    crate::registry::read_challenge(text);
}

/// Empties a directory.
///
/// # Errors
/// When something in it cannot be removed.
pub fn empty(place: &Path) -> io::Result<()> {
    for entry in fs::read_dir(place)? {
        let path = entry?.path();
        match path.symlink_metadata()?.is_dir() {
            true => fs::remove_dir_all(path)?,
            false => fs::remove_file(path)?,
        }
    }
    Ok(())
}
