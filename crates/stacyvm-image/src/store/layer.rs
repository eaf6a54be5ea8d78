//! Layers: unpacked once, by the digest of their uncompressed tar, and held by those who use them.

use std::fs::File;

use super::layout::{Hold, Layout, Work, hold};
use super::records::{self, LayerRecord};
use crate::archive_stream::ArchiveStream;
use crate::progress::OnProgress;
use crate::unpack::{UnpackOptions, unpack};
use crate::{Digest, ImageError};

/// A layer that is there, and stays as long as this lives.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) record: LayerRecord,
    /// Shares the lock of the record.
    _lease: File,
}

/// The record of a layer that is there, whoever wrote it.
pub(super) fn record(layout: &Layout, diff_id: Digest) -> Result<Option<LayerRecord>, ImageError> {
    records::read(&layout.layer(diff_id).join("layer.json"))
}

/// Finds a layer and holds it. The caller has its claim, for one that a crash of the machine may
/// have damaged is removed here.
pub(crate) fn find(layout: &Layout, diff_id: Digest) -> Result<Option<Layer>, ImageError> {
    let place = layout.layer(diff_id);
    let step = "look a layer up";
    let Some(lease) =
        hold(&place.join("layer.json"), Hold::Shared).map_err(ImageError::io(step))?
    else {
        return Ok(None);
    };
    let Some(record) = record(layout, diff_id)? else {
        return Ok(None);
    };
    let surely_whole = record.boot == records::boot() || place.join("flushed").exists();
    if !surely_whole {
        drop(lease);
        layout.discard(&place).map_err(ImageError::io(step))?;
        return Ok(None);
    }
    Ok(Some(Layer {
        record,
        _lease: lease,
    }))
}

/// Unpacks a layer. With `expected`, its digest has to be that.
pub(crate) fn make(
    layout: &Layout,
    file: File,
    expected: Option<Digest>,
    options: UnpackOptions,
    on_progress: &mut OnProgress<'_>,
) -> Result<Layer, ImageError> {
    let work = Work::begin(layout)?;
    let tree = work.make("tree")?;
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
    work.write("layer.json", &records::text(&record)?)?;
    let place = layout.layer(diff_id);
    for _ in 0..10 {
        // Held before it is seen, so that nobody takes it for one that no image has.
        let own = work.path("layer.json");
        let lease = hold(&own, Hold::Shared)
            .map_err(ImageError::io("hold a layer"))?
            .ok_or_else(|| lost("hold a layer"))?;
        if work.publish(&place)? {
            return Ok(Layer {
                record,
                _lease: lease,
            });
        }
        drop(lease);
        // Somebody else made the same; theirs is as good unless it goes away this moment.
        if let Some(layer) = find(layout, diff_id)? {
            return Ok(layer);
        }
    }
    Err(lost("publish a layer"))
}

/// Something that was there is not.
fn lost(step: &'static str) -> ImageError {
    ImageError::io(step)(std::io::Error::from(std::io::ErrorKind::NotFound))
}

/// Says of layers that their files are on the disk.
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
