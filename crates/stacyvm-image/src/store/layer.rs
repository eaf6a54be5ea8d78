//! Layers: unpacked once, by the digest of their uncompressed tar, and locked by their users.

use std::fs::File;

use super::layout::Layout;
use super::locks::{LockMode, lock_record};
use super::records::{self, LayerRecord};
use super::work_directory::WorkDirectory;
use crate::archive_stream::ArchiveStream;
use crate::progress::OnProgress;
use crate::unpack::{UnpackOptions, unpack};
use crate::{Digest, ImageError};

/// A layer that is there, and stays as long as this lives.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) record: LayerRecord,
    /// Holds a shared lock on the record.
    _lock: File,
}

/// The record of a layer that is there.
pub(crate) fn record(layout: &Layout, diff_id: Digest) -> Result<Option<LayerRecord>, ImageError> {
    records::read(&layout.layer(diff_id).join("layer.json"))
}

/// Finds a layer and locks it for use. The caller holds `Layout::lock_layer`, because a layer that a
/// crash of the machine may have damaged is removed here.
pub(crate) fn find(layout: &Layout, diff_id: Digest) -> Result<Option<Layer>, ImageError> {
    let place = layout.layer(diff_id);
    let step = "look a layer up";
    let Some(lock) =
        lock_record(&place.join("layer.json"), LockMode::Shared).map_err(ImageError::io(step))?
    else {
        return Ok(None);
    };
    let Some(record) = record(layout, diff_id)? else {
        return Ok(None);
    };
    let surely_whole = record.boot == records::boot_id() || place.join("flushed").exists();
    if !surely_whole {
        drop(lock);
        layout.discard(&place).map_err(ImageError::io(step))?;
        return Ok(None);
    }
    Ok(Some(Layer {
        record,
        _lock: lock,
    }))
}

/// Unpacks a layer. With `expected`, its digest has to be that.
pub(crate) fn unpack_layer(
    layout: &Layout,
    file: File,
    expected: Option<Digest>,
    options: UnpackOptions,
    on_progress: &mut OnProgress<'_>,
) -> Result<Layer, ImageError> {
    let work = WorkDirectory::create(layout)?;
    let tree = work.make_directory("tree")?;
    let target = File::open(&tree).map_err(ImageError::io("open the layer's directory"))?;
    let mut stream = ArchiveStream::open(file)?;
    let unpacked = unpack(&mut stream, target.into(), options, on_progress)?;
    let diff_id = stream.digest();
    if let Some(expected) = expected
        && expected != diff_id
    {
        return Err(ImageError::Digest {
            what: "the content of a layer",
            expected: expected.to_string(),
            got: diff_id.to_string(),
        });
    }
    let record = LayerRecord::new(diff_id, unpacked);
    work.write_file("layer.json", &records::to_text(&record)?)?;
    let place = layout.layer(diff_id);
    for _ in 0..10 {
        // Locked before it is visible, so that it is not removed as one that no image has.
        let own = work.path("layer.json");
        let lock = lock_record(&own, LockMode::Shared)
            .map_err(ImageError::io("hold a layer"))?
            .ok_or_else(|| vanished("hold a layer"))?;
        if work.publish(&place)? {
            return Ok(Layer {
                record,
                _lock: lock,
            });
        }
        drop(lock);
        // Another process made the same; its layer is as good unless it is removed this moment.
        if let Some(layer) = find(layout, diff_id)? {
            return Ok(layer);
        }
    }
    Err(vanished("publish a layer"))
}

/// The error for something that was there and is gone.
fn vanished(step: &'static str) -> ImageError {
    ImageError::io(step)(std::io::Error::from(std::io::ErrorKind::NotFound))
}

/// Marks layers as written to the disk.
pub(super) fn mark_flushed(layout: &Layout, layers: &[Layer]) -> Result<(), ImageError> {
    for layer in layers {
        let path = layout.layer(layer.record.diff_id).join("flushed");
        match File::create_new(path) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(ImageError::io("mark a layer as written")(error)),
        }
    }
    Ok(())
}
