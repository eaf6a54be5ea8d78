//! Making files, directories and links beneath a root directory.
//!
//! Each entry's directory is opened from the root by `openat2`, never through a link and never out
//! of the root; the entry itself is then made under its last name with calls that do not follow
//! links. A caller does not need to trust the tree: another process may change it meanwhile.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use stacyvm_sys::resolve::open_beneath;

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY);

/// A part of a path that is not a directory yet.
#[derive(Clone, Copy, Debug)]
pub struct MissingDirectory<'a> {
    /// The directory that should have it.
    pub parent: &'a OwnedFd,
    /// Its name there.
    pub name: &'a OsStr,
    /// Its path below the root directory.
    pub path: &'a Path,
    /// Whether something that is not a directory has this name.
    pub occupied: bool,
}

/// Opens the directory `path` below `root`, to make something in it; empty for the root itself.
/// `make` is called for each part that is missing, and makes it or answers why not.
///
/// # Errors
/// `LOOP` when a part is a symbolic link, what `make` answers, and the kernel's own.
pub fn open_directory(
    root: impl AsFd,
    path: &Path,
    make: &mut dyn FnMut(MissingDirectory<'_>) -> Result<(), Errno>,
) -> Result<OwnedFd, Errno> {
    if path.as_os_str().is_empty() {
        return open_beneath(&root, ".", DIRECTORY);
    }
    match open_beneath(&root, path, DIRECTORY) {
        Err(Errno::NOENT | Errno::NOTDIR) => {}
        other => return other,
    }
    let mut here = open_beneath(&root, ".", DIRECTORY)?;
    let mut so_far = PathBuf::new();
    for name in path {
        so_far.push(name);
        here = match open_beneath(&here, name, DIRECTORY) {
            Err(errno @ (Errno::NOENT | Errno::NOTDIR)) => {
                make(MissingDirectory {
                    parent: &here,
                    name,
                    path: &so_far,
                    occupied: errno == Errno::NOTDIR,
                })?;
                open_beneath(&here, name, DIRECTORY)?
            }
            other => other?,
        };
    }
    Ok(here)
}

/// Makes the directory `name` unless one is there already; answers whether it is new. Its mode is
/// cut by the process's umask.
///
/// # Errors
/// `EXIST` when something else has this name.
pub fn make_directory(parent: impl AsFd, name: &OsStr, mode: u32) -> Result<bool, Errno> {
    match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(mode)) {
        Ok(()) => return Ok(true),
        Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    let stat = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Ok(false),
        _ => Err(Errno::EXIST),
    }
}

/// Makes a new file that only its owner may read or write, never through a link.
///
/// # Errors
/// `EXIST` when something has this name.
pub fn create_file(parent: impl AsFd, name: &OsStr) -> Result<File, Errno> {
    let flags = OFlags::WRONLY
        | OFlags::CREATE
        | OFlags::EXCL
        | OFlags::NOFOLLOW
        | OFlags::NOCTTY
        | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR).map(File::from)
}

/// The directory that has the target of a hard link, and the target's name there.
///
/// # Errors
/// `NOENT` when `target` is the root itself; `LOOP` when the way goes through a link.
pub fn open_link_target(root: impl AsFd, target: &Path) -> Result<(OwnedFd, &OsStr), Errno> {
    let name = target.file_name().ok_or(Errno::NOENT)?;
    let parent = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    Ok((open_beneath(root, parent, DIRECTORY)?, name))
}

/// Makes a hard link. A target that is a symbolic link is linked itself.
///
/// # Errors
/// `EXIST` when something has the new name.
pub fn hard_link(
    (from, from_name): (&OwnedFd, &OsStr),
    parent: &OwnedFd,
    name: &OsStr,
) -> Result<(), Errno> {
    // The flag AT_SYMLINK_FOLLOW would follow it.
    rustix::fs::linkat(from, from_name, parent, name, AtFlags::empty())
}

/// Makes something by `make`; when it answers that its name is taken, frees the name by `clear` and
/// tries once more.
///
/// # Errors
/// Those of the two.
pub fn replace<T>(
    make: impl Fn() -> Result<T, Errno>,
    clear: impl FnOnce() -> Result<(), Errno>,
) -> Result<T, Errno> {
    match make() {
        Err(Errno::EXIST) => {
            clear()?;
            make()
        }
        other => other,
    }
}

/// Removes a file or link, if there is one.
///
/// # Errors
/// `EXIST` when a directory has this name.
pub fn remove_file(parent: impl AsFd, name: &OsStr) -> Result<(), Errno> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR) => Err(Errno::EXIST),
        Err(errno) => Err(errno),
    }
}

/// Removes whatever has this name, a directory with all that is in it. Answers whether it was a
/// directory.
///
/// # Errors
/// The kernel's own.
pub fn remove_all(parent: impl AsFd, name: &OsStr) -> Result<bool, Errno> {
    match remove_file(&parent, name) {
        Ok(()) => return Ok(false),
        Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    let inner = open_beneath(&parent, name, OFlags::RDONLY | OFlags::DIRECTORY)?;
    for entry in Dir::read_from(&inner)? {
        let entry = entry?;
        match entry.file_name().to_bytes() {
            b"." | b".." => {}
            name => {
                remove_all(&inner, OsStr::from_bytes(name))?;
            }
        }
    }
    rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR)?;
    Ok(true)
}

#[cfg(test)]
mod tests;
