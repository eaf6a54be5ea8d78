//! Reading the members of a tar stream with bounded memory.
//!
//! The `tar` crate decodes headers, long names and sparse maps. It reads long names whole, however
//! long they say they are; the meter around the stream puts an end to that.

use std::cell::{Cell, RefCell};
use std::io::{self, Read};
use std::rc::Rc;

use tar::{Archive, EntryType};

use super::{Limits, Watch};
use crate::ImageError;
use crate::stream::{Stream, broken};

/// How many bytes may describe one member: its headers with their long names and sparse map.
const MAX_HEADER: u64 = 1024 * 1024;

/// How much may follow the end mark.
const MAX_TRAILER: u64 = 16 * 1024 * 1024;

/// What comes before the name of an extended attribute in a header.
const XATTR: &[u8] = b"SCHILY.xattr.";

/// What a member's headers say.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) kind: EntryType,
    pub(crate) path: Vec<u8>,
    pub(crate) link: Option<Vec<u8>>,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    pub(crate) modified: u64,
    /// Names and values of extended attributes.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// How many attributes could not be read.
    pub(crate) unreadable_xattrs: u64,
}

/// What is done with each member and its content; answers how many entries there are by now.
type Visit<'a> = dyn FnMut(&Member, &mut dyn Read) -> Result<u64, ImageError> + 'a;

/// Calls `visit` for each member, then reads the stream to its end.
pub(crate) fn for_each(
    stream: &mut Stream,
    limits: Limits,
    watch: &mut Watch<'_>,
    visit: &mut Visit<'_>,
) -> Result<(), ImageError> {
    let budget = Rc::new(Cell::new(MAX_HEADER));
    let stream = Rc::new(RefCell::new(stream));
    let mut archive = Archive::new(Metered {
        stream: Rc::clone(&stream),
        budget: Rc::clone(&budget),
    });
    for entry in archive.entries().map_err(|error| broken(&error))? {
        let mut entry = entry.map_err(|error| broken(&error))?;
        let kind = entry.header().entry_type();
        if kind == EntryType::XGlobalHeader {
            continue;
        }
        let (xattrs, unreadable_xattrs) = attributes(&mut entry).map_err(|error| broken(&error))?;
        let header = entry.header();
        let old = header.as_old();
        let member = Member {
            kind,
            path: entry.path_bytes().into_owned(),
            link: entry.link_name_bytes().map(|link| link.into_owned()),
            mode: number(&old.mode, header.mode())?,
            uid: number(&old.uid, header.uid())?,
            gid: number(&old.gid, header.gid())?,
            modified: number(&old.mtime, header.mtime())?,
            xattrs,
            unreadable_xattrs,
        };
        if entry.size() > limits.bytes {
            return Err(ImageError::Limit(format!(
                "a file has more than {} bytes",
                limits.bytes
            )));
        }
        budget.set(u64::MAX);
        let entries = visit(&member, &mut entry)?;
        // What was not wanted is read away now, so that the headers' budget is theirs alone.
        io::copy(&mut entry, &mut io::sink()).map_err(|error| broken(&error))?;
        budget.set(MAX_HEADER);
        watch(&stream.borrow(), entries)?;
    }
    // The digest is of the whole stream.
    budget.set(MAX_TRAILER);
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(|error| broken(&error))?;
    Ok(())
}

/// A number of a header. A field that was left blank is zero, as other readers have it.
fn number<T: Default>(field: &[u8], read: io::Result<T>) -> Result<T, ImageError> {
    match read {
        Err(_) if field.iter().all(|byte| matches!(byte, 0 | b' ')) => Ok(T::default()),
        other => other.map_err(|error| broken(&error)),
    }
}

/// Names and values of the extended attributes, and how many more there seem to be. The `tar`
/// crate takes every line feed for the end of a record, so that values with one are lost.
#[expect(clippy::type_complexity, reason = "named nowhere else")]
fn attributes<R: Read>(
    entry: &mut tar::Entry<'_, R>,
) -> io::Result<(Vec<(Vec<u8>, Vec<u8>)>, u64)> {
    let (mut found, mut lost) = (Vec::new(), 0);
    for record in entry.pax_extensions()?.into_iter().flatten() {
        match record {
            Ok(record) => {
                if let Some(name) = record.key_bytes().strip_prefix(XATTR) {
                    found.push((name.to_owned(), record.value_bytes().to_owned()));
                }
            }
            Err(_) => lost += 1,
        }
    }
    Ok((found, lost))
}

struct Metered<'a> {
    stream: Rc<RefCell<&'a mut Stream>>,
    budget: Rc<Cell<u64>>,
}

impl Read for Metered<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let allowed = usize::try_from(self.budget.get()).unwrap_or(usize::MAX);
        if allowed == 0 && !buffer.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "an entry's description, or what follows the end, is too long",
            ));
        }
        let wanted = allowed.min(buffer.len());
        let got = self.stream.borrow_mut().read(&mut buffer[..wanted])?;
        self.budget
            .set(self.budget.get().saturating_sub(got as u64));
        Ok(got)
    }
}
