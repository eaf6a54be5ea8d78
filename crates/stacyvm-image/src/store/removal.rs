//! Removing names, images, layers and leftovers.
//!
//! Its one rule: before something is removed, it is had alone, and only then asked once more
//! whether somebody needs it. Who needs it holds it first and says so second.

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::layout::{Hold, Layout, children, hold};
use super::records::{self, ImageRecord, LayerRecord, NameRecord};
use super::{ImageStore, former, lookup};
use crate::{Digest, Image, ImageError, InUse, PruneOptions, Reference, Removed, StoredImage};

const STEP: &str = "take the image out of the store";

/// Removes a name, and its image when that has no other.
pub(super) fn remove(
    store: &ImageStore,
    name: &str,
    in_use: InUse<'_>,
) -> Result<Removed, ImageError> {
    let layout = store.layout();
    let _busy = layout.busy()?;
    let missing = || ImageError::NotFound(name.chars().take(600).collect());
    let mut removed = Removed::default();
    if lookup::id_digits(name).is_some() {
        let record = lookup::by_id(store, name)?.ok_or_else(missing)?;
        let Some(lease) = alone(layout, &record, in_use)? else {
            return Err(ImageError::InUse(name.to_owned()));
        };
        let names = lookup::names_of(store, record.id)?;
        take_out(layout, &record, names, lease, &mut removed)?;
        layers(layout, Some(&record.layers), &mut removed)?;
        return Ok(removed);
    }
    let named = match Reference::parse(name) {
        Ok(reference) => store.name_record(&reference)?,
        Err(error) if former::get(layout, name)?.is_none() => return Err(error),
        Err(_) => None,
    };
    let Some(named) = named else {
        let familiar = Reference::parse(name).map_or(name.to_owned(), |name| name.familiar());
        let image = former::get(layout, &familiar)?.ok_or_else(missing)?;
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
    let Some(lease) = alone(layout, &record, in_use)? else {
        return Err(ImageError::InUse(name.to_owned()));
    };
    // It may have got another name before we had it alone.
    let names = lookup::names_of(store, record.id)?;
    if names.iter().any(|other| other.name != named.name) {
        remove_name(layout, &named, &mut removed)?;
        return Ok(removed);
    }
    take_out(layout, &record, names, lease, &mut removed)?;
    layers(layout, Some(&record.layers), &mut removed)?;
    Ok(removed)
}

/// Removes what nobody needs.
pub(super) fn prune(
    store: &ImageStore,
    options: &PruneOptions,
    in_use: InUse<'_>,
) -> Result<Removed, ImageError> {
    let layout = store.layout();
    let _busy = layout.busy()?;
    let mut removed = Removed::default();
    let mut doomed = HashSet::new();
    for record in lookup::images(layout)? {
        let named = || lookup::names_of(store, record.id);
        if !options.all && !named()?.is_empty() {
            continue;
        }
        let Some(lease) = alone(layout, &record, in_use)? else {
            continue;
        };
        // Named only now, perhaps: whoever did that held the image.
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
        take_out(layout, &record, names, lease, &mut removed)?;
    }
    if options.all {
        for image in former::list(layout)? {
            if options.dry_run {
                let free = former_alone(layout, &image, in_use)?.is_some();
                removed.names.extend(free.then(|| image.name.clone()));
            } else {
                remove_former(layout, &image, in_use, &mut removed)?;
            }
        }
    }
    if options.dry_run {
        let kept = |record: &ImageRecord| !doomed.contains(&record.id);
        would_remove(layout, &kept, &mut removed)?;
        return Ok(removed);
    }
    for named in lookup::names(layout)? {
        if lookup::record(layout, named.image)?.is_none() {
            remove_name(layout, &named, &mut removed)?;
        }
    }
    layers(layout, None, &mut removed)?;
    removed.freed += layout.sweep_partials(Duration::ZERO, 0)?;
    Ok(removed)
}

/// Has an image alone, when no sandbox stands on it.
fn alone(
    layout: &Layout,
    record: &ImageRecord,
    in_use: InUse<'_>,
) -> Result<Option<File>, ImageError> {
    let path = layout.image(record.id).join("image.json");
    let Some(lease) = hold(&path, Hold::Alone).map_err(ImageError::io(STEP))? else {
        return Ok(None);
    };
    let asked = StoredImage {
        facts: Arc::new(lookup::facts(layout, record, None)),
        lease: Arc::new(lease),
    };
    if in_use(&asked) {
        return Ok(None);
    }
    // A caller that kept a clone has a hold on the image.
    Ok(Arc::into_inner(asked.lease))
}

/// Removes an image that is had alone, with all its names.
fn take_out(
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
    // Only now: who waits for it finds it gone.
    drop(lease);
    removed.images.push(record.id.to_string());
    Ok(())
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

/// Layers that no image has.
fn orphans(
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
        None => children(&layout.layers())?,
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

/// Removes layers, of some or of all, that no image has. One that is held is left for the next
/// time.
pub(super) fn layers(
    layout: &Layout,
    among: Option<&[Digest]>,
    removed: &mut Removed,
) -> Result<(), ImageError> {
    let mut had = Vec::new();
    for record in orphans(layout, among, &|_| true)? {
        let path = layout.layer(record.diff_id).join("layer.json");
        if let Some(lease) = hold(&path, Hold::Alone).map_err(ImageError::io(STEP))? {
            had.push((record.diff_id, lease));
        }
    }
    // An image may have come meanwhile; its maker held its layers until it was there.
    let still: HashSet<Digest> = orphans(layout, among, &|_| true)?
        .iter()
        .map(|record| record.diff_id)
        .collect();
    for (diff_id, lease) in had {
        if !still.contains(&diff_id) {
            continue;
        }
        let size = super::layer::record(layout, diff_id)?.map_or(0, |record| record.size);
        layout
            .discard(&layout.layer(diff_id))
            .map_err(ImageError::io("remove a layer"))?;
        drop(lease);
        removed.layers.push(diff_id.to_string());
        removed.freed += size;
    }
    Ok(())
}

/// What `layers` would remove if only some images were left.
fn would_remove(
    layout: &Layout,
    kept: &dyn Fn(&ImageRecord) -> bool,
    removed: &mut Removed,
) -> Result<(), ImageError> {
    for record in orphans(layout, None, kept)? {
        let path = layout.layer(record.diff_id).join("layer.json");
        if hold(&path, Hold::Alone)
            .map_err(ImageError::io(STEP))?
            .is_some()
        {
            removed.layers.push(record.diff_id.to_string());
            removed.freed += record.size;
        }
    }
    Ok(())
}

fn former_alone(
    layout: &Layout,
    image: &Image,
    in_use: InUse<'_>,
) -> Result<Option<(PathBuf, File)>, ImageError> {
    let Some(place) = former::place(layout, &image.name) else {
        return Ok(None);
    };
    let path = place.join("image.json");
    let Some(lease) = hold(&path, Hold::Alone).map_err(ImageError::io(STEP))? else {
        return Ok(None);
    };
    let asked = StoredImage {
        facts: Arc::new(former::facts(&place, image)),
        lease: Arc::new(lease),
    };
    if in_use(&asked) {
        return Ok(None);
    }
    Ok(Arc::into_inner(asked.lease).map(|lease| (place, lease)))
}

fn remove_former(
    layout: &Layout,
    image: &Image,
    in_use: InUse<'_>,
    removed: &mut Removed,
) -> Result<bool, ImageError> {
    let Some((place, lease)) = former_alone(layout, image, in_use)? else {
        return Ok(false);
    };
    layout.discard(&place).map_err(ImageError::io(STEP))?;
    drop(lease);
    removed.names.push(image.name.clone());
    removed.freed += image.size;
    Ok(true)
}
