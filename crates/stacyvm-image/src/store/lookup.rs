//! Finding images, quickly: what a name stood for is remembered, and looked at again only when the
//! name's file has changed.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use super::layout::{Hold, Layout, children, hold};
use super::records::{self, ImageRecord, NameRecord};
use super::{ImageStore, former};
use crate::stored::StoredFacts;
use crate::{Digest, Image, ImageError, Reference, StoredImage};

/// How many digits of an id say which one is meant.
const MIN_ID_DIGITS: usize = 12;
/// How many names are remembered.
const MAX_KNOWN: usize = 10_000;

/// What a name was found to stand for.
#[derive(Clone, Debug)]
pub(super) struct Known {
    stamp: Stamp,
    record: PathBuf,
    facts: Arc<StoredFacts>,
}

/// What changes when a file is replaced.
type Stamp = (u64, u64, i64, i64);

fn stamp(metadata: &Metadata) -> Stamp {
    (
        metadata.dev(),
        metadata.ino(),
        metadata.ctime(),
        metadata.ctime_nsec(),
    )
}

/// Finds an image by name or id, and holds it.
pub(super) fn find(store: &ImageStore, name: &str) -> Result<StoredImage, ImageError> {
    let missing = || ImageError::NotFound(name.chars().take(600).collect());
    if let Some(found) = remembered(store, name)? {
        return Ok(found);
    }
    if let Some(digits) = id_digits(name) {
        let record = by_digits(store.layout(), digits)?.ok_or_else(missing)?;
        let (facts, record) = (
            facts(store.layout(), &record, None),
            record_path(store, record.id),
        );
        return take(&record, Arc::new(facts))?.ok_or_else(missing);
    }
    let reference = match Reference::parse(name) {
        Ok(reference) => reference,
        // The former format took names that are no references.
        Err(error) => return former::find(store.layout(), name)?.ok_or(error),
    };
    let place = store.layout().name(&reference.canonical());
    // The stamp first: what is read then is as new as that, or newer.
    let seen = fs::metadata(&place).ok().map(|metadata| stamp(&metadata));
    if let Some(named) = records::read::<NameRecord>(&place)?
        && let Some(image) = record(store.layout(), named.image)?
    {
        let facts = Arc::new(facts(store.layout(), &image, Some(&named.digest)));
        let record = record_path(store, image.id);
        if let Some(found) = take(&record, Arc::clone(&facts))? {
            if let Some(stamp) = seen {
                remember(
                    store,
                    name,
                    Known {
                        stamp,
                        record,
                        facts,
                    },
                );
            }
            return Ok(found);
        }
    }
    former::find(store.layout(), &reference.familiar())?
        .ok_or_else(|| ImageError::NotFound(reference.to_string()))
}

fn remembered(store: &ImageStore, name: &str) -> Result<Option<StoredImage>, ImageError> {
    let remembered = {
        let known = store.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(name).cloned()
    };
    let Some(known) = remembered else {
        return Ok(None);
    };
    let Ok(reference) = Reference::parse(name) else {
        return Ok(None);
    };
    let place = store.layout().name(&reference.canonical());
    match fs::metadata(place) {
        Ok(metadata) if stamp(&metadata) == known.stamp => take(&known.record, known.facts),
        _ => Ok(None),
    }
}

fn remember(store: &ImageStore, name: &str, found: Known) {
    let mut known = store.known.lock().unwrap_or_else(PoisonError::into_inner);
    if known.len() >= MAX_KNOWN {
        known.clear();
    }
    known.insert(name.to_owned(), found);
}

fn take(record: &Path, facts: Arc<StoredFacts>) -> Result<Option<StoredImage>, ImageError> {
    let lease = hold(record, Hold::Shared).map_err(ImageError::io("look an image up"))?;
    Ok(lease.map(|lease| StoredImage {
        facts,
        lease: Arc::new(lease),
    }))
}

fn record_path(store: &ImageStore, id: Digest) -> PathBuf {
    store.layout().image(id).join("image.json")
}

/// What does not change about an image.
pub(super) fn facts(layout: &Layout, record: &ImageRecord, digest: Option<&str>) -> StoredFacts {
    let trees = record
        .stack
        .iter()
        .map(|layer| layout.layer(*layer).join("tree"));
    StoredFacts {
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
pub(super) fn by_id(store: &ImageStore, id: &str) -> Result<Option<ImageRecord>, ImageError> {
    match id_digits(id) {
        Some(digits) => by_digits(store.layout(), digits),
        None => Ok(None),
    }
}

/// The digits of what can only be an id.
pub(super) fn id_digits(name: &str) -> Option<&str> {
    let digits = name.strip_prefix("sha256:")?;
    let plain = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f');
    let fits = (MIN_ID_DIGITS..=64).contains(&digits.len()) && digits.bytes().all(plain);
    fits.then_some(digits)
}

fn by_digits(layout: &Layout, digits: &str) -> Result<Option<ImageRecord>, ImageError> {
    let mut found = None;
    for path in children(&layout.images())? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(digits) {
            // Two images of the same first digits: neither is meant.
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
    for path in children(&layout.names())? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // Those with a dot are being written.
        if !name.starts_with('.')
            && let Some(record) = records::read(&path)?
        {
            found.push(record);
        }
    }
    found.sort_by_key(|record: &NameRecord| record.name.canonical());
    Ok(found)
}

/// The names of one image.
pub(super) fn names_of(store: &ImageStore, id: Digest) -> Result<Vec<NameRecord>, ImageError> {
    let mut names = names(store.layout())?;
    names.retain(|record| record.image == id);
    Ok(names)
}

/// Every image in the store, but those of the former format.
pub(super) fn images(layout: &Layout) -> Result<Vec<ImageRecord>, ImageError> {
    let mut found = Vec::new();
    for path in children(&layout.images())? {
        // One that is gone by now is no error.
        if let Some(record) = records::read(&path.join("image.json"))? {
            found.push(record);
        }
    }
    Ok(found)
}

/// An image in a line.
pub(super) fn describe(record: &ImageRecord, name: String, digest: Option<&str>) -> Image {
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

/// The line of one image.
pub(super) fn line(store: &ImageStore, name: &str) -> Result<Image, ImageError> {
    let missing = || ImageError::NotFound(name.chars().take(600).collect());
    if let Some(digits) = id_digits(name) {
        let record = by_digits(store.layout(), digits)?.ok_or_else(missing)?;
        let names = names_of(store, record.id)?;
        let name = names.first().map(|named| named.name.familiar());
        return Ok(describe(
            &record,
            name.unwrap_or(record.id.to_string()),
            None,
        ));
    }
    let reference = match Reference::parse(name) {
        Ok(reference) => reference,
        Err(error) => return former::get(store.layout(), name)?.ok_or(error),
    };
    let named = store.name_record(&reference)?;
    if let Some(named) = named
        && let Some(record) = record(store.layout(), named.image)?
    {
        return Ok(describe(&record, reference.familiar(), Some(&named.digest)));
    }
    former::get(store.layout(), &reference.familiar())?
        .ok_or_else(|| ImageError::NotFound(reference.to_string()))
}

/// Every image in a line for each of its names.
pub(super) fn list(store: &ImageStore) -> Result<Vec<Image>, ImageError> {
    let layout = store.layout();
    let images = images(layout)?;
    let mut named = Vec::new();
    let mut lines = former::list(layout)?;
    for record in names(layout)? {
        if let Some(image) = images.iter().find(|image| image.id == record.image) {
            lines.retain(|line| line.name != record.name.familiar());
            let name = record.name.familiar();
            lines.push(describe(image, name, Some(&record.digest)));
            named.push(image.id);
        }
    }
    for image in images.iter().filter(|image| !named.contains(&image.id)) {
        lines.push(describe(image, image.id.to_string(), None));
    }
    lines.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(lines)
}
