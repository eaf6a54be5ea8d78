//! Finding images by name or id, and listing them. What a name stands for is read again only when
//! its file has changed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::files::list_directory;
use super::layout::Layout;
use super::locks::{LockMode, lock_record};
use super::name_cache::{CachedName, FileStamp};
use super::records::{self, ImageRecord, NameRecord};
use super::{ContentStore, former_format};
use crate::image::ImageDescription;
use crate::{Digest, Image, ImageError, Reference, StoredImage};

/// How many digits of an id say which one is meant.
const MIN_ID_DIGITS: usize = 12;

/// Finds an image by name or id, and holds it.
pub(crate) fn find(store: &ContentStore, name: &str) -> Result<StoredImage, ImageError> {
    let missing = || ImageError::NotFound(name.chars().take(600).collect());
    if let Some(found) = find_cached(store, name)? {
        return Ok(found);
    }
    if let Some(digits) = id_digits(name) {
        let record = by_digits(store.layout(), digits)?.ok_or_else(missing)?;
        let description = description(store.layout(), &record, None);
        let record = record_path(store, record.id);
        return hold(&record, Arc::new(description))?.ok_or_else(missing);
    }
    let reference = match Reference::parse(name) {
        Ok(reference) => reference,
        // The former format took names that are no references.
        Err(error) => return former_format::find(store.layout(), name)?.ok_or(error),
    };
    let place = store.layout().name(&reference.canonical());
    // The stamp first: what is read afterwards is as new as it, or newer.
    let stamp = FileStamp::of(&place);
    if let Some(named) = records::read::<NameRecord>(&place)?
        && let Some(image) = record(store.layout(), named.image)?
    {
        let description = description(store.layout(), &image, Some(&named.digest));
        let description = Arc::new(description);
        let record = record_path(store, image.id);
        if let Some(found) = hold(&record, Arc::clone(&description))? {
            if let Some(stamp) = stamp {
                let cached = CachedName {
                    stamp,
                    record,
                    description,
                };
                store.names.insert(name, cached);
            }
            return Ok(found);
        }
    }
    former_format::find(store.layout(), &reference.familiar())?
        .ok_or_else(|| ImageError::NotFound(reference.to_string()))
}

fn find_cached(store: &ContentStore, name: &str) -> Result<Option<StoredImage>, ImageError> {
    let (Some(cached), Ok(reference)) = (store.names.get(name), Reference::parse(name)) else {
        return Ok(None);
    };
    let place = store.layout().name(&reference.canonical());
    match FileStamp::of(&place) {
        Some(stamp) if stamp == cached.stamp => hold(&cached.record, cached.description),
        _ => Ok(None),
    }
}

/// Holds the image with this record.
fn hold(
    record: &Path,
    description: Arc<ImageDescription>,
) -> Result<Option<StoredImage>, ImageError> {
    let lease =
        lock_record(record, LockMode::Shared).map_err(ImageError::io("look an image up"))?;
    Ok(lease.map(|lease| StoredImage {
        description,
        lease: Arc::new(lease),
    }))
}

fn record_path(store: &ContentStore, id: Digest) -> PathBuf {
    store.layout().image(id).join("image.json")
}

/// What does not change about an image.
pub(super) fn description(
    layout: &Layout,
    record: &ImageRecord,
    digest: Option<&str>,
) -> ImageDescription {
    let trees = record
        .stack
        .iter()
        .map(|layer| layout.layer(*layer).join("tree"));
    ImageDescription {
        id: record.id.to_string(),
        digest: digest.unwrap_or(&record.digest).to_owned(),
        layers: std::iter::once(layout.image(record.id).join("top"))
            .chain(trees)
            .collect(),
        config: record.config.clone(),
        platform: record.platform.clone(),
        size: record.size,
    }
}

/// The record of an image.
pub(super) fn record(layout: &Layout, id: Digest) -> Result<Option<ImageRecord>, ImageError> {
    records::read(&layout.image(id).join("image.json"))
}

/// The record of the image with this id, written in full or with its first digits.
pub(crate) fn by_id(store: &ContentStore, id: &str) -> Result<Option<ImageRecord>, ImageError> {
    match id_digits(id) {
        Some(digits) => by_digits(store.layout(), digits),
        None => Ok(None),
    }
}

/// The digits of a text that can only be an id.
pub(super) fn id_digits(name: &str) -> Option<&str> {
    let digits = name.strip_prefix("sha256:")?;
    let plain = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f');
    let fits = (MIN_ID_DIGITS..=64).contains(&digits.len()) && digits.bytes().all(plain);
    fits.then_some(digits)
}

fn by_digits(layout: &Layout, digits: &str) -> Result<Option<ImageRecord>, ImageError> {
    let mut found = None;
    for path in list_directory(&layout.images())? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(digits) {
            // Two images have these first digits: neither is meant.
            if found.is_some() {
                return Ok(None);
            }
            found = records::read(&path.join("image.json"))?;
        }
    }
    Ok(found)
}

/// Every name in the store.
pub(super) fn names(layout: &Layout) -> Result<Vec<NameRecord>, ImageError> {
    let mut found = Vec::new();
    for path in list_directory(&layout.names())? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // A name with a dot is being written.
        if !name.starts_with('.')
            && let Some(record) = records::read(&path)?
        {
            found.push(record);
        }
    }
    found.sort_by_key(|record: &NameRecord| record.name.canonical());
    Ok(found)
}

/// What the store knows about a name, if it has it.
pub(crate) fn name_record(
    layout: &Layout,
    name: &Reference,
) -> Result<Option<NameRecord>, ImageError> {
    records::read(&layout.name(&name.canonical()))
}

/// The names of one image.
pub(crate) fn names_of(store: &ContentStore, id: Digest) -> Result<Vec<NameRecord>, ImageError> {
    let mut names = names(store.layout())?;
    names.retain(|record| record.image == id);
    Ok(names)
}

/// Every image in the store, but those of the former format.
pub(super) fn images(layout: &Layout) -> Result<Vec<ImageRecord>, ImageError> {
    let mut found = Vec::new();
    for path in list_directory(&layout.images())? {
        // An image that was removed meanwhile is no error.
        if let Some(record) = records::read(&path.join("image.json"))? {
            found.push(record);
        }
    }
    Ok(found)
}

/// The summary of the image with this record.
pub(super) fn summarize(record: &ImageRecord, name: String, digest: Option<&str>) -> Image {
    Image {
        name,
        digest: digest.unwrap_or(&record.digest).to_owned(),
        size: record.size,
        entries: record.entries,
        created: record.created,
        skipped: record.skipped,
        id: record.id.to_string(),
        platform: record.platform.clone(),
        layers: record.layers.len(),
    }
}

/// The summary of the image with this name or id, if there is one.
pub(crate) fn get(store: &ContentStore, name: &str) -> Result<Option<Image>, ImageError> {
    match summary(store, name) {
        Ok(image) => Ok(Some(image)),
        Err(ImageError::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The summary of the image with this name or id.
pub(crate) fn summary(store: &ContentStore, name: &str) -> Result<Image, ImageError> {
    let missing = || ImageError::NotFound(name.chars().take(600).collect());
    if let Some(digits) = id_digits(name) {
        let record = by_digits(store.layout(), digits)?.ok_or_else(missing)?;
        let names = names_of(store, record.id)?;
        let name = names.first().map(|named| named.name.familiar());
        return Ok(summarize(
            &record,
            name.unwrap_or(record.id.to_string()),
            None,
        ));
    }
    let reference = match Reference::parse(name) {
        Ok(reference) => reference,
        Err(error) => return former_format::get(store.layout(), name)?.ok_or(error),
    };
    let named = name_record(store.layout(), &reference)?;
    if let Some(named) = named
        && let Some(record) = record(store.layout(), named.image)?
    {
        return Ok(summarize(
            &record,
            reference.familiar(),
            Some(&named.digest),
        ));
    }
    former_format::get(store.layout(), &reference.familiar())?
        .ok_or_else(|| ImageError::NotFound(reference.to_string()))
}

/// A summary of every image for each of its names.
pub(crate) fn list(store: &ContentStore) -> Result<Vec<Image>, ImageError> {
    let layout = store.layout();
    let images = images(layout)?;
    let mut named = Vec::new();
    let mut summaries = former_format::list(layout)?;
    for record in names(layout)? {
        if let Some(image) = images.iter().find(|image| image.id == record.image) {
            summaries.retain(|image| image.name != record.name.familiar());
            let name = record.name.familiar();
            summaries.push(summarize(image, name, Some(&record.digest)));
            named.push(image.id);
        }
    }
    for image in images.iter().filter(|image| !named.contains(&image.id)) {
        summaries.push(summarize(image, image.id.to_string(), None));
    }
    summaries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(summaries)
}
