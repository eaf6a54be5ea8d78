//! Reading the members of a tar stream with bounded memory.
//!
//! The `tar` crate decodes headers, long names and sparse maps. It reads long names whole, however
//! long they say they are; the meter around the stream puts an end to that.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

use tar::{Archive, EntryType};

use super::Limits;
use crate::ImageError;
use crate::store::Source;

/// How many bytes may describe one member: its headers with their long names and sparse map.
const MAX_HEADER: u64 = 1024 * 1024;

/// How much may follow the end mark.
const MAX_TRAILER: u64 = 16 * 1024 * 1024;

/// What a member's headers say.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) kind: EntryType,
    pub(super) path: Vec<u8>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) mode: u32,
    pub(super) uid: u64,
    pub(super) gid: u64,
    pub(super) modified: u64,
}

/// What is done with each member and its content; answers how many entries there are by now.
type Visit<'a> = dyn FnMut(&Member, &mut dyn Read) -> Result<u64, ImageError> + 'a;

/// Calls `visit` for each member, then reads the stream to its end.
pub(super) fn for_each(
    source: &mut Source,
    limits: Limits,
    progress: &mut dyn FnMut(&Source, u64),
    visit: &mut Visit<'_>,
) -> Result<(), ImageError> {
    let budget = Rc::new(Cell::new(MAX_HEADER));
    let source = Rc::new(std::cell::RefCell::new(source));
    let mut archive = Archive::new(Metered {
        source: Rc::clone(&source),
        budget: Rc::clone(&budget),
    });
    for entry in archive.entries().map_err(|error| broken(&error))? {
        let mut entry = entry.map_err(|error| broken(&error))?;
        let kind = entry.header().entry_type();
        if kind == EntryType::XGlobalHeader {
            continue;
        }
        let header = entry.header();
        let member = Member {
            kind,
            path: entry.path_bytes().into_owned(),
            link: entry.link_name_bytes().map(|link| link.into_owned()),
            mode: header.mode().map_err(|error| broken(&error))?,
            uid: header.uid().map_err(|error| broken(&error))?,
            gid: header.gid().map_err(|error| broken(&error))?,
            modified: header.mtime().map_err(|error| broken(&error))?,
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
        progress(&source.borrow(), entries);
    }
    // The digest is of the whole stream.
    budget.set(MAX_TRAILER);
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(|error| broken(&error))?;
    Ok(())
}

/// An archive that cannot be read to its end.
pub(super) fn broken(error: &io::Error) -> ImageError {
    ImageError::Archive(format!("not a readable tar archive: {error}"))
}

struct Metered<'a> {
    source: Rc<std::cell::RefCell<&'a mut Source>>,
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
        let got = self.source.borrow_mut().read(&mut buffer[..wanted])?;
        self.budget
            .set(self.budget.get().saturating_sub(got as u64));
        Ok(got)
    }
}
