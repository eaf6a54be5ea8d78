//! Removing names, images, layers and leftovers.
//!
//! Its one rule: before something is removed it is locked exclusively, and only then checked once more
//! whether it is needed. A user of it takes its shared lock first and records the use second.

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::files::list_directory;
use super::layer;
use super::layout::Layout;
use super::locks::{LockMode, lock_record};
use super::records::{self, ImageRecord, LayerRecord, NameRecord};
use super::{ContentStore, former_format, lookup};
use crate::{Digest, Image, ImageError, InUse, PruneOptions, Reference, Removed, StoredImage};

const STEP: &str = "take the image out of the store";

/// Removes a name, and its image when that has no other.
pub(crate) fn remove(
    store: &ContentStore,
    name: &str,
    in_use: InUse<'_>,
) -> Result<Removed, ImageError> {
    let layout = store.layout();
    let _lock = layout.lock_for_change()?;
    let missing = || ImageError::NotFound(name.chars().take(600).collect());
    let mut removed = Removed::default();
    if lookup::id_digits(name).is_some() {
        let record = lookup::by_id(store, name)?.ok_or_else(missing)?;
        let Some(lease) = lock_unused(layout, &record, in_use)? else {
            return Err(ImageError::InUse(name.to_owned()));
        };
        let names = lookup::names_of(store, record.id)?;
        remove_image(layout, &record, names, lease, &mut removed)?;
        remove_unreferenced_layers(layout, Some(&record.layers), &mut removed)?;
        return Ok(removed);
    }
    let named = match Reference::parse(name) {
        Ok(reference) => lookup::name_record(layout, &reference)?,
        Err(error) if former_format::get(layout, name)?.is_none() => return Err(error),
        Err(_) => None,
    };
    let Some(named) = named else {
        let familiar = Reference::parse(name).map_or(name.to_owned(), |name| name.familiar());
        let image = former_format::get(layout, &familiar)?.ok_or_else(missing)?;
        return match remove_former(layout, &image, in_use, &mut removed)? {
            true => Ok(removed),
            false => Err(ImageError::InUse(name.to_owned())),
        };
    };
    let Some(record) = lookup::record(layout, named.image)? else {
        remove_name(layout, &named, &mut removed)?;
        return Err(missing());
    };
    let mut others = lookup::names_of(store, record.id)?;
    others.retain(|other| other.name.canonical() != named.name.canonical());
    if !others.is_empty() {
        remove_name(layout, &named, &mut removed)?;
        return Ok(removed);
    }
    let Some(lease) = lock_unused(layout, &record, in_use)? else {
        return Err(ImageError::InUse(name.to_owned()));
    };
    // It may have got another name before it was locked.
    let names = lookup::names_of(store, record.id)?;
    if names.iter().any(|other| other.name != named.name) {
        remove_name(layout, &named, &mut removed)?;
        return Ok(removed);
    }
    remove_image(layout, &record, names, lease, &mut removed)?;
    remove_unreferenced_layers(layout, Some(&record.layers), &mut removed)?;
    Ok(removed)
}

/// Removes images, names and layers that are not needed.
pub(crate) fn prune(
    store: &ContentStore,
    options: &PruneOptions,
    in_use: InUse<'_>,
) -> Result<Removed, ImageError> {
    let layout = store.layout();
    let _lock = layout.lock_for_change()?;
    let mut removed = Removed::default();
    let mut doomed = HashSet::new();
    for record in lookup::images(layout)? {
        let named = || lookup::names_of(store, record.id);
        if !options.all && !named()?.is_empty() {
            continue;
        }
        let Some(lease) = lock_unused(layout, &record, in_use)? else {
            continue;
        };
        // It may have got a name before it was locked.
        let names = named()?;
        if !options.all && !names.is_empty() {
            continue;
        }
        doomed.insert(record.id);
        if options.dry_run {
            removed.images.push(record.id.to_string());
            removed
                .names
                .extend(names.iter().map(|name| name.name.familiar()));
            continue;
        }
        remove_image(layout, &record, names, lease, &mut removed)?;
    }
    if options.all {
        for image in former_format::list(layout)? {
            if options.dry_run {
                let free = lock_unused_former(layout, &image, in_use)?.is_some();
                removed.names.extend(free.then(|| image.name.clone()));
            } else {
                remove_former(layout, &image, in_use, &mut removed)?;
            }
        }
    }
    if options.dry_run {
        let kept = |record: &ImageRecord| !doomed.contains(&record.id);
        report_unreferenced_layers(layout, &kept, &mut removed)?;
        return Ok(removed);
    }
    for named in lookup::names(layout)? {
        if lookup::record(layout, named.image)?.is_none() {
            remove_name(layout, &named, &mut removed)?;
        }
    }
    remove_unreferenced_layers(layout, None, &mut removed)?;
    removed.freed += layout.remove_partials(Duration::ZERO, 0)?;
    Ok(removed)
}

/// Locks an image exclusively, when no sandbox uses it.
fn lock_unused(
    layout: &Layout,
    record: &ImageRecord,
    in_use: InUse<'_>,
) -> Result<Option<File>, ImageError> {
    let path = layout.image(record.id).join("image.json");
    let Some(lease) = lock_record(&path, LockMode::Exclusive).map_err(ImageError::io(STEP))? else {
        return Ok(None);
    };
    let asked = StoredImage {
        description: Arc::new(lookup::description(layout, record, None)),
        lease: Arc::new(lease),
    };
    if in_use(&asked) {
        return Ok(None);
    }
    // A caller that kept a clone holds the image.
    Ok(Arc::into_inner(asked.lease))
}

/// Removes an image that is locked exclusively, with all its names.
fn remove_image(
    layout: &Layout,
    record: &ImageRecord,
    names: Vec<NameRecord>,
    lease: File,
    removed: &mut Removed,
) -> Result<(), ImageError> {
    for named in &names {
        remove_name(layout, named, removed)?;
    }
    layout
        .discard(&layout.image(record.id))
        .map_err(ImageError::io(STEP))?;
    // Only now: a process that waits for the lock then finds the image gone.
    drop(lease);
    removed.images.push(record.id.to_string());
    Ok(())
}

/// Removes a layer unless an image has it or it is in use.
pub(crate) fn forget_layer(store: &ContentStore, diff_id: Digest) -> Result<(), ImageError> {
    let layout = store.layout();
    let _lock = layout.lock_for_change()?;
    remove_unreferenced_layers(layout, Some(&[diff_id]), &mut Removed::default())
}

/// Removes a name, unless it stands for another image by now.
fn remove_name(
    layout: &Layout,
    named: &NameRecord,
    removed: &mut Removed,
) -> Result<(), ImageError> {
    let place = layout.name(&named.name.canonical());
    let now: Option<NameRecord> = records::read(&place)?;
    if now.is_some_and(|now| now.image == named.image) {
        match fs::remove_file(place) {
            Ok(()) => removed.names.push(named.name.familiar()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(ImageError::io("remove the image's name")(error)),
        }
    }
    Ok(())
}

/// Layers, of some or of all, that none of the images that count has.
fn unreferenced_layers(
    layout: &Layout,
    among: Option<&[Digest]>,
    counts: &dyn Fn(&ImageRecord) -> bool,
) -> Result<Vec<LayerRecord>, ImageError> {
    let images = lookup::images(layout)?;
    let needed: HashSet<Digest> = images
        .iter()
        .filter(|image| counts(image))
        .flat_map(|image| image.layers.iter().copied())
        .collect();
    let candidates: Vec<PathBuf> = match among {
        Some(layers) => layers.iter().map(|layer| layout.layer(*layer)).collect(),
        None => list_directory(&layout.layers())?,
    };
    let mut found = Vec::new();
    for place in candidates {
        if let Some(record) = records::read::<LayerRecord>(&place.join("layer.json"))?
            && !needed.contains(&record.diff_id)
        {
            found.push(record);
        }
    }
    Ok(found)
}

/// Removes layers, of some or of all, that no image has. One that is in use is left for the next
/// time.
fn remove_unreferenced_layers(
    layout: &Layout,
    among: Option<&[Digest]>,
    removed: &mut Removed,
) -> Result<(), ImageError> {
    let mut locked = Vec::new();
    for record in unreferenced_layers(layout, among, &|_| true)? {
        let path = layout.layer(record.diff_id).join("layer.json");
        if let Some(lease) =
            lock_record(&path, LockMode::Exclusive).map_err(ImageError::io(STEP))?
        {
            locked.push((record.diff_id, lease));
        }
    }
    // An image may have been made meanwhile; its maker held its layers until it was visible.
    let still: HashSet<Digest> = unreferenced_layers(layout, among, &|_| true)?
        .iter()
        .map(|record| record.diff_id)
        .collect();
    for (diff_id, lease) in locked {
        if !still.contains(&diff_id) {
            continue;
        }
        let size = layer::record(layout, diff_id)?.map_or(0, |record| record.size);
        layout
            .discard(&layout.layer(diff_id))
            .map_err(ImageError::io("remove a layer"))?;
        drop(lease);
        removed.layers.push(diff_id.to_string());
        removed.freed += size;
    }
    Ok(())
}

/// Reports what `remove_unreferenced_layers` would remove if only some images were left.
fn report_unreferenced_layers(
    layout: &Layout,
    kept: &dyn Fn(&ImageRecord) -> bool,
    removed: &mut Removed,
) -> Result<(), ImageError> {
    for record in unreferenced_layers(layout, None, kept)? {
        let path = layout.layer(record.diff_id).join("layer.json");
        if lock_record(&path, LockMode::Exclusive)
            .map_err(ImageError::io(STEP))?
            .is_some()
        {
            removed.layers.push(record.diff_id.to_string());
            removed.freed += record.size;
        }
    }
    Ok(())
}

fn lock_unused_former(
    layout: &Layout,
    image: &Image,
    in_use: InUse<'_>,
) -> Result<Option<(PathBuf, File)>, ImageError> {
    let Some(directory) = former_format::directory(layout, &image.name) else {
        return Ok(None);
    };
    let path = directory.join("image.json");
    let Some(lease) = lock_record(&path, LockMode::Exclusive).map_err(ImageError::io(STEP))? else {
        return Ok(None);
    };
    let asked = StoredImage {
        description: Arc::new(former_format::describe(&directory, image)),
        lease: Arc::new(lease),
    };
    if in_use(&asked) {
        return Ok(None);
    }
    Ok(Arc::into_inner(asked.lease).map(|lease| (directory, lease)))
}

fn remove_former(
    layout: &Layout,
    image: &Image,
    in_use: InUse<'_>,
    removed: &mut Removed,
) -> Result<bool, ImageError> {
    let Some((directory, lease)) = lock_unused_former(layout, image, in_use)? else {
        return Ok(false);
    };
    layout.discard(&directory).map_err(ImageError::io(STEP))?;
    drop(lease);
    removed.names.push(image.name.clone());
    removed.freed += image.size;
    Ok(true)
}
