//! The lowest layer of the image `host`: a small tree with a filtered `/etc` and empty standard
//! directories, over which the sandbox sees the host's `/usr`.
//!
//! Everything is denied unless it is on the list in `plan.rs`, and what is on the list is copied
//! only when every user of the host may read it, it is no key, and no link leads there. A view is
//! named by a digest of all that it is made from and never changes once it has its name, so
//! sandboxes keep the one that they started on.
//!
//! Files below the host's `/usr` belong to nobody inside. So that a sandbox's root can add programs
//! all the same, the view has some directories of its own above the host's (`programs.rs`).

mod accounts;
mod build;
mod plan;
mod programs;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, flock};

use plan::Plan;

/// Reports the progress of building a view: entries done, entries in all.
pub(crate) type Progress<'a> = &'a (dyn Fn(usize, usize) + Sync);

/// One finished view. While it lives, no server deletes its directory.
#[derive(Debug)]
pub(crate) struct HostView {
    /// Names the view among all views.
    pub(crate) generation: String,
    /// Its directory.
    pub(crate) path: PathBuf,
    /// Directories of the host that a sandbox sees over it: where inside, and which.
    pub(crate) mounts: Vec<(PathBuf, PathBuf)>,
    _held: OwnedFd,
}

impl HostView {
    /// Finds the view of the host as it is now, building it when there is none yet. Blocks.
    pub(crate) fn open(views: &Path, host: &Path, progress: Progress<'_>) -> io::Result<Self> {
        let plan = Plan::read(host)?;
        let generation = plan.digest();
        let path = views.join(&generation);
        // Between finding and holding the directory another server may delete it: try again.
        for _ in 0..8 {
            if !path.is_dir() {
                build::build(&plan, views, &path, progress)?;
            }
            if let Some(held) = hold(&path)? {
                return Ok(Self {
                    generation,
                    path,
                    mounts: plan.mounts,
                    _held: held,
                });
            }
        }
        Err(io::Error::other(
            "the view of the host is deleted again and again by another server",
        ))
    }

    /// The generation that a view of the host as it is now would have. Blocks.
    pub(crate) fn current_generation(host: &Path) -> io::Result<String> {
        Ok(Plan::read(host)?.digest())
    }
}

/// Shares the directory, so that `sweep` of any server leaves it; none when it is gone.
fn hold(path: &Path) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(dir) => dir,
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    flock(&dir, FlockOperation::LockShared)?;
    // It may have been renamed away between the two calls.
    Ok(path.is_dir().then_some(dir))
}

/// Moves unused and half-built views out of `views`. `used` tells whether sandboxes of this server
/// use a generation. Blocks.
pub(crate) fn sweep(
    views: &Path,
    used: &dyn Fn(&str) -> bool,
    trash: &dyn Fn(&Path) -> io::Result<()>,
) -> io::Result<()> {
    for entry in std::fs::read_dir(views)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if used(&name) {
            continue;
        }
        let Ok(dir) = File::open(&path) else { continue };
        if flock(&dir, FlockOperation::NonBlockingLockExclusive).is_ok() {
            trash(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
