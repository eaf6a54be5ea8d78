//! Reading directories, one or many levels deep.
//!
//! The rule: every directory is opened from the first one by its relative path, never through a
//! link, so that one descriptor is open at any depth.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, Dir, FileType, OFlags};
use rustix::io::Errno;
use stacyvm_types::FileInfo;

use super::owner_names::OwnerNames;
use super::path::{InnerPath, join};
use super::root::{Root, open_beneath};
use super::{FileError, info};

/// How many files one `list` or `glob` may name.
pub const MAX_ENTRIES: usize = 200_000;

/// The names in `directory` without `.` and `..`, sorted by their bytes.
pub(super) fn sorted_names(directory: BorrowedFd<'_>) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            if names.len() >= MAX_ENTRIES {
                return Err(Errno::OVERFLOW);
            }
            names.push(entry.file_name().to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// The error of an operation that would name too many files.
pub(super) fn too_many(path: &str) -> FileError {
    FileError::Limit(format!("{path:?} holds more than {MAX_ENTRIES} files"))
}

pub(super) fn list(
    root: &Root,
    names: &OwnerNames,
    path: &InnerPath,
    depth: u32,
) -> Result<Vec<FileInfo>, FileError> {
    let failed = |errno| match errno {
        Errno::OVERFLOW => too_many(path.as_str()),
        other => FileError::from_errno(other, path.as_str()),
    };
    let top = root
        .open(path.relative(), OFlags::RDONLY | OFlags::DIRECTORY)
        .map_err(
            |errno| match (errno, root.open(path.relative(), OFlags::PATH)) {
                (Errno::NOTDIR, Ok(_)) => {
                    FileError::Invalid(format!("{:?} is not a directory", path.as_str()))
                }
                _ => failed(errno),
            },
        )?;
    let mut found = Vec::new();
    // Directories still to be read: path relative to the first one and its level.
    let mut waiting = vec![(String::new(), 1_u32)];
    while let Some((below, level)) = waiting.pop() {
        let opened = match below.as_str() {
            "" => open_beneath(&top, ".", OFlags::RDONLY | OFlags::DIRECTORY),
            below => open_beneath(&top, below, OFlags::RDONLY | OFlags::DIRECTORY),
        };
        let directory = match opened {
            Ok(directory) => directory,
            Err(errno) if below.is_empty() => return Err(failed(errno)),
            // Gone meanwhile, not readable for this user, or too deep to have a path: the rest of
            // the answer is still right.
            Err(_) => continue,
        };
        for name in sorted_names(directory.as_fd()).map_err(failed)? {
            let Ok(stat) = rustix::fs::statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            if found.len() >= MAX_ENTRIES {
                return Err(too_many(path.as_str()));
            }
            let kind = info::file_type(&stat);
            let target = match kind {
                FileType::Symlink => info::link_target(&directory, &name),
                _ => None,
            };
            let shown = name.to_string_lossy();
            let relative = if below.is_empty() {
                shown.clone().into_owned()
            } else {
                format!("{below}/{shown}")
            };
            let full = join(path.as_str(), &relative);
            found.push(info::describe(root, names, &shown, &full, &stat, target));
            // A name that is no UTF-8 cannot be asked for, so what is below has no path either.
            if kind == FileType::Directory && level < depth && name.to_str().is_ok() {
                waiting.push((relative, level + 1));
            }
        }
    }
    found.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}
