//! Directories whose modes and times are set when everything is in them.
//!
//! A directory that its owner may not write could not be filled, and filling one changes its time.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;
use stacyvm_sys::resolve::open_beneath;

use crate::metadata::set_mode_and_time;

/// Permission bits and times of directories, by their paths below the root directory.
#[derive(Debug, Default)]
pub struct Directories {
    described: BTreeMap<PathBuf, (u32, u64)>,
}

impl Directories {
    /// How many directories are remembered.
    pub fn count(&self) -> usize {
        self.described.len()
    }

    /// Remembers what a directory is to get; a later description of the same one wins.
    pub fn describe(&mut self, path: PathBuf, mode: u32, modified: u64) {
        self.described.insert(path, (mode, modified));
    }

    /// Forgets `path` and all directories below it: they were removed.
    pub fn forget(&mut self, path: &Path) {
        let gone: Vec<PathBuf> = self
            .described
            .range(path.to_owned()..)
            .map(|(known, _)| known)
            .take_while(|known| known.starts_with(path))
            .cloned()
            .collect();
        for path in gone {
            self.described.remove(&path);
        }
    }

    /// Sets modes and times, the deepest directories first: the mode of one may close the way to
    /// those in it. `failed` is asked what a failure means; an error of it ends the work.
    ///
    /// # Errors
    /// What `failed` answers.
    pub fn apply<E>(
        &self,
        root: impl AsFd,
        failed: &mut dyn FnMut(&Path, Errno) -> Result<(), E>,
    ) -> Result<(), E> {
        for (path, (mode, modified)) in self.described.iter().rev() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let set = open_beneath(&root, path.as_path(), flags)
                .and_then(|directory| set_mode_and_time(directory, *mode, *modified));
            if let Err(errno) = set {
                failed(path, errno)?;
            }
        }
        Ok(())
    }
}
