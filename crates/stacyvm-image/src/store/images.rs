//! Making images of layers, and giving them names.

use std::collections::HashSet;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use super::files::put_file;
use super::layer::{self, Layer};
use super::layout::Layout;
use super::locks::{LockMode, lock_record};
use super::records::{self, ImageRecord, NameRecord};
use super::work_directory::WorkDirectory;
use super::{ContentStore, lookup};
use crate::image_config::ConfigFile;
use crate::merged_layers::MergedLayers;
use crate::top_layer::make_top_layer;
use crate::unpack::Skipped;
use crate::{Digest, Image, ImageError, Reference};

/// Makes an image of layers in the store and gives it a name. With `true` the name may be taken from
/// another image. An image that is there already only gets the name.
pub(crate) fn publish(
    store: &ContentStore,
    config: &[u8],
    digest: &str,
    layers: &[Layer],
    named: Option<(&Reference, bool)>,
) -> Result<Image, ImageError> {
    let layout = store.layout();
    let _lock = layout.lock_for_change()?;
    let id = Digest::of(config);
    // Held until it has its name.
    let mut lease = lock_image(layout, id)?;
    for _ in 0..10 {
        if lease.is_some() {
            break;
        }
        make(store, id, config, digest, layers)?;
        lease = lock_image(layout, id)?;
    }
    if lease.is_none() {
        return Err(ImageError::NotFound(id.to_string()));
    }
    if let Some((reference, replace)) = named
        && !set_name(layout, reference, id, digest, replace)?
    {
        return Err(ImageError::Exists(reference.to_string()));
    }
    let name = named.map_or_else(|| id.to_string(), |(name, _)| name.to_string());
    let record = lookup::record(layout, id)?.ok_or(ImageError::NotFound(name.clone()))?;
    Ok(lookup::summarize(&record, name, Some(digest)))
}

/// Gives an image a name if the image is there. Answers its summary then.
pub(crate) fn name_existing(
    store: &ContentStore,
    id: Digest,
    digest: &str,
    reference: &Reference,
) -> Result<Option<Image>, ImageError> {
    let layout = store.layout();
    let _lock = layout.lock_for_change()?;
    let Some(_lease) = lock_image(layout, id)? else {
        return Ok(None);
    };
    set_name(layout, reference, id, digest, true)?;
    let record = lookup::record(layout, id)?;
    Ok(record.map(|record| lookup::summarize(&record, reference.to_string(), Some(digest))))
}

/// Makes a name stand for an image. The caller holds the image and `Layout::lock_for_change`. Answers
/// whether the name stands for it now.
pub(crate) fn set_name(
    layout: &Layout,
    name: &Reference,
    image: Digest,
    digest: &str,
    replace: bool,
) -> Result<bool, ImageError> {
    let record = NameRecord {
        name: name.clone(),
        image,
        digest: digest.to_owned(),
    };
    let place = layout.name(&name.canonical());
    let mut replace = replace;
    if !replace && let Some(known) = records::read::<NameRecord>(&place)? {
        // A name whose image is gone is free.
        replace = lookup::record(layout, known.image)?.is_none();
    }
    put_file(&place, &records::to_text(&record)?, replace)
        .map_err(ImageError::io("give the image its name"))
}

fn lock_image(layout: &Layout, id: Digest) -> Result<Option<File>, ImageError> {
    lock_record(&layout.image(id).join("image.json"), LockMode::Shared)
        .map_err(ImageError::io("look an image up"))
}

fn make(
    store: &ContentStore,
    id: Digest,
    config: &[u8],
    digest: &str,
    layers: &[Layer],
) -> Result<(), ImageError> {
    let layout = store.layout();
    let file = ConfigFile::parse(config)?;
    let record_of = |diff_id: &Digest| {
        let mut all = layers.iter();
        let found = all.find(|layer| layer.record.diff_id == *diff_id);
        found.map(|layer| &layer.record).ok_or_else(|| {
            ImageError::Archive("the configuration names a layer that is not there".to_owned())
        })
    };
    let (mut stack, mut implied) = (Vec::new(), Vec::new());
    let mut seen = HashSet::new();
    let (mut size, mut entries, mut skipped) = (0, 0, Skipped::default());
    let mut covered = false;
    for diff_id in file.rootfs.diff_ids.iter().rev() {
        let layer = record_of(diff_id)?;
        // A layer that comes again further down adds nothing: all of it is covered by itself.
        if !seen.insert(*diff_id) {
            continue;
        }
        size += layer.size;
        entries += layer.entries;
        skipped.add(layer.skipped);
        if !covered {
            stack.push(*diff_id);
            implied.push(layer.implied.clone());
        }
        covered |= layer.opaque;
    }
    let limits = store.limits();
    if size > limits.bytes || entries > limits.entries {
        return Err(ImageError::Limit(format!(
            "the image has {size} bytes in {entries} entries"
        )));
    }
    let work = WorkDirectory::create(layout)?;
    let top = work.make_directory("top")?;
    let step = "open the layers of the image";
    let trees: Vec<PathBuf> = stack
        .iter()
        .map(|diff_id| layout.layer(*diff_id).join("tree"))
        .collect();
    let merged = MergedLayers::open(&trees, layout.overlay()).map_err(ImageError::io(step))?;
    let top: OwnedFd = File::open(top).map_err(ImageError::io(step))?.into();
    make_top_layer(&top, &merged, &implied)?;
    let record = ImageRecord {
        id,
        digest: digest.to_owned(),
        layers: file.rootfs.diff_ids.clone(),
        stack,
        size,
        entries,
        skipped,
        created: records::now(),
        platform: file.platform(),
        made: file.created.clone(),
        config: file.settings(),
    };
    work.write_file("config.json", config)?;
    work.write_file("image.json", &records::to_text(&record)?)?;
    // An image is on the disk before it is visible, so that a crash of the machine cannot damage it.
    work.flush()?;
    layer::mark_flushed(layout, layers)?;
    work.publish(&layout.image(id)).map(|_| ())
}
