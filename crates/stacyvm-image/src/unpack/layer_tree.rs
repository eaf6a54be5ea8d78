//! The directory that a layer becomes: directories on the way to an entry, what an entry replaces,
//! and what it hides of the layers below.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use stacyvm_sys::resolve::open_beneath;
use stacyvm_tar::{Directories, beneath};

use crate::overlay::{self, OverlayAttributes};

/// How many directories that no entry describes are remembered.
const MAX_IMPLIED: usize = 10_000;

/// A layer that is being made.
pub(super) struct LayerTree {
    root: OwnedFd,
    overlay: OverlayAttributes,
    /// What directories get when everything is in them.
    pub(super) described: Directories,
    /// Directories that no entry has described yet.
    pub(super) implied: BTreeSet<PathBuf>,
    /// Whether the layer hides everything of the layers below.
    pub(super) opaque: bool,
    /// The directory of the last entry: the next one is mostly in the same.
    recent: Option<(PathBuf, OwnedFd)>,
}

impl LayerTree {
    pub(super) fn new(root: OwnedFd, overlay: OverlayAttributes) -> Self {
        Self {
            root,
            overlay,
            described: Directories::default(),
            implied: BTreeSet::new(),
            opaque: false,
            recent: None,
        }
    }

    pub(super) fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// The directory `path`, made when it is missing.
    pub(super) fn parent(&mut self, path: &Path) -> Result<OwnedFd, Errno> {
        match self.recent.take() {
            Some((known, directory)) if known == path => return Ok(directory),
            _ => {}
        }
        let (overlay, implied) = (self.overlay, &mut self.implied);
        beneath::open_directory(&self.root, path, &mut |missing| {
            let (parent, name) = (missing.parent, missing.name);
            if missing.occupied {
                let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
                if !overlay::is_whiteout(&stat) {
                    return Err(Errno::NOTDIR);
                }
                beneath::remove_all(parent, name)?;
            }
            make_implied(parent, name)?;
            if implied.len() < MAX_IMPLIED {
                implied.insert(missing.path.to_owned());
            }
            match missing.occupied {
                // A lower layer's directory of this name was hidden.
                true => overlay.set_opaque(parent, name),
                false => Ok(()),
            }
        })
    }

    /// Keeps the directory `path` open for the next entry.
    pub(super) fn keep_open(&mut self, path: &Path, directory: OwnedFd) {
        self.recent = Some((path.to_owned(), directory));
    }

    /// Makes a directory that an entry describes, or keeps the one that is there.
    pub(super) fn make_directory(
        &mut self,
        parent: &OwnedFd,
        name: &OsStr,
        path: &Path,
    ) -> Result<(), Errno> {
        match beneath::make_directory(parent, name, Mode::RWXU.as_raw_mode()) {
            Err(Errno::EXIST) => {}
            other => return other.map(drop),
        }
        let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
        self.remove(parent, name, path)?;
        rustix::fs::mkdirat(parent, name, Mode::RWXU)?;
        if overlay::is_whiteout(&stat) {
            // A lower layer's directory of this name was hidden before this one came.
            self.overlay.set_opaque(parent, name)?;
        }
        Ok(())
    }

    /// Makes something under a name, in place of what an earlier entry left there.
    pub(super) fn replace<T>(
        &mut self,
        parent: &OwnedFd,
        name: &OsStr,
        path: &Path,
        make: impl Fn() -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        beneath::replace(make, || self.remove(parent, name, path))
    }

    /// Removes what an entry of the same name left, a directory with all that is in it.
    fn remove(&mut self, parent: &OwnedFd, name: &OsStr, path: &Path) -> Result<(), Errno> {
        if beneath::remove_all(parent, name)? {
            self.recent = None;
            self.described.forget(path);
            let gone: Vec<PathBuf> = self
                .implied
                .range(path.to_owned()..)
                .take_while(|known| known.starts_with(path))
                .cloned()
                .collect();
            for path in gone {
                self.implied.remove(&path);
            }
        }
        Ok(())
    }

    /// Hides what the layers below have under the name `hidden` in the directory `path`.
    pub(super) fn hide(&mut self, path: &Path, hidden: &OsStr) -> Result<(), Errno> {
        let directory = self.parent(path)?;
        match rustix::fs::statat(&directory, hidden, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => overlay::make_whiteout(&directory, hidden)?,
            Err(errno) => return Err(errno),
            // This layer's own entries stay: only those of the layers below are hidden.
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                self.overlay.set_opaque(&directory, hidden)?;
            }
            Ok(_) => {}
        }
        self.keep_open(path, directory);
        Ok(())
    }

    /// Hides everything that the layers below have in the directory `path`.
    pub(super) fn hide_all(&mut self, path: &Path) -> Result<(), Errno> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            // Overlayfs does not look at the attribute of a root.
            self.opaque = true;
            return Ok(());
        };
        drop(self.parent(path)?);
        let parent = self.parent(parent)?;
        self.overlay.set_opaque(&parent, name)
    }
}

/// Makes a directory that no entry has described yet.
fn make_implied(parent: impl AsFd, name: &OsStr) -> Result<(), Errno> {
    rustix::fs::mkdirat(&parent, name, Mode::RWXU)?;
    let made = open_beneath(&parent, name, OFlags::RDONLY | OFlags::DIRECTORY)?;
    // Whatever the umask of this process is.
    rustix::fs::fchmod(made, Mode::from_raw_mode(0o755))
}
