//! Replacing a file atomically.
//!
//! The new content grows in a file of another name in the same directory and takes the place of
//! the old one by a rename. A link is written through: its target, inside the root, is replaced.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use stacyvm_types::FileMode;

use super::create::temporary_name;
use super::path::InnerPath;
use super::root::Root;
use super::{FileError, info};

/// How many links are followed to the file that is meant; the kernel's own number.
const MAX_LINKS: usize = 40;

/// A file that is being written. Dropping it removes what was written.
#[derive(Debug)]
pub struct PendingWrite {
    directory: OwnedFd,
    /// Name of the file that is replaced.
    name: String,
    /// Name of the file that is written; empty once it has replaced the other.
    temporary: String,
    file: File,
    mode: FileMode,
    /// The path as the client wrote it, for messages.
    path: String,
}

impl PendingWrite {
    /// Appends `bytes`.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        self.file
            .write_all(bytes)
            .map_err(|error| FileError::from_io(&error, &self.path))
    }

    /// Puts the file in its place.
    pub fn commit(mut self) -> Result<(), FileError> {
        let failed = |errno| match errno {
            // A directory appeared there meanwhile.
            Errno::EXIST | Errno::NOTEMPTY => FileError::from_errno(Errno::ISDIR, &self.path),
            other => FileError::from_errno(other, &self.path),
        };
        let mode = Mode::from_raw_mode(self.mode.bits());
        rustix::fs::fchmod(&self.file, mode).map_err(failed)?;
        rustix::fs::renameat(
            &self.directory,
            &self.temporary,
            &self.directory,
            &self.name,
        )
        .map_err(failed)?;
        self.temporary.clear();
        Ok(())
    }
}

impl Drop for PendingWrite {
    fn drop(&mut self) {
        if !self.temporary.is_empty() {
            // Nothing can be done about a failure; the name tells what the file is.
            let _ = rustix::fs::unlinkat(&self.directory, &self.temporary, AtFlags::empty());
        }
    }
}

pub(super) fn begin(
    root: &Root,
    path: &InnerPath,
    mode: FileMode,
    parents: bool,
) -> Result<PendingWrite, FileError> {
    let failed = |errno| FileError::from_errno(errno, path.as_str());
    let (directory, name) = find_target(root, path, parents).map_err(|errno| match errno {
        Errno::NXIO => FileError::Invalid(format!("{:?} is not a regular file", path.as_str())),
        other => failed(other),
    })?;
    let flags = OFlags::WRONLY
        | OFlags::CREATE
        | OFlags::EXCL
        | OFlags::NOFOLLOW
        | OFlags::NOCTTY
        | OFlags::CLOEXEC;
    let temporary = temporary_name().map_err(failed)?;
    let file = rustix::fs::openat(&directory, &temporary, flags, Mode::RUSR | Mode::WUSR)
        .map_err(failed)?;
    Ok(PendingWrite {
        directory,
        name,
        temporary,
        file: File::from(file),
        mode,
        path: path.as_str().to_owned(),
    })
}

/// The directory and the name in it that hold the file which `path` means.
fn find_target(root: &Root, path: &InnerPath, parents: bool) -> Result<(OwnedFd, String), Errno> {
    let mut here = path.relative().to_owned();
    for _ in 0..=MAX_LINKS {
        let (parent, name) = split(&here).ok_or(Errno::ISDIR)?;
        let directory = if parents {
            root.make_directory(parent)?
        } else {
            root.directory(parent)?
        };
        let stat = match rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok((directory, name.to_owned())),
            Err(errno) => return Err(errno),
        };
        match info::file_type(&stat) {
            FileType::RegularFile => return Ok((directory, name.to_owned())),
            FileType::Directory => return Err(Errno::ISDIR),
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&directory, name, Vec::new())?;
                let target = target.to_str().map_err(|_| Errno::ILSEQ)?;
                // Put together as text without cleaning: what `..` means after a link is the
                // kernel's to say, at the next resolution, which stays inside the root.
                here = match target.strip_prefix('/') {
                    Some(absolute) => absolute.to_owned(),
                    None => format!("{parent}/{target}"),
                };
            }
            _ => return Err(Errno::NXIO),
        }
    }
    Err(Errno::LOOP)
}

/// The directory part and the name of a path that a link gave; none when it names a directory.
fn split(path: &str) -> Option<(&str, &str)> {
    let (parent, name) = path.rsplit_once('/').unwrap_or((".", path));
    let parent = if parent.is_empty() { "." } else { parent };
    (!matches!(name, "" | "." | "..")).then_some((parent, name))
}
