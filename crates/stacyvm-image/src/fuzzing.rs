//! What the fuzz targets call: the readers of what strangers write, without a store around them.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use crate::image_config::ConfigFile;
use crate::manifest::Document;
use crate::marks::Marks;
use crate::merged::Merged;
use crate::prepare::prepare;
use crate::stream::Stream;
use crate::unpack::{Limits, Manner, unpack};
use crate::{ImageError, Platform};

/// Unpacks a layer into `place/tree` and makes an image's topmost layer for it in `place/top`; both
/// are there and empty.
///
/// # Errors
/// Those of unpacking.
pub fn unpack_layer(layer: File, place: &Path, whole: bool) -> Result<(), ImageError> {
    let open = |name: &str| -> Result<OwnedFd, ImageError> {
        let file = File::open(place.join(name)).map_err(ImageError::io("open a directory"))?;
        Ok(file.into())
    };
    let marks = Marks::of(place).map_err(ImageError::io("open a directory"))?;
    let manner = Manner {
        limits: Limits {
            bytes: 1 << 20,
            entries: 1000,
        },
        marks,
        whole,
    };
    let mut stream = Stream::open(layer)?;
    let done = unpack(&mut stream, open("tree")?, manner, &mut |_, _| Ok(()))?;
    let merged =
        Merged::open(&[place.join("tree")], marks).map_err(ImageError::io("open a directory"))?;
    prepare(&open("top")?, &merged, &[done.implied])
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
