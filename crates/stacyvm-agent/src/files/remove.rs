//! Removing files and directories, never through a link.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, OFlags};
use rustix::io::Errno;

use super::create::temporary_name;
use super::path::InnerPath;
use super::root::{Root, open_beneath};
use super::{FileError, info};

/// How many directories are open at once. A deeper one is moved up to the top and emptied there,
/// so that no depth uses the agent's descriptors or stack up.
const MAX_OPEN: usize = 64;

/// How often a directory is read again because the workload put something into it meanwhile.
const MAX_ROUNDS: usize = 64;

pub(super) fn remove(root: &Root, path: &InnerPath, recursive: bool) -> Result<(), FileError> {
    let failed = |errno| FileError::from_errno(errno, path.as_str());
    let (Some((parent, name)), false) = (path.split(), path.is_protected()) else {
        return Err(FileError::Invalid(format!(
            "{:?} cannot be removed: the sandbox needs it",
            path.as_str()
        )));
    };
    let parent = root.directory(parent).map_err(failed)?;
    let stat = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
    if info::file_type(&stat) != FileType::Directory {
        return rustix::fs::unlinkat(&parent, name, AtFlags::empty()).map_err(failed);
    }
    if !recursive {
        return Err(FileError::Invalid(format!(
            "{:?} is a directory; removing one takes recursive",
            path.as_str()
        )));
    }
    remove_tree(parent.as_fd(), name).map_err(failed)
}

/// Removes the directory `name` in `parent` with everything in it.
pub(super) fn remove_tree(parent: BorrowedFd<'_>, name: &str) -> Result<(), Errno> {
    for _ in 0..MAX_ROUNDS {
        let top = match open_directory(parent, name) {
            Ok(top) => top,
            // Gone, or swapped for something that is no directory: both end the matter.
            Err(Errno::NOENT) => return Ok(()),
            Err(Errno::NOTDIR | Errno::LOOP) => {
                return unlink(parent, name, AtFlags::empty());
            }
            // A directory that its owner may not read can still go when it is empty.
            Err(Errno::ACCESS) => {
                return match unlink(parent, name, AtFlags::REMOVEDIR) {
                    Err(Errno::NOTEMPTY | Errno::EXIST) => Err(Errno::ACCESS),
                    other => other,
                };
            }
            Err(errno) => return Err(errno),
        };
        remove_contents(top.as_fd(), top.as_fd(), 1)?;
        match unlink(parent, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            other => return other,
        }
    }
    Err(Errno::NOTEMPTY)
}

/// Removes what `directory` holds now. A directory that is too deep is moved into `top`, where the
/// next round finds it.
fn remove_contents(
    directory: BorrowedFd<'_>,
    top: BorrowedFd<'_>,
    depth: usize,
) -> Result<(), Errno> {
    for name in names(directory)? {
        match unlink(directory, name.as_c_str(), AtFlags::empty()) {
            Ok(()) => continue,
            // Linux says EISDIR, other systems and some file systems EPERM.
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(errno) => return Err(errno),
        }
        if depth >= MAX_OPEN {
            let aside = temporary_name()?;
            match rustix::fs::renameat(directory, name.as_c_str(), top, &aside) {
                Ok(()) | Err(Errno::NOENT) => continue,
                Err(errno) => return Err(errno),
            }
        }
        match open_directory(directory, name.as_c_str()) {
            Ok(below) => remove_contents(below.as_fd(), top, depth + 1)?,
            Err(Errno::NOENT) => continue,
            // Emptiness decides below.
            Err(Errno::ACCESS) => {}
            Err(errno) => return Err(errno),
        }
        match unlink(directory, name.as_c_str(), AtFlags::REMOVEDIR) {
            // Something was put into it meanwhile: the next round sees it. A directory that could not be
            // read fails the same way for ever; then the rounds end.
            Ok(()) | Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn names(directory: BorrowedFd<'_>) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

fn open_directory(
    parent: BorrowedFd<'_>,
    name: impl rustix::path::Arg + Copy,
) -> Result<OwnedFd, Errno> {
    open_beneath(parent, name, OFlags::RDONLY | OFlags::DIRECTORY)
}

/// Removes one name; one that is gone already is success.
fn unlink(
    parent: BorrowedFd<'_>,
    name: impl rustix::path::Arg,
    flags: AtFlags,
) -> Result<(), Errno> {
    match rustix::fs::unlinkat(parent, name, flags) {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}
