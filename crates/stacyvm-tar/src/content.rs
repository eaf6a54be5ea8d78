//! Copying an entry's content into a file.

use std::fs::File;
use std::io::{self, Read, Write};

/// Why content was not copied to its end.
#[derive(Debug)]
pub enum CopyError<E> {
    /// The archive cannot be read.
    Read(io::Error),
    /// The file cannot be written.
    Write(io::Error),
    /// The caller ended it.
    Stopped(E),
}

/// Copies all of `content` to `file` through `buffer`. `count` is called with the length of each
/// piece before it is written, and ends the copying by an error.
///
/// # Errors
/// Those of reading, of writing, and what `count` answers.
pub fn copy_content<E>(
    content: &mut dyn Read,
    file: &mut File,
    buffer: &mut [u8],
    count: &mut dyn FnMut(u64) -> Result<(), E>,
) -> Result<(), CopyError<E>> {
    loop {
        let got = match content.read(buffer) {
            Ok(0) => return Ok(()),
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(CopyError::Read(error)),
        };
        count(got as u64).map_err(CopyError::Stopped)?;
        file.write_all(&buffer[..got]).map_err(CopyError::Write)?;
    }
}
