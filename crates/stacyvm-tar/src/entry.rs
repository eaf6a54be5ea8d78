//! One entry of an archive: the only place where headers and their extensions become an [`Entry`].
//!
//! A tar header has room for a short name and plain numbers. What does not fit stands in records
//! before it: long names (GNU) and key-value records (PAX). The `tar` crate joins names and sizes
//! with the header they belong to; every other record is interpreted here. An extension that is
//! added (sparse files of PAX, values read by their length) belongs into this file, so that all
//! callers get it.

use std::io::{self, Read};

use tar::EntryType;

/// The key of a PAX record that holds an extended attribute, before the attribute's name.
const XATTR_PREFIX: &[u8] = b"SCHILY.xattr.";

/// What kind of file an entry describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A regular file in the GNU form that leaves out ranges of zeros.
    SparseFile,
    /// A symbolic link.
    Symlink,
    /// Another name of an entry that came before.
    HardLink,
    /// A device node or a named pipe.
    Special,
    /// A kind that this reader does not know.
    Unknown,
}

impl Kind {
    fn of(kind: EntryType) -> Self {
        match kind {
            EntryType::Directory => Self::Directory,
            EntryType::Regular | EntryType::Continuous => Self::File,
            EntryType::GNUSparse => Self::SparseFile,
            EntryType::Symlink => Self::Symlink,
            EntryType::Link => Self::HardLink,
            EntryType::Block | EntryType::Char | EntryType::Fifo => Self::Special,
            _ => Self::Unknown,
        }
    }
}

/// What the headers of an entry say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What kind of file it is.
    pub kind: Kind,
    /// Its name as written; see [`clean_name`](crate::clean_name).
    pub name: Vec<u8>,
    /// The target of a link as written.
    pub link: Option<Vec<u8>>,
    /// Bytes of its content, ranges of zeros that were left out included.
    pub size: u64,
    /// All mode bits.
    pub mode: u32,
    /// Its owner; none when the header has no number there.
    pub uid: Option<u64>,
    /// Its group; none when the header has no number there.
    pub gid: Option<u64>,
    /// When its content last changed, seconds since 1970.
    pub modified: u64,
    /// Names and values of its extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// How many records could not be read, each of which may have been an attribute.
    pub unreadable_records: u64,
}

impl Entry {
    /// Reads what the headers of `entry` say. Its content stays unread.
    pub(crate) fn read<R: Read>(entry: &mut tar::Entry<'_, R>) -> io::Result<Self> {
        let (xattrs, unreadable_records) = extended_attributes(entry)?;
        let header = entry.header();
        let fields = header.as_old();
        Ok(Self {
            kind: Kind::of(header.entry_type()),
            name: entry.path_bytes().into_owned(),
            link: entry.link_name_bytes().map(|link| link.into_owned()),
            size: entry.size(),
            mode: number(&fields.mode, header.mode())?,
            uid: number(&fields.uid, header.uid()).ok(),
            gid: number(&fields.gid, header.gid()).ok(),
            modified: number(&fields.mtime, header.mtime())?,
            xattrs,
            unreadable_records,
        })
    }

    /// The target of a link, when it is one that a link can have.
    pub fn link_target(&self) -> Option<&[u8]> {
        self.link
            .as_deref()
            .filter(|target| !target.is_empty() && !target.contains(&0))
    }
}

/// A number of a header. A field that was left blank is zero, as other readers have it.
fn number<T: Default>(field: &[u8], value: io::Result<T>) -> io::Result<T> {
    match value {
        Err(_) if field.iter().all(|byte| matches!(byte, 0 | b' ')) => Ok(T::default()),
        other => other,
    }
}

/// Names and values of the extended attributes, and the number of records that are no records. The
/// `tar` crate takes every line feed for the end of a record, so that values with one are lost.
#[expect(clippy::type_complexity, reason = "the pair is named nowhere else")]
fn extended_attributes<R: Read>(
    entry: &mut tar::Entry<'_, R>,
) -> io::Result<(Vec<(Vec<u8>, Vec<u8>)>, u64)> {
    let (mut found, mut unreadable) = (Vec::new(), 0);
    for record in entry.pax_extensions()?.into_iter().flatten() {
        match record {
            Ok(record) => {
                if let Some(name) = record.key_bytes().strip_prefix(XATTR_PREFIX) {
                    found.push((name.to_owned(), record.value_bytes().to_owned()));
                }
            }
            Err(_) => unreadable += 1,
        }
    }
    Ok((found, unreadable))
}
