//! Unpacking a tar stream into a directory of the sandbox.
//!
//! What the stream says is hostile; `stacyvm_tar` reads it and makes its entries beneath the
//! directory, whatever links are there. This module owns the agent's rules: which kinds of entries are
//! accepted, that files belong to the user who unpacks, that a directory is never replaced, and the
//! messages of errors.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::io::Errno;
use stacyvm_tar::{
    AbsoluteNames, Bounds, CopyError, Directories, Entry, Kind, ReadError, beneath, clean_name,
    copy_content, for_each, set_mode_and_time,
};

use super::FileError;
use super::create::make_directory;
use super::path::{InnerPath, join};
use super::root::Root;

/// How large an archive may be: the disk is the only bound on its files.
const BOUNDS: Bounds = Bounds {
    max_header: 256 * 1024,
    max_file: u64::MAX,
    max_trailer: u64::MAX,
};

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
    let mut input = PlainInput { input, total: 0 };
    let mut unpacker = Unpacker {
        target,
        shown: path.as_str(),
        directories: Directories::default(),
        buffer: vec![0; 64 * 1024],
    };
    for_each(&mut input, BOUNDS, &mut |entry, content| {
        unpacker.entry(entry, content)
    })?;
    if input.total == 0 {
        return Err(FileError::Invalid("the archive is empty".to_owned()));
    }
    unpacker.finish();
    Ok(())
}

/// Counts what is read, and refuses a compressed stream.
struct PlainInput<'a> {
    input: &'a mut dyn Read,
    total: u64,
}

impl Read for PlainInput<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.input.read(buffer)?;
        if self.total == 0 && buffer[..got].starts_with(&[0x1f, 0x8b]) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "it is compressed",
            ));
        }
        self.total += got as u64;
        Ok(got)
    }
}

impl From<ReadError> for FileError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Unreadable(error) => unreadable(&error),
            ReadError::FileTooLarge(_) => Self::Limit(error.to_string()),
        }
    }
}

fn unreadable(error: &io::Error) -> FileError {
    FileError::Invalid(format!("not a readable tar archive: {error}"))
}

struct Unpacker<'a> {
    target: OwnedFd,
    /// The target directory as the client wrote it.
    shown: &'a str,
    directories: Directories,
    buffer: Vec<u8>,
}

impl Unpacker<'_> {
    fn entry(&mut self, entry: &Entry, content: &mut dyn Read) -> Result<(), FileError> {
        let name = self.clean(&entry.name)?;
        if name.is_empty() {
            // The target itself; it is there and keeps its mode.
            return match entry.kind {
                Kind::Directory => Ok(()),
                _ => Err(FileError::Invalid(
                    "an archive entry has no name".to_owned(),
                )),
            };
        }
        let shown = join(self.shown, &name);
        let failed = |errno| explain(errno, &name, &shown);
        let (parent, last) = name.rsplit_once('/').unwrap_or(("", &name));
        let directory = self.parent(parent).map_err(failed)?;
        let last = OsStr::new(last);
        let clear = || beneath::remove_file(&directory, last);
        match entry.kind {
            Kind::Directory => self.directory(entry, &directory, &name, &shown),
            Kind::File => {
                let create = || beneath::create_file(&directory, last);
                let mut file = beneath::replace(create, clear).map_err(failed)?;
                copy_content(content, &mut file, &mut self.buffer, &mut |_| Ok(()))
                    .map_err(|error| copy_failed(error, &shown))?;
                set_mode_and_time(&file, entry.mode & ALLOWED_BITS, entry.modified)
                    .map_err(|errno| FileError::from_errno(errno, &shown))
            }
            Kind::Symlink => {
                let to = OsStr::from_bytes(link_target(entry, &name)?);
                let link = || rustix::fs::symlinkat(to, &directory, last);
                beneath::replace(link, clear).map_err(failed)
            }
            Kind::HardLink => {
                let to = self.clean(link_target(entry, &name)?)?;
                let (from, from_name) =
                    beneath::open_link_target(&self.target, Path::new(&to)).map_err(failed)?;
                if to == name {
                    return Ok(());
                }
                let link = || beneath::hard_link((&from, from_name), &directory, last);
                beneath::replace(link, clear).map_err(failed)
            }
            Kind::Special => Err(FileError::Invalid(format!(
                "archive entry {name:?} is a device or a pipe"
            ))),
            Kind::SparseFile | Kind::Unknown => Err(FileError::Unsupported(format!(
                "archive entry {name:?} is of a kind that is not supported"
            ))),
        }
    }

    fn directory(
        &mut self,
        entry: &Entry,
        parent: &OwnedFd,
        name: &str,
        shown: &str,
    ) -> Result<(), FileError> {
        let last = name.rsplit('/').next().unwrap_or(name);
        let bits = entry.mode & ALLOWED_BITS;
        // With its own mode only at the end, or nothing could be put into one that is not writable.
        make_directory(parent, last, bits | 0o700).map_err(|errno| match errno {
            Errno::EXIST => {
                FileError::Conflict(format!("{shown:?} exists already and is not a directory"))
            }
            other => explain(other, name, shown),
        })?;
        if self.directories.count() >= MAX_DIRECTORIES {
            return Err(FileError::Limit(
                "the archive has too many directories".to_owned(),
            ));
        }
        self.directories.describe(name.into(), bits, entry.modified);
        Ok(())
    }

    /// A name in the archive as a clean relative path; empty for the target itself.
    fn clean(&self, name: &[u8]) -> Result<String, FileError> {
        let text = std::str::from_utf8(name)
            .map_err(|_| FileError::Invalid("an archive entry's name is no UTF-8".to_owned()))?;
        // The kernel refuses a path that is too long, and so one that is too deep.
        clean_name(name, AbsoluteNames::Refused, usize::MAX)
            .map(|path| path.to_string_lossy().into_owned())
            .map_err(|_| {
                FileError::Invalid(format!(
                    "archive entry {} would leave {:?}",
                    super::error::shortened(text),
                    self.shown
                ))
            })
    }

    /// The directory `path` below the target, made when it is missing.
    fn parent(&self, path: &str) -> Result<OwnedFd, Errno> {
        beneath::open_directory(&self.target, Path::new(path), &mut |missing| match (
            missing.occupied,
            missing.name.to_str(),
        ) {
            (false, Some(name)) => make_directory(missing.parent, name, 0o755),
            _ => Err(Errno::NOTDIR),
        })
    }

    /// Gives directories their modes and times. Failures are left alone: the sandbox removed or took
    /// the directory meanwhile, and the content is there.
    fn finish(self) {
        let ignored = &mut |_: &Path, _| Ok::<(), FileError>(());
        let _ = self.directories.apply(&self.target, ignored);
    }
}

/// What the kernel's answer means for the entry `name`.
fn explain(errno: Errno, name: &str, shown: &str) -> FileError {
    match errno {
        Errno::LOOP | Errno::XDEV => {
            FileError::Invalid(format!("archive entry {name:?} goes through a link"))
        }
        Errno::NOTDIR => FileError::Conflict(format!(
            "archive entry {name:?} goes through a file that is no directory"
        )),
        other => FileError::from_errno(other, shown),
    }
}

fn copy_failed(error: CopyError<FileError>, shown: &str) -> FileError {
    match error {
        CopyError::Read(error) => unreadable(&error),
        CopyError::Write(error) => FileError::from_io(&error, shown),
        CopyError::Stopped(error) => error,
    }
}

fn link_target<'a>(entry: &'a Entry, name: &str) -> Result<&'a [u8], FileError> {
    entry.link_target().ok_or_else(|| {
        FileError::Invalid(format!("archive entry {name:?} is a link without a target"))
    })
}
