//! Reading the entries of a tar stream with bounded memory.
//!
//! The `tar` crate decodes headers, long names and GNU's sparse maps. It reads long names whole,
//! however long they say they are; the meter around the stream puts an end to that.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

use tar::{Archive, EntryType};

use crate::entry::Entry;

/// How much an archive may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes that may describe one entry: its headers with their long names, records and sparse map.
    pub max_header: u64,
    /// Bytes that one file may have.
    pub max_file: u64,
    /// Bytes that may follow the end mark.
    pub max_trailer: u64,
}

/// Why an archive cannot be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The stream is no tar archive, is cut off, fails, or has more headers than allowed.
    #[error("not a readable tar archive")]
    Unreadable(#[source] io::Error),
    /// A file has more bytes than allowed.
    #[error("a file has more than {0} bytes")]
    FileTooLarge(u64),
}

/// Calls `visit` with each entry and its content, then reads `input` to its end. What `visit` does
/// not read of the content is skipped.
///
/// # Errors
/// What `visit` answers, and what is wrong with the archive.
pub fn for_each<E: From<ReadError>>(
    input: &mut dyn Read,
    bounds: Bounds,
    visit: &mut dyn FnMut(&Entry, &mut dyn Read) -> Result<(), E>,
) -> Result<(), E> {
    let allowance = Rc::new(Cell::new(Allowance::header(bounds)));
    let mut archive = Archive::new(MeteredInput {
        input,
        allowance: Rc::clone(&allowance),
    });
    for entry in archive.entries().map_err(ReadError::Unreadable)? {
        let mut entry = entry.map_err(ReadError::Unreadable)?;
        if entry.header().entry_type() == EntryType::XGlobalHeader {
            continue;
        }
        let described = Entry::read(&mut entry).map_err(ReadError::Unreadable)?;
        if described.size > bounds.max_file {
            return Err(ReadError::FileTooLarge(bounds.max_file).into());
        }
        allowance.set(Allowance::content());
        visit(&described, &mut entry)?;
        // The rest of the content is skipped now, so that the allowance for headers is theirs alone.
        skip(&mut entry)?;
        allowance.set(Allowance::header(bounds));
    }
    // What follows the end mark belongs to the stream: its writer must not be cut off, and a digest
    // is of the whole.
    allowance.set(Allowance::trailer(bounds));
    Ok(skip(&mut archive.into_inner())?)
}

fn skip(input: &mut dyn Read) -> Result<(), ReadError> {
    io::copy(input, &mut io::sink())
        .map(|_| ())
        .map_err(ReadError::Unreadable)
}

/// How many more bytes may be read, and what it means when they are used up.
#[derive(Clone, Copy)]
struct Allowance {
    bytes: u64,
    exceeded: &'static str,
}

impl Allowance {
    fn header(bounds: Bounds) -> Self {
        Self {
            bytes: bounds.max_header,
            exceeded: "an entry's description is too long",
        }
    }

    /// The `tar` crate ends content where its header says.
    fn content() -> Self {
        Self {
            bytes: u64::MAX,
            exceeded: "an entry's content is too long",
        }
    }

    fn trailer(bounds: Bounds) -> Self {
        Self {
            bytes: bounds.max_trailer,
            exceeded: "what follows the end of the archive is too long",
        }
    }
}

/// Ends the reading when the allowance is used up.
struct MeteredInput<'a> {
    input: &'a mut dyn Read,
    allowance: Rc<Cell<Allowance>>,
}

impl Read for MeteredInput<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut allowance = self.allowance.get();
        let allowed = usize::try_from(allowance.bytes).unwrap_or(usize::MAX);
        if allowed == 0 && !buffer.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                allowance.exceeded,
            ));
        }
        let wanted = allowed.min(buffer.len());
        let got = self.input.read(&mut buffer[..wanted])?;
        allowance.bytes = allowance.bytes.saturating_sub(got as u64);
        self.allowance.set(allowance);
        Ok(got)
    }
}

#[cfg(test)]
mod tests;
