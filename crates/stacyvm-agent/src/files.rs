//! File operations inside the sandbox, as a blocking API without a runtime.
//!
//! This module owns what a path means and what each operation does to it; it knows neither the
//! protocol nor threads. The caller has set the file system ids of its threads to the sandbox's
//! user, so the kernel grants what that user may do, and new files belong to that user. The one
//! rule: the kernel resolves a path once, inside the root, and the operation is then done to the
//! resulting descriptor (or to one name in it, never following a link there), so that a swap
//! between check and use stays inside.

mod archive_in;
mod archive_out;
mod create;
mod error;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod glob;
mod info;
mod owner_names;
mod path;
mod pattern;
mod read;
mod remove;
mod rename;
mod root;
mod walk;
mod write;

#[cfg(test)]
mod tests;

use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use stacyvm_types::{FileInfo, FileMode};

pub use error::FileError;
pub use read::OpenedFile;
pub use walk::MAX_ENTRIES;
pub use write::PendingWrite;

use owner_names::OwnerNames;
use path::InnerPath;
use root::Root;

/// The files of one sandbox.
#[derive(Debug)]
pub struct FileService {
    root: Root,
    names: OwnerNames,
}

impl FileService {
    /// Serves the files below `root`, a descriptor of a directory (`O_PATH` is enough).
    pub fn new(root: OwnedFd) -> Self {
        Self {
            root: Root::new(root),
            names: OwnerNames::default(),
        }
    }

    /// Describes one file. A symbolic link is not followed: the link itself is described.
    pub fn stat(&self, path: &str) -> Result<FileInfo, FileError> {
        let path = InnerPath::parse(path)?;
        let failed = |errno| FileError::from_errno(errno, path.as_str());
        let file = self
            .root
            .open(path.relative(), OFlags::PATH | OFlags::NOFOLLOW)
            .map_err(failed)?;
        let stat = rustix::fs::fstat(&file).map_err(failed)?;
        let target = match info::file_type(&stat) {
            FileType::Symlink => info::link_target(&file, c""),
            _ => None,
        };
        self.names.refresh(&self.root);
        Ok(info::describe(
            &self.root,
            &self.names,
            path.name(),
            path.as_str(),
            &stat,
            target,
        ))
    }

    /// Lists a directory, sorted by path, down to `depth` levels (0 counts as 1). Links on the way
    /// to the directory are followed, links below it are not.
    pub fn list(&self, path: &str, depth: u32) -> Result<Vec<FileInfo>, FileError> {
        self.names.refresh(&self.root);
        walk::list(
            &self.root,
            &self.names,
            &InnerPath::parse(path)?,
            depth.max(1),
        )
    }

    /// Opens a regular file for reading from byte `offset`, at most `length` bytes of it, following
    /// links inside the root.
    pub fn open_read(
        &self,
        path: &str,
        offset: u64,
        length: Option<u64>,
    ) -> Result<OpenedFile, FileError> {
        self.names.refresh(&self.root);
        let path = InnerPath::parse(path)?;
        read::open(&self.root, &self.names, &path, offset, length)
    }

    /// Begins to replace a file. Readers see the old content until the commit.
    pub fn begin_write(
        &self,
        path: &str,
        mode: FileMode,
        parents: bool,
    ) -> Result<PendingWrite, FileError> {
        write::begin(&self.root, &InnerPath::parse(path)?, mode, parents)
    }

    /// Makes a directory and its parents (`0755`). A directory that exists already is success and
    /// keeps its mode.
    pub fn mkdir(&self, path: &str, mode: FileMode) -> Result<(), FileError> {
        let path = InnerPath::parse(path)?;
        let failed = |errno| match errno {
            Errno::EXIST => FileError::Conflict(format!(
                "{:?} exists already and is not a directory",
                path.as_str()
            )),
            other => FileError::from_errno(other, path.as_str()),
        };
        match self.root.directory(path.relative()) {
            Ok(_) => return Ok(()),
            Err(Errno::NOENT) => {}
            Err(Errno::NOTDIR) if self.exists(&path) => return Err(failed(Errno::EXIST)),
            Err(errno) => return Err(failed(errno)),
        }
        let Some((parent, name)) = path.split() else {
            return Ok(());
        };
        let parent = self.root.make_directory(parent).map_err(failed)?;
        create::make_directory(&parent, name, mode.bits()).map_err(failed)
    }

    /// Moves a file or directory and makes the destination's parents. A file at the destination is
    /// replaced, and so is an empty directory by a directory.
    pub fn rename(&self, from: &str, to: &str) -> Result<(), FileError> {
        rename::rename(&self.root, &InnerPath::parse(from)?, &InnerPath::parse(to)?)
    }

    /// Removes a file, or with `recursive` a whole directory. A link is removed itself, not its target.
    pub fn remove(&self, path: &str, recursive: bool) -> Result<(), FileError> {
        remove::remove(&self.root, &InnerPath::parse(path)?, recursive)
    }

    /// Changes permission bits, following links inside the root.
    pub fn chmod(&self, path: &str, mode: FileMode) -> Result<(), FileError> {
        let path = InnerPath::parse(path)?;
        self.root
            .open(path.relative(), OFlags::PATH)
            .and_then(|file| self.root.chmod(&file, mode.bits()))
            .map_err(|errno| FileError::from_errno(errno, path.as_str()))
    }

    /// Finds the absolute paths that match, sorted. Relative patterns start at `/workspace`. `*` and `?`
    /// match within one part, and files whose names begin with a point too; `**` as a whole part
    /// matches any number of directories, without following links.
    pub fn glob(&self, pattern: &str) -> Result<Vec<String>, FileError> {
        glob::glob(&self.root, pattern)
    }

    /// Writes the content of a directory (names relative to it), or a single file, as a tar
    /// stream. Sockets, pipes and devices are left out, and so are `/proc` and `/sys`.
    pub fn archive_out(&self, path: &str, output: &mut dyn Write) -> Result<(), FileError> {
        self.names.refresh(&self.root);
        archive_out::pack(&self.root, &self.names, &InnerPath::parse(path)?, output)
    }

    /// Checks that `archive_out` of `path` could start, so that its error comes before any byte.
    pub fn check_archive_out(&self, path: &str) -> Result<(), FileError> {
        let path = InnerPath::parse(path)?;
        archive_out::open_source(&self.root, &path).map(drop)
    }

    /// Unpacks a plain tar stream into a directory, which is made with its parents. Entries that
    /// would leave it (absolute, with `..`, or through a link that is there) stop the unpacking.
    pub fn archive_in(&self, path: &str, input: &mut dyn Read) -> Result<(), FileError> {
        archive_in::unpack(&self.root, &InnerPath::parse(path)?, input)
    }

    fn exists(&self, path: &InnerPath) -> bool {
        self.root.open(path.relative(), OFlags::PATH).is_ok()
    }
}
