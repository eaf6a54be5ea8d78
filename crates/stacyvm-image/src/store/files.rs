//! Small operations on the store's files and directories.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use crate::ImageError;

/// Puts a small file into place, whole or not at all; with `replace` also over another one.
/// Answers whether it is there now.
pub(crate) fn put_file(place: &Path, content: &[u8], replace: bool) -> io::Result<bool> {
    let directory = place.parent().unwrap_or(Path::new("."));
    let temporary = unused_path(directory)?;
    let put = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        let flags = match replace {
            true => RenameFlags::empty(),
            false => RenameFlags::NOREPLACE,
        };
        match rustix::fs::renameat_with(CWD, &temporary, CWD, place, flags) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    };
    let result = put();
    if !matches!(result, Ok(true)) {
        let _ = fs::remove_file(&temporary);
    }
    result
}

/// Whether an error says that a file is not there.
pub(crate) fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// The paths of everything in a directory, sorted.
pub(crate) fn list_directory(directory: &Path) -> Result<Vec<PathBuf>, ImageError> {
    let step = "read the image directory";
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).map_err(ImageError::io(step))? {
        found.push(entry.map_err(ImageError::io(step))?.path());
    }
    found.sort();
    Ok(found)
}

/// Makes a directory and its parents.
pub(super) fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(mode).create(path)
}

/// A hidden path in a directory that nothing has yet.
pub(super) fn unused_path(directory: &Path) -> io::Result<PathBuf> {
    let mut random = [0_u8; 8];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    Ok(directory.join(format!(".{:016x}", u64::from_ne_bytes(random))))
}

/// Removes a tree or a file; one that is gone already is success.
pub(crate) fn remove_all(path: &Path) -> io::Result<()> {
    let removed = match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
