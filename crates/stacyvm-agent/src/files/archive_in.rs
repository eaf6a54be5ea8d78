//! Unpacking a tar stream into a directory.
//!
//! What the stream says is hostile. Its rule: each entry's directory is opened from the target
//! by `openat2`, never through a link and never out of the target; the entry itself is then made
//! under its last name with calls that do not follow links.

use std::cell::Cell;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;
use tar::{Archive, Entry, EntryType};

use super::path::{InnerPath, join};
use super::root::{Root, open_beneath};
use super::{FileError, make_one};

/// How many bytes may describe one entry: its headers with their long names.
const MAX_HEADER: u64 = 256 * 1024;

/// How many directories are given their mode and time after everything is in them.
const MAX_DIRECTORIES: usize = 200_000;

/// The permission bits that an entry may set: no setuid, no setgid.
const ALLOWED_BITS: u32 = 0o1777;

pub(super) fn unpack(root: &Root, path: &InnerPath, input: &mut dyn Read) -> Result<(), FileError> {
    let failed = |errno| match errno {
        Errno::NOTDIR => FileError::Invalid(format!("{:?} is not a directory", path.as_str())),
        other => FileError::from_errno(other, path.as_str()),
    };
    let target = root.make_directory(path.relative()).map_err(failed)?;
    let budget = Rc::new(Cell::new(MAX_HEADER));
    let mut archive = Archive::new(Metered {
        input,
        budget: Rc::clone(&budget),
        total: 0,
    });
    let mut unpacker = Unpacker {
        target,
        shown: path.as_str(),
        directories: Vec::new(),
    };
    let entries = archive.entries().map_err(|error| broken(&error))?;
    for entry in entries {
        let mut entry = entry.map_err(|error| broken(&error))?;
        budget.set(u64::MAX);
        unpacker.entry(&mut entry)?;
        // What was not wanted of it is read away now, so that the headers' budget is theirs alone.
        std::io::copy(&mut entry, &mut std::io::sink()).map_err(|error| broken(&error))?;
        budget.set(MAX_HEADER);
    }
    let mut rest = archive.into_inner();
    if rest.total == 0 {
        return Err(FileError::Invalid("the archive is empty".to_owned()));
    }
    // Blocks after the end mark belong to the stream; whoever writes it must not be cut off.
    rest.budget.set(u64::MAX);
    std::io::copy(&mut rest, &mut std::io::sink()).map_err(|error| broken(&error))?;
    unpacker.finish();
    Ok(())
}

/// Counts what is read and ends the reading when the budget is used up.
struct Metered<'a> {
    input: &'a mut dyn Read,
    budget: Rc<Cell<u64>>,
    total: u64,
}

impl Read for Metered<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let allowed = usize::try_from(self.budget.get()).unwrap_or(usize::MAX);
        if allowed == 0 && !buffer.is_empty() {
            return Err(std::io::Error::new(
                std::io::ErrorKind::InvalidData,
                "an entry's description is too long",
            ));
        }
        let wanted = allowed.min(buffer.len());
        let got = self.input.read(&mut buffer[..wanted])?;
        if self.total == 0 && buffer[..got].starts_with(&[0x1f, 0x8b]) {
            return Err(std::io::Error::new(
                std::io::ErrorKind::InvalidData,
                "it is compressed",
            ));
        }
        self.total += got as u64;
        self.budget
            .set(self.budget.get().saturating_sub(got as u64));
        Ok(got)
    }
}

fn broken(error: &std::io::Error) -> FileError {
    FileError::Invalid(format!("not a readable tar archive: {error}"))
}

struct Unpacker<'a> {
    target: OwnedFd,
    shown: &'a str,
    /// Path, permission bits and time of directories.
    directories: Vec<(String, u32, u64)>,
}

impl Unpacker<'_> {
    fn entry(&mut self, entry: &mut Entry<'_, Metered<'_>>) -> Result<(), FileError> {
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader) {
            return Ok(());
        }
        let name = self.name_of(&entry.path_bytes())?;
        let bits = entry.header().mode().map_err(|error| broken(&error))? & ALLOWED_BITS;
        let modified = entry.header().mtime().map_err(|error| broken(&error))?;
        if name.is_empty() {
            // The target itself; it is there and keeps its mode.
            return match kind {
                EntryType::Directory => Ok(()),
                _ => Err(FileError::Invalid(
                    "an archive entry has no name".to_owned(),
                )),
            };
        }
        let shown = join(self.shown, &name);
        let failed = |errno| match errno {
            Errno::LOOP | Errno::XDEV => {
                FileError::Invalid(format!("archive entry {name:?} goes through a link"))
            }
            Errno::NOTDIR => FileError::Conflict(format!(
                "archive entry {name:?} goes through a file that is no directory"
            )),
            other => FileError::from_errno(other, &shown),
        };
        let (parent, last) = name.rsplit_once('/').unwrap_or((".", &name));
        let directory = self.parent(parent).map_err(failed)?;
        match kind {
            EntryType::Directory => {
                // With its own mode only at the end, or nothing could be put into one that is
                // not writable.
                make_one(&directory, last, bits | 0o700).map_err(|errno| match errno {
                    Errno::EXIST => FileError::Conflict(format!(
                        "{shown:?} exists already and is not a directory"
                    )),
                    other => failed(other),
                })?;
                if self.directories.len() >= MAX_DIRECTORIES {
                    return Err(FileError::Limit(
                        "the archive has too many directories".to_owned(),
                    ));
                }
                self.directories.push((name, bits, modified));
                Ok(())
            }
            EntryType::Regular | EntryType::Continuous => {
                make_way(&directory, last).map_err(failed)?;
                write_file(&directory, last, bits, modified, entry, &shown)
            }
            EntryType::Symlink => {
                let to = link_bytes(entry, &name)?;
                make_way(&directory, last).map_err(failed)?;
                rustix::fs::symlinkat(to.as_slice(), &directory, last).map_err(failed)
            }
            EntryType::Link => {
                let to = self.name_of(&link_bytes(entry, &name)?)?;
                let (from_parent, from_last) = to.rsplit_once('/').unwrap_or((".", &to));
                let from =
                    open_beneath(&self.target, from_parent, OFlags::PATH | OFlags::DIRECTORY)
                        .map_err(failed)?;
                if to == name {
                    return Ok(());
                }
                make_way(&directory, last).map_err(failed)?;
                // Without AT_SYMLINK_FOLLOW a link is linked itself.
                rustix::fs::linkat(&from, from_last, &directory, last, AtFlags::empty())
                    .map_err(failed)
            }
            EntryType::Block | EntryType::Char | EntryType::Fifo => Err(FileError::Invalid(
                format!("archive entry {name:?} is a device or a pipe"),
            )),
            _ => Err(FileError::Unsupported(format!(
                "archive entry {name:?} is of a kind that is not supported"
            ))),
        }
    }

    /// A name in the archive as a clean relative path; empty for the target itself.
    fn name_of(&self, bytes: &[u8]) -> Result<String, FileError> {
        let text = std::str::from_utf8(bytes)
            .map_err(|_| FileError::Invalid("an archive entry's name is no UTF-8".to_owned()))?;
        if text.starts_with('/') || text.contains('\0') || text.split('/').any(|part| part == "..")
        {
            return Err(FileError::Invalid(format!(
                "archive entry {} would leave {:?}",
                super::error::shortened(text),
                self.shown
            )));
        }
        let parts: Vec<&str> = text
            .split('/')
            .filter(|part| !part.is_empty() && *part != ".")
            .collect();
        Ok(parts.join("/"))
    }

    /// The directory `path` below the target, made when it is missing.
    fn parent(&self, path: &str) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        match open_beneath(&self.target, path, flags) {
            Err(Errno::NOENT) => {}
            other => return other,
        }
        let mut here = open_beneath(&self.target, ".", flags)?;
        for name in path.split('/') {
            here = match open_beneath(&here, name, flags) {
                Err(Errno::NOENT) => {
                    make_one(&here, name, 0o755)?;
                    open_beneath(&here, name, flags)?
                }
                other => other?,
            };
        }
        Ok(here)
    }

    /// Gives directories their modes and times, the deepest first. Failures are left alone:
    /// somebody removed or took the directory meanwhile, and the content is there.
    fn finish(mut self) {
        self.directories
            .sort_by_key(|(name, ..)| std::cmp::Reverse(name.len()));
        for (name, bits, modified) in &self.directories {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            if let Ok(directory) = open_beneath(&self.target, name.as_str(), flags) {
                let _ = rustix::fs::futimens(&directory, &times(*modified));
                let _ = rustix::fs::fchmod(&directory, Mode::from_raw_mode(*bits));
            }
        }
    }
}

fn link_bytes(entry: &Entry<'_, Metered<'_>>, name: &str) -> Result<Vec<u8>, FileError> {
    match entry.link_name_bytes() {
        Some(target) if !target.is_empty() && !target.contains(&0) => Ok(target.into_owned()),
        _ => Err(FileError::Invalid(format!(
            "archive entry {name:?} is a link without a target"
        ))),
    }
}

/// Removes what an entry replaces; a directory stays, and is then in the way.
fn make_way(directory: &OwnedFd, name: &str) -> Result<(), Errno> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR) => Err(Errno::EXIST),
        Err(errno) => Err(errno),
    }
}

fn write_file(
    directory: impl AsFd,
    name: &str,
    bits: u32,
    modified: u64,
    content: &mut impl Read,
    shown: &str,
) -> Result<(), FileError> {
    let failed = |errno| FileError::from_errno(errno, shown);
    let flags = OFlags::WRONLY
        | OFlags::CREATE
        | OFlags::EXCL
        | OFlags::NOFOLLOW
        | OFlags::NOCTTY
        | OFlags::CLOEXEC;
    let file =
        rustix::fs::openat(directory, name, flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
    let mut file = File::from(file);
    let mut buffer = vec![0_u8; 64 * 1024];
    loop {
        let got = match content.read(&mut buffer) {
            Ok(0) => break,
            Ok(got) => got,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(broken(&error)),
        };
        file.write_all(&buffer[..got])
            .map_err(|error| FileError::from_io(&error, shown))?;
    }
    rustix::fs::fchmod(&file, Mode::from_raw_mode(bits)).map_err(failed)?;
    rustix::fs::futimens(&file, &times(modified)).map_err(failed)
}

fn times(modified: u64) -> Timestamps {
    let time = Timespec {
        // Later than any calendar is as good as never: the file system cuts it.
        tv_sec: i64::try_from(modified).unwrap_or(0),
        tv_nsec: 0,
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}
