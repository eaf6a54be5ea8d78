//! Moving files, across file systems too.
//!
//! `/workspace` and `/tmp` may be mounts of their own; a move between them copies, puts the copy
//! in its place by a rename, and removes the original.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timestamps};
use rustix::io::Errno;

use super::create::{make_directory, temporary_name};
use super::path::InnerPath;
use super::remove::remove_tree;
use super::root::{Root, open_beneath};
use super::walk::sorted_names;
use super::{FileError, info};

/// How deep a copied tree may be: each level holds one descriptor open.
const MAX_DEPTH: usize = 256;

pub(super) fn rename(root: &Root, from: &InnerPath, to: &InnerPath) -> Result<(), FileError> {
    for path in [from, to] {
        if path.is_protected() {
            return Err(FileError::Invalid(format!(
                "{:?} cannot be moved or replaced: the sandbox needs it",
                path.as_str()
            )));
        }
    }
    let (Some((from_parent, from_name)), Some((to_parent, to_name))) = (from.split(), to.split())
    else {
        return Err(FileError::Invalid("the root cannot be moved".to_owned()));
    };
    let at_source = |errno| FileError::from_errno(errno, from.as_str());
    let at_destination = |errno| FileError::from_errno(errno, to.as_str());
    let in_place = |errno| match errno {
        Errno::ISDIR | Errno::NOTDIR => FileError::Conflict(format!(
            "{:?} is in the way: a directory and a file cannot replace each other",
            to.as_str()
        )),
        other => at_destination(other),
    };
    let source = root.directory(from_parent).map_err(at_source)?;
    // Asked before the destination's parents are made, so that a missing source leaves no trace.
    let stat =
        rustix::fs::statat(&source, from_name, AtFlags::SYMLINK_NOFOLLOW).map_err(at_source)?;
    if to.as_str().starts_with(&format!("{}/", from.as_str())) {
        return Err(into_itself(from));
    }
    let destination = root.make_directory(to_parent).map_err(at_destination)?;
    match rustix::fs::renameat(&source, from_name, &destination, to_name) {
        Ok(()) => Ok(()),
        Err(Errno::INVAL) => Err(into_itself(from)),
        Err(Errno::XDEV) => {
            let copy = temporary_name().map_err(at_destination)?;
            let placed = copy_one(&source, from_name, &destination, &copy, 0)
                .map_err(at_destination)
                .and_then(|()| {
                    rustix::fs::renameat(&destination, &copy, &destination, to_name)
                        .map_err(in_place)
                });
            if placed.is_err() {
                // What is left of the copy is of no use; a failure here hides no other.
                let _ = discard(destination.as_fd(), &copy);
                return placed;
            }
            match info::file_type(&stat) {
                FileType::Directory => remove_tree(source.as_fd(), from_name),
                _ => rustix::fs::unlinkat(&source, from_name, AtFlags::empty()),
            }
            .map_err(at_source)
        }
        Err(Errno::NOENT) => Err(at_source(Errno::NOENT)),
        Err(errno) => Err(in_place(errno)),
    }
}

fn into_itself(from: &InnerPath) -> FileError {
    FileError::Invalid(format!("{:?} cannot be moved into itself", from.as_str()))
}

fn discard(directory: BorrowedFd<'_>, name: &str) -> Result<(), Errno> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => remove_tree(directory, name),
        other => other,
    }
}

/// Copies `name` of `from` to `as_name` in `to` with mode and times, links as links.
fn copy_one(
    from: &OwnedFd,
    name: &str,
    to: &OwnedFd,
    as_name: &str,
    depth: usize,
) -> Result<(), Errno> {
    if depth > MAX_DEPTH {
        return Err(Errno::NAMETOOLONG);
    }
    let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    match info::file_type(&stat) {
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(from, name, Vec::new())?;
            rustix::fs::symlinkat(target, to, as_name)
        }
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
            let source = open_beneath(from, name, flags)?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
            let copy = rustix::fs::openat(
                to,
                as_name,
                flags | OFlags::CLOEXEC,
                Mode::RUSR | Mode::WUSR,
            )?;
            let (mut source, mut copy) = (File::from(source), File::from(copy));
            std::io::copy(&mut source, &mut copy)
                .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
            rustix::fs::fchmod(&copy, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
            rustix::fs::futimens(&copy, &times(&stat))
        }
        FileType::Directory => {
            let source = open_beneath(from, name, OFlags::RDONLY | OFlags::DIRECTORY)?;
            make_directory(to, as_name, 0o700)?;
            let copy = open_beneath(to, as_name, OFlags::RDONLY | OFlags::DIRECTORY)?;
            for name in sorted_names(source.as_fd())? {
                let name = name.to_str().map_err(|_| Errno::ILSEQ)?;
                copy_one(&source, name, &copy, name, depth + 1)?;
            }
            rustix::fs::fchmod(&copy, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
            rustix::fs::futimens(&copy, &times(&stat))
        }
        _ => Err(Errno::OPNOTSUPP),
    }
}

/// Access and modification time, both set to when the content of `stat` changed.
#[allow(clippy::unnecessary_cast)]
fn times(stat: &rustix::fs::Stat) -> Timestamps {
    let modified = rustix::fs::Timespec {
        tv_sec: stat.st_mtime as i64,
        tv_nsec: stat.st_mtime_nsec as _,
    };
    Timestamps {
        last_access: modified,
        last_modification: modified,
    }
}
