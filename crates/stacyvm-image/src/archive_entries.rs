//! The entries of an archive, within the limits of the store.

use std::io::Read;

use stacyvm_tar::{Bounds, Entry, ReadError, for_each};

use crate::ImageError;
use crate::archive_stream::{ArchiveStream, unreadable};
use crate::progress::OnProgress;
use crate::unpack::Limits;

/// How many bytes may describe one entry: its headers with their long names and sparse map.
const MAX_HEADER: u64 = 1024 * 1024;

/// How many bytes may follow the end mark.
const MAX_TRAILER: u64 = 16 * 1024 * 1024;

/// What is done with each entry and its content; answers how many entries there are by now.
type Visit<'a> = dyn FnMut(&Entry, &mut dyn Read) -> Result<u64, ImageError> + 'a;

/// Calls `visit` and `on_progress` for each entry, then reads the stream to its end.
pub(crate) fn for_each_entry(
    stream: &mut ArchiveStream,
    limits: Limits,
    on_progress: &mut OnProgress<'_>,
    visit: &mut Visit<'_>,
) -> Result<(), ImageError> {
    let bounds = Bounds {
        max_header: MAX_HEADER,
        max_file: limits.bytes,
        max_trailer: MAX_TRAILER,
    };
    let position = stream.position();
    for_each(stream, bounds, &mut |entry, content| {
        let entries = visit(entry, content)?;
        on_progress(position.with_entries(entries))
    })
}

impl From<ReadError> for ImageError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Unreadable(error) => unreadable(&error),
            ReadError::FileTooLarge(_) => Self::Limit(error.to_string()),
        }
    }
}
