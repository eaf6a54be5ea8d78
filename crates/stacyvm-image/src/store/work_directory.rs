//! Directories in which layers and images are made before they are published.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use super::files::{make_directory, remove_all, unused_path};
use super::layout::Layout;
use crate::ImageError;

/// A directory in which something is made. Dropping it removes what was not moved away.
#[derive(Debug)]
pub(crate) struct WorkDirectory {
    directory: PathBuf,
    /// Holds the store's lock as long as this lives.
    _lock: File,
}

impl WorkDirectory {
    pub(crate) fn create(layout: &Layout) -> Result<Self, ImageError> {
        let step = "make a directory to work in";
        let lock = layout.lock_for_change()?;
        let directory = unused_path(&layout.making()).map_err(ImageError::io(step))?;
        make_directory(&directory, 0o755).map_err(ImageError::io(step))?;
        Ok(Self {
            directory,
            _lock: lock,
        })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Makes a directory that a sandbox will see: readable for all, because processes of the sandbox
    /// search it with ids of their own.
    pub(crate) fn make_directory(&self, name: &str) -> Result<PathBuf, ImageError> {
        let path = self.path(name);
        let make = || {
            make_directory(&path, 0o755)?;
            // Whatever the umask of this process is.
            fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        };
        make().map_err(ImageError::io("make a directory to work in"))?;
        Ok(path)
    }

    pub(crate) fn write_file(&self, name: &str, content: &[u8]) -> Result<(), ImageError> {
        fs::write(self.path(name), content).map_err(ImageError::io("describe the image"))
    }

    /// Moves all of it to `place`. Answers whether nothing was there.
    pub(crate) fn publish(&self, place: &Path) -> Result<bool, ImageError> {
        let flags = RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(CWD, &self.directory, CWD, place, flags) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST | Errno::NOTEMPTY) => Ok(false),
            Err(errno) => Err(ImageError::io("publish what was made")(errno)),
        }
    }

    /// Waits until all that was written to the store is on the disk.
    pub(crate) fn flush(&self) -> Result<(), ImageError> {
        let step = "write the image to the disk";
        let directory = File::open(&self.directory).map_err(ImageError::io(step))?;
        rustix::fs::syncfs(directory).map_err(ImageError::io(step))
    }
}

impl Drop for WorkDirectory {
    fn drop(&mut self) {
        // What cannot be removed now, the next opening of the store removes.
        let _ = remove_all(&self.directory);
    }
}
