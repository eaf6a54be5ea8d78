//! Names and directories of a tree that a stranger describes: nothing here follows a link or leaves
//! the tree.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, ResolveFlags, Timespec, Timestamps};
use rustix::io::Errno;

use crate::ImageError;

/// How many directories an entry may lie deep.
pub(super) const MAX_DEPTH: usize = 200;

/// Opens `path` below `base`, never through a link and never out of `base`.
pub(crate) fn open_beneath(
    base: impl AsFd,
    path: impl AsRef<Path>,
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let mut attempts = 0;
    loop {
        attempts += 1;
        match rustix::fs::openat2(
            base.as_fd(),
            path.as_ref(),
            flags | OFlags::CLOEXEC,
            Mode::empty(),
            how,
        ) {
            Err(Errno::AGAIN | Errno::INTR) if attempts < 128 => {}
            result => return result,
        }
    }
}

/// A name of the archive as a relative path without `.`; empty for the root itself. An absolute
/// one is refused, or taken as seen from the root.
pub(super) fn clean(bytes: &[u8], absolute_is_refused: bool) -> Result<PathBuf, ImageError> {
    let refused = |reason: &str| Err(archive_error(&String::from_utf8_lossy(bytes), reason));
    if absolute_is_refused && bytes.starts_with(b"/") {
        return refused("is absolute and would leave the image");
    }
    if bytes.contains(&0) {
        return refused("has a NUL byte in its name");
    }
    let mut path = PathBuf::new();
    let mut depth = 0;
    for part in bytes.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return refused("has a \"..\" and would leave the image"),
            name => {
                depth += 1;
                path.push(OsStr::from_bytes(name));
            }
        }
    }
    match depth > MAX_DEPTH {
        true => refused("lies too deep"),
        false => Ok(path),
    }
}

/// Removes what is there under this name, with all that is in it. Answers whether that was a
/// directory.
pub(super) fn remove(directory: &OwnedFd, name: &OsStr) -> Result<bool, Errno> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(false),
        Err(Errno::ISDIR) => {}
        Err(errno) => return Err(errno),
    }
    let inner = open_beneath(directory, name, OFlags::RDONLY | OFlags::DIRECTORY)?;
    for entry in Dir::read_from(&inner)? {
        let entry = entry?;
        match entry.file_name().to_bytes() {
            b"." | b".." => {}
            name => {
                remove(&inner, OsStr::from_bytes(name))?;
            }
        }
    }
    rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR)?;
    Ok(true)
}

/// An error that names an entry of the archive.
pub(super) fn archive_error(shown: &str, reason: &str) -> ImageError {
    let shown: String = shown.chars().take(80).collect();
    ImageError::Archive(format!("archive entry {shown:?} {reason}"))
}

/// Failures that the archive caused are told as such, the others as the system's.
pub(super) fn explain(errno: Errno, shown: &str) -> ImageError {
    let reason = match errno {
        Errno::LOOP | Errno::XDEV => "goes through a link",
        Errno::NOTDIR => "goes through a file that is no directory",
        Errno::NOENT => "links to an entry that is not there",
        Errno::NAMETOOLONG => "has a name that is too long",
        Errno::MLINK => "is one link too many to its file",
        Errno::PERM => "cannot be made like this",
        other => return ImageError::io("unpack the archive")(other),
    };
    archive_error(shown, reason)
}

/// Both times as the archive says them.
pub(super) fn times(modified: u64) -> Timestamps {
    let time = Timespec {
        // Later than any calendar: the file system cuts it.
        tv_sec: i64::try_from(modified).unwrap_or(0),
        tv_nsec: 0,
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}
